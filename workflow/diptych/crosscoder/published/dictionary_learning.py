"""Crosscoders of science-of-finetuning's dictionary_learning: L1 (`CrossCoder`) and BatchTopK (`BatchTopKCrossCoder`).

    z^m = (x^m - activation_mean[m]) * activation_global_scale[m]          (z = x without a normaliser)
    pre = sum_m z^m encoder.weight[m] + encoder.bias
    f = relu(pre), for BatchTopK only where relu(pre) * n > threshold
    x_hat^m = (f decoder.weight[m] + decoder.bias[m]) / (activation_global_scale[m] + 1e-8) + activation_mean[m]

n, the code normalisation, is by `code_normalization` the sum over models of a latent's decoder norms (CROSSCODER), the
norm of its concatenated decoder rows (SAE), a weighted sum of both (MIXED) or 1 (NONE). DECOUPLED gives every model a
code of its own, which is no crosscoder's code, and is refused. The scale is target_rms / sqrt(sum of std^2): the
root mean square of ||z^m|| is `target_rms` in each model, so relative norms are those of METHODS 5.

The file does not say which model is which; the library's own scripts put the base model first, although they write the
fine-tuned one first into `lm_name`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.crosscoder.published.files import name_of_model
from diptych.crosscoder.published.layout import Configs, Tensors, build, refuse_unknown, require, require_shape
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding.architecture import Architecture, Crosscoder

LAYOUT = "dictionary_learning crosscoder"
WEIGHTS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
NORMALISER = ("activation_mean", "activation_std", "activation_global_scale", "target_rms")
SELECTION = ("k", "threshold")
CLASSES = ("CrossCoder", "BatchTopKCrossCoder")
KEYS = (
    *("activation_dim", "dict_size", "num_layers", "num_encoder_layers", "k", "dict_class", "target_rms"),
    *("norm_init_scale", "same_init_for_all_layers", "init_with_transpose", "latent_processor", "decoder_type"),
    *("encoder_layers", "encoder_layers_indices", "num_decoder_layers", "num_decoder_output_layers"),
    *("activation_mean", "activation_std", "code_normalization"),
    *("code_normalization_alpha_sae", "code_normalization_alpha_cc"),
    *("sparsity_loss_type", "sparsity_loss_alpha_sae", "sparsity_loss_alpha_cc"),
)
"""Arguments of the two classes in all versions, as `save_pretrained` writes them into config.json."""
NORMALISATIONS = ("CROSSCODER", "SAE", "MIXED", "NONE", "DECOUPLED")
"""Code normalisations; `code_normalization_id` counts them from 1."""
ALPHAS = {"sae": 1.0, "cc": 0.1}
"""Weights of the two norms in MIXED where the config does not say them."""
EPSILON = 1e-8
"""Constant that the library adds to a scale before dividing by it."""
SCALE_TOLERANCE = 0.02
"""Relative difference of a stored scale from target_rms / sqrt(sum of std^2) that rounding to bfloat16 explains."""


def read(tensors: Tensors, configs: Configs, models: Sequence[str | None] = ()) -> Crosscoder:
    """Build a crosscoder from the state of a `CrossCoder` or `BatchTopKCrossCoder`.

    Args:
        tensors: encoder.weight [M, d, F], encoder.bias [F], decoder.weight [M, F, d], decoder.bias [M, d]; of a
            BatchTopK one k and threshold; of one with a normaliser activation_mean and activation_std [M, d].
        configs: config.json as `save_pretrained` or the trainer writes it, and trainer_config.json; may be empty.
        models: the names of the study's models, for a warning if the file was trained on others.

    Raises:
        DiptychError: an unknown tensor, key or class, other shapes, or a code that is not one for all models.
    """
    refuse_unknown(LAYOUT, "tensor", tensors, (*WEIGHTS, *SELECTION, *NORMALISER, "code_normalization_id"))
    require(LAYOUT, tensors, WEIGHTS)
    if tensors["encoder.weight"].ndim != 3:
        raise DiptychError(f"{LAYOUT}: encoder.weight has no axis of models; this is a dictionary of one model")
    n_models, width, n_latents = tensors["encoder.weight"].shape
    for name, shape in (
        ("decoder.weight", (n_models, n_latents, width)),
        ("encoder.bias", (n_latents,)),
        ("decoder.bias", (n_models, width)),
    ):
        require_shape(LAYOUT, tensors, name, shape, "encoder.weight")
    arguments, trainer = _arguments(configs), _trainer(configs)
    batchtopk = _is_batchtopk(tensors, arguments, trainer)
    _check_arguments(arguments, n_models)
    _check_models(trainer, models)
    weight_F = _score_weight(tensors, {**trainer, **arguments}) if batchtopk else None
    architecture = Architecture(
        (width,) * n_models,
        n_latents,
        activation="threshold" if batchtopk else "relu",
        k=int(tensors["k"]) if batchtopk else 0,
        weighted=weight_F is not None,
    )
    crosscoder = build(
        architecture,
        W_enc=tensors["encoder.weight"],
        b_enc=tensors["encoder.bias"],
        W_dec=tensors["decoder.weight"],
        b_dec=tensors["decoder.bias"],
    )
    _set_normaliser(crosscoder, tensors)
    if batchtopk:
        _set_selection(crosscoder, tensors["threshold"], weight_F)
    return crosscoder


def _arguments(configs: Configs) -> Mapping[str, Any]:
    """The class's arguments, of a config.json that `save_pretrained` wrote."""
    arguments = configs.get("config.json", {})
    if "trainer" in arguments:
        return {}
    refuse_unknown(f"{LAYOUT}: config.json", "key", arguments, KEYS)
    return arguments


