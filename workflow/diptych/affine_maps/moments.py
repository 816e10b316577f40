"""Second moments of two models' activations, from which linear maps, their penalties and errors are computed.

With means and centred co-moments per fold, the moments of a training set are a difference ("all but fold 2") and every
held-out error is a trace; the rows are read only once:

    moments = accumulate(rows)                  # one pass, memory O((d_A + d_B)^2) per fold
    training = moments.training(2)              # all folds but fold 2
    held_out = moments.fold(2).about(training)  # fold 2's scatter about the training means

Blocks are multiplied in float32 about a pilot mean, so that large means cost no precision; sums are float64.
Each fold also has the cross-moment of A's rows with another document's rows of B at the same position, for the R^2
that a map reaches without information on the token.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.activations import rows
from diptych.affine_maps import matrices
from diptych.affine_maps.matrices import Matrix
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError

DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

BLOCK_ROWS = 4096
"""Rows per matrix product: enough that its float64 accumulation costs little beside the product."""
PILOT_SPANS = 16
"""Evenly spaced spans of 128 rows whose mean is the pilot mean: it only has to be near the true mean."""


class Scatter(NamedTuple):
    """Sums of products of centred rows: AA [d_A, d_A], AB [d_A, d_B], BB [d_B, d_B], float64."""

    AA: Matrix
    AB: Matrix
    BB: Matrix


@dataclass(frozen=True)
class Moments:
    """Means and centred co-moments (sums, not averages) of n aligned rows; arrays, or tensors of a GPU.

    Attributes:
        n: number of rows.
        mean_A: float64 [d_A].
        mean_B: float64 [d_B].
        C_AA: float64 [d_A, d_A], sum of (x_A - mean_A)^T (x_A - mean_A).
        C_AB: float64 [d_A, d_B].
        C_BB: float64 [d_B, d_B].
    """

    n: int
    mean_A: Matrix
    mean_B: Matrix
    C_AA: Matrix
    C_AB: Matrix
    C_BB: Matrix

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of the union of two disjoint sets of rows (Chan's formula)."""
        return self._combine((other,), 1)

    def without(self, *parts: "Moments") -> "Moments":
        """Moments without the rows of `parts`, which must be disjoint and among them."""
        return self._combine(parts, -1)

    def _combine(self, parts: Sequence["Moments"], sign: int) -> "Moments":
        n = self.n + sign * sum(part.n for part in parts)
        if n <= 0:
            verb = "with" if sign > 0 else "without"
            raise DiptychError(f"moments: {self.n} rows {verb} {[part.n for part in parts]} rows leave none")
        sets, weights = (self, *parts), [self.n, *(sign * part.n for part in parts)]
        mean_A, mean_B = (
            sum(weight / n * mean for weight, mean in zip(weights, means, strict=True))
            for means in ([m.mean_A for m in sets], [m.mean_B for m in sets])
        )
        shifts = [(weight, m.mean_A - mean_A, m.mean_B - mean_B) for weight, m in zip(weights, sets, strict=True)]
        return Moments(
            n=n,
            mean_A=mean_A,
            mean_B=mean_B,
            C_AA=_combined([m.C_AA for m in sets], sign, [(weight * x, x) for weight, x, _ in shifts]),
            C_AB=_combined([m.C_AB for m in sets], sign, [(weight * x, y) for weight, x, y in shifts]),
            C_BB=_combined([m.C_BB for m in sets], sign, [(weight * y, y) for weight, _, y in shifts]),
        )

    def about(self, other: "Moments") -> Scatter:
        """Sums of products of these rows about the means of `other` (held-out rows about the training means)."""
        shift_A, shift_B = self.mean_A - other.mean_A, self.mean_B - other.mean_B
        return Scatter(
            AA=_shifted(self.C_AA, self.n, shift_A, shift_A),
            AB=_shifted(self.C_AB, self.n, shift_A, shift_B),
            BB=_shifted(self.C_BB, self.n, shift_B, shift_B),
        )

    @property
    def scatter(self) -> Scatter:
        """Sums of products of these rows about their own means."""
        return Scatter(self.C_AA, self.C_AB, self.C_BB)

    def reversed(self) -> "Moments":
        """The same rows with A and B exchanged."""
        return Moments(self.n, self.mean_B, self.mean_A, self.C_BB, self.C_AB.T, self.C_AA)


def _shifted(C: Matrix, weight: float, x: Matrix, y: Matrix) -> Matrix:
    """C + weight x^T y, allocating one matrix."""
    shifted = (weight * x)[:, None] * y
    shifted += C
    return shifted


def _combined(Cs: Sequence[Matrix], sign: int, shifts: Sequence[tuple[Matrix, Matrix]]) -> Matrix:
    """C_0 + sign (C_1 + ...) + sum of x^T y over the shifts (x, y), allocating one matrix."""
    left, right = (matrices.stack(vectors) for vectors in zip(*shifts, strict=True))
    combined = left.T @ right
    combined += Cs[0]
    for C in Cs[1:]:
        if sign > 0:
            combined += C
        else:
            combined -= C
    return combined


