"""SAELens' own files: cfg.json and the weights, whichever version wrote them, in the terms of the current one.

Up to version 5, cfg.json held everything at its top level and other names for some of it; version 6 keeps what says
where a dictionary belongs in `metadata`:

    stored = read("downloads/layer_8", where)
    stored.config           # {"architecture": "topk", "k": 32, "metadata": {"hook_name": ...}, ...}
    stored.weights          # {"W_enc": float32 [d, F], ...}

Every key that changes the code is in what is returned or is refused by name. What is left out says how a dictionary
was trained (learning rate, noise, loss, buffer, dataset): its weights are read in the same way whatever it says.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.runtime.errors import DiptychError, first_line

FloatArray = npt.NDArray[np.float32]
Weights = dict[str, FloatArray]

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
SCALER_FILE = "activation_scaler.json"
"""Beside a checkpoint of SAELens 6: the factor by which its trainer multiplies the rows."""

VERSION = "6.0.0"
"""The version of the format that is written: SAELens reads an older one as having no metadata."""
TENSORS: Mapping[str, tuple[str, ...]] = {
    "standard": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "topk": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "jumprelu": ("W_enc", "b_enc", "threshold", "W_dec", "b_dec"),
    "gated": ("W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec"),
}
"""The architectures that are read here, and what their weights are called."""
FINETUNED = ("scaling_factor", "finetuning_scaling_factor")
"""Names that a factor [F] between the code and the decoder has had; it was found after training (SAELens 1 to 5)."""
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")
WRITTEN = (
    "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "hook_embed",
    "hook_pos_embed",
)  # fmt: skip
"""Hooks whose values TransformerLens centres with center_writing_weights: the residual stream, what is added to it."""
_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_OLD_METADATA = (
    "model_name", "hook_name", "model_class_name", "hook_head_index", "model_from_pretrained_kwargs", "prepend_bos",
    "neuronpedia_id", "context_size", "seqpos_slice", "dataset_path", "sae_lens_training_version", "hook_name_out",
)  # fmt: skip
"""Keys that SAELens itself moves into the metadata of an older dictionary."""


class Stored(NamedTuple):
    """A dictionary as its directory holds it, ready to be written in the current format.

    Attributes:
        config: as SAELens 6 spells it.
        weights: float32, by SAELens' names; they read the model's own rows.
        verbatim: whether the file holds exactly these tensors.
    """

    config: dict[str, Any]
    weights: Weights
    verbatim: bool


def read(directory: str | Path, where: str) -> Stored:
    """Read what any version of SAELens wrote, in any precision, with everything folded in that can be.

    Folded in are a factor from fine-tuning, the factor by which a checkpoint's trainer scales the rows, and the
    centring of a model whose writing weights were centred.

    Args:
        directory: holds cfg.json and sae_weights.safetensors.
        where: how an error calls the dictionary.

    Raises:
        DiptychError: a file is missing or damaged, or the code is made in a way that is not read here.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (Path(directory) / name).is_file():
            raise DiptychError(f"{where}: holds no {name}; not a SAELens directory")
    stored = read_json(directory, CONFIG_FILE, where)
    factor = _scaling_factor(directory, stored, where)
    config = current(stored if factor is None else {**stored, "normalize_activations": "none"}, where)
    weights, all_float32 = _tensors(directory, where)
    factors = {name: weights.pop(name) for name in FINETUNED if name in weights}
    check_weights(weights, config, where)
    for name, values in factors.items():
        _fold_finetuned(weights, name, values, stored, where)
    if factor is not None:
        fold_scale(weights, factor)
    if centred := _reads_centred(config):
        fold_centring(weights, config)
    return Stored(config, weights, all_float32 and not factors and factor is None and not centred)


def read_json(directory: str | Path, name: str, where: str) -> dict[str, Any]:
    """A JSON object beside the weights.

    Raises:
        DiptychError: there is none, or it is no JSON object.
    """
    try:
        stored = json.loads((Path(directory) / name).read_text(encoding="utf-8"))
    except OSError:
        raise DiptychError(f"{where}: holds no {name}; not the directory of a dictionary") from None
    except ValueError as error:
        raise DiptychError(f"{where}: {name} is no JSON ({first_line(error)}); fetch it again") from None
    if not isinstance(stored, dict):
        raise DiptychError(f"{where}: {name} is no JSON object; not the directory of a dictionary")
    return stored


