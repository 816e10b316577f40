"""The ladder of affine maps from A's activations to B's, cross-validated over folds of documents (METHODS 2).

Each rung is a class of maps, from the most to the least constrained: B equals A (`identity`), up to scale (`scale`),
up to scale and rotation (`procrustes`), up to a linear map of low rank (`reduced_rank`) or any linear map (`ridge`).
All are fitted and scored from second moments, so no rung reads the rows again:

    ladder = Ladder(moments.accumulate(rows))
    rungs = ladder.cross_validate()     # a Rung per class: held-out R^2 by fold, selected penalty and rank
    best = ladder.best(rungs)           # the simplest within one standard error of the highest R^2
    forward = ladder.map(best.name, best.hyperparameters, held_out=(0,))
    forward.predict(x_A)

B -> A is the same on `moments.reversed()`. `fits` fits the maps, `inner_folds` has the errors that select penalty and
rank, and `residuals` analyses what the best map does not predict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diptych.affine_maps import matrices, moments
from diptych.affine_maps.affine import RESOLUTION, LinearMap, dense, squared_error
from diptych.affine_maps.matrices import DoubleArray, Matrix
from diptych.linear_map import inner_folds
from diptych.linear_map.fits import Fits, HeldOut, Hyperparameters, PenalisedName, RungName, ShrinkTo
from diptych.linear_map.inner_folds import NO_HYPERPARAMETERS, TEST_FOLD
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError

ALPHAS = tuple(float(10.0 ** (exponent / 2)) for exponent in range(-12, 5))
"""Ridge penalties 1e-6 .. 1e2, two per decade, in units of C_AA's mean diagonal."""


@dataclass(frozen=True)
class Rung:
    """Cross-validation of one class of maps.

    Attributes:
        name: of the class.
        r2: float64 [folds], held-out R^2 of each fold under the map trained on all others.
        pooled: R^2 with errors and totals summed over folds.
        median_coordinate: median over B's coordinates of R^2 pooled over folds; constant coordinates excluded.
        inner_r2: float64 [folds - 1], R^2 of each fold but the test fold under the map trained on all but these two.
        hyperparameters: penalty and rank of the map for the test fold.
        alpha_at_edge: that penalty is the smallest or largest of the grid, and better than its neighbour by more than
            `RESOLUTION`.
        in_sample_mse: error of the map for the test fold on its training rows, per row and coordinate.
        in_sample_frobenius: ||X R - Y||_F on them (centred).
        slope_frobenius: ||R||_F.
    """

    name: RungName
    r2: DoubleArray
    pooled: float
    median_coordinate: float
    inner_r2: DoubleArray
    hyperparameters: Hyperparameters
    alpha_at_edge: bool
    in_sample_mse: float
    in_sample_frobenius: float
    slope_frobenius: float


def simplest(r2: DoubleArray) -> int:
    """Index of the first option, simplest first, within one standard error of the highest mean R^2.

    The standard error is that of the paired difference over folds: R^2 varies more between folds than between maps. One
    fold has none, and the highest R^2 is met to within `RESOLUTION`.

    Args:
        r2: [options, folds].
    """
    gap = r2[int(np.argmax(r2.mean(axis=1)))] - r2
    error = gap.std(axis=1, ddof=1) / np.sqrt(r2.shape[1]) if r2.shape[1] > 1 else 0.0
    return int(np.flatnonzero(gap.mean(axis=1) <= np.maximum(error, RESOLUTION))[0])