@dataclass(frozen=True)
class FoldMoments:
    """Moments and shuffled cross-moment of each fold.

    Attributes:
        ids: fold numbers, increasing; those without rows are absent.
        folds: their moments.
        total: moments of all rows.
        shuffled: per fold C_AB [d_A, d_B] of A's rows with another document's rows of B. The partner rows are a
            permutation of the fold's rows, so means, C_AA and C_BB are the same. Empty if some fold has no derangement.
    """

    ids: tuple[int, ...]
    folds: tuple[Moments, ...]
    total: Moments
    shuffled: tuple[Matrix, ...]

    def fold(self, fold: int) -> Moments:
        """Moments of one fold."""
        return self.folds[self.ids.index(fold)]

    def training(self, *held_out: int) -> Moments:
        """Moments of all rows but those of the folds `held_out`."""
        return self.total.without(*(self.fold(fold) for fold in held_out))

    def reversed(self) -> "FoldMoments":
        """The same rows with A and B exchanged; the shuffled cross-moments are transposed."""
        shuffled = tuple(C_AB.T for C_AB in self.shuffled)
        return FoldMoments(self.ids, tuple(fold.reversed() for fold in self.folds), self.total.reversed(), shuffled)

    def shuffled_cross(self, C_AB: Matrix, folds: Iterable[int]) -> Matrix:
        """Cross-moment C_AB of whole folds, if A's rows had another document's rows of B (needs `shuffled`).

        A shuffle within folds leaves the folds' means and so what C_AB has between folds.
        """
        shuffled = C_AB
        for fold in folds:
            shuffled = shuffled + self.shuffled[self.ids.index(fold)]
            shuffled -= self.fold(fold).C_AB
        return shuffled


def sum_moments(parts: Iterable[Moments]) -> Moments:
    """Moments of the union of disjoint sets of rows."""
    first, *rest = parts
    for part in rest:
        first = first + part
    return first


