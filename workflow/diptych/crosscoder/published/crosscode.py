"""Crosscoders of the library crosscode (`ModelHookpointAcausalCrosscoder`): model.pt and model_cfg.yaml.

    pre = sum_m x^m W_enc[m] + b_enc,  f = activation(pre),  x_hat^m = f W_dec[:, m] + b_dec[m]

Either bias may be absent. Activations: ReLU; JumpReLU (pre above a latent's theta); TopK, the k largest pre of a row,
negative ones too; BatchTopK, the same over a batch, which has no code for a single row until a threshold is set
(`calibrate`). Unlike in METHODS 5, what is ranked is pre itself, not pre times decoder norms.

Saved weights act on raw activations (`is_folded`): the factor of each model is multiplied into W_enc and divided out of
W_dec and b_dec. It is taken out again here, since relative norms are those of the scaled units.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.crosscoder.published.files import name_of_model
from diptych.crosscoder.published.layout import Configs, Tensors, build, refuse_unknown, require, require_shape
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding.architecture import Architecture, Crosscoder

LAYOUT = "crosscode crosscoder"
ENCODER, DECODER, B_ENC, B_DEC = "_W_enc_XiDiL", "_W_dec_LXoDo", "b_enc_L", "_b_dec_XoDo"
FACTORS = ("folded_scaling_factors_in_Xi", "folded_scaling_factors_out_Xo")
LOG_THETA = "_activation_fn.log_threshold_L"
CONFIG = "model_cfg.yaml"
KEYS = (
    *("n_models", "n_hookpoints", "d_model", "n_latents", "activation_fn"),
    *("use_encoder_bias", "use_decoder_bias", "dtype"),
)
RELU, JUMPRELU = "ReLUActivation", "AnthropicSTEJumpReLUActivation"
TOPK, BATCHTOPK = "TopkActivation", "BatchTopkActivation"
K = {TOPK: "k", BATCHTOPK: "k_per_example"}
"""The key of an activation's config that holds its k."""
ACTIVATIONS = (RELU, JUMPRELU, TOPK, BATCHTOPK)


def read(tensors: Tensors, configs: Configs, models: Sequence[str | None] = ()) -> Crosscoder:
    """Build a crosscoder from the state and the config of a `ModelHookpointAcausalCrosscoder` of one hookpoint.

    The threshold of a BatchTopK one is NaN: it is still to be set.

    Args:
        tensors: W_enc [M, 1, d, F], W_dec [F, M, 1, d], b_enc [F], b_dec [M, 1, d], folded factors [M, 1].
        configs: model_cfg.yaml, and experiment_config.yaml if it is there.
        models: the names of the study's models, None where it has none.

    Raises:
        DiptychError: an unknown tensor, key or activation, other shapes, several hookpoints, or models that the
            experiment had in another order.
    """
    refuse_unknown(LAYOUT, "tensor", tensors, (ENCODER, DECODER, B_ENC, B_DEC, *FACTORS, "is_folded", LOG_THETA))
    require(LAYOUT, tensors, (ENCODER, DECODER))
    config = configs.get(CONFIG)
    if config is None:
        raise DiptychError(f"{LAYOUT}: {CONFIG} is not beside the weights; it says the activation function")
    refuse_unknown(f"{LAYOUT}: {CONFIG}", "key", config, KEYS)
    name, activation = _activation(config)
    if tensors[ENCODER].ndim != 4:
        raise DiptychError(f"{LAYOUT}: {ENCODER} has no axes of models and hookpoints; not a crosscoder of models")
    n_models, n_hookpoints, width, n_latents = tensors[ENCODER].shape
    if n_hookpoints != 1:
        raise DiptychError(f"{LAYOUT}: reads {n_hookpoints} hookpoints of each model; one with a single one is read")
    require_shape(LAYOUT, tensors, DECODER, (n_latents, n_models, 1, width), ENCODER)
    _check_order(configs.get("experiment_config.yaml", {}), models)
    crosscoder = build(
        Architecture((width,) * n_models, n_latents, **_selection(name, activation)),
        W_enc=tensors[ENCODER][:, 0],
        b_enc=_bias(tensors, config, B_ENC, "use_encoder_bias", (n_latents,)),
        W_dec=tensors[DECODER][:, :, 0].permute(1, 0, 2),
        b_dec=_bias(tensors, config, B_DEC, "use_decoder_bias", (n_models, 1, width)),
    )
    if name == JUMPRELU:
        require(LAYOUT, tensors, (LOG_THETA,))
        require_shape(LAYOUT, tensors, LOG_THETA, (n_latents,), ENCODER)
        with torch.no_grad():
            crosscoder.log_theta.copy_(tensors[LOG_THETA].float())
    if name == BATCHTOPK:
        crosscoder.threshold.fill_(torch.nan)
    _unfold(crosscoder, tensors)
    return crosscoder


