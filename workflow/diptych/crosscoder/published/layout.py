"""The common form of published crosscoders of all layouts, with the checks that they share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.runtime.errors import DiptychError
from diptych.sparse_coding.architecture import Architecture, Crosscoder

Tensors = Mapping[str, Tensor]
Configs = Mapping[str, Mapping[str, Any]]
"""Configs by file name."""


def refuse_unknown(layout: str, noun: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise `DiptychError` for names that a layout does not have: they may change what its tensors mean."""
    allowed = set(known)
    if unknown := sorted(set(names) - allowed):
        raise DiptychError(
            f"{layout}: unknown {noun} {', '.join(map(repr, unknown))}; known: {', '.join(sorted(allowed))}"
        )


def require(layout: str, tensors: Tensors, names: Iterable[str]) -> None:
    """Raise `DiptychError` unless all these tensors are there and finite."""
    required = list(names)
    if missing := [name for name in required if name not in tensors]:
        raise DiptychError(f"{layout}: {', '.join(missing)} missing; expected {', '.join(required)}")
    for name in required:
        if not torch.isfinite(tensors[name].float()).all():
            raise DiptychError(f"{layout}: {name} holds values that are not finite; get the file again")


def require_shape(layout: str, tensors: Tensors, name: str, shape: Sequence[int], source: str) -> None:
    """Raise `DiptychError` unless a tensor has this shape, which follows from tensor `source`."""
    if tuple(tensors[name].shape) != tuple(shape):
        raise DiptychError(
            f"{layout}: {name} has shape {tuple(tensors[name].shape)}, expected {tuple(shape)} from {source}"
        )


@torch.no_grad()
def build(
    architecture: Architecture, *, W_enc: Tensor, b_enc: Tensor | None, W_dec: Tensor, b_dec: Tensor | None
) -> Crosscoder:
    """A crosscoder with these weights, on rows that need no normalisation.

    Args:
        architecture: its widths are all d.
        W_enc: [M, d, F].
        b_enc: [F]; zeros if None.
        W_dec: [M, F, d].
        b_dec: [M, d]; zeros if None.
    """
    crosscoder = Crosscoder(architecture)
    crosscoder.W_enc.copy_(W_enc.float().permute(2, 0, 1).reshape(architecture.n_latents, -1))
    crosscoder.W_dec.copy_(W_dec.float().permute(1, 0, 2).reshape(architecture.n_latents, -1))
    for bias, values in ((crosscoder.b_enc, b_enc), (crosscoder.b_dec, b_dec)):
        if values is not None:
            bias.copy_(values.float().reshape(-1))
    return crosscoder
