"""The logit lens: which next tokens a direction of the residual stream promotes or suppresses.

lens(model, directions, scale)       # [n, V] logits of the final norm and unembedding on each direction alone
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

FloatArray = npt.NDArray[np.float32]


@torch.inference_mode()
def lens(model: Any, directions: FloatArray, scale: float) -> FloatArray:
    """The logit lens: logits of the final norm and unembedding on each direction alone, float32 [n, V].

    Args:
        model: a transformers causal language model.
        directions: unit rows [n, d] of the residual stream.
        scale: length they are scaled to, that of a typical residual; it only matters for the norm's epsilon.
    """
    head = model.get_output_embeddings()
    norm = final_norm(model)
    weight = next(head.parameters())
    rows = (scale * torch.from_numpy(directions)).to(weight.device, weight.dtype)
    zero = torch.zeros_like(rows[:1])
    logits: FloatArray = (head(norm(rows)) - head(norm(zero))).float().cpu().numpy()
    return logits


def final_norm(model: Any) -> nn.Module:
    """The norm before the unembedding: the last one that is a child of the model's trunk; identity if there is none."""
    norms = [child for child in model.base_model.children() if "norm" in type(child).__name__.lower()]
    return norms[-1] if norms else nn.Identity()
