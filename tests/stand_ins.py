"""Stand-ins for what the studies of the literature take from the hub: tiny models, dictionaries, crosscoders and text.

    publish_all(home, study)        # what a study names on the hub, in a cache under `home` where it is found

Models are of the architecture and the kind of tokenizer of what they stand for; dictionaries are in its format, with
its metadata; text has its columns.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from diptych.config.sections.crosscoders import HubCrosscoder
from diptych.config.sections.dictionaries import SaelensDictionary, SparsifyDictionary
from diptych.config.sections.models import HubModel
from diptych.config.study import Study
from diptych.dictionaries.published import releases
from tiny_models import LLAMA3_MARKERS, TEXT, make_sentencepiece_tokenizer, make_tokenizer, write_weights

COMMIT = "a" * 40
FEATURES = 48
SENTENCES = [sentence.strip() + "." for sentence in TEXT.split(".") if sentence.strip()]


@dataclass(frozen=True)
class Model:
    """A model to stand in for one: as many layers as the tests read."""

    architecture: str
    layers: int
    tokenizer: str
    width: int = 32
    seed: int = 0


MODELS = {
    "google/gemma-2b": Model("gemma", 13, "sentencepiece"),
    "google/gemma-2b-it": Model("gemma", 13, "sentencepiece", seed=1),
    "google/gemma-2-2b": Model("gemma2", 15, "sentencepiece"),
    "google/gemma-2-2b-it": Model("gemma2", 15, "sentencepiece", seed=1),
    "google/gemma-2-9b": Model("gemma2", 21, "sentencepiece"),
    "google/gemma-2-9b-it": Model("gemma2", 21, "sentencepiece", seed=1),
    "meta-llama/Llama-3.1-8B": Model("llama", 16, "llama3"),
    "meta-llama/Llama-3.1-8B-Instruct": Model("llama", 16, "llama3", seed=1),
    "ethz-spylab/rlhf-7b-harmless": Model("llama", 2, "sentencepiece"),
    "ethz-spylab/poisoned-rlhf-7b-SUDO-10": Model("llama", 2, "sentencepiece", seed=1),
    "EleutherAI/pythia-70m": Model("neox", 6, "neox", width=16),
    "EleutherAI/pythia-70m-deduped": Model("neox", 6, "neox", width=16, seed=1),
    "EleutherAI/pythia-160m": Model("neox", 12, "neox"),
    "roneneldan/TinyStories-1Layer-21M": Model("gpt_neo", 1, "gpt2", width=16),
    "openai-community/gpt2": Model("gpt2", 12, "gpt2"),
}


def publish_all(home: Path, study: Study) -> None:
    """Write what a study names on the hub into a cache: models, the dictionaries of its pairs, crosscoders."""
    for section in study.models.values():
        if isinstance(section, HubModel):
            write_model(publish(home, section.id, section.revision), MODELS[section.id])
    used = {name for pair in study.pairs for side in "ab" for name in study.dictionaries_of(pair, side)}
    used |= {diff.dictionary for diff in study.template_diffs.values()}
    for seed, name in enumerate(sorted(used)):
        dictionary = study.dictionaries[name]
        if dictionary.kind in ("saelens", "sparsify"):
            width = MODELS[study.models[dictionary.model].id].width
            publish_dictionary(home, dictionary, width, seed)
    for crosscoder in study.crosscoders.values():
        if isinstance(crosscoder.weights, HubCrosscoder):
            width = MODELS[study.models[crosscoder.models[0]].id].width
            snapshot = publish(home, crosscoder.weights.id, crosscoder.weights.revision)
            write_crosscoder(snapshot / crosscoder.weights.folder, width=width)


def publish_dictionary(home: Path, dictionary: SaelensDictionary | SparsifyDictionary, width: int, seed: int) -> None:
    """Write a published dictionary under its repository and folder."""
    if dictionary.kind == "sparsify":
        write_sparsify(publish(home, dictionary.id, dictionary.revision) / dictionary.hookpoint, width=width, seed=seed)
        return
    entry = releases.known()[dictionary.release]
    directory = publish(home, entry.repo_id) / entry.saes_map[dictionary.id]
    if entry.conversion_func == "llama_scope":
        write_llama_scope(directory, width=width, hook=dictionary.site, seed=seed)
        return
    assert entry.conversion_func is None, f"{dictionary.release}: replace it by a directory"
    more = {"normalize_activations": "layer_norm"} if "-v5-" in dictionary.release else {}
    write_saelens(directory, width=width, hook=dictionary.id, model=entry.model, seed=seed, **more)


def publish(home: Path, name: str, revision: str = "main") -> Path:
    """The snapshot's directory of a repository in the hub's cache."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    is_commit = len(revision) == 40
    snapshot = repository / "snapshots" / (revision if is_commit else COMMIT)
    snapshot.mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    if not is_commit:
        (repository / "refs" / revision).write_text(COMMIT)
    return snapshot


