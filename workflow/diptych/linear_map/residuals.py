"""Where the map from A to B fails: on which tokens, and along which directions of B (METHODS 2 and 9).

The residual e = x_B - xhat_B of a row comes from a map that neither saw the row's fold nor the test fold, so what is
found on folds 1.. can be tested on fold 0. Two lists of directions answer two questions:

    pca          along which unit g is the residual largest?            C_E g = l g
    unexplained  along which g is B least predictable from A?           C_E g = mu (C_BB + eps I) g

The second is shown as the pattern C_BB g, the way B's activations move when the readout x_B . g rises: a feature that
only B has appears there as its direction, however small it is beside the rest.

    maps = fold_maps(ladder, best)
    found = directions(folds, maps, count=10)         # from moments alone
    failure = Failure(rows, maps, found, alignment)   # then one pass over the rows fills it
    for block in rows.blocks(4096, select=rows.fold == k): failure.add(k, *block.x, block.row)

Swapping labels: with y = B's centred rows and z = A's, carried into B's coordinates by a fixed rotation and size,
two models without a difference along a pattern h could be exchanged document by document. Under the fixed map the
unexplained variance of B along h, sum (e.h)(y.h), is set against the same with the models exchanged, sum (e'.h)(z.h),
e' = z - the prediction from y. (The squared residual itself would not do: for a map near the identity e' = -e, and
the swap is invisible to it. Nor would the readout g: it cancels what the models share, so that whatever only A has
stands in for B's own.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import linalg

from diptych.activations import rows
from diptych.affine_maps import affine, moments
from diptych.linear_map import ladder
from diptych.statistics import resampling

DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]

KINDS = ("pca", "unexplained")
FLOOR = 1e-6
"""eps of the unexplained directions in units of B's mean variance: directions that B hardly uses are no answer."""
RANDOM = 32
"""Random directions drawn: what steering along found ones is held against (METHODS 7)."""
POSITIONS = 64
"""Positions with their own mean; later ones share the last bin."""


@dataclass(frozen=True)
class Directions:
    """Directions of B that the map misses, chosen on folds other than the test fold.

    Attributes:
        kind: int8 [K], index into `KINDS`; each kind's list is best first.
        filters: float64 [K, d_B]; e . filter is a row's score. pca: unit length; unexplained: unit variance of x_B.
        patterns: float64 [K, d_B], unit length: the direction to show, steer and compare.
        pca_spectrum: float64 [d_B], residual variance per row along each principal direction, falling.
        unexplained_spectrum: float64 [d_B], mu of each unexplained direction, falling.
        random: float64 [RANDOM, d_B], unit directions drawn from the residual covariance; 0 where that is 0.
    """

    kind: npt.NDArray[np.int8]
    filters: DoubleArray
    patterns: DoubleArray
    pca_spectrum: DoubleArray
    unexplained_spectrum: DoubleArray
    random: DoubleArray


def fold_maps(steps: ladder.Ladder, best: ladder.Rung) -> dict[int, affine.LinearMap]:
    """For each fold the map that predicts its rows: trained on neither that fold nor the test fold."""
    test = ladder.TEST_FOLD
    held_out = {fold: (test,) if fold == test else (test, fold) for fold in steps.folds.ids}
    return {fold: steps.map(best.name, best.choice, folds) for fold, folds in held_out.items()}


def error_scatter(slope: DoubleArray, held: moments.Scatter) -> DoubleArray:
    """Sum of e^T e over held-out rows, float64 [d_B, d_B], from their scatter about the training means."""
    cross = slope.T @ held.AB
    scatter: DoubleArray = held.BB - cross - cross.T + slope.T @ held.AA @ slope
    return scatter