class Ladder:
    """Maps of every rung in one direction A -> B, and their cross-validation.

    Args:
        folds: moments of at least 3 folds, the test fold among them; the maps are fitted where they lie.
        shrink_to: slope that ridge shrinks towards: "simple" (identity for equal widths, else Procrustes) or "zero",
            the textbook form. `ridge_zero` is always reported too, and never selected.
        alphas: penalties, increasing.
        polars: polar factors of C_AB, if computed for the other direction.

    Raises:
        DiptychError: too few folds, or activations that do not vary.
    """

    def __init__(
        self,
        folds: moments.FoldMoments,
        *,
        shrink_to: ShrinkTo = "simple",
        alphas: Sequence[float] = ALPHAS,
        polars: Mapping[HeldOut, Matrix] | None = None,
    ) -> None:
        if len(folds.ids) < 3 or TEST_FOLD not in folds.ids:
            raise DiptychError(f"linear map: rows in folds {folds.ids}; needs fold 0 and two others: add documents")
        for side, C in (("A", folds.total.C_AA), ("B", folds.total.C_BB)):
            if not matrices.trace(C) > 0:
                raise DiptychError(f"linear map: the activations of {side} do not vary; check the site and its rows")
        self.folds = folds
        self.alphas = tuple(alphas)
        self.fits = Fits(folds, shrink_to, polars)
        self.d_A, self.d_B = folds.total.C_AB.shape

    @property
    def names(self) -> tuple[RungName, ...]:
        """The rungs, simplest first; `identity` and `scale` need equal widths."""
        return (*self.fits.unpenalised, "reduced_rank", "ridge", "ridge_zero")

    def cross_validate(self) -> list[Rung]:
        """Cross-validate every rung, with penalty and rank selected on inner folds."""
        chosen = {outer: [self.tune(name, outer) for name in self.names] for outer in self.folds.ids}
        error, total, in_sample = [], [], np.zeros((len(self.names), 2))
        for outer in logs.progress(self.folds.ids, "ladder", unit="fold"):
            scatter = self.folds.fold(outer).about(self.fits.training(outer))
            total.append(matrices.to_numpy(scatter.BB.diagonal()))
            of_rungs = []
            for i, (name, hyperparameters) in enumerate(zip(self.names, chosen[outer], strict=True)):
                slope = self.fits.slope(name, hyperparameters, (outer,))
                of_rungs.append(matrices.to_numpy(squared_error(slope, scatter)))
                if outer == TEST_FOLD:
                    training_error = squared_error(slope, self.fits.training(outer).scatter)
                    in_sample[i] = float(training_error.sum()), self._frobenius(slope)
            error.append(of_rungs)
        return [
            self._rung(name, np.array(error)[:, i], np.array(total), *in_sample[i]) for i, name in enumerate(self.names)
        ]

    def best(self, rungs: Sequence[Rung]) -> Rung:
        """The simplest rung within one standard error of the highest R^2 on the folds other than the test fold.

        A reduced-rank map of full rank is no simpler than ridge and is not eligible.
        """
        full_rank = min(self.d_A, self.d_B)
        eligible = [rung for rung in rungs if rung.name != "ridge_zero" and rung.hyperparameters.rank != full_rank]
        return eligible[simplest(np.stack([rung.inner_r2 for rung in eligible]))]

    def tune(self, name: RungName, outer: int) -> Hyperparameters:
        """Select penalty (least pooled error) and rank (simplest within one standard error) without fold `outer`."""
        if name in self.fits.unpenalised:
            return NO_HYPERPARAMETERS
        alpha = self._alpha("ridge_zero" if name == "ridge_zero" else "ridge", outer)
        return Hyperparameters(alpha, 1 + simplest(self._rank_r2[outer]) if name == "reduced_rank" else 0)

    def slope(self, name: RungName, hyperparameters: Hyperparameters, held_out: HeldOut) -> DoubleArray:
        """Slope [d_A, d_B] of one rung trained on all folds but `held_out`."""
        return dense(self.fits.slope(name, hyperparameters, held_out), (self.d_A, self.d_B))

    def map(self, name: RungName, hyperparameters: Hyperparameters, held_out: HeldOut) -> LinearMap:
        """The affine map of one rung trained on all folds but `held_out`."""
        training = self.fits.training(*held_out)
        means = (matrices.to_numpy(mean) for mean in (training.mean_A, training.mean_B))
        return LinearMap(self.slope(name, hyperparameters, held_out), *means)

    def shuffled_r2(self) -> float:
        """R^2 of zero-shrunk ridge from A's rows to another document's rows of B; NaN without a derangement.

        Pooled over the test fold and the next one, under maps trained on the others; the penalty that each is scored at
        is selected on the other.
        """
        if not self.folds.shuffled:
            return float("nan")
        pair = inner_folds.fold_pairs(self.folds.ids)[0]
        first, second = (self._alpha_errors("shuffled", outer)[0] for outer in pair)
        total = sum(self._penalty_errors.total[outer][0] for outer in pair)
        return float(1 - (first[second.argmin()] + second[first.argmin()]) / total)

    @cached_property
    def numerical_rank(self) -> int:
        """Numerical rank of A's training covariance: eigenvalues above float32's resolution of the largest."""
        values = matrices.eigvalsh(self.fits.training(TEST_FOLD).C_AA)
        return int(np.sum(values > np.finfo(np.float32).eps * values[-1]))

    @cached_property
    def _penalty_errors(self) -> inner_folds.PenaltyErrors:
        return inner_folds.penalty_errors(self.fits, self.alphas)

    @cached_property
    def _rank_r2(self) -> dict[int, DoubleArray]:
        return inner_folds.rank_r2(self.fits, {outer: self._alpha("ridge", outer) for outer in self.folds.ids})

    def _alpha(self, name: PenalisedName, outer: int) -> float:
        return self.alphas[int(np.argmin(self._alpha_errors(name, outer).sum(axis=0)))]

    def _alpha_errors(self, name: PenalisedName, outer: int) -> DoubleArray:
        """Squared error of each inner fold of `outer` at each penalty, [inner folds, penalties]."""
        if name == "ridge" and self.fits.shrink_to == "zero":
            name = "ridge_zero"
        return self._penalty_errors.penalised[name, outer]

    def _frobenius(self, slope: float | Matrix) -> float:
        if isinstance(slope, float):
            return abs(slope) * float(np.sqrt(self.d_A))
        return float(np.sqrt(float((slope * slope).sum())))

    def _rung(self, name: RungName, error: DoubleArray, total: DoubleArray, in_sample: float, norm: float) -> Rung:
        """A rung from the squared errors [folds, d_B] and totals of its maps."""
        hyperparameters = self.tune(name, TEST_FOLD)
        training_rows = self.folds.total.n - self.folds.fold(TEST_FOLD).n
        pooled_error, pooled_total = error.sum(axis=0), total.sum(axis=0)
        varies = pooled_total > 0
        return Rung(
            name=name,
            r2=1 - error.sum(axis=1) / total.sum(axis=1),
            pooled=float(1 - pooled_error.sum() / pooled_total.sum()),
            median_coordinate=float(np.median(1 - pooled_error[varies] / pooled_total[varies])),
            inner_r2=self._inner_r2(name, hyperparameters),
            hyperparameters=hyperparameters,
            alpha_at_edge=self._at_edge(name, hyperparameters),
            in_sample_mse=max(in_sample, 0.0) / (training_rows * self.d_B),
            in_sample_frobenius=max(in_sample, 0.0) ** 0.5,
            slope_frobenius=norm,
        )

    def _inner_r2(self, name: RungName, hyperparameters: Hyperparameters) -> DoubleArray:
        """R^2 of each fold but the test fold under the map trained on all but these two."""
        if name in ("reduced_rank", "ridge"):  # ridge is of full rank
            of_rank: DoubleArray = self._rank_r2[TEST_FOLD][hyperparameters.rank - 1]
            return of_rank
        errors = self._penalty_errors
        if name in errors.unpenalised:
            error = errors.unpenalised[name]
        else:
            error = self._alpha_errors("ridge_zero", TEST_FOLD)[:, self.alphas.index(hyperparameters.alpha)]
        inner: DoubleArray = 1 - error / errors.total[TEST_FOLD]
        return inner

    def _at_edge(self, name: RungName, hyperparameters: Hyperparameters) -> bool:
        if name not in ("ridge", "ridge_zero") or hyperparameters.alpha not in (self.alphas[0], self.alphas[-1]):
            return False
        errors = self._alpha_errors(name, TEST_FOLD).sum(axis=0)
        at = self.alphas.index(hyperparameters.alpha)
        neighbour = 1 if at == 0 else at - 1
        total = self._penalty_errors.total[TEST_FOLD].sum()
        return len(self.alphas) > 1 and bool(errors[neighbour] - errors[at] > RESOLUTION * total)
