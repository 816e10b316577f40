"""The k largest entries of each row of a matrix that is computed in blocks.

Correlations and cosines between two dictionaries are too many to store. Of each block the entries that may be among
the k best of their rows are offered to `TopK`, which stores the k best so far; the result does not depend on the
blocks:

    best = TopK(rows=3, k=2)
    best.offer(owner=[0, 0, 2], partner=[5, 7, 1], score=[.1, .9, .3])
    best.offer(owner=[0], partner=[6], score=[.5])
    best.partner[0]        # [7, 6]; row 1 has [-1, -1], row 2 [1, -1]

Sorting every entry would cost more than computing it. `survivors` divides a row into groups; at least k entries reach
the k-th largest of the groups' maxima, so every entry below it is excluded by one comparison.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Indptr = npt.NDArray[np.integer[Any]]
AnyArray = npt.NDArray[Any]

GROUPS_PER_K = 4
"""Groups per row, over k: about k (1 + 1/4) entries survive; more groups cost more than they save."""


class TopK:
    """The k largest of the entries offered for each row, best first; equal scores in order of the partner's index.

    Attributes:
        partner: int64 [rows, k], the entries' columns; -1 where a row has fewer than k entries.
        score: float64 [rows, k]; -inf there.
        other: float64 [rows, k], a second number stored with each entry; NaN there.
    """

    def __init__(self, rows: int, k: int) -> None:
        self.partner = np.full((rows, k), -1, dtype=np.int64)
        self.score = np.full((rows, k), -np.inf)
        self.other = np.full((rows, k), np.nan)

    @property
    def floor(self) -> DoubleArray:
        """[rows]: an entry below this is not among the k best."""
        return self.score[:, -1].copy()

    def offer(
        self, owner: npt.ArrayLike, partner: npt.ArrayLike, score: npt.ArrayLike, other: npt.ArrayLike | None = None
    ) -> None:
        """Add entries (row `owner`, column `partner`) with their scores, in any order; each entry is offered once.

        Later calls must offer a row higher partners than earlier ones, as blocks in the matrix's order do.
        """
        owner, partner = np.asarray(owner, dtype=np.int64), np.asarray(partner, dtype=np.int64)
        score = np.asarray(score, dtype=np.float64)
        other_values = np.full(len(owner), np.nan) if other is None else np.asarray(other, dtype=np.float64)
        order = np.argsort(owner * (1 + partner.max(initial=0)) + partner)
        touched, row, count = np.unique(owner[order], return_inverse=True, return_counts=True)
        k, widest = self.partner.shape[1], int(count.max(initial=0))
        column = k + np.arange(len(row)) - (np.cumsum(count) - count)[row]
        scores = np.full((len(touched), k + widest), -np.inf)
        scores[:, :k] = self.score[touched]
        scores[row, column] = score[order]
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        self.score[touched] = np.take_along_axis(scores, best, axis=1)
        self.partner[touched] = _rearranged(self.partner[touched], partner[order], row, column, best, -1)
        self.other[touched] = _rearranged(self.other[touched], other_values[order], row, column, best, np.nan)


def _rearranged(
    old: AnyArray, new: AnyArray, row: IntArray, column: IntArray, best: IntArray, empty: float
) -> AnyArray:
    """Columns `best` of the old values with the new ones put at (row, column) beside them."""
    values = np.full((len(old), int(column.max(initial=old.shape[1] - 1)) + 1), empty, dtype=old.dtype)
    values[:, : old.shape[1]] = old
    values[row, column] = new
    return np.take_along_axis(values, best, axis=1)


def lower_bound(indptr: Indptr, values: AnyArray, k: int) -> AnyArray:
    """A lower bound of the k-th largest entry of each row of a CSR matrix, [rows].

    -inf for rows that are too short to divide into groups.
    """
    groups = GROUPS_PER_K * k
    count = np.diff(indptr)
    bound = np.full(len(count), -np.inf, dtype=values.dtype)
    long = np.flatnonzero(count >= groups)
    if not len(long):
        return bound
    cuts = indptr[long, None] + count[long, None] * np.arange(groups + 1) // groups
    edges = cuts.ravel()
    inside = edges < len(values)
    maxima = np.full(len(edges), -np.inf, dtype=values.dtype)
    maxima[inside] = np.maximum.reduceat(values, edges[inside])
    bound[long] = np.partition(maxima.reshape(-1, groups + 1)[:, :-1], groups - k, axis=1)[:, groups - k]
    return bound


def lower_bound_dense(values: AnyArray, k: int, axis: int) -> AnyArray:
    """A lower bound of the k-th largest entry of each row (axis 1) or column (axis 0) of a matrix.

    -inf for rows or columns that are too short to divide into groups.
    """
    groups, length = GROUPS_PER_K * k, values.shape[axis]
    if length < groups:
        return np.full(values.shape[1 - axis], -np.inf, dtype=values.dtype)
    rows, columns = values.shape
    if axis == 1:
        maxima = values[:, : length - length % groups].reshape(rows, groups, -1).max(axis=2)
    else:
        maxima = values[: length - length % groups].reshape(groups, -1, columns).max(axis=1)
    return np.asarray(np.take(np.partition(maxima, groups - k, axis=axis), groups - k, axis=axis))


def survivors(indptr: Indptr, values: AnyArray, k: int, floor: AnyArray | None = None) -> tuple[IntArray, IntArray]:
    """Entries (row, position in `values`) of a CSR matrix that may be among the k best of their rows.

    Args:
        indptr: int [rows + 1].
        values: [nnz], no NaN.
        k: number of best entries.
        floor: [rows], known lower bounds (`TopK.floor`).
    """
    bound = lower_bound(indptr, values, k)
    if floor is not None:
        bound = np.maximum(bound, floor).astype(values.dtype)
    position = np.flatnonzero(values >= np.repeat(bound, np.diff(indptr)))
    row = np.searchsorted(indptr, position, side="right") - 1
    return row.astype(np.int64), position.astype(np.int64)