def directions(
    folds: moments.FoldMoments, maps: Mapping[int, affine.LinearMap], count: int, *, seed: int = 0
) -> Directions:
    """The `count` best directions of each kind, from the moments of the folds other than the test fold."""
    test = ladder.TEST_FOLD
    selection = [fold for fold in folds.ids if fold != test]
    scatters = {fold: folds.fold(fold).about(folds.training(test, fold)) for fold in selection}
    C_E = np.sum([error_scatter(maps[fold].slope, scatters[fold]) for fold in selection], axis=0)
    C_BB = np.sum([scatters[fold].BB for fold in selection], axis=0)
    n, d_B = sum(folds.fold(fold).n for fold in selection), len(C_BB)
    variance, components = np.linalg.eigh(C_E)
    ridge = FLOOR * float(np.trace(C_BB)) / d_B
    share, readouts = linalg.eigh(C_E, C_BB + ridge * np.eye(d_B))
    principal = components[:, ::-1][:, :count].T
    readout = readouts[:, ::-1][:, :count].T * np.sqrt(n)
    pattern = _unit_rows(readout @ C_BB)
    sign = _signs(np.vstack([principal, pattern]))
    return Directions(
        kind=np.repeat(np.arange(2, dtype=np.int8), len(principal)),
        filters=sign * np.vstack([principal, readout]),
        patterns=sign * np.vstack([principal, pattern]),
        pca_spectrum=np.maximum(variance[::-1], 0.0) / n,
        unexplained_spectrum=np.clip(share[::-1], 0.0, None),
        random=_random_directions(np.where(variance > ridge, variance, 0.0), components, seed),
    )


def _random_directions(variance: DoubleArray, components: DoubleArray, seed: int) -> DoubleArray:
    """Unit directions [RANDOM, d] of Gaussian draws from the covariance with these eigenvalues and eigenvectors."""
    normal = np.random.default_rng(seed).standard_normal((RANDOM, len(variance)))
    return _unit_rows((normal * np.sqrt(np.maximum(variance, 0.0))) @ components.T)


@dataclass(frozen=True)
class DirectionScores:
    """What the rows say about each direction; "selected" on the folds that chose it, "held out" on the test fold.

    Attributes:
        unexplained: float64 [K, 2] (selected, held out): sum (e.g)^2 / sum (y.g)^2, y = x_B about the training mean.
        unexplained_bounds: float64 [K, 2], 95 % Poisson bootstrap over test documents.
        residual_share: float64 [K, 2]: sum (e.g)^2 / sum ||e||^2 for unit g.
        excess: float64 [K, 2]: sum (e.h)(y.h) - (e'.h)(z.h) over sum (y.h)^2 + (z.h)^2, h the pattern; within
            [-1, 1] for a map near the identity, 1 if A has nothing along h. NaN for unequal widths.
        surplus: float64 [K], the numerator of the excess on the selected folds, a row: variance along the unit pattern
            that B has and A has not. A pattern at cosine c to another shows c^2 of the other's. NaN likewise.
        p: float64 [K], one-sided label-swap p of the held-out excess over documents; NaN for unequal widths.
        document: int64 [D], the test documents.
        residual: float64 [K, D], sum over the document's rows of (e.g)^2.
        variance: float64 [K, D], sum of (y.g)^2.
        difference: float64 [K, D], each test document's part of the held-out excess; NaN for unequal widths.
    """

    unexplained: DoubleArray
    unexplained_bounds: DoubleArray
    residual_share: DoubleArray
    excess: DoubleArray
    surplus: DoubleArray
    p: DoubleArray
    document: IntArray
    residual: DoubleArray
    variance: DoubleArray
    difference: DoubleArray


