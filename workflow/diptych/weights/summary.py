"""Changes summed over the tensors of a kind, of a block, and of a model."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.weights.changes import matrix_shape
from diptych.weights.comparison import TensorChange
from diptych.weights.names import OUTSIDE, role_of

Columns = dict[str, list[Any]]
SINGULAR_VALUES = 64
"""First singular values of every change that are stored."""


def tensor_columns(changes: Sequence[TensorChange]) -> Columns:
    """The table of tensors, one row each.

    `rank` and the other columns of the spectrum are NaN where it is unknown (a vector, or too large a matrix); the rank
    of what is equal or only rounded is 0.
    """
    total = math.fsum(each.change.norm**2 for each in changes)
    columns: Mapping[str, Callable[[TensorChange], Any]] = {
        "tensor": lambda each: each.key,
        "block": lambda each: each.place.block,
        "kind": lambda each: each.place.kind,
        "shape": lambda each: " x ".join(map(str, each.shape)),
        "dtype_a": lambda each: each.dtypes[0],
        "dtype_b": lambda each: each.dtypes[1],
        "verdict": lambda each: each.change.verdict,
        "relative": lambda each: each.change.relative,
        "norm_a": lambda each: each.change.norm_a,
        "norm": lambda each: each.change.norm,
        "largest": lambda each: each.change.largest,
        "share": lambda each: ratio(each.change.norm**2, total),
        "cosine": lambda each: each.change.cosine,
        "floor": lambda each: each.change.floor,
        "rank": rank,
        "above_thousandth": lambda each: float(each.spectrum.above_thousandth) if each.spectrum else math.nan,
        "stable_rank": lambda each: each.spectrum.stable_rank if each.spectrum else math.nan,
        "first": lambda each: float(each.spectrum.values[0]) if each.spectrum else math.nan,
        "noise": lambda each: each.spectrum.noise if each.spectrum else math.nan,
    }
    return {name: [value(each) for each in changes] for name, value in columns.items()}


def rank(each: TensorChange) -> float:
    """The rank of a change above rounding; NaN if it is unknown."""
    if each.spectrum:
        return float(each.spectrum.rank)
    return math.nan if each.change.verdict == "changed" else 0.0


def kind_columns(changes: Sequence[TensorChange]) -> Columns:
    """The table of kinds, the most changed first.

    `relative` is (sum ||dW||^2 / sum ||W_A||^2)^1/2 over the tensors of a kind, `effect` the same over those that
    changed by more than rounding only (the sum below is over all); `top_block` has the share `top_share` of the
    kind's change.
    """
    kinds = list(dict.fromkeys(each.place.kind for each in changes))
    total = math.fsum(each.change.norm**2 for each in changes)
    columns: Columns = {}
    for kind in kinds:
        of_kind = [each for each in changes if each.place.kind == kind]
        for name, value in (("kind", kind), *_kind_row(of_kind, total).items()):
            columns.setdefault(name, []).append(value)
    order = sorted(range(len(kinds)), key=lambda i: (-_zero(columns["effect"][i]), -_zero(columns["relative"][i]), i))
    return {name: [column[i] for i in order] for name, column in columns.items()}


def _kind_row(of_kind: Sequence[TensorChange], total: float) -> dict[str, Any]:
    changed = [each for each in of_kind if each.change.verdict == "changed"]
    top = max(of_kind, key=lambda each: each.change.norm)
    change = math.fsum(each.change.norm**2 for each in of_kind)
    norm_a = math.fsum(each.change.norm_a**2 for each in of_kind)
    ranks = [each.spectrum.rank for each in changed if each.spectrum]
    return {
        "label": role_of(top.place.kind).label,
        "part": role_of(top.place.kind).part,
        "tensors": len(of_kind),
        "matrices": sum(len(each.shape) > 1 for each in of_kind),
        "changed": len(changed),
        "rounded": sum(each.change.verdict == "rounding" for each in of_kind),
        "relative": math.sqrt(ratio(change, norm_a)),
        "effect": math.sqrt(ratio(math.fsum(each.change.norm**2 for each in changed), norm_a)),
        "share": ratio(change, total),
        "top_tensor": top.key,
        "top_block": top.place.block,
        "top_share": ratio(top.change.norm**2, change),
        "rank_min": min(ranks, default=0),
        "rank_median": float(np.median(ranks)) if ranks else 0.0,
        "rank_max": max(ranks, default=0),
        "side": max((min(matrix_shape(each.shape)) for each in of_kind if len(each.shape) > 1), default=0),
    }


def block_columns(changes: Sequence[TensorChange]) -> Columns:
    """The table of blocks; the last row, block -1, is all that lies outside of them."""
    numbers = sorted({each.place.block for each in changes}, key=lambda block: (block == OUTSIDE, block))
    total = math.fsum(each.change.norm**2 for each in changes)
    columns: Columns = {"block": [], "relative": [], "share": [], "changed": []}
    for number in numbers:
        in_block = [each for each in changes if each.place.block == number]
        change = math.fsum(each.change.norm**2 for each in in_block)
        norm_a = math.fsum(each.change.norm_a**2 for each in in_block)
        columns["block"].append(number)
        columns["relative"].append(math.sqrt(ratio(change, norm_a)))
        columns["share"].append(ratio(change, total))
        columns["changed"].append(sum(each.change.verdict == "changed" for each in in_block))
    return columns


def spectra(changes: Sequence[TensorChange]) -> npt.NDArray[np.float64]:
    """The first singular values of every change, [tensors, SINGULAR_VALUES]; NaN where there is none."""
    values = np.full((len(changes), SINGULAR_VALUES), np.nan)
    for row, each in zip(values, changes, strict=True):
        if each.spectrum:
            first = each.spectrum.values[:SINGULAR_VALUES]
            row[: len(first)] = first
    return values


def totals(changes: Sequence[TensorChange]) -> dict[str, Any]:
    """Counts of tensors by verdict, the relative change of all weights together, and the stored dtypes."""
    change = math.fsum(each.change.norm**2 for each in changes)
    norm_a = math.fsum(each.change.norm_a**2 for each in changes)
    verdicts = [each.change.verdict for each in changes]
    return {
        "tensors": len(changes),
        "entries": sum(each.change.entries for each in changes),
        **{verdict: verdicts.count(verdict) for verdict in ("equal", "rounding", "changed")},
        "relative": math.sqrt(ratio(change, norm_a)),
        "dtypes": [sorted({each.dtypes[side] for each in changes}) for side in (0, 1)],
    }


def ratio(part: float, whole: float) -> float:
    """part / whole; 0 of nothing, NaN of something by nothing."""
    return part / whole if whole else (math.nan if part else 0.0)


def _zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
