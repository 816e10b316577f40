"""Export of a crosscoder to safetensors with the normalisation folded in, and import of published weights.

    export("weights.h5", "crosscoder/", spec=spec)                  # model.safetensors and config.json
    import_published("cc.safetensors", "weights.h5", spec=spec, scales=(0.2759, 0.2442))

The exported weights act on raw activations, without means, scales or scores:

    f = pre * (pre >= theta),  pre = max(0, sum_m x_m @ W_enc[m] + b_enc),  x_hat_m = f @ W_dec[m] + b_dec[m]

(`activation` in config.json: `jumprelu` as here, `relu` without theta, `topk` with the k largest pre * score_weight.)
"""

import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych.crosscoder import architecture
from diptych.crosscoder.architecture import Architecture, Crosscoder
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts


def export(weights: str | Path, out: str | Path, *, spec: dict[str, Any]) -> None:
    """Write a directory with `model.safetensors` and `config.json` from an artifact of kind "crosscoder".

    Tensors: W_enc.{m} [d_m, F], b_enc [F], W_dec.{m} [F, d_m], b_dec.{m} [d_m]; theta [F] for `jumprelu`,
    score_weight [F] for `topk`. `spec` is stored beside them.
    """
    folded = architecture.load(weights).fold()
    arch = folded.architecture
    tensors = {"b_enc": folded.b_enc.detach()}
    parts = (folded.per_model(values.detach()) for values in (folded.W_enc, folded.W_dec, folded.b_dec))
    for model, (W_enc, W_dec, b_dec) in enumerate(zip(*parts, strict=True)):
        tensors[f"W_enc.{model}"] = W_enc.T.contiguous()
        tensors[f"W_dec.{model}"] = W_dec.contiguous()
        tensors[f"b_dec.{model}"] = b_dec.contiguous()
    if arch.activation == "jumprelu":
        tensors["theta"] = folded.log_theta.detach().exp()
    if arch.activation == "topk":
        tensors["score_weight"] = folded.decoder_norms().sum(0).detach()
    config = {
        "widths": list(arch.widths),
        "n_latents": arch.n_latents,
        "activation": arch.activation,
        "k": arch.k,
        "input": "difference" if arch.difference else "side by side",
    }
    with artifacts.create_directory(out, "crosscoder_export", spec) as directory:
        save_file(tensors, directory / "model.safetensors")
        (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def from_published(tensors: Mapping[str, Tensor]) -> Crosscoder:
    """Build a crosscoder from tensors in the layout of the published Gemma-2-2B base/IT one.

    Args:
        tensors: W_enc [M, d, F], W_dec [F, M, d], b_enc [F], b_dec [M, d]; an L1 crosscoder (relu) on activations
            that are scaled beforehand.

    Raises:
        DiptychError: a tensor is missing or has another shape.
    """
    missing = [name for name in ("W_enc", "W_dec", "b_enc", "b_dec") if name not in tensors]
    if missing:
        raise DiptychError(f"published crosscoder: {', '.join(missing)} missing; expected W_enc, W_dec, b_enc, b_dec")
    n_models, width, n_latents = tensors["W_enc"].shape
    if tuple(tensors["W_dec"].shape) != (n_latents, n_models, width):
        raise DiptychError(
            f"published crosscoder: W_dec has shape {tuple(tensors['W_dec'].shape)}, "
            f"expected {(n_latents, n_models, width)} from W_enc"
        )
    crosscoder = Crosscoder(Architecture((width,) * n_models, n_latents, activation="relu"))
    with torch.no_grad():
        crosscoder.W_enc.copy_(tensors["W_enc"].float().permute(2, 0, 1).reshape(n_latents, -1))
        crosscoder.W_dec.copy_(tensors["W_dec"].float().reshape(n_latents, -1))
        crosscoder.b_enc.copy_(tensors["b_enc"].float())
        crosscoder.b_dec.copy_(tensors["b_dec"].float().reshape(-1))
    return crosscoder


def load_published(path: str | Path) -> Crosscoder:
    """Read a crosscoder in the published layout from a safetensors or .pt file; of the latter, nothing but tensors.

    Raises:
        DiptychError: the file is missing, is of another kind, or has other tensors.
    """
    if not Path(path).is_file():
        raise DiptychError(f"{path}: no such file; give the crosscoder's safetensors or .pt file")
    try:
        if zipfile.is_zipfile(path):  # what torch.save writes
            return from_published(torch.load(path, map_location="cpu", weights_only=True))
        return from_published(load_file(path))
    except (SafetensorError, pickle.UnpicklingError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DiptychError(f"{path}: holds no plain tensors ({reason}); save them as safetensors") from None


def import_published(path: str | Path, out: str | Path, *, spec: dict[str, Any], scales: Sequence[float] = ()) -> None:
    """Stage: write weights in the published layout as an artifact of kind "crosscoder".

    Args:
        path: safetensors file, see `from_published`.
        out: the artifact.
        spec: stored with it.
        scales: for each model the factor that its rows are multiplied by before they are encoded; 1 if not given.

    Raises:
        DiptychError: the file cannot be read, or has another number of models than `scales`.
    """
    crosscoder = load_published(path)
    if scales and len(scales) != len(crosscoder.scale):
        raise DiptychError(
            f"{path}: a crosscoder of {len(crosscoder.scale)} models, but `scales` has {len(scales)} values"
        )
    if scales:
        crosscoder.scale.copy_(torch.tensor(scales))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with artifacts.create(out, "crosscoder", spec) as file:
        architecture.write(file, crosscoder)
        file.json("summary", {"steps": 0, "rows_train": 0, "rows_seen": 0, "rows_calibration": 0})
