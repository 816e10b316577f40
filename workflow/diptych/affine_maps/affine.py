"""Affine maps between two activation spaces, fitted from second moments alone (METHODS 2).

    slope = procrustes(m)                                 # rotation times scale, as one slope [d_A, d_B]
    path = RidgePath(m, np.linalg.eigh(m.C_AA), target)   # every penalty from one eigendecomposition
    path.errors(alphas, held_out)                         # their held-out squared errors: traces, no row is read

`linear_map.ladder` cross-validates them and selects one; `load(file, "forward")` reads the selected one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
from scipy import linalg

from diptych.affine_maps import moments

DirectionName = Literal["forward", "backward"]
DIRECTIONS: tuple[DirectionName, ...] = ("forward", "backward")
DoubleArray = npt.NDArray[np.float64]
Eigen = tuple[DoubleArray, DoubleArray]

RESOLUTION = 1e-6
"""Precision of R^2 from float32 products: smaller differences are ties."""
ITERATION_LIMITS = (40, 2000)
"""Smallest and largest limit on the number of Procrustes iterations."""
ITERATION_WORK = 1e10
"""Multiplications, d_A d_B^2 per iteration, that set the limit. Well-conditioned spaces need tens of iterations; where
one direction has most of the variance (Gemma-3 to SmolLM2: 44 %) each improves little: after 47, R^2 is .02 below the
optimum."""
SPAN_PENALTY = 1e-6
"""Ridge penalty, in mean eigenvalues of C_AA, of the regression whose column space gives one initial value."""


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


def squared_error(slope: DoubleArray, scatter: moments.Scatter) -> DoubleArray:
    """Sum of squared errors of each coordinate of B, float64 [d_B], from the scatter about the training means.

    Their sum is tr(BB) - 2 tr(R^T AB) + tr(R^T AA R), METHODS 2's held-out error.
    """
    error: DoubleArray = (
        np.diag(scatter.BB)
        - 2 * np.sum(slope * scatter.AB, axis=0)
        + np.sum(slope * _product(scatter.AA, slope), axis=0)
    )
    return error


def _product(matrix: DoubleArray, slope: DoubleArray) -> DoubleArray:
    """matrix @ slope, without a matrix product where the slope is a multiple of the identity (0 included)."""
    factor = float(slope[0, 0])
    if np.count_nonzero(slope) == (len(slope) if factor else 0) and (np.diagonal(slope) == factor).all():
        return factor * matrix if factor else np.zeros((len(matrix), slope.shape[1]))
    product: DoubleArray = matrix @ slope
    return product


def procrustes(m: moments.Moments, tolerance: float = RESOLUTION, polar: DoubleArray | None = None) -> DoubleArray:
    """Least-squares slope s Q [d_A, d_B] with Q semi-orthogonal (METHODS 2).

    For d_A <= d_B, Q is the polar factor of C_AB. For d_A > d_B the error also depends on which d_B directions of A
    are mapped. From the better of two initial values, polar(C_AB) and the best Q in the column space of the regression
    slope, iterates Q <- polar(C_AB / s - C_AA Q + l_max(C_AA) Q), which never raises the error, with Nesterov
    extrapolation and restart, until R^2 improves by less than `tolerance` or the limit set by `ITERATION_LIMITS` and
    `ITERATION_WORK` is reached.

    Args:
        m: moments of the training rows.
        tolerance: on R^2.
        polar: polar factor of C_AB, if already computed.
    """
    q = polar_factor(m.C_AB) if polar is None else polar
    s = _procrustes_scale(q, m)
    if m.C_AB.shape[0] <= m.C_AB.shape[1] or s == 0.0:
        return s * q
    q = max(
        (q, _procrustes_in_column_space(m)),
        key=lambda initial: _procrustes_scale(initial, m) * float(np.sum(initial * m.C_AB)),
    )
    s = _procrustes_scale(q, m)
    largest = float(linalg.eigvalsh(m.C_AA, subset_by_index=[len(m.C_AA) - 1, len(m.C_AA) - 1])[0])
    total = float(np.trace(m.C_BB))
    explained = s * float(np.sum(q * m.C_AB))
    extrapolated, previous, momentum = q, q, 1.0
    max_iterations = int(np.clip(ITERATION_WORK / q.size / q.shape[1], *ITERATION_LIMITS))
    for _ in range(max_iterations):
        new = _polar_of_full_rank(m.C_AB / s - m.C_AA @ extrapolated + largest * extrapolated)
        new_s = _procrustes_scale(new, m)
        new_explained = new_s * float(np.sum(new * m.C_AB))
        if new_explained < explained and momentum > 1.0:
            extrapolated, momentum = q, 1.0
            continue
        previous, q, s = q, new, new_s
        if new_explained - explained < tolerance * total:
            break
        next_momentum = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        extrapolated = q + ((momentum - 1) / next_momentum) * (q - previous)
        explained, momentum = new_explained, next_momentum
    return s * polar_factor(q)


def _procrustes_in_column_space(m: moments.Moments) -> DoubleArray:
    """Best semi-orthogonal Q [d_A, d_B] in the column space of the regression slope from A to B.

    There the problem is square and the polar factor exact, so Q is optimal where B is a rotation of d_B directions
    of A.
    """
    penalty = SPAN_PENALTY * float(np.trace(m.C_AA)) / len(m.C_AA)
    slope = linalg.solve(m.C_AA + penalty * np.eye(len(m.C_AA)), m.C_AB, assume_a="pos")
    basis = np.linalg.qr(slope)[0]
    q: DoubleArray = basis @ polar_factor(basis.T @ m.C_AB)
    return q


def _polar_of_full_rank(matrix: DoubleArray) -> DoubleArray:
    """Polar factor M (M^T M)^-1/2 of a well-conditioned tall matrix, at a fraction of the cost of an SVD.

    The matrix of a Procrustes iteration is near l_max Q, so squaring its singular values loses no relevant precision.
    """
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    polar: DoubleArray = matrix @ ((vectors / np.sqrt(np.maximum(values, np.finfo(np.float64).tiny))) @ vectors.T)
    return polar


def polar_factor(matrix: DoubleArray) -> DoubleArray:
    """Polar factor U V^T of the matrix's SVD; that of the transpose is its transpose."""
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    polar: DoubleArray = left @ right
    return polar