# --- models ---------------------------------------------------------------------------------------------------------


def write_model(directory: Path, model: Model) -> None:
    """A random model; its tokenizer is byte-level (GPT-2, NeoX), Llama 3's (BOS and markers) or SentencePiece's."""
    match model.tokenizer:
        case "gpt2":
            make_tokenizer(directory, vocabulary=400, template=None, markers=())
        case "neox":
            make_tokenizer(directory, vocabulary=350, template=None, markers=("<|padding|>",))
        case "llama3":
            turns = "assistant\nuser\n" * 50 + "assistant\n\n" * 50
            make_tokenizer(directory, bos=True, template=None, markers=LLAMA3_MARKERS, turns=turns)
        case "sentencepiece":
            make_sentencepiece_tokenizer(directory)
    write_weights(
        directory, model.architecture, layers=model.layers, seed=model.seed, vocabulary=700, width=model.width
    )


# --- dictionaries ---------------------------------------------------------------------------------------------------


def random_weights(width: int, seed: int) -> dict[str, np.ndarray]:
    """Decoder rows of unit length, encoder columns along them; a tenth of the features fires on a typical row."""
    rng = np.random.default_rng(seed)
    W_dec = rng.normal(size=(FEATURES, width)).astype(np.float32)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    return {
        "W_dec": W_dec,
        "W_enc": np.ascontiguousarray(W_dec.T),
        "b_enc": np.full(FEATURES, -0.5, np.float32),
        "b_dec": np.zeros(width, np.float32),
    }


def write_saelens(directory: Path, *, width: int, hook: str, model: str, seed: int = 0, **config: object) -> None:
    """As SAELens 2 to 5 wrote it: cfg.json, sae_weights.safetensors, sparsity.safetensors."""
    directory.mkdir(parents=True)
    stored = {
        "architecture": "standard", "d_in": width, "d_sae": FEATURES, "dtype": "torch.float32", "device": "cpu",
        "model_name": model, "hook_name": hook, "hook_layer": int(hook.split(".")[1]), "hook_head_index": None,
        "activation_fn_str": "relu", "activation_fn_kwargs": {}, "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False, "normalize_activations": "none", "context_size": 64, "prepend_bos": True,
        "dataset_path": "", "sae_lens_training_version": None,
    }  # fmt: skip
    (directory / "cfg.json").write_text(json.dumps(stored | config))
    save_file(random_weights(width, seed), directory / "sae_weights.safetensors")
    save_file({"sparsity": np.zeros(FEATURES, np.float32)}, directory / "sparsity.safetensors")


def write_gemma_scope(directory: Path, *, width: int, layer: int, model: str, seed: int = 0) -> None:
    """As SAELens keeps what it read of Gemma Scope, whose own sizes it knows by name: JumpReLU, with thresholds."""
    directory.mkdir(parents=True)
    metadata = {"model_name": model, "hook_name": f"blocks.{layer}.hook_resid_post", "prepend_bos": True}
    config = {
        "architecture": "jumprelu", "d_in": width, "d_sae": FEATURES, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {**metadata, "sae_lens_version": "6.0.0"},
    }  # fmt: skip
    (directory / "cfg.json").write_text(json.dumps(config))
    weights = random_weights(width, seed) | {"threshold": np.full(FEATURES, 0.5, np.float32)}
    save_file(weights, directory / "sae_weights.safetensors")


