"""Mean divergences of two models' predictions by source, role and position, with intervals over documents.

table = summarise(predictions, groups)      # one row for each group: n, and mean, lo, hi of every number
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.outputs.reading import IntArray
from diptych.outputs.streaming import DoubleArray, Predictions
from diptych.statistics import resampling

BoolArray = npt.NDArray[np.bool_]
NUMBERS = ("kl_ab", "kl_ba", "js", "agreement", "nll_difference")
"""KL(A || B), KL(B || A), Jensen-Shannon in nats; share of equal top tokens; nll_B - nll_A of the text's next token."""
FIRST_POSITIONS = 4
"""Positions in a sequence with a group of their own; later ones are grouped by powers of two."""


class Group(NamedTuple):
    """A group of positions: what it is by (all, source, role, position), its name, and bool [n]."""

    by: str
    name: str
    members: BoolArray


def groups(
    source: IntArray, role: IntArray, position: IntArray, sources: Sequence[str], roles: Sequence[str]
) -> list[Group]:
    """All positions, and those of each source, role and range of positions that has any.

    Args:
        source: int64 [n], of each position.
        role: int64 [n].
        position: int64 [n], in its sequence.
        sources: names.
        roles: names.
    """
    found = [Group("all", "all", np.ones(len(source), dtype=np.bool_))]
    for by, names, codes in (("source", sources, source), ("role", roles, role)):
        present = [Group(by, name, codes == code) for code, name in enumerate(names) if (codes == code).any()]
        found += present if len(present) > 1 else []
    edges = [*range(FIRST_POSITIONS), *(2**power for power in range(2, 32))]
    for first, end in pairwise(edges):
        members = (position >= first) & (position < end)
        if members.any():
            found.append(Group("position", str(first) if end == first + 1 else f"{first}–{end - 1}", members))
    return found


def numbers_of(predictions: Predictions) -> dict[str, DoubleArray]:
    """`NUMBERS` at every position, float64 [n] each."""
    return {
        **{name: getattr(predictions, name).astype(np.float64) for name in ("kl_ab", "kl_ba", "js")},
        "agreement": predictions.agrees.astype(np.float64),
        "nll_difference": predictions.nll_b.astype(np.float64) - predictions.nll_a,
    }


def summarise(
    numbers: Mapping[str, DoubleArray], document: IntArray, grouped: Sequence[Group], *, bootstrap: int, seed: int
) -> dict[str, Any]:
    """Means over positions and 95 % intervals over documents of every number in every group.

    Args:
        numbers: float64 [n] each; NaN is left out.
        document: int64 [n].
        grouped: groups of positions.
        bootstrap: Poisson replicates.
        seed: of the replicates.

    Returns:
        Columns by, name, n (positions), and for each number its name, with _lo and _hi.
    """
    _, unit = np.unique(document, return_inverse=True)
    n_units = int(unit.max()) + 1
    columns: dict[str, Any] = {
        "by": [group.by for group in grouped],
        "name": [group.name for group in grouped],
        "n": np.array([group.members.sum() for group in grouped], dtype=np.int64),
    }
    for name, values in numbers.items():
        sums = np.zeros((n_units, len(grouped), 2))
        for g, group in enumerate(grouped):
            known = group.members & ~np.isnan(values)
            sums[:, g, 0] = np.bincount(unit[known], values[known], minlength=n_units)
            sums[:, g, 1] = np.bincount(unit[known], minlength=n_units)
        lo, hi = resampling.poisson_bootstrap(sums, _ratio, n=bootstrap, seed=seed)
        columns |= {name: _ratio(sums.sum(0)[None])[0], f"{name}_lo": lo, f"{name}_hi": hi}
    return columns


def by_document(numbers: Mapping[str, DoubleArray], document: IntArray) -> dict[str, Any]:
    """Means of every number over the positions of each document, with the document's number and its positions, n."""
    documents, unit = np.unique(document, return_inverse=True)
    columns: dict[str, Any] = {"document": documents, "n": np.bincount(unit)}
    for name, values in numbers.items():
        known = ~np.isnan(values)
        sums = np.zeros((len(documents), 2))
        sums[:, 0] = np.bincount(unit[known], values[known], len(documents))
        sums[:, 1] = np.bincount(unit[known], minlength=len(documents))
        columns[name] = _ratio(sums)
    return columns


def _ratio(sums: DoubleArray) -> DoubleArray:
    """sums[..., 0] / sums[..., 1]; NaN where that is 0."""
    count = sums[..., 1]
    ratio: DoubleArray = np.divide(sums[..., 0], count, out=np.full(count.shape, np.nan), where=count > 0)
    return ratio