def _activation(config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Class and config of the activation function."""
    function = config.get("activation_fn")
    if not isinstance(function, dict) or "classname" not in function:
        raise DiptychError(f"{LAYOUT}: {CONFIG} names no `activation_fn`; get the file again")
    name = str(function["classname"])
    if name not in ACTIVATIONS:
        raise DiptychError(f"{LAYOUT}: activation {name!r} is not read; known: {', '.join(ACTIVATIONS)}")
    return name, function.get("cfg") or {}


def _selection(name: str, activation: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the architecture that say which latents are active."""
    if name == RELU:
        return {"activation": "relu"}
    if name == JUMPRELU:
        return {"activation": "jumprelu"}
    if K[name] not in activation:
        raise DiptychError(f"{LAYOUT}: {CONFIG} has no {K[name]} of {name}; get the file again")
    k = int(activation[K[name]])
    if name == TOPK:
        return {"activation": "topk", "k": k, "weighted": True, "signed": True}
    return {"activation": "threshold", "k": k, "weighted": True}


def _bias(tensors: Tensors, config: Mapping[str, Any], name: str, key: str, shape: tuple[int, ...]) -> Tensor | None:
    """A bias of this shape; None where the config says that there is none."""
    if bool(config.get(key, name in tensors)) != (name in tensors):
        raise DiptychError(
            f"{LAYOUT}: {CONFIG} says {key}: {config[key]}, but the weights have {'a' if name in tensors else 'no'} "
            f"{name}; get both of one crosscoder"
        )
    if name not in tensors:
        return None
    require(LAYOUT, tensors, (name,))
    require_shape(LAYOUT, tensors, name, shape, ENCODER)
    return tensors[name]


@torch.no_grad()
def _unfold(crosscoder: Crosscoder, tensors: Tensors) -> None:
    """Take the factors of the models out of the weights and make them the scales."""
    if "is_folded" not in tensors or not bool(tensors["is_folded"]):
        return
    require(LAYOUT, tensors, FACTORS)
    factors = [tensors[name].float() for name in FACTORS]
    n_models = len(crosscoder.scale)
    for name in FACTORS:
        require_shape(LAYOUT, tensors, name, (n_models, 1), ENCODER)
    if not torch.equal(*factors) or bool((factors[0] <= 0).any()):
        raise DiptychError(f"{LAYOUT}: folded factors must be positive, and the same going in and out")
    crosscoder.scale.copy_(factors[0][:, 0])
    coordinate_scale = crosscoder.coordinate_scale
    crosscoder.W_enc.div_(coordinate_scale)
    crosscoder.W_dec.mul_(coordinate_scale)
    crosscoder.b_dec.mul_(coordinate_scale)


def _check_order(experiment: Mapping[str, Any], models: Sequence[str | None]) -> None:
    """Refuse a study whose models are not those of the experiment, in its order; names may lack the owner."""
    llms = (experiment.get("data") or {}).get("activations_harvester", {}).get("llms", [])
    names = [llm.get("name") or llm.get("hf_model_name") for llm in llms]
    for trained_on, model in zip(names, models, strict=False):
        if trained_on and model and name_of_model(trained_on) != name_of_model(model):
            raise DiptychError(
                f"{LAYOUT}: was trained on {', '.join(map(str, names))}, in this order; the study's `models` are "
                f"{', '.join(map(str, models))}"
            )