def _procrustes_scale(q: DoubleArray, m: moments.Moments) -> float:
    """The least-squares s of s Q."""
    energy = float(np.sum(q * (m.C_AA @ q)))
    return float(np.sum(q * m.C_AB)) / energy if energy > 0 else 0.0


class RotatedScatter(NamedTuple):
    """A held-out scatter in the eigenbasis V of the training moments: `half` V^T AA, `AA` V^T AA V, `AB` V^T AB."""

    half: DoubleArray
    AA: DoubleArray
    AB: DoubleArray


def rotate(vectors: DoubleArray, scatter: moments.Scatter) -> RotatedScatter:
    """Rotate a held-out scatter into an eigenbasis, for every ridge path that shares it."""
    half = vectors.T @ scatter.AA
    return RotatedScatter(half, half @ vectors, vectors.T @ scatter.AB)


class RidgePath:
    """Ridge maps at every penalty from one eigendecomposition C_AA = V L V^T.

    R(lambda) = R0 + V (L + lambda)^-1 G with G = V^T C_AB - L V^T R0, lambda = alpha tr(C_AA) / d_A; R0 is the slope
    that the penalty shrinks towards (`target`).
    """

    def __init__(self, m: moments.Moments, eigen: Eigen, target: DoubleArray) -> None:
        self.target = target
        self.values, self.vectors = eigen
        self.penalty_unit = float(np.trace(m.C_AA)) / len(m.C_AA)
        self.gradient = self.vectors.T @ m.C_AB - self.values[:, None] * _product(self.vectors.T, target)

    @cached_property
    def _gram(self) -> DoubleArray:
        """G G^T [d_A, d_A]."""
        gram: DoubleArray = self.gradient @ self.gradient.T
        return gram

    def slope(self, alpha: float) -> DoubleArray:
        """Slope R [d_A, d_B] at one penalty."""
        weight = 1 / (self.values + alpha * self.penalty_unit)
        slope: DoubleArray = self.target + self.vectors @ (weight[:, None] * self.gradient)
        return slope

    def errors(
        self, alphas: Sequence[float], scatter: moments.Scatter, rotated: RotatedScatter | None = None
    ) -> DoubleArray:
        """Held-out squared error at every penalty, float64 [len(alphas)].

        It is quadratic in w = 1 / (L + lambda), so that each penalty costs d_A^2 and no matrix product. `rotated` is
        `rotate` of `scatter`, if already computed.
        """
        weight = 1 / (self.values + np.array(alphas)[:, None] * self.penalty_unit)
        if rotated is None:
            rotated = rotate(self.vectors, scatter)
        linear = np.sum(self.gradient * (_product(rotated.half, self.target) - rotated.AB), axis=1)
        quadratic = rotated.AA * self._gram
        base = squared_error(self.target, scatter).sum()
        errors: DoubleArray = base + 2 * weight @ linear + np.sum((weight @ quadratic) * weight, axis=1)
        return errors


def rank_basis(slope: DoubleArray, C_AA: DoubleArray, penalty: float) -> DoubleArray:
    """Eigenvectors of R^T (C_AA + penalty I) R by descending eigenvalue, float64 [d_B, min(d_A, d_B)].

    R P_r, with P_r the projection on the first r of them, is the reduced-rank ridge map.
    """
    weighted = C_AA @ slope + penalty * slope
    vectors = np.linalg.eigh(slope.T @ weighted)[1][:, ::-1]
    basis: DoubleArray = np.ascontiguousarray(vectors[:, : min(slope.shape)])
    return basis


def rank_errors(slope: DoubleArray, basis: DoubleArray, scatter: moments.Scatter) -> DoubleArray:
    """Held-out squared error of R P_r for r = 1 .. columns of `basis`, float64."""
    reduced = slope @ basis
    change = np.sum(reduced * (scatter.AA @ reduced), axis=0) - 2 * np.sum(basis * (scatter.AB.T @ reduced), axis=0)
    errors: DoubleArray = np.trace(scatter.BB) + np.cumsum(change)
    return errors