class Failure:
    """Accumulates, over one pass, where the map fails.

    Args:
        pair: the rows; A and B may be exchanged by the caller, widths follow the maps.
        maps: by fold.
        found: directions to score.
        alignment: fixed s Q [d, d] that carries A's centred rows into B's coordinates, Q orthogonal; None for
            unequal widths.
        contexts: rows kept at either end of each direction.

    Attributes:
        energy: float32 [n], ||e||^2 over the mean of ||x_B - mean_B||^2, once `finish` has run.
        top_rows: int64 [K, 2, 2, contexts]: per direction, fold set (selected, held out) and end (highest, lowest),
            rows of `pair` by falling |score|; -1 where there are fewer.
        top_scores: float32, the same shape, e . filter; 0 where there are fewer.
    """

    def __init__(
        self,
        pair: rows.Rows,
        maps: Mapping[int, affine.LinearMap],
        found: Directions,
        alignment: DoubleArray | None,
        contexts: int,
    ) -> None:
        self._pair, self.found, self._aligned = pair, found, alignment is not None
        self._readers = {fold: _Reader(linear, found, alignment) for fold, linear in maps.items()}
        k = len(found.filters)
        self._documents, self._index = np.unique(pair.document, return_inverse=True)
        self._sums = np.zeros((len(self._documents), 4, k))
        self._variance = 0.0
        self.energy = np.zeros(len(pair), dtype=np.float32)
        self.top_rows = np.full((k, 2, 2, contexts), -1, dtype=np.int64)
        self.top_scores = np.zeros((k, 2, 2, contexts), dtype=np.float32)

    def add(self, fold: int, x_A: FloatArray, x_B: FloatArray, row: IntArray) -> None:
        """Add rows of one fold."""
        read = self._readers[fold].read(x_A, x_B)
        self.energy[row] = read.energy
        self._variance += read.total
        document = self._index[row]
        starts = np.flatnonzero(np.diff(document, prepend=-1))
        np.add.at(self._sums, document[starts], np.add.reduceat(read.parts, starts, axis=1).swapaxes(0, 1))
        self._keep_top(int(fold == ladder.TEST_FOLD), read.scores, row)

    def finish(self) -> None:
        """Make energies relative. Call once, after the last row."""
        test = self._is_test()
        self._energy_sum = np.array([self.energy[part].sum(dtype=np.float64) for part in (~test, test)])
        self.energy /= np.float32(self._variance / len(self._pair))

    def scores(self, *, bootstrap: int, seed: int) -> DirectionScores:
        """Scores of every direction (after `finish`)."""
        test = np.isin(self._documents, self._pair.document[self._is_test()])
        parts = self._sums[test]
        both = np.stack([self._sums[~test].sum(axis=0), parts.sum(axis=0)])
        length = np.sum(self.found.filters**2, axis=1)
        bounds = resampling.poisson_bootstrap(
            parts[:, :2], lambda sums: _ratio(sums[:, 0], sums[:, 1]), n=bootstrap, seed=seed
        )
        swapped = 1.0 if self._aligned else np.nan
        difference = swapped * _ratio(parts[:, 3], both[1, 2]).T
        return DirectionScores(
            unexplained=_ratio(both[:, 0], both[:, 1]).T,
            unexplained_bounds=np.stack(bounds, axis=1),
            residual_share=_ratio(both[:, 0] / length, self._energy_sum[:, None]).T,
            excess=swapped * _ratio(both[:, 3], both[:, 2]).T,
            surplus=swapped * both[0, 3] / np.count_nonzero(~self._is_test()),
            p=resampling.sign_flip_p(difference, two_sided=False) if len(difference) else np.zeros(0),
            document=self._documents[test],
            residual=parts[:, 0].T,
            variance=parts[:, 1].T,
            difference=difference,
        )

    def _is_test(self) -> npt.NDArray[np.bool_]:
        is_test: npt.NDArray[np.bool_] = self._pair.fold == ladder.TEST_FOLD
        return is_test

    def _keep_top(self, held_out: int, scores: Floats, row: IntArray) -> None:
        """Merge a block's scores [b, K] into the kept ends; only scores of an end's own sign compete."""
        size = self.top_rows.shape[-1]
        for end, sign in enumerate((1, -1)):
            signed = np.maximum(sign * scores.T, 0)
            block_best = np.argpartition(-signed, size, axis=1)[:, :size] if len(row) > size else None
            candidates = signed if block_best is None else np.take_along_axis(signed, block_best, axis=1)
            rows_in = np.broadcast_to(row, signed.shape) if block_best is None else row[block_best]
            strongest = sign * self.top_scores[:, held_out, end]
            candidates = np.concatenate([strongest, candidates], axis=1)
            rows_in = np.concatenate([self.top_rows[:, held_out, end], rows_in], axis=1)
            rows_in[candidates == 0] = -1
            best = np.lexsort((rows_in, -candidates), axis=1)[:, :size]
            self.top_scores[:, held_out, end] = sign * np.take_along_axis(candidates, best, axis=1)
            self.top_rows[:, held_out, end] = np.take_along_axis(rows_in, best, axis=1)


class _Read(NamedTuple):
    """A block's residuals: ||e||^2 [b], the sum of ||y||^2, scores e.g [b, K], and four parts [4, b, K] to be summed.

    The parts: (e.g)^2; (y.g)^2; (y.h)^2 + (z.h)^2; (e.h)(y.h) - (e'.h)(z.h), the last two 0 without an alignment.
    """

    energy: Floats
    total: float
    scores: Floats
    parts: DoubleArray


