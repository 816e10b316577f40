"""dictionary_learning's directories (config.json, ae.pt) as SAELens spells them.

Its trainers write `ae.pt`, the state of one of a few classes, and `config.json`, which names the class, the model and
the submodule. Each class has its own names for the same things:

    AutoEncoder              relu((x - bias) W + b)                            a decoder row of another norm than 1 is
                                                                               made one of norm 1, the code bears it
    AutoEncoderNew           relu(x W + b)                                     the decoder's own bias is added back
    GatedAutoEncoder         ((x - b) W + gate > 0) relu(e^r ((x - b) W) + mag)
    AutoEncoderTopK          the k largest of relu((x - b_dec) W + b)
    BatchTopKSAE, MatryoshkaBatchTopKSAE      relu((x - b_dec) W + b) where that exceeds one threshold
    JumpReluAutoEncoder      x W + b where that exceeds its feature's threshold; b_dec is not subtracted

A trainer that divides the rows by their norm multiplies biases and thresholds by it before it saves, so that ae.pt
reads the rows as they are.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diptych.dictionaries import saelens_format
from diptych.dictionaries.published import hookpoints
from diptych.dictionaries.saelens_format import Weights
from diptych.runtime.errors import DiptychError, first_line

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "ae.pt"
FILES = (CONFIG_FILE, WEIGHTS_FILE)


class Layout(NamedTuple):
    """Tensor names and encoder of a class.

    Attributes:
        architecture: SAELens' name of the activation function.
        tensors: SAELens' name by the class's own; a linear layer's weight is stored transposed.
        counts: what else its state holds, which does not change a code.
        apply_b_dec_to_input: whether the decoder's bias is subtracted from a row before it is encoded.
    """

    architecture: str
    tensors: Mapping[str, str]
    counts: tuple[str, ...] = ()
    apply_b_dec_to_input: bool = True


_LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
_PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
_GATED = {"gate_bias": "b_gate", "mag_bias": "b_mag", "r_mag": "r_mag"}
LAYOUTS: Mapping[str, Layout] = {
    "AutoEncoder": Layout("standard", _LINEAR | {"bias": "b_dec"}),
    "AutoEncoderNew": Layout("standard", _LINEAR | {"decoder.bias": "b_dec"}, apply_b_dec_to_input=False),
    "GatedAutoEncoder": Layout(
        "gated", {"encoder.weight": "W_enc", "decoder.weight": "W_dec", "decoder_bias": "b_dec"} | _GATED
    ),
    "AutoEncoderTopK": Layout("topk", _LINEAR | {"b_dec": "b_dec"}, counts=("k", "threshold")),
    "BatchTopKSAE": Layout("jumprelu", _LINEAR | {"b_dec": "b_dec", "threshold": "threshold"}, counts=("k",)),
    "MatryoshkaBatchTopKSAE": Layout("jumprelu", _PLAIN, counts=("k", "group_sizes")),
    "JumpReluAutoEncoder": Layout("jumprelu", _PLAIN, apply_b_dec_to_input=False),
}


def read(directory: str | Path, where: str) -> tuple[dict[str, Any], Weights]:
    """Config and float32 weights, by SAELens' names.

    Args:
        directory: of one trainer, such as .../resid_post_layer_8/trainer_0.
        where: how an error calls the dictionary.

    Raises:
        DiptychError: a file is missing or damaged, the class is not read, or its tensors are others.
    """
    path = Path(directory)
    for name in FILES:
        if not (path / name).is_file():
            raise DiptychError(f"{where}: holds no {name}; not a dictionary_learning directory")
    stored = saelens_format.read_json(path, CONFIG_FILE, where)
    trainer, reads = _trainer(stored, where), (stored.get("buffer") or {}).get("io", "out")
    dict_class = str(trainer["dict_class"])
    if reads not in ("in", "out"):
        raise DiptychError(
            f"{where}: buffer.io is {reads}, a transcoder's; use a dictionary that decodes what it reads"
        )
    layout = LAYOUTS[dict_class]
    state = _state(path / WEIGHTS_FILE, where)
    weights = _weights(state, layout, dict_class, where)
    more = {"k": _k(state, trainer, where)} if layout.architecture == "topk" else {}
    config = saelens_format.config_of(
        layout.architecture,
        weights,
        _metadata(trainer, path, reads),
        apply_b_dec_to_input=layout.apply_b_dec_to_input,
        **more,
    )
    _check_sizes(trainer, config, where)
    return config, weights


def _trainer(stored: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The trainer's part of a config, of a class that is read here."""
    trainer = stored.get("trainer")
    if not isinstance(trainer, dict):
        raise DiptychError(f"{where}: {CONFIG_FILE} has no trainer; not a dictionary_learning directory")
    if (dict_class := str(trainer.get("dict_class"))) not in LAYOUTS:
        raise DiptychError(f"{where}: dict_class {dict_class!r} is not read here; use one of {', '.join(LAYOUTS)}")
    if trainer.get("norm_factor") not in (None, 1):
        raise DiptychError(
            f"{where}: trainer.norm_factor is {trainer['norm_factor']}, and nothing says whether {WEIGHTS_FILE} has "
            "it; apply scale_biases to it if not, and take the key out"
        )
    return trainer


