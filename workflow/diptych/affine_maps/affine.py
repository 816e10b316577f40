"""Affine maps between two activation spaces, and their held-out errors from second moments alone (METHODS 2).

    linear = LinearMap(slope, m.mean_A, m.mean_B)
    linear.predict(x_A)
    squared_error(slope, held_out.about(m))       # of every coordinate of B: traces, no row is read

`procrustes` and `ridge` fit slopes, `linear_map.ladder` cross-validates them and selects one; `load(file, "forward")`
reads the selected one.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt

from diptych.affine_maps import matrices, moments
from diptych.affine_maps.matrices import DoubleArray, Matrix

DirectionName = Literal["forward", "backward"]
DIRECTIONS: tuple[DirectionName, ...] = ("forward", "backward")
Slope: TypeAlias = float | Matrix
"""A slope [d_A, d_B]; a number c is c times the identity, and 0 the map to the mean between any two widths."""

RESOLUTION = 1e-6
"""Precision of R^2 from float32 products: smaller differences are ties."""


@dataclass(frozen=True)
class LinearMap:
    """x_B ~ (x_A - mean_A) slope + mean_B; slope float64 [d_A, d_B]."""

    slope: DoubleArray
    mean_A: DoubleArray
    mean_B: DoubleArray

    @property
    def intercept(self) -> DoubleArray:
        """float64 [d_B]: x_B ~ x_A slope + intercept."""
        intercept: DoubleArray = self.mean_B - self.mean_A @ self.slope
        return intercept

    def predict(self, x_A: npt.NDArray[Any]) -> DoubleArray:
        """Predicted activations of B, float64 [n, d_B], for x_A [n, d_A]."""
        predicted: DoubleArray = (x_A - self.mean_A) @ self.slope + self.mean_B
        return predicted


def load(file: h5py.File, direction: DirectionName, name: Literal["best", "ridge"] = "best") -> LinearMap:
    """Read a map of an open `linear_map` artifact, trained on all folds but the test fold."""
    group = file[direction]
    return LinearMap(group[f"{name}/slope"][:].astype(np.float64), group["mean_in"][:], group["mean_out"][:])


def dense(slope: Slope, shape: tuple[int, int]) -> DoubleArray:
    """The slope as an array [d_A, d_B] in the memory of the CPU."""
    if isinstance(slope, float):
        return slope * np.eye(*shape)
    return matrices.to_numpy(slope)


def add_product(total: Matrix, matrix: Matrix, slope: Slope) -> Matrix:
    """total + matrix @ slope."""
    if isinstance(slope, float):
        return total + slope * matrix if slope else total
    return total + matrix @ slope


def squared_error(slope: Slope, scatter: moments.Scatter) -> Matrix:
    """Sum of squared errors of each coordinate of B, float64 [d_B], from the scatter about the training means.

    Their sum is tr(BB) - 2 tr(R^T AB) + tr(R^T AA R), METHODS 2's held-out error.
    """
    total = scatter.BB.diagonal()
    if not isinstance(slope, float):
        return total - 2 * (slope * scatter.AB).sum(axis=0) + matrices.quadratic_forms(scatter.AA, slope)
    if slope == 0:
        return total
    return total - 2 * slope * scatter.AB.diagonal() + slope**2 * scatter.AA.diagonal()