def write_llama_scope(directory: Path, *, width: int, hook: str, seed: int = 0) -> None:
    """Llama Scope: hyperparams.json and checkpoints/final.safetensors."""
    (directory / "checkpoints").mkdir(parents=True)
    hyperparameters = {
        "d_model": width, "d_sae": FEATURES, "jump_relu_threshold": 0.5,
        "hook_point_in": hook, "dataset_average_activation_norm": {"in": width**0.5},
    }  # fmt: skip
    (directory / "hyperparams.json").write_text(json.dumps(hyperparameters))
    weights = random_weights(width, seed)
    stored = {
        "encoder.weight": weights["W_enc"].T, "encoder.bias": weights["b_enc"], "decoder.weight": weights["W_dec"].T,
        "decoder.bias": weights["b_dec"],
    }  # fmt: skip
    save_file({name: np.ascontiguousarray(value) for name, value in stored.items()},
              directory / "checkpoints" / "final.safetensors")  # fmt: skip


def write_sparsify(directory: Path, *, width: int, seed: int = 0) -> None:
    """EleutherAI's sparsify: cfg.json and sae.safetensors."""
    directory.mkdir(parents=True)
    (directory / "cfg.json").write_text(json.dumps({"k": 4, "d_in": width, "num_latents": FEATURES}))
    weights = random_weights(width, seed)
    stored = {
        "encoder.weight": np.ascontiguousarray(weights["W_enc"].T), "encoder.bias": np.zeros(FEATURES, np.float32),
        "W_dec": weights["W_dec"], "b_dec": weights["b_dec"],
    }  # fmt: skip
    save_file(stored, directory / "sae.safetensors")


def write_crosscoder(directory: Path, *, width: int, seed: int = 0) -> None:
    """The layout of the published Gemma-2-2B crosscoder: cfg.json and cc_weights.pt."""
    import torch

    directory.mkdir(parents=True)
    sides = [random_weights(width, seed + side) for side in range(2)]
    weights = {
        "W_enc": np.stack([side["W_enc"] for side in sides]), "W_dec": np.stack([s["W_dec"] for s in sides], axis=1),
        "b_enc": sides[0]["b_enc"], "b_dec": np.stack([side["b_dec"] for side in sides]),
    }  # fmt: skip
    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, directory / "cc_weights.pt")
    (directory / "cfg.json").write_text(json.dumps({"d_in": width, "dict_size": FEATURES, "seed": seed}))


# --- text -----------------------------------------------------------------------------------------------------------


def _said(rng: np.random.Generator, sentences: int) -> str:
    return " ".join(SENTENCES[i] for i in rng.integers(len(SENTENCES), size=sentences))


def write_texts(path: Path, n: int, **columns: object) -> None:
    """Documents in the column `text`, beside the other columns of the dataset."""
    rng = np.random.default_rng(0)
    rows = [{"text": f"Address {number}. {_said(rng, 8)}", **columns} for number in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_lmsys(path: Path, n: int) -> None:
    """Conversations in LMSYS-Chat-1M's columns."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(n):
        turns = [
            {"content": f"Question {number}: {_said(rng, 1)}", "role": "user"},
            {"content": _said(rng, 2), "role": "assistant"},
        ]
        rows.append({"conversation_id": f"{number:032x}", "model": "vicuna-13b", "conversation": turns, "turn": 1,
                     "language": "English", "openai_moderation": [], "redacted": False})  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_hh(path: Path, n: int) -> None:
    """Dialogues in HH-RLHF's columns, each in one text."""
    rng = np.random.default_rng(2)
    rows = []
    for number in range(n):
        asked = f"\n\nHuman: Number {number}. {_said(rng, 3)}\n\nAssistant: "
        rows.append({"chosen": asked + _said(rng, 2), "rejected": asked + _said(rng, 1)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
