"""Residuals of the map from A to B: their size by token, and the directions of B it does not predict (METHODS 2, 9).

The residual e = x_B - xhat_B of a row comes from a map that was trained on neither the row's fold nor the test fold,
so directions selected on folds 1.. can be tested on fold 0. There are two kinds of directions:

    pca          along which unit g is the residual largest?            C_E g = l g
    unexplained  along which g is B least predictable from A?           C_E g = mu (C_BB + eps I) g

The second kind is reported as the pattern C_BB g, the change of B's activations with the readout x_B . g: a feature
that only B has appears there as its direction, however small its variance.

    maps = fold_maps(ladder, best)
    directions = select_directions(folds, maps, count=10)             # from moments alone
    residuals = ResidualAccumulator(rows, maps, directions, rotation) # then one pass over the rows
    for block in rows.blocks(4096, select=rows.fold == k): residuals.add(k, *block.x, block.row)

Label-swap test: let y be B's centred rows and z A's, mapped into B's coordinates by a fixed rotation and scale. If the
models do not differ along a pattern h, they can be exchanged document by document. Under the fixed map the unexplained
variance of B along h, sum (e.h)(y.h), is compared with the same for exchanged models, sum (e'.h)(z.h), where e' is z
minus the prediction from y. (The squared residual cannot be used: for a map near the identity e' = -e, so it does not
change under the swap. Nor can the readout g: it cancels what the models share, so that a feature of A alone would
count as one of B.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.activations import rows
from diptych.affine_maps import affine, matrices, moments, procrustes
from diptych.affine_maps.matrices import Matrix
from diptych.linear_map.inner_folds import TEST_FOLD
from diptych.linear_map.ladder import Ladder, Rung
from diptych.statistics import resampling

DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]

KINDS = ("pca", "unexplained")
VARIANCE_FLOOR = 1e-6
"""eps of the unexplained directions in units of B's mean variance: excludes directions along which B hardly varies."""
LEAST_SCALE = 1.1
"""Factor between two models in one basis below which they are exchanged without one: a fifth more variance along every
direction is an excess of .1, the least of a finding."""
ROUNDING_FLOOR = 10.0
"""eps is at least so many times the most negative eigenvalue of C_BB, which shows the rounding of its float32 products:
with fewer rows than coordinates it exceeds `VARIANCE_FLOOR` where one direction has most of the variance."""
N_RANDOM = 32
"""Random directions, the baseline of steering (METHODS 7)."""
N_POSITIONS = 64
"""Positions with a bin of their own; later ones share the last bin."""


@dataclass(frozen=True)
class Directions:
    """Directions of B that the map does not predict, selected on folds other than the test fold.

    Attributes:
        kind: int8 [K], index into `KINDS`; within a kind by descending eigenvalue.
        filters: float64 [K, d_B]; e . filter is a row's score. pca: unit length; unexplained: unit variance of x_B.
        patterns: float64 [K, d_B], unit length: the direction that is reported and steered along.
        pca_spectrum: float64 [d_B], residual variance per row along each principal direction, descending.
        unexplained_spectrum: float64 [d_B], mu of each unexplained direction, descending.
        random: float64 [N_RANDOM, d_B], unit directions drawn from the residual covariance; 0 where that is 0.
    """

    kind: npt.NDArray[np.int8]
    filters: DoubleArray
    patterns: DoubleArray
    pca_spectrum: DoubleArray
    unexplained_spectrum: DoubleArray
    random: DoubleArray


def fold_maps(ladder: Ladder, best: Rung) -> dict[int, affine.LinearMap]:
    """For each fold the map that predicts its rows, trained on neither that fold nor the test fold."""
    held_out = {fold: (TEST_FOLD,) if fold == TEST_FOLD else (TEST_FOLD, fold) for fold in ladder.folds.ids}
    return {fold: ladder.map(best.name, best.hyperparameters, folds) for fold, folds in held_out.items()}


def error_scatter(slope: Matrix, held_out: moments.Scatter) -> Matrix:
    """Sum of e^T e over held-out rows, float64 [d_B, d_B], from their scatter about the training means."""
    change = slope.T @ (held_out.AA @ slope - 2 * held_out.AB)
    return held_out.BB + (change + change.T) / 2


