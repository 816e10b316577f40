"""The ladder of affine maps from A's activations to B's, cross-validated over folds of documents (METHODS 2).

Each rung is a class of maps, from the most to the least constrained: B equals A (`identity`), up to scale (`scale`),
up to scale and rotation (`procrustes`), up to a linear map of low rank (`reduced_rank`) or any linear map (`ridge`).
All are fitted and scored from second moments, so no rung reads the rows again:

    ladder = Ladder(moments.accumulate(rows))
    rungs = ladder.cross_validate()     # a Rung per class: held-out R^2 by fold, selected penalty and rank
    best = ladder.best(rungs)           # the simplest within one standard error of the highest R^2
    forward = ladder.map(best.name, best.hyperparameters, held_out=(0,))
    forward.predict(x_A)

B -> A is the same on `moments.reversed()`. The maps are fitted in `affine_maps.affine`; `residuals` analyses what the
best one does not predict.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.affine_maps import moments
from diptych.affine_maps.affine import (
    RESOLUTION,
    Eigen,
    LinearMap,
    RidgePath,
    polar_factor,
    procrustes,
    rank_basis,
    rank_errors,
    rotate,
    squared_error,
)
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError

DoubleArray = npt.NDArray[np.float64]
HeldOut = tuple[int, ...]
RungName = Literal["identity", "scale", "procrustes", "reduced_rank", "ridge", "ridge_zero"]
ShrinkTo = Literal["simple", "zero"]

ALPHAS = tuple(float(10.0 ** (exponent / 2)) for exponent in range(-12, 5))
"""Ridge penalties 1e-6 .. 1e2, two per decade, in units of C_AA's mean diagonal."""
TEST_FOLD = 0