def _trainer(configs: Configs) -> Mapping[str, Any]:
    """The trainer's settings, from trainer_config.json on the hub or config.json beside a checkpoint."""
    for name in ("trainer_config.json", "config.json"):
        trainer = configs.get(name, {}).get("trainer")
        if isinstance(trainer, dict):
            return trainer
    return {}


def _is_batchtopk(tensors: Tensors, arguments: Mapping[str, Any], trainer: Mapping[str, Any]) -> bool:
    """Whether codes are cut at a threshold, which the class named in the configs must agree with."""
    batchtopk = "threshold" in tensors
    if batchtopk:
        require(LAYOUT, tensors, SELECTION)
    for name in (arguments.get("dict_class"), trainer.get("dict_class")):
        if name is None:
            continue
        if name not in CLASSES:
            raise DiptychError(f"{LAYOUT}: class {name!r} is not read; known: {', '.join(CLASSES)}")
        if (name == "BatchTopKCrossCoder") != batchtopk:
            raise DiptychError(
                f"{LAYOUT}: the config says {name}, but the file has {'a' if batchtopk else 'no'} threshold; "
                "get config and weights of one crosscoder"
            )
    return batchtopk


def _check_arguments(arguments: Mapping[str, Any], n_models: int) -> None:
    """Refuse arguments by which the tensors would mean something else."""
    for key in ("encoder_layers", "encoder_layers_indices"):
        if arguments.get(key) not in (None, list(range(n_models))):
            raise DiptychError(f"{LAYOUT}: {key} {arguments[key]}: an encoder that reads some models only is not read")
    for key, usual in (("latent_processor", None), ("decoder_type", "linear")):
        if arguments.get(key, usual) != usual:
            raise DiptychError(f"{LAYOUT}: {key} {arguments[key]!r} is not read")


def _check_models(trainer: Mapping[str, Any], models: Sequence[str | None]) -> None:
    """Warn if the models that a trainer names are not the study's; in which order they are, it does not say."""
    trained_on = str(trainer.get("lm_name", "")).lower()
    for model in models if trained_on else ():
        if model is not None and name_of_model(model) not in trained_on:
            logs.logger.warning("%s: was trained on %s, which does not name %s", LAYOUT, trained_on, model)


