"""Export of a crosscoder to safetensors with the normalisation folded in (import: `published`).

    export("weights.h5", "crosscoder/", spec=spec)                  # model.safetensors and config.json

The exported weights act on raw activations, without means, scales or scores:

    f = pre * (pre >= theta),  pre = max(0, sum_m x_m @ W_enc[m] + b_enc),  x_hat_m = f @ W_dec[m] + b_dec[m]

(`activation` in config.json: `jumprelu` as here, `relu` without theta, `topk` with the k largest pre * score_weight;
`signed`, of imported ones alone: pre without the max.)
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from diptych.sparse_coding import architecture
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
        tensors["score_weight"] = folded.score_weights().detach()
    config = {
        "widths": list(arch.widths),
        "n_latents": arch.n_latents,
        "activation": arch.activation,
        "k": arch.k,
        "input": "difference" if arch.difference else "side by side",
    }
    if arch.signed:
        config["signed"] = True
    with artifacts.create_directory(out, "crosscoder_export", spec) as directory:
        save_file(tensors, directory / "model.safetensors")
        (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