def current(stored: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A config of any version as SAELens 6 spells it; one of version 6 as it is.

    Raises:
        DiptychError: a key says that the code is made in a way that is not read here.
    """
    config = dict(stored) if isinstance(stored.get("metadata"), dict) else _from_before_6(stored)
    _check_encoder(config, stored, where)
    _check_rows(config, where)
    return config


def _from_before_6(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of versions 0 to 5 in their present places, with the defaults that they had."""
    old = {_RENAMED.get(key, key): value for key, value in stored.items()}
    normalised = old.get("normalize_activations") or "none"
    config: dict[str, Any] = {
        "architecture": old.get("architecture", "standard"),
        "apply_b_dec_to_input": old.get("apply_b_dec_to_input", True),
        "dtype": old.get("dtype", "float32"),
        "device": "cpu",
        "normalize_activations": "expected_average_only_in" if normalised is True else normalised,
        "reshape_activations": old.get("reshape_activations", "none"),
        "metadata": {key: old[key] for key in _OLD_METADATA if key in old} | {"sae_lens_version": VERSION},
        **{key: old[key] for key in ("d_in", "d_sae") if key in old},
    }
    if "reshape_activations" not in old and "hook_z" in str(old.get("hook_name")):
        config["reshape_activations"] = "hook_z"
    if old.get("activation_fn") == "topk" and config["architecture"] == "standard":
        config["architecture"] = "topk"
    if config["architecture"] == "topk":
        k = (old.get("activation_fn_kwargs") or {}).get("k", old.get("k"))
        config |= {"k": k, "rescale_acts_by_decoder_norm": bool(old.get("rescale_acts_by_decoder_norm", False))}
    return config


def _check_encoder(config: Mapping[str, Any], stored: Mapping[str, Any], where: str) -> None:
    """Refuse an architecture or activation function that is not read here."""
    architecture = config.get("architecture", "standard")
    if architecture not in TENSORS:
        raise DiptychError(f"{where}: architecture {architecture!r} is not read here; use {_listed(TENSORS)}")
    if stored.get("is_transcoder") or stored.get("hook_name_out") or config["metadata"].get("hook_name_out"):
        raise DiptychError(f"{where}: is a transcoder (hook_name_out); use a dictionary that decodes what it reads")
    function = stored.get("activation_fn_str", stored.get("activation_fn"))
    if function not in (None, "topk" if architecture == "topk" else "relu"):
        raise DiptychError(
            f"{where}: architecture {architecture!r} with activation_fn {function!r} is not read here; use relu, or "
            "topk with architecture standard or topk"
        )
    if others := sorted(set(stored.get("activation_fn_kwargs") or {}) - {"k"}):
        raise DiptychError(f"{where}: activation_fn_kwargs.{others[0]} is not read here; use a dictionary without it")
    if architecture == "topk" and not (isinstance(config.get("k"), int) and config["k"] > 0):
        raise DiptychError(f"{where}: is of architecture topk, but its k is {config.get('k')!r}; add it to cfg.json")


def _check_rows(config: Mapping[str, Any], where: str) -> None:
    """Refuse what is done to a row before it is encoded, unless it is read here."""
    metadata = config["metadata"]
    scaling = config.get("normalize_activations", "none")
    if scaling == "expected_average_only_in":
        raise DiptychError(
            f"{where}: normalize_activations is expected_average_only_in, and the factor is not in its weights; fold "
            "it in with SAELens' fold_activation_norm_scaling_factor and save it again"
        )
    if scaling not in NORMALISATIONS:
        raise DiptychError(
            f"{where}: normalize_activations {scaling!r} is not read here; use one of {_listed(NORMALISATIONS)}"
        )
    if (reshaping := config.get("reshape_activations", "none")) not in ("none", "hook_z"):
        raise DiptychError(f"{where}: reshape_activations {reshaping!r} is not read here; use none or hook_z")
    if (head := metadata.get("hook_head_index")) is not None:
        raise DiptychError(f"{where}: reads head {head} alone (hook_head_index); use one of all heads")
    hook = str(metadata.get("hook_name"))
    for key in ("fold_value_biases", "refactor_factored_attn_matrices"):
        folded = (metadata.get("model_from_pretrained_kwargs") or {}).get(key)
        if folded and hook.rpartition(".")[2] in ("hook_q", "hook_k", "hook_v", "hook_z"):
            raise DiptychError(
                f"{where}: its model was loaded with {key}, which changes {hook}; use one of the model as it is"
            )


def _scaling_factor(directory: str | Path, stored: Mapping[str, Any], where: str) -> float | None:
    """The factor on the rows of a checkpoint of SAELens 6; None where nothing is scaled or no file says by how much."""
    scaled = stored.get("normalize_activations") == "expected_average_only_in"
    if not scaled or not (Path(directory) / SCALER_FILE).is_file():
        return None
    factor = read_json(directory, SCALER_FILE, where).get("scaling_factor")
    return None if factor is None else float(factor)


def _reads_centred(config: Mapping[str, Any]) -> bool:
    """Whether the rows that it was trained on were centred over their coordinates, and it does not do so itself."""
    loading = config["metadata"].get("model_from_pretrained_kwargs") or {}
    hook = str(config["metadata"].get("hook_name", "hook_resid_post"))
    if config.get("normalize_activations") == "layer_norm" or hook.rpartition(".")[2] not in WRITTEN:
        return False
    return bool(loading.get("center_writing_weights"))


def _tensors(directory: str | Path, where: str) -> tuple[Weights, bool]:
    """All tensors in float32, and whether they are stored so."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(directory) / WEIGHTS_FILE
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DiptychError(f"{where}: {WEIGHTS_FILE} is cut short ({first_line(error)}); fetch it again") from None
    all_float32 = all(str(values.dtype) == "torch.float32" for values in stored.values())
    return {name: values.float().numpy() for name, values in stored.items()}, all_float32


def _fold_finetuned(weights: Weights, name: str, factor: FloatArray, stored: Mapping[str, Any], where: str) -> None:
    """Fold a factor from fine-tuning into the decoder: (f * factor) W_dec = f (factor W_dec)."""
    if np.all(factor == 1):
        return
    if stored.get("finetuning_scaling_factor") is False:
        raise DiptychError(f"{where}: has a {name} that is not 1, but finetuning_scaling_factor is false; set it true")
    if factor.shape != weights["W_dec"].shape[:1]:
        raise DiptychError(f"{where}: {name} has shape {factor.shape}, not one factor a feature; fetch it again")
    weights["W_dec"] = weights["W_dec"] * factor[:, None]


def check_weights(weights: Mapping[str, npt.NDArray[Any]], config: Mapping[str, Any], where: str) -> None:
    """Compare names and shapes of the tensors with the config.

    Raises:
        DiptychError: one is missing, is not read, or is of another shape.
    """
    architecture = config.get("architecture", "standard")
    expected = TENSORS[architecture]
    if missing := [name for name in expected if name not in weights]:
        raise DiptychError(f"{where}: has no {missing[0]}, which architecture {architecture} needs; fetch it again")
    if unread := sorted(set(weights) - set(expected)):
        raise DiptychError(f"{where}: its {unread[0]} is not read in architecture {architecture}; check both")
    if weights["W_enc"].ndim != 2:
        raise DiptychError(f"{where}: W_enc has shape {weights['W_enc'].shape}, expected two axes; fetch it again")
    width, n_features = weights["W_enc"].shape
    width, n_features = config.get("d_in", width), config.get("d_sae", n_features)
    shapes = {"W_enc": (width, n_features), "W_dec": (n_features, width), "b_dec": (width,)}
    for name in expected:
        if weights[name].shape != (shape := shapes.get(name, (n_features,))):
            raise DiptychError(f"{where}: {name} has shape {weights[name].shape}, expected {shape}; fetch it again")


def fold_scale(weights: Weights, factor: float) -> None:
    """Fold `factor` into weights that read rows times `factor`, so that they read and return the rows' own units.

    (x factor - b_dec) W_enc = (x - b_dec / factor) (factor W_enc); thresholds and encoder biases are as they were.
    """
    scale = np.float32(factor)
    weights["W_enc"] = weights["W_enc"] * scale
    weights["W_dec"] = weights["W_dec"] / scale
    weights["b_dec"] = weights["b_dec"] / scale


def fold_centring(weights: Weights, config: Mapping[str, Any]) -> None:
    """Fold centring into a dictionary of centred activations, to read uncentred ones: x C for x, C = I - 11^T/d.

    TransformerLens can load a model so that its residual stream has mean zero over the coordinates, and some
    dictionaries were trained on that. (x C - b_in) W_enc = (x - b_in) C W_enc + (b_in C - b_in) W_enc.
    """
    reads_b_dec = config.get("apply_b_dec_to_input", True)
    shift = weights["b_dec"].mean() * weights["W_enc"].sum(axis=0) if reads_b_dec else np.float32(0)
    for name in ("b_enc", "b_gate"):
        if name in weights:
            weights[name] = weights[name] - shift
    if "b_mag" in weights:
        weights["b_mag"] = weights["b_mag"] - shift * np.exp(weights["r_mag"])
    weights["W_enc"] = weights["W_enc"] - weights["W_enc"].mean(axis=0)


def config_of(
    architecture: str, weights: Weights, metadata: Mapping[str, Any], *, apply_b_dec_to_input: bool = True, **more: Any
) -> dict[str, Any]:
    """The config of a dictionary whose weights came from another library and read the rows as they are.

    Args:
        architecture: one of `TENSORS`.
        weights: by SAELens' names.
        metadata: model_name, hook_name, ... as far as they are known.
        apply_b_dec_to_input: whether b_dec is subtracted from a row before it is encoded.
        **more: keys that only this architecture has.
    """
    n_features, width = weights["W_dec"].shape
    return {
        "architecture": architecture,
        "d_in": int(width),
        "d_sae": int(n_features),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": VERSION, **metadata},
        **more,
    }


def write(directory: Path, config: Mapping[str, Any], weights: Weights) -> None:
    """Write both files, keys sorted, readable by all."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(values) for name, values in weights.items()}, directory / WEIGHTS_FILE)
    write_config(directory, config)


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Write cfg.json, keys sorted, and make all files readable by all."""
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (directory / CONFIG_FILE).write_text(text, encoding="utf-8")
    for file in directory.iterdir():
        file.chmod(0o644)


def _listed(names: Any) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"