def _score_weight(tensors: Tensors, settings: Mapping[str, Any]) -> Tensor | None:
    """The code normalisation of each latent [F]; None where it is the sum of decoder norms, as ours is."""
    named = settings.get("code_normalization", settings.get("sparsity_loss_type"))
    name = str(named).upper() if named is not None else None
    if "code_normalization_id" in tensors:
        number = int(tensors["code_normalization_id"])
        stored = NORMALISATIONS[number - 1] if 1 <= number <= len(NORMALISATIONS) else f"number {number}"
        if name not in (None, stored):
            raise DiptychError(
                f"{LAYOUT}: the config says code normalisation {name}, the weights {stored}; get both of one crosscoder"
            )
        name = stored
    if name is None:
        logs.logger.warning("%s: no code normalisation is named; CROSSCODER is taken, as the library does", LAYOUT)
        return None
    W_dec = tensors["decoder.weight"].float()
    norms = torch.linalg.vector_norm(W_dec, dim=2)
    concatenated: Tensor = torch.linalg.vector_norm(norms, dim=0)
    summed: Tensor = norms.sum(0)
    match name:
        case "CROSSCODER":
            return None
        case "SAE":
            return concatenated
        case "MIXED":
            sae, cc = (_alpha(settings, part) for part in ("sae", "cc"))
            return concatenated * sae + summed * cc
        case "NONE":
            return torch.ones_like(summed)
        case _:
            raise DiptychError(
                f"{LAYOUT}: code normalisation {name} is not read"
                + (": it gives every model a code of its own" if name == "DECOUPLED" else "")
            )


def _alpha(settings: Mapping[str, Any], part: str) -> float:
    for key in (f"code_normalization_alpha_{part}", f"sparsity_loss_alpha_{part}"):
        if settings.get(key) is not None:
            return float(settings[key])
    return ALPHAS[part]


@torch.no_grad()
def _set_normaliser(crosscoder: Crosscoder, tensors: Tensors) -> None:
    """Set mean and scale of each model, and fold into the decoder what the library divides by beside the scale."""
    moments = [name for name in NORMALISER[:2] if name in tensors and not tensors[name].float().isnan().any()]
    if len(moments) < 2:
        return
    require(LAYOUT, tensors, moments)
    n_models, width = len(crosscoder.scale), crosscoder.architecture.widths[0]
    for name in moments:
        require_shape(LAYOUT, tensors, name, (n_models, width), "encoder.weight")
    target = tensors["target_rms"].float() if "target_rms" in tensors else torch.tensor(1.0)
    by_std = target / (tensors["activation_std"].float().square().sum(-1) + EPSILON).sqrt()
    scale = tensors.get("activation_global_scale", by_std).float()
    if scale.shape != by_std.shape or not torch.allclose(scale, by_std, rtol=SCALE_TOLERANCE, atol=0):
        raise DiptychError(
            f"{LAYOUT}: activation_global_scale is not target_rms / sqrt(sum of activation_std^2); a normaliser for "
            "each coordinate is not read"
        )
    crosscoder.mean.copy_(tensors["activation_mean"].float().reshape(-1))
    crosscoder.scale.copy_(scale)
    divided_by = (scale + EPSILON) / scale
    per_coordinate = divided_by.repeat_interleave(width)
    crosscoder.W_dec.div_(per_coordinate)
    crosscoder.b_dec.div_(per_coordinate)
    crosscoder.norm_unit.copy_(divided_by)  # scores and relative norms are of the decoder as it was


@torch.no_grad()
def _set_selection(crosscoder: Crosscoder, threshold: Tensor, weight_F: Tensor | None) -> None:
    """Set the threshold; a latent is active above it, and with us at or above the next number."""
    if threshold.numel() != 1:
        raise DiptychError(f"{LAYOUT}: {threshold.numel()} thresholds; one for each model is not read")
    crosscoder.threshold.copy_(torch.nextafter(threshold.float().reshape(()), torch.tensor(torch.inf)))
    if weight_F is not None:
        crosscoder.score_weight.copy_(weight_F)
    if float(threshold) < 0:
        logs.logger.warning(
            "%s: its threshold %g was never set, so every latent above 0 is active; `calibrate: true` sets one",
            LAYOUT,
            float(threshold),
        )