class Hyperparameters(NamedTuple):
    """Penalty and rank that inner folds select for a rung: `alpha` (NaN without one) and `rank` (0 without one)."""

    alpha: float
    rank: int


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

    The standard error is that of the paired difference over folds: R^2 varies more between folds than between maps.

    Args:
        r2: [options, folds].
    """
    gap = r2[int(np.argmax(r2.mean(axis=1)))] - r2
    error = gap.std(axis=1, ddof=1) / np.sqrt(r2.shape[1])
    return int(np.flatnonzero(gap.mean(axis=1) <= np.maximum(error, RESOLUTION))[0])


class Ladder:
    """Maps of every rung in one direction A -> B, and their cross-validation.

    Args:
        folds: moments of at least 3 folds, the test fold among them.
        shrink_to: slope that ridge shrinks towards: "simple" (identity for equal widths, else Procrustes) or "zero",
            the textbook form. `ridge_zero` is always reported too, and never selected.
        alphas: penalties, increasing.
        eigens: eigendecompositions shared with other moments of the same C_AA.
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
        eigens: dict[HeldOut, Eigen] | None = None,
        polars: Mapping[HeldOut, DoubleArray] | None = None,
    ) -> None:
        if len(folds.ids) < 3 or TEST_FOLD not in folds.ids:
            raise DiptychError(f"linear map: rows in folds {folds.ids}; needs fold 0 and two others: add documents")
        for side, C in (("A", folds.total.C_AA), ("B", folds.total.C_BB)):
            if not np.trace(C) > 0:
                raise DiptychError(f"linear map: the activations of {side} do not vary; check the site and its rows")
        self.folds = folds
        self.alphas = tuple(alphas)
        self.shrink_to = shrink_to
        self._eigens: dict[HeldOut, Eigen] = {} if eigens is None else eigens
        self._procrustes: dict[HeldOut, DoubleArray] = {}
        self.polars: dict[HeldOut, DoubleArray] = dict(polars or {})
        """Polar factors of C_AB by held-out folds; their transposes are those of the other direction."""
        self._errors: dict[tuple[bool, int], DoubleArray] = {}
        self._rank_r2s: dict[int, DoubleArray] = {}
        self._totals: dict[int, DoubleArray] = {}
        self._hyperparameters: dict[tuple[RungName, int], Hyperparameters] = {}
        self._latest: tuple[HeldOut, moments.Moments] | None = None
        self.d_A, self.d_B = folds.total.C_AB.shape

    @property
    def names(self) -> tuple[RungName, ...]:
        """The rungs, simplest first; `identity` and `scale` need equal widths."""
        equal_width_names: tuple[RungName, ...] = ("identity", "scale") if self.d_A == self.d_B else ()
        return (*equal_width_names, "procrustes", "reduced_rank", "ridge", "ridge_zero")

    def cross_validate(self) -> list[Rung]:
        """Cross-validate every rung, with penalty and rank selected on inner folds."""
        return [self.rung(name) for name in logs.progress(self.names, "ladder", unit="rung")]

    def best(self, rungs: Sequence[Rung]) -> Rung:
        """The simplest rung within one standard error of the highest R^2 on the folds other than the test fold.

        A reduced-rank map of full rank is no simpler than ridge and is not eligible.
        """
        full_rank = min(self.d_A, self.d_B)
        eligible = [rung for rung in rungs if rung.name != "ridge_zero" and rung.hyperparameters.rank != full_rank]
        return eligible[simplest(np.stack([rung.inner_r2 for rung in eligible]))]

    def rung(self, name: RungName) -> Rung:
        """Cross-validate one rung."""
        hyperparameters = self.tune(name, TEST_FOLD)
        training = self._training(TEST_FOLD)
        test_slope = self.slope(name, hyperparameters, (TEST_FOLD,))
        in_sample = max(float(squared_error(test_slope, training.about(training)).sum()), 0.0)
        r2, error, total = [], np.zeros(self.d_B), np.zeros(self.d_B)
        for outer in self.folds.ids:
            scatter = self._scatter(outer, (outer,))
            slope = test_slope if outer == TEST_FOLD else self.slope(name, self.tune(name, outer), (outer,))
            fold_error, fold_total = squared_error(slope, scatter), np.diag(scatter.BB)
            r2.append(1 - fold_error.sum() / fold_total.sum())
            error, total = error + fold_error, total + fold_total
        varies = total > 0
        return Rung(
            name=name,
            r2=np.array(r2),
            pooled=float(1 - error.sum() / total.sum()),
            median_coordinate=float(np.median(1 - error[varies] / total[varies])),
            inner_r2=self._inner_r2(name, hyperparameters),
            hyperparameters=hyperparameters,
            alpha_at_edge=self._at_edge(name, hyperparameters),
            in_sample_mse=in_sample / (training.n * self.d_B),
            in_sample_frobenius=float(np.sqrt(in_sample)),
            slope_frobenius=float(np.linalg.norm(test_slope)),
        )

    def tune(self, name: RungName, outer: int) -> Hyperparameters:
        """Select penalty (least pooled error) and rank (simplest within one standard error) without fold `outer`."""
        if name in ("identity", "scale", "procrustes"):
            return Hyperparameters(float("nan"), 0)
        if (name, outer) not in self._hyperparameters:
            alpha = self.alphas[int(np.argmin(self._alpha_errors(name, outer).sum(axis=0)))]
            rank = 1 + simplest(self._rank_r2(outer)) if name == "reduced_rank" else 0
            self._hyperparameters[name, outer] = Hyperparameters(alpha, rank)
        return self._hyperparameters[name, outer]

    def slope(self, name: RungName, hyperparameters: Hyperparameters, held_out: HeldOut) -> DoubleArray:
        """Slope [d_A, d_B] of one rung trained on all folds but `held_out`."""
        training = self._training(*held_out)
        if name == "identity":
            return np.eye(self.d_A)
        if name == "scale":
            return np.eye(self.d_A) * float(np.trace(training.C_AB) / np.trace(training.C_AA))
        if name == "procrustes":
            return self._procrustes_slope(held_out, training)
        slope = self._path(name, held_out, training).slope(hyperparameters.alpha)
        if name != "reduced_rank":
            return slope
        penalty = hyperparameters.alpha * float(np.trace(training.C_AA)) / self.d_A
        basis = rank_basis(slope, training.C_AA, penalty)[:, : hyperparameters.rank]
        reduced: DoubleArray = slope @ basis @ basis.T
        return reduced

    def map(self, name: RungName, hyperparameters: Hyperparameters, held_out: HeldOut) -> LinearMap:
        """The affine map of one rung trained on all folds but `held_out`."""
        training = self._training(*held_out)
        return LinearMap(self.slope(name, hyperparameters, held_out), training.mean_A, training.mean_B)

    def shuffled_r2(self) -> float:
        """Pooled R^2 of zero-shrunk ridge from A's rows to another document's rows of B; NaN without a derangement."""
        if not self.folds.shuffled:
            return float("nan")
        shuffled = Ladder(self.folds.as_shuffled(), shrink_to="zero", alphas=self.alphas, eigens=self._eigens)
        return shuffled.rung("ridge_zero").pooled

    def numerical_rank(self) -> int:
        """Numerical rank of A's training covariance: eigenvalues above float32's resolution of the largest."""
        values = self._eigen((TEST_FOLD,), self._training(TEST_FOLD))[0]
        return int(np.sum(values > np.finfo(np.float32).eps * values[-1]))

    def _training(self, *held_out: int) -> moments.Moments:
        """Training moments; only the latest are cached: all of them would take three times the folds' memory."""
        if self._latest is None or self._latest[0] != held_out:
            self._latest = held_out, self.folds.training(*held_out)
        return self._latest[1]

    def _scatter(self, fold: int, held_out: HeldOut) -> moments.Scatter:
        return self.folds.fold(fold).about(self._training(*held_out))

    def _inner(self, outer: int) -> list[tuple[int, HeldOut]]:
        """Each fold but `outer`, with the (sorted) pair of folds that its training leaves out."""
        return [(j, (min(j, outer), max(j, outer))) for j in self.folds.ids if j != outer]

    def _alpha_errors(self, name: RungName, outer: int) -> DoubleArray:
        """Squared error of each fold but `outer` at each penalty, [folds - 1, penalties]."""
        if not self._errors:
            self._try_penalties()
        return self._errors[name == "ridge_zero" or self.shrink_to == "zero", outer]

    def _try_penalties(self) -> None:
        """Compute the errors of every penalty for every pair of held-out folds, each once the outer and once the inner.

        Both orders of a pair share their training moments, ridge paths and rotations.
        """
        kinds: tuple[RungName, ...] = ("ridge_zero",) if self.shrink_to == "zero" else ("ridge_zero", "ridge")
        errors: dict[tuple[bool, int], list[DoubleArray]] = {}
        totals: dict[int, list[float]] = {}
        for held_out in itertools.combinations(self.folds.ids, 2):
            training = self._training(*held_out)
            paths = {kind == "ridge_zero": self._path(kind, held_out, training) for kind in kinds}
            for fold, outer in (held_out, held_out[::-1]):
                scatter = self._scatter(fold, held_out)
                rotated = rotate(self._eigen(held_out, training)[1], scatter)
                totals.setdefault(outer, []).append(float(np.trace(scatter.BB)))
                for kind, path in paths.items():
                    errors.setdefault((kind, outer), []).append(path.errors(self.alphas, scatter, rotated))
        self._errors = {key: np.stack(by_fold) for key, by_fold in errors.items()}
        self._totals = {outer: np.array(total) for outer, total in totals.items()}

    def _rank_r2(self, outer: int) -> DoubleArray:
        """R^2 of each rank on each fold but `outer`, [ranks, folds - 1], at the penalty selected on these folds."""
        if not self._rank_r2s:
            self._try_ranks()
        return self._rank_r2s[outer]

    def _try_ranks(self) -> None:
        """Compute the R^2 of every rank for every pair of held-out folds, as `_try_penalties` does."""
        alphas = {outer: self.tune("ridge", outer).alpha for outer in self.folds.ids}
        r2s: dict[int, list[DoubleArray]] = {outer: [] for outer in self.folds.ids}
        for held_out in itertools.combinations(self.folds.ids, 2):
            training = self._training(*held_out)
            path = self._path("ridge", held_out, training)
            reduced: dict[float, tuple[DoubleArray, DoubleArray]] = {}
            for fold, outer in (held_out, held_out[::-1]):
                alpha = alphas[outer]
                if alpha not in reduced:
                    slope = path.slope(alpha)
                    reduced[alpha] = slope, rank_basis(slope, training.C_AA, alpha * path.penalty_unit)
                scatter = self._scatter(fold, held_out)
                r2s[outer].append(1 - rank_errors(*reduced[alpha], scatter) / np.trace(scatter.BB))
        self._rank_r2s = {outer: np.stack(r2, axis=1) for outer, r2 in r2s.items()}

    def _inner_r2(self, name: RungName, hyperparameters: Hyperparameters) -> DoubleArray:
        if name == "reduced_rank":
            of_rank: DoubleArray = self._rank_r2(TEST_FOLD)[hyperparameters.rank - 1]
            return of_rank
        if name in ("ridge", "ridge_zero"):
            errors = self._alpha_errors(name, TEST_FOLD)[:, self.alphas.index(hyperparameters.alpha)]
            inner: DoubleArray = 1 - errors / self._totals[TEST_FOLD]
            return inner
        r2 = []
        for j, held_out in self._inner(TEST_FOLD):
            scatter = self._scatter(j, held_out)
            r2.append(
                1 - squared_error(self.slope(name, hyperparameters, held_out), scatter).sum() / np.trace(scatter.BB)
            )
        return np.array(r2)

    def _at_edge(self, name: RungName, hyperparameters: Hyperparameters) -> bool:
        if name not in ("ridge", "ridge_zero") or hyperparameters.alpha not in (self.alphas[0], self.alphas[-1]):
            return False
        errors = self._alpha_errors(name, TEST_FOLD).sum(axis=0)
        at = self.alphas.index(hyperparameters.alpha)
        neighbour = 1 if at == 0 else at - 1
        return len(self.alphas) > 1 and bool(
            errors[neighbour] - errors[at] > RESOLUTION * self._totals[TEST_FOLD].sum()
        )

    def _path(self, name: RungName, held_out: HeldOut, training: moments.Moments | None = None) -> RidgePath:
        m = self._training(*held_out) if training is None else training
        if name == "ridge_zero" or self.shrink_to == "zero":
            target = np.zeros((self.d_A, self.d_B))
        elif self.d_A == self.d_B:
            target = np.eye(self.d_A)
        else:
            target = self._procrustes_slope(held_out, m)
        return RidgePath(m, self._eigen(held_out, m), target)

    def _eigen(self, held_out: HeldOut, m: moments.Moments) -> Eigen:
        if held_out not in self._eigens:
            values, vectors = np.linalg.eigh(m.C_AA)
            self._eigens[held_out] = (np.maximum(values, 0.0), vectors)
        return self._eigens[held_out]

    def _procrustes_slope(self, held_out: HeldOut, m: moments.Moments) -> DoubleArray:
        if held_out not in self._procrustes:
            if held_out not in self.polars:
                self.polars[held_out] = polar_factor(m.C_AB)
            self._procrustes[held_out] = procrustes(m, polar=self.polars[held_out])
        return self._procrustes[held_out]