class _Reader:
    """One fold's map with what the scores of a block need, in float32."""

    def __init__(self, linear: affine.LinearMap, found: Directions, alignment: DoubleArray | None) -> None:
        self.mean_A, self.mean_B = linear.mean_A.astype(np.float32), linear.mean_B.astype(np.float32)
        self.slope = linear.slope.astype(np.float32)
        self.g, self.h = found.filters.T.astype(np.float32), found.patterns.T.astype(np.float32)
        self.alignment = alignment
        if alignment is not None:
            self.aligned_h = (alignment @ found.patterns.T).astype(np.float32)
            # (s Q)^-1 R = (s Q)^T R / s^2: the map as it acts on rows that are in B's coordinates already
            inverse = alignment.T / (np.sum(alignment**2) / len(alignment))
            self.mapped_h = (inverse @ (linear.slope @ found.patterns.T)).astype(np.float32)

    def read(self, x_A: FloatArray, x_B: FloatArray) -> _Read:
        centred_A, y = x_A - self.mean_A, x_B - self.mean_B
        e = y - centred_A @ self.slope
        e_g, y_g = e @ self.g, y @ self.g
        parts = np.zeros((4, *e_g.shape))
        parts[0], parts[1] = np.square(e_g, dtype=np.float64), np.square(y_g, dtype=np.float64)
        if self.alignment is not None:
            y_h, z_h, e_h = (v.astype(np.float64) for v in (y @ self.h, centred_A @ self.aligned_h, e @ self.h))
            swapped_e_h = z_h - y @ self.mapped_h
            parts[2], parts[3] = y_h**2 + z_h**2, e_h * y_h - swapped_e_h * z_h
        return _Read(np.einsum("nd,nd->n", e, e), float(np.sum(y * y, dtype=np.float64)), e_g, parts)


def alignment(m: moments.Moments) -> DoubleArray:
    """The rotation and size s Q [d, d] that carry A's centred rows into B's coordinates; B -> A is its inverse.

    Q is the polar factor of C_AB. The size is the square root of the weighted median ratio of B's to A's variance
    along the paired singular directions: a least-squares size would leave A short by the noise, and a ratio of totals
    would shrink everything shared for what one model has alone.
    """
    left, weight, right = np.linalg.svd(m.C_AB)
    variance_A = np.sum(left * (m.C_AA @ left), axis=0)
    variance_B = np.sum(right.T * (m.C_BB @ right.T), axis=0)
    varies = (variance_A > 0) & (variance_B > 0) & (weight > 0)
    log_ratio = np.log(variance_B[varies] / variance_A[varies])
    order = np.argsort(log_ratio)
    share = (np.cumsum(weight[varies][order]) - weight[varies][order] / 2) / weight[varies].sum()
    size: float = np.exp(np.interp(0.5, share, log_ratio[order]) / 2)
    aligned: DoubleArray = size * (left @ right)
    return aligned


def keep(scores: DirectionScores) -> npt.NDArray[np.bool_]:
    """Which directions have an unexplained share on their own rows above rounding: none on an identical pair."""
    resolved: npt.NDArray[np.bool_] = scores.unexplained[:, 0] > affine.RESOLUTION
    return resolved


def means_by(group: IntArray, values: FloatArray, n_groups: int) -> tuple[DoubleArray, IntArray]:
    """Mean of `values` in each group (NaN in an empty one) and the groups' counts."""
    count = np.bincount(group, minlength=n_groups)
    total = np.bincount(group, weights=values, minlength=n_groups)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), count


def _ratio(numerator: DoubleArray, denominator: DoubleArray) -> DoubleArray:
    """numerator / denominator, 0/0 := 0."""
    ratio: DoubleArray = np.divide(
        numerator,
        denominator,
        out=np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape)),
        where=denominator > 0,
    )
    return ratio


def _unit_rows(values: DoubleArray) -> DoubleArray:
    unit: DoubleArray = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-300)
    return unit


def _signs(values: DoubleArray) -> DoubleArray:
    """+-1 [K, 1] that makes each row's largest coordinate positive, so that equal runs give equal signs."""
    largest = np.take_along_axis(values, np.argmax(np.abs(values), axis=1)[:, None], axis=1)
    return np.where(largest < 0, -1.0, 1.0)
