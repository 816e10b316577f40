"""What changed between the weights of two models, in a sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from diptych.page.blocks import counted, listed, percent
from diptych.storage import artifacts

LOW_RANK = 0.25
"""Changes whose ranks are at most this share of the shorter side are of low rank, as an adapter's."""
HALF = 0.5
"""Changes whose median rank is at least this share of the shorter side are of high rank, as those of all weights."""


def moved(comparison: Mapping[str, Any], file: h5py.File, a: str, b: str) -> str:
    """The answer for two models: why they cannot be compared, equal, rounding, one tensor, or how many and which.

    Args:
        comparison: reason and counts of an artifact of kind "weights".
        file: that artifact, open.
        a: name of A.
        b: name of B.
    """
    if comparison["reason"]:
        return f"The weights of {a} and {b} were not compared: {comparison['reason']}."
    if not comparison["changed"]:
        if not comparison["rounding"]:
            return f"The weights of {a} and {b} are equal."
        size = percent(comparison["relative"])
        dtypes = _dtypes(comparison["dtypes"])
        return f"The weights of {a} and {b} differ by rounding alone ({dtypes}), {size} of their norm."
    tensors = artifacts.read_table(file, "tensors")
    changed = np.flatnonzero(tensors["verdict"] == "changed")
    if len(changed) == 1:
        i = int(changed[0])
        rank = f", by a matrix of rank {tensors['rank'][i]:.0f}" if np.isfinite(tensors["rank"][i]) else ""
        return (
            f"Between {a} and {b} only {str(tensors['tensor'][i]).removesuffix('.weight')} moved, by "
            f"{percent(float(tensors['relative'][i]))} of its norm{rank}."
        )
    kinds = artifacts.read_table(file, "kinds")
    effect = percent(float(kinds["effect"][0]))
    kind = (
        f"the {kinds['label'][0]} ({kinds['kind'][0]}, {effect})"
        if kinds["label"][0]
        else f"{kinds['kind'][0]} ({effect})"
    )
    return (
        f"Between {a} and {b} {_which(tensors, changed)} moved, by {percent(comparison['relative'])} of the norm of "
        f"all weights{_ranks(tensors, changed)}; most of all {kind}."
    )


def _dtypes(dtypes: Sequence[Sequence[str]]) -> str:
    names = [listed(of_model) for of_model in dtypes]
    return f"both in {names[0]}" if names[0] == names[1] else f"{names[0]} and {names[1]}"


def _which(tensors: Mapping[str, Any], changed: Any) -> str:
    """How many matrices, or vectors if no matrix, changed."""
    is_matrix = np.array([" x " in str(shape) for shape in tensors["shape"]])
    n, total = int(is_matrix[changed].sum()), int(is_matrix.sum())
    if not n:
        return counted(len(changed), "vector")
    return "every matrix" if n == total else f"{n:,} of {counted(total, 'matrix', 'matrices')}"


def _ranks(tensors: Mapping[str, Any], changed: Any) -> str:
    """The ranks of the changes, and what they are typical of."""
    known = [int(i) for i in changed if np.isfinite(tensors["rank"][i]) and tensors["rank"][i] > 0]
    if not known:
        return ""
    sides = np.array([min(map(int, str(tensors["shape"][i]).split(" x "))) for i in known])
    ranks = tensors["rank"][known]
    low, high = int(ranks.min()), int(ranks.max())
    text = f"rank {high}" if low == high else f"rank {low} to {high}"
    if (ranks <= LOW_RANK * sides).all():
        return f" and by matrices of {text}, as an adapter moves them"
    if np.median(ranks / sides) >= HALF:
        return " and by matrices of high rank, as training all weights does"
    return f" and by matrices of {text}"