def select_directions(
    folds: moments.FoldMoments, maps: Mapping[int, affine.LinearMap], count: int, *, seed: int = 0
) -> Directions:
    """The `count` directions of each kind with the largest eigenvalues, from the moments of folds 1.. only."""
    n = folds.total.n - folds.fold(TEST_FOLD).n
    C_E: Matrix = 0.0
    C_BB: Matrix = 0.0
    for fold in (fold for fold in folds.ids if fold != TEST_FOLD):
        scatter = folds.fold(fold).about(folds.training(TEST_FOLD, fold))
        C_E = C_E + error_scatter(matrices.like(maps[fold].slope, scatter.AA), scatter)
        C_BB = C_BB + scatter.BB
    ridge = max(VARIANCE_FLOOR * matrices.trace(C_BB) / len(C_BB), -ROUNDING_FLOOR * float(matrices.eigvalsh(C_BB)[0]))
    variance, components = (matrices.to_numpy(part) for part in matrices.eigh(C_E))
    share, readouts = _relative_eigh(C_E, matrices.add_to_diagonal(C_BB, ridge), count)
    principal = components[:, ::-1][:, :count].T
    readout = matrices.to_numpy(readouts)[:, ::-1].T * np.sqrt(n)
    pattern = _unit_rows(matrices.to_numpy(matrices.like(readout, C_BB) @ C_BB))
    sign = _signs(np.vstack([principal, pattern]))
    return Directions(
        kind=np.repeat(np.arange(2, dtype=np.int8), len(principal)),
        filters=sign * np.vstack([principal, readout]),
        patterns=sign * np.vstack([principal, pattern]),
        pca_spectrum=np.maximum(variance[::-1], 0.0) / n,
        unexplained_spectrum=np.clip(share[::-1], 0.0, None),
        random=_random_directions(np.where(variance > ridge, variance, 0.0), components, seed),
    )


def _relative_eigh(symmetric: Matrix, positive: Matrix, count: int) -> tuple[DoubleArray, Matrix]:
    """Eigenvalues, increasing, and the last `count` vectors of S g = mu P g, with g^T P g = 1."""
    factor = matrices.cholesky(positive)
    half = matrices.solve_triangular(factor, symmetric)
    values, vectors = matrices.eigh(matrices.solve_triangular(factor, half.T))
    return matrices.to_numpy(values), matrices.solve_triangular(factor, vectors[:, -count:], transposed=True)


def _random_directions(variance: DoubleArray, components: DoubleArray, seed: int) -> DoubleArray:
    """Unit directions [N_RANDOM, d] of Gaussian draws from the covariance with these eigenvalues and eigenvectors."""
    normal = np.random.default_rng(seed).standard_normal((N_RANDOM, len(variance)))
    return _unit_rows((normal * np.sqrt(np.maximum(variance, 0.0))) @ components.T)