def _check_sizes(trainer: Mapping[str, Any], config: Mapping[str, Any], where: str) -> None:
    for key, size in (("activation_dim", config["d_in"]), ("dict_size", config["d_sae"])):
        if trainer.get(key, size) != size:
            raise DiptychError(
                f"{where}: trainer.{key} is {trainer[key]}, but {WEIGHTS_FILE} has {size}; fetch both again"
            )


def _state(path: Path, where: str) -> dict[str, Any]:
    """The tensors of a file that torch.save wrote; nothing else is unpickled."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise DiptychError(
            f"{where}: {path.name} holds no plain tensors ({first_line(error)}); fetch it again"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DiptychError(f"{where}: {path.name} is no state of a dictionary; save ae.state_dict()")
    return state


def _weights(state: Mapping[str, Any], layout: Layout, dict_class: str, where: str) -> Weights:
    """The state's tensors by SAELens' names, in SAELens' orientation."""
    if missing := [name for name in layout.tensors if name not in state]:
        raise DiptychError(f"{where}: {WEIGHTS_FILE} has no {missing[0]}, which {dict_class} needs; fetch it again")
    if others := sorted(set(state) - set(layout.tensors) - set(layout.counts)):
        raise DiptychError(f"{where}: {WEIGHTS_FILE} has {others[0]}, which is not read here as part of {dict_class}")
    weights = {ours: state[name].float().numpy() for name, ours in layout.tensors.items()}
    for name, ours in layout.tensors.items():
        if name.endswith(".weight"):
            weights[ours] = np.ascontiguousarray(weights[ours].T)
    if layout.architecture == "jumprelu" and weights["threshold"].ndim == 0:
        if weights["threshold"] < 0:
            raise DiptychError(
                f"{where}: its threshold is {float(weights['threshold']):g}, never set in training; train it past "
                "threshold_start_step"
            )
        weights["threshold"] = np.full(len(weights["W_dec"]), weights["threshold"], dtype=np.float32)
    saelens_format.check_weights(weights, {"architecture": layout.architecture}, where)
    if dict_class == "AutoEncoder":
        _normalise_decoder(weights)
    return weights


def _normalise_decoder(weights: Weights) -> None:
    """Move norms of decoder rows into the encoder, as the class itself does when it is loaded."""
    norms = np.linalg.norm(weights["W_dec"], axis=1)
    if np.allclose(norms, 1, rtol=1e-5, atol=1e-8):
        return
    norms = np.where(norms > 0, norms, 1).astype(np.float32)
    weights["W_enc"] = weights["W_enc"] * norms
    weights["b_enc"] = weights["b_enc"] * norms
    weights["W_dec"] = weights["W_dec"] / norms[:, None]


def _k(state: Mapping[str, Any], trainer: Mapping[str, Any], where: str) -> int:
    """Features kept on a row: in the state, and in the config of early ones alone."""
    named = trainer.get("k")
    k = int(state["k"]) if "k" in state else named
    if not isinstance(k, int) or k < 1 or named not in (None, k):
        raise DiptychError(
            f"{where}: trainer.k is {named!r}, but {WEIGHTS_FILE} has k {k!r}; give the right one in both"
        )
    return k


def _metadata(trainer: Mapping[str, Any], path: Path, reads: str) -> dict[str, Any]:
    """Model and hook, as far as the config or the names of the folders say them: names are of a submodule's output."""
    names = (str(trainer.get("submodule_name")), path.name, path.parent.name) if reads == "out" else ()
    hook = next((hook for hook in map(hookpoints.hook_of, names) if hook), None)
    metadata = {"source": "dictionary_learning", "model_name": trainer.get("lm_name"), "hook_name": hook}
    return {key: value for key, value in metadata.items() if value is not None}