def accumulate(
    pair: rows.Rows, *, block_rows: int = BLOCK_ROWS, shuffled: bool = True, device: str = "cpu"
) -> FoldMoments:
    """Moments by fold in one pass over the rows of two models (with `shuffled`, B's rows are read twice).

    Args:
        pair: rows of two models.
        block_rows: rows per matrix product.
        shuffled: also compute the shuffled cross-moments.
        device: `cpu` or `cuda[:i]`, where the products are computed and the moments lie.

    Raises:
        DiptychError: not two models, no rows, or a non-finite activation.
    """
    if len(pair.sides) != 2 or len(pair) == 0:
        raise DiptychError(f"moments: need rows of two models, got {len(pair.sides)} models and {len(pair)} rows")
    partner = derangement(pair.document, pair.fold, pair.position) if shuffled else None
    pilot = _pilot_mean(pair)
    ids = tuple(int(fold) for fold in np.unique(pair.fold))
    buffer = np.empty((min(block_rows, len(pair)), sum(pair.widths)), dtype=np.float32)
    blocks = ((fold, block) for fold in ids for block in pair.blocks(block_rows, select=pair.fold == fold))
    n_blocks = sum(-(-int((pair.fold == fold).sum()) // block_rows) for fold in ids)
    progress = logs.progress(blocks, "moments", total=n_blocks, unit="block")
    only_B = replace(pair, sides=pair.sides[1:], token_row=pair.token_row[1:])
    folds, shuffled_cross = [], []
    for _, fold_blocks in itertools.groupby(progress, key=lambda item: item[0]):
        sums = _FoldSums(pair.widths, partner is not None, device)
        for _, block in fold_blocks:
            z = _centre(block, pilot, buffer)
            shuffled_B = None if partner is None else only_B.take(partner[block.row]).x[0] - pilot[pair.widths[0] :]
            if not np.isfinite(sums.add(z, shuffled_B)):
                document = _nonfinite_document(pair, block)
                raise DiptychError(f"moments: non-finite activation in document {document}; dump it again")
        folds.append(sums.moments(pilot))
        if partner is not None:
            shuffled_cross.append(sums.shuffled())
    return FoldMoments(ids, tuple(folds), sum_moments(folds), tuple(shuffled_cross))


def derangement(document: IntArray, fold: IntArray, position: IntArray) -> IntArray | None:
    """For each row a row of another document in the same fold, at the same position where possible.

    Rows are grouped by position (a position that too few documents reach joins the next lower one) and rotated
    within the group, so that the partners of a fold are a permutation of its rows.

    Returns:
        int64 [n], or None if some fold has rows of one document for more than half of its rows.
    """
    partner = np.empty(len(document), dtype=np.int64)
    for fold_id in np.unique(fold):
        fold_rows = np.flatnonzero(fold == fold_id)
        order = fold_rows[np.lexsort((document[fold_rows], -position[fold_rows]))]
        for group, shift in _position_groups(order, position[order], document):
            if 2 * shift > len(group):
                return None
            partner[group] = np.roll(group, -shift)
    return partner


def _position_groups(order: IntArray, position: IntArray, document: IntArray) -> list[tuple[IntArray, int]]:
    """Split rows sorted by descending position where it changes, joining groups until no document has over half.

    Returns:
        Groups of rows, sorted by document, each with the number of rows of its largest document.
    """
    groups: list[tuple[IntArray, int]] = []
    pending = order[:0]
    for group in np.split(order, np.flatnonzero(np.diff(position)) + 1):
        pending, count = _by_document(np.concatenate([pending, group]), document)
        if 2 * count <= len(pending):
            groups.append((pending, count))
            pending = order[:0]
    if len(pending):
        last = groups.pop()[0] if groups else order[:0]
        groups.append(_by_document(np.concatenate([last, pending]), document))
    return groups


def _by_document(group: IntArray, document: IntArray) -> tuple[IntArray, int]:
    """The rows sorted by document, and the largest number of rows of one document."""
    by_document = group[np.argsort(document[group], kind="stable")]
    ends = np.flatnonzero(np.diff(document[by_document], append=-1))
    return by_document, int(np.diff(ends, prepend=-1).max())


class _FoldSums:
    """Running float64 sums of one fold, about the pilot mean. `products` holds the upper triangle only."""

    def __init__(self, widths: Sequence[int], shuffled: bool, device: str) -> None:
        self.n, self.widths, self._device = 0, widths, device
        self.sum = np.zeros(sum(widths))
        self.products = matrices.on(device, np.zeros((sum(widths), sum(widths)), order="F"))
        self.cross = matrices.on(device, np.zeros((widths[0], widths[1]))) if shuffled else None

    def add(self, z: FloatArray, shuffled_B: FloatArray | None) -> float:
        """Add rows z [b, d_A + d_B] and the shuffled rows of B; returns a number that is finite iff z is."""
        block_sum = z.sum(axis=0, dtype=np.float64)
        self.n += len(z)
        self.sum += block_sum
        block = matrices.single_on(self._device, z)
        self.products += matrices.upper_gram(block)
        if self.cross is not None and shuffled_B is not None:
            self.cross += block[:, : self.widths[0]].T @ matrices.single_on(self._device, shuffled_B)
        return float(block_sum.sum())

    def moments(self, pilot: FloatArray) -> Moments:
        d_A = self.widths[0]
        part_A, part_B = slice(d_A), slice(d_A, None)
        mean = matrices.like(self.sum / self.n + pilot, self.products)
        C_AA, C_BB = (
            matrices.symmetric(self.products[part, part]) - self._products_of_means(part, part)
            for part in (part_A, part_B)
        )
        C_AB = -self._products_of_means(part_A, part_B)
        C_AB += self.products[part_A, part_B]
        return Moments(self.n, mean[:d_A], mean[d_A:], C_AA, C_AB, C_BB)

    def shuffled(self) -> Matrix:
        """Centred C_AB with the shuffled rows of B: a permutation of the fold's rows, so B's sum is the same."""
        d_A = self.widths[0]
        return self.cross - self._products_of_means(slice(d_A), slice(d_A, None))

    def _products_of_means(self, left: slice, right: slice) -> Matrix:
        """n m^T m for the mean m about the pilot mean."""
        return matrices.like(np.outer(self.sum[left], self.sum[right] / self.n), self.products)


def _pilot_mean(pair: rows.Rows) -> FloatArray:
    starts = np.unique(np.linspace(0, max(0, len(pair) - 128), PILOT_SPANS).astype(np.int64))
    sample = np.unique(starts[:, None] + np.arange(min(128, len(pair))))
    means = [values.mean(axis=0, dtype=np.float64) for values in pair.take(sample).x]
    # A non-finite row is reported when its block is added; the pilot must not spread it to the others.
    pilot: FloatArray = np.nan_to_num(np.concatenate(means), posinf=0.0, neginf=0.0).astype(np.float32)
    return pilot


def _centre(block: rows.Block, pilot: FloatArray, buffer: FloatArray) -> FloatArray:
    z = buffer[: len(block.row)]
    start = 0
    for values in block.x:
        stop = start + values.shape[1]
        np.subtract(values, pilot[start:stop], out=z[:, start:stop])
        start = stop
    return z


def _nonfinite_document(pair: rows.Rows, block: rows.Block) -> int:
    nonfinite = ~np.isfinite(np.concatenate(block.x, axis=1)).all(axis=1)
    return int(pair.document[block.row[nonfinite][0]])