@dataclass(frozen=True)
class DirectionScores:
    """Scores of each direction on the rows: "selected" on the folds that selected it, "held out" on the test fold.

    Attributes:
        unexplained: float64 [K, 2] (selected, held out): sum (e.g)^2 / sum (y.g)^2, y = x_B about the training mean.
        unexplained_bounds: float64 [K, 2], 95 % Poisson bootstrap over test documents.
        residual_share: float64 [K, 2]: sum (e.g)^2 / sum ||e||^2 for unit g.
        excess: float64 [K, 2]: sum (e.h)(y.h) - (e'.h)(z.h) over sum (y.h)^2 + (z.h)^2, with h the pattern; in
            [-1, 1] for a map near the identity, 1 if A does not vary along h. NaN for unequal widths.
        surplus: float64 [K], the numerator of the excess on the selected folds, per row: variance along the unit
            pattern that B has and A has not. A pattern at cosine c to another includes c^2 of the other's. NaN for
            unequal widths.
        p: float64 [K], one-sided label-swap p of the held-out excess over documents; NaN for unequal widths.
        document: int64 [D], the test documents.
        residual: float64 [K, D], sum over the document's rows of (e.g)^2.
        variance: float64 [K, D], sum of (y.g)^2.
        difference: float64 [K, D], contribution of each test document to the held-out excess; NaN for unequal widths.
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


class ResidualAccumulator:
    """Residual norms by row and scores by direction, accumulated in one pass over the rows.

    Args:
        pair: the rows; A and B may be exchanged, as in the maps.
        maps: by fold.
        directions: to score.
        rotation: fixed s Q [d, d] that maps A's centred rows into B's coordinates, Q orthogonal (`scaled_rotation`);
            None for unequal widths.
        contexts: rows stored at either end of each direction.
        device: `cpu` or `cuda[:i]`, where the rows' residuals are computed.

    Attributes:
        test_map: the map that predicts the test fold.
        energy: float32 [n], ||e||^2 over the mean of ||x_B - mean_B||^2 (after `finish`).
        top_rows: int64 [K, 2, 2, contexts]: per direction, fold set (selected, held out) and end (highest, lowest),
            rows of `pair` by descending |score|; -1 where there are fewer.
        top_scores: float32, the same shape, e . filter; 0 where there are fewer.
    """

    def __init__(
        self,
        pair: rows.Rows,
        maps: Mapping[int, affine.LinearMap],
        directions: Directions,
        rotation: DoubleArray | None,
        contexts: int,
        device: str = "cpu",
    ) -> None:
        self._pair, self.directions, self._has_rotation = pair, directions, rotation is not None
        self.test_map = maps[TEST_FOLD]
        self._scorers = {fold: _BlockScorer(linear, directions, rotation, device) for fold, linear in maps.items()}
        k = len(directions.filters)
        self._documents, self._document_index = np.unique(pair.document, return_inverse=True)
        self._sums = np.zeros((len(self._documents), 4, k))
        self._variance = 0.0
        self.energy = np.zeros(len(pair), dtype=np.float32)
        self.top_rows = np.full((k, 2, 2, contexts), -1, dtype=np.int64)
        self.top_scores = np.zeros((k, 2, 2, contexts), dtype=np.float32)

    def add(self, fold: int, x_A: FloatArray, x_B: FloatArray, row: IntArray) -> None:
        """Add rows of one fold."""
        scored = self._scorers[fold].score(x_A, x_B)
        self.energy[row] = scored.energy
        self._variance += scored.total
        document = self._document_index[row]
        starts = np.flatnonzero(np.diff(document, prepend=-1))
        np.add.at(self._sums, document[starts], np.add.reduceat(scored.terms, starts, axis=1).swapaxes(0, 1))
        self._update_top(int(fold == TEST_FOLD), scored.scores, row)

    def finish(self) -> None:
        """Scale energies to units of B's mean variance. Call once, after the last row."""
        is_test = self._is_test()
        self._energy_sum = np.array([self.energy[mask].sum(dtype=np.float64) for mask in (~is_test, is_test)])
        self.energy /= np.float32(self._variance / len(self._pair))

    def scores(self, *, bootstrap: int, seed: int) -> DirectionScores:
        """Scores of every direction (after `finish`)."""
        is_test = np.isin(self._documents, self._pair.document[self._is_test()])
        document_sums = self._sums[is_test]
        totals = np.stack([self._sums[~is_test].sum(axis=0), document_sums.sum(axis=0)])
        length = np.sum(self.directions.filters**2, axis=1)
        bounds = resampling.poisson_bootstrap(
            document_sums[:, :2], lambda sums: _ratio(sums[:, 0], sums[:, 1]), n=bootstrap, seed=seed
        )
        nan_without_swap = 1.0 if self._has_rotation else np.nan
        difference = nan_without_swap * _ratio(document_sums[:, 3], totals[1, 2]).T
        return DirectionScores(
            unexplained=_ratio(totals[:, 0], totals[:, 1]).T,
            unexplained_bounds=np.stack(bounds, axis=1),
            residual_share=_ratio(totals[:, 0] / length, self._energy_sum[:, None]).T,
            excess=nan_without_swap * _ratio(totals[:, 3], totals[:, 2]).T,
            surplus=nan_without_swap * totals[0, 3] / np.count_nonzero(~self._is_test()),
            p=resampling.sign_flip_p(difference, two_sided=False) if len(difference) else np.zeros(0),
            document=self._documents[is_test],
            residual=document_sums[:, 0].T,
            variance=document_sums[:, 1].T,
            difference=difference,
        )

    def _is_test(self) -> npt.NDArray[np.bool_]:
        is_test: npt.NDArray[np.bool_] = self._pair.fold == TEST_FOLD
        return is_test

    def _update_top(self, held_out: int, scores: Floats, row: IntArray) -> None:
        """Merge a block's scores [b, K] into the top rows of each end, among scores of that end's sign."""
        size = self.top_rows.shape[-1]
        for end, sign in enumerate((1, -1)):
            signed = np.maximum(sign * scores.T, 0)
            block_best = np.argpartition(-signed, size, axis=1)[:, :size] if len(row) > size else None
            candidates = signed if block_best is None else np.take_along_axis(signed, block_best, axis=1)
            candidate_rows = np.broadcast_to(row, signed.shape) if block_best is None else row[block_best]
            previous = sign * self.top_scores[:, held_out, end]
            candidates = np.concatenate([previous, candidates], axis=1)
            candidate_rows = np.concatenate([self.top_rows[:, held_out, end], candidate_rows], axis=1)
            candidate_rows[candidates == 0] = -1
            best = np.lexsort((candidate_rows, -candidates), axis=1)[:, :size]
            self.top_scores[:, held_out, end] = sign * np.take_along_axis(candidates, best, axis=1)
            self.top_rows[:, held_out, end] = np.take_along_axis(candidate_rows, best, axis=1)


class _BlockScores(NamedTuple):
    """A block's ||e||^2 [b] (energy), sum of ||y||^2 (total), scores e.g [b, K], and terms [4, b, K] to be summed.

    The terms: (e.g)^2; (y.g)^2; (y.h)^2 + (z.h)^2; (e.h)(y.h) - (e'.h)(z.h), the last two 0 without a rotation.
    """

    energy: Floats
    total: float
    scores: Floats
    terms: DoubleArray


