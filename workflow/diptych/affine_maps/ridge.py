"""Ridge maps that shrink towards a given slope, and their reductions in rank (METHODS 2).

With C_AA + lambda I = L L^T and R0 the slope that the penalty shrinks towards, the ridge map is
R = R0 + (C_AA + lambda I)^-1 (C_AB - C_AA R0), lambda = alpha tr(C_AA) / d_A:

    ridge = Ridge(m.C_AA, m.C_AB, 1e-3, target=1.0)  # one penalty, by a Cholesky factor; the target 1.0 is the identity
    ridge.slope, ridge.reduced(rank=10)
    basis = Eigenbasis(m.C_AA)                       # every penalty, by an eigendecomposition
    path = RidgePath(basis, basis.cross(m.C_AB), target=1.0)
    path.errors(alphas, held_out, basis.rotate(held_out))    # held-out squared errors: no row is read
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from diptych.affine_maps import affine, matrices, moments
from diptych.affine_maps.affine import Slope
from diptych.affine_maps.matrices import DoubleArray, Matrix


class Ridge:
    """The ridge map at one penalty.

    Args:
        C_AA: of the training rows.
        C_AB: of the training rows.
        alpha: penalty, in units of C_AA's mean diagonal.
        target: R0.
    """

    def __init__(self, C_AA: Matrix, C_AB: Matrix, alpha: float, target: Slope) -> None:
        # The second term, of the order of rounding, keeps the factor real for a penalty far below the variances.
        penalty = matrices.trace(C_AA) * (alpha / len(C_AA) + float(np.finfo(np.float64).eps))
        self._target = target
        self._factor = matrices.cholesky(matrices.add_to_diagonal(C_AA, penalty))
        self._whitened = matrices.solve_triangular(self._factor, affine.add_product(C_AB, C_AA, -target))
        self._largest_rank = min(C_AB.shape)

    @cached_property
    def slope(self) -> Matrix:
        """R [d_A, d_B]."""
        change = matrices.solve_triangular(self._factor, self._whitened, transposed=True)
        if isinstance(self._target, float):
            return matrices.add_to_diagonal(change, self._target) if self._target else change
        return change + self._target

    @cached_property
    def _explained(self) -> Matrix:
        """R^T (C_AA + lambda I) R [d_B, d_B]."""
        whitened = affine.add_product(self._whitened, self._factor.T, self._target)  # L^T R
        return whitened.T @ whitened

    @cached_property
    def _basis(self) -> Matrix:
        """Eigenvectors of R^T (C_AA + lambda I) R by increasing eigenvalue, float32 [d_B, min(d_A, d_B)]."""
        return matrices.eigh(matrices.single(self._explained))[1][:, -self._largest_rank :]

    @cached_property
    def _rotated_slope(self) -> Matrix:
        return matrices.single(self.slope) @ self._basis

    def reduced(self, rank: int) -> Matrix:
        """R P_r [d_A, d_B], P_r the projection on the first r eigenvectors of R^T (C_AA + lambda I) R."""
        d_B = len(self._explained)
        if 2 * rank > d_B:
            dropped = matrices.eigenvectors(self._explained, 0, d_B - rank)
            return self.slope - (self.slope @ dropped) @ dropped.T
        kept = matrices.eigenvectors(self._explained, d_B - rank, d_B)
        return (self.slope @ kept) @ kept.T

    def rank_errors(self, scatter: moments.Scatter) -> DoubleArray:
        """Held-out squared error of R P_r for r = 1 .. min(d_A, d_B), float64, from float32 products."""
        cross = ((matrices.single(scatter.AB) @ self._basis) * self._rotated_slope).sum(axis=0)
        change = matrices.quadratic_forms(matrices.single(scatter.AA), self._rotated_slope) - 2 * cross
        decreasing = matrices.to_numpy(change)[::-1].astype(np.float64)
        errors: DoubleArray = matrices.trace(scatter.BB) + np.cumsum(decreasing)
        return errors


class RotatedScatter(NamedTuple):
    """A held-out scatter in the eigenbasis V of the training moments.

    Attributes:
        half: V^T AA.
        AA: V^T AA V, folded into its upper triangle (`matrices.folded_product`).
        AB: V^T AB.
    """

    half: Matrix
    AA: Matrix
    AB: Matrix


class Eigenbasis:
    """The eigendecomposition C_AA = V L V^T of training moments, shared by all their ridge paths."""

    def __init__(self, C_AA: Matrix) -> None:
        values, self.vectors = matrices.eigh(C_AA)
        self.values = values.clip(min=0.0)
        self.penalty_unit = matrices.trace(C_AA) / len(C_AA)

    def cross(self, C_AB: Matrix) -> Matrix:
        """V^T C_AB."""
        return self.vectors.T @ C_AB

    def rotate(self, scatter: moments.Scatter) -> RotatedScatter:
        """Rotate a held-out scatter about the training means."""
        half = self.vectors.T @ scatter.AA
        return RotatedScatter(half, matrices.folded_product(half, self.vectors), self.cross(scatter.AB))


class RidgePath:
    """Held-out errors of the ridge maps at every penalty.

    R(lambda) = R0 + V (L + lambda)^-1 G with G = V^T C_AB - L V^T R0.

    Args:
        basis: of the training moments.
        cross: V^T C_AB.
        target: R0.
    """

    def __init__(self, basis: Eigenbasis, cross: Matrix, target: Slope) -> None:
        self._basis, self._target = basis, target
        self._gradient = affine.add_product(cross, basis.values[:, None] * basis.vectors.T, -target)
        self._gram = self._gradient @ self._gradient.T

    def errors(self, alphas: Sequence[float], scatter: moments.Scatter, rotated: RotatedScatter) -> DoubleArray:
        """Held-out squared error at every penalty, float64 [len(alphas)].

        It is quadratic in w = 1 / (L + lambda), so that each penalty costs d_A^2 and no matrix product.
        """
        penalties = matrices.like(np.array(alphas) * self._basis.penalty_unit, self._gram)
        weight = 1 / (self._basis.values + penalties[:, None])
        linear = (self._gradient * affine.add_product(-rotated.AB, rotated.half, self._target)).sum(axis=1)
        quadratic = ((weight @ (rotated.AA * self._gram)) * weight).sum(axis=1)
        base = affine.squared_error(self._target, scatter).sum()
        return matrices.to_numpy(base + 2 * weight @ linear + quadratic)
