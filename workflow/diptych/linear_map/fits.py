"""Maps of every rung of the ladder, trained on all folds but some.

    fits = Fits(folds)
    fits.slope("ridge", Hyperparameters(alpha=1e-3, rank=0), held_out=(0, 2))     # a `Slope` where the moments lie

Only what costs much more than reading it is kept: polar factors, which both directions share, and Procrustes slopes
that were iterated. Of training moments and ridge maps there is one at a time.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from diptych.affine_maps import matrices, moments
from diptych.affine_maps.affine import Slope
from diptych.affine_maps.matrices import Matrix
from diptych.affine_maps.procrustes import polar_factor, procrustes
from diptych.affine_maps.ridge import Ridge

HeldOut = tuple[int, ...]
RungName = Literal["identity", "scale", "procrustes", "reduced_rank", "ridge", "ridge_zero"]
PenalisedName = Literal["ridge", "ridge_zero", "shuffled"]
"""Ridge maps: `ridge` towards the simple slope, the others towards 0; `shuffled` to another document's rows of B."""
ShrinkTo = Literal["simple", "zero"]


class Hyperparameters(NamedTuple):
    """Penalty and rank that inner folds select for a rung: `alpha` (NaN without one) and `rank` (0 without one)."""

    alpha: float
    rank: int


class Fits:
    """Maps of every rung in one direction A -> B; arguments as for `ladder.Ladder`."""

    def __init__(
        self, folds: moments.FoldMoments, shrink_to: ShrinkTo, polars: Mapping[HeldOut, Matrix] | None = None
    ) -> None:
        self.folds, self.shrink_to = folds, shrink_to
        self.d_A, self.d_B = folds.total.C_AB.shape
        self.polars: dict[HeldOut, Matrix] = dict(polars or {})
        """Polar factors of C_AB by held-out folds; their transposes are those of the other direction."""
        self._iterated: dict[HeldOut, Matrix] = {}
        self._latest_training: tuple[HeldOut, moments.Moments] | None = None
        self._latest_ridge: tuple[tuple[PenalisedName, float, HeldOut], Ridge] | None = None

    @property
    def unpenalised(self) -> tuple[RungName, ...]:
        """The rungs without penalty, simplest first; `identity` and `scale` need equal widths."""
        equal_width_names: tuple[RungName, ...] = ("identity", "scale") if self.d_A == self.d_B else ()
        return (*equal_width_names, "procrustes")

    def release(self) -> None:
        """Free what can be made again."""
        self._latest_training = self._latest_ridge = None
        self.polars.clear()

    def training(self, *held_out: int) -> moments.Moments:
        """Moments of all rows but those of the folds `held_out`."""
        if self._latest_training is None or self._latest_training[0] != held_out:
            self._latest_training = None
            self._latest_training = held_out, self.folds.training(*held_out)
        return self._latest_training[1]

    def shuffled_cross(self, held_out: HeldOut) -> Matrix:
        """C_AB of the training rows, with another document's rows of B."""
        folds = [fold for fold in self.folds.ids if fold not in held_out]
        return self.folds.shuffled_cross(self.training(*held_out).C_AB, folds)

    def slope(self, name: RungName, hyperparameters: Hyperparameters, held_out: HeldOut) -> Slope:
        """Slope of one rung."""
        if name == "identity":
            return 1.0
        if name == "scale":
            training = self.training(*held_out)
            return matrices.trace(training.C_AB) / matrices.trace(training.C_AA)
        if name == "procrustes":
            return self._procrustes(held_out)
        if name == "reduced_rank":
            return self.ridge("ridge", hyperparameters.alpha, held_out).reduced(hyperparameters.rank)
        return self.ridge(name, hyperparameters.alpha, held_out).slope

    def ridge(self, name: PenalisedName, alpha: float, held_out: HeldOut) -> Ridge:
        """Ridge map at one penalty."""
        key = name, alpha, held_out
        if self._latest_ridge is None or self._latest_ridge[0] != key:
            self._latest_ridge = None
            training = self.training(*held_out)
            self._latest_ridge = key, Ridge(training.C_AA, training.C_AB, alpha, self.target(name, held_out))
        return self._latest_ridge[1]

    def target(self, name: PenalisedName, held_out: HeldOut) -> Slope:
        """Slope that a ridge map shrinks towards."""
        if name != "ridge" or self.shrink_to == "zero":
            return 0.0
        return 1.0 if self.d_A == self.d_B else self._procrustes(held_out)

    def _procrustes(self, held_out: HeldOut) -> Matrix:
        if held_out in self._iterated:
            return self._iterated[held_out]
        training = self.training(*held_out)
        if held_out not in self.polars:
            self.polars[held_out] = polar_factor(training.C_AB)
        slope = procrustes(training, polar=self.polars[held_out])
        if self.d_A > self.d_B:
            self._iterated[held_out] = slope
        return slope