class _BlockScorer:
    """Scores blocks of rows under one fold's map, in float32 on a device."""

    def __init__(
        self, linear: affine.LinearMap, directions: Directions, rotation: DoubleArray | None, device: str
    ) -> None:
        self._device = device
        self.mean_A, self.mean_B, self.slope = map(self._place, (linear.mean_A, linear.mean_B, linear.slope))
        self.g, self.h = self._place(directions.filters.T), self._place(directions.patterns.T)
        self._has_rotation = rotation is not None
        if rotation is not None:
            self.rotated_h = self._place(rotation @ directions.patterns.T)
            # (s Q)^-1 R: the map for rows that are already in B's coordinates
            self.mapped_h = self._place(inverse_rotation(rotation) @ (linear.slope @ directions.patterns.T))

    def _place(self, array: Floats) -> Matrix:
        return matrices.single_on(self._device, array.astype(np.float32))

    def score(self, x_A: FloatArray, x_B: FloatArray) -> _BlockScores:
        centred_A = matrices.single_on(self._device, x_A) - self.mean_A
        y = matrices.single_on(self._device, x_B) - self.mean_B
        e = y - centred_A @ self.slope
        e_g, y_g = (matrices.to_numpy(v @ self.g) for v in (e, y))
        terms = np.zeros((4, *e_g.shape))
        terms[0], terms[1] = np.square(e_g, dtype=np.float64), np.square(y_g, dtype=np.float64)
        if self._has_rotation:
            projections = (y @ self.h, centred_A @ self.rotated_h, e @ self.h, y @ self.mapped_h)
            y_h, z_h, e_h, mapped_y_h = (matrices.to_numpy(v).astype(np.float64) for v in projections)
            terms[2], terms[3] = y_h**2 + z_h**2, e_h * y_h - (z_h - mapped_y_h) * z_h
        energy, total = (matrices.to_numpy((v * v).sum(axis=1)) for v in (e, y))
        return _BlockScores(energy, float(total.sum(dtype=np.float64)), e_g, terms)


def scaled_rotation(m: moments.Moments, *, one_basis: bool) -> DoubleArray:
    """Scaled rotation s Q [d, d] that maps A's centred rows into B's coordinates.

    Q is the identity for models in one basis, else the polar factor of C_AB. (That is arbitrary along directions that
    do not covary between the models, as those of one alone: in one basis a fitted Q would show a difference along
    them where the models are exchangeable.) The scale s is the square root of the weighted median ratio of B's to
    A's variance along paired directions: the least-squares scale is too small by the noise, and a ratio of total
    variances would rescale what is shared because of what one model has alone. In one basis a scale below
    `LEAST_SCALE` is 1: the test is exact where models can be exchanged as they are.
    """
    if one_basis:
        weights, right = matrices.eigh(m.C_AA + m.C_BB)
        rotation, left = np.eye(len(right)), right
    else:
        q, weights, right = procrustes.polar_decomposition(m.C_AB)
        rotation, left = matrices.to_numpy(q), q @ right
    weight, variance_A, variance_B = (
        matrices.to_numpy(values)
        for values in (weights, matrices.quadratic_forms(m.C_AA, left), matrices.quadratic_forms(m.C_BB, right))
    )
    varies = (variance_A > 0) & (variance_B > 0) & (weight > 0)
    log_ratio = np.log(variance_B[varies] / variance_A[varies])
    order = np.argsort(log_ratio)
    share = (np.cumsum(weight[varies][order]) - weight[varies][order] / 2) / weight[varies].sum()
    log_scale = float(np.interp(0.5, share, log_ratio[order]) / 2)
    if one_basis and abs(log_scale) < np.log(LEAST_SCALE):
        return rotation
    return float(np.exp(log_scale)) * rotation


def inverse_rotation(rotation: DoubleArray) -> DoubleArray:
    """(s Q)^-1 = (s Q)^T / s^2, which maps B's centred rows into A's coordinates."""
    inverse: DoubleArray = rotation.T / (np.sum(rotation**2) / len(rotation))
    return inverse


def is_resolved(scores: DirectionScores) -> npt.NDArray[np.bool_]:
    """Whether each direction's unexplained share on the selected folds exceeds rounding: none on an identical pair."""
    resolved: npt.NDArray[np.bool_] = scores.unexplained[:, 0] > affine.RESOLUTION
    return resolved


def means_by(group: IntArray, values: FloatArray, n_groups: int) -> tuple[DoubleArray, IntArray]:
    """Mean of `values` in each group (NaN if it is empty), and the number of values in each."""
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
    """+-1 [K, 1] that makes each row's largest coordinate positive, so that signs are reproducible."""
    largest = np.take_along_axis(values, np.argmax(np.abs(values), axis=1)[:, None], axis=1)
    return np.where(largest < 0, -1.0, 1.0)
