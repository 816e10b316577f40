"""Affine maps between two spaces, each from second moments alone (METHODS 2).

    slope = procrustes(m)                                 # rotation and size, as one slope [d_A, d_B]
    path = RidgePath(m, np.linalg.eigh(m.C_AA), start)    # every penalty from one eigendecomposition
    path.errors(alphas, held)                             # their held-out squared errors: traces, no row is read

`ladder` cross-validates them and chooses among them; `load(file, "forward")` reads the chosen one back.
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
"""R^2 is not known better than this from float32 products: smaller differences are ties."""
STEPS = (40, 2000)
"""Least and greatest bound on Procrustes iterations."""
WORK = 1e10
"""Multiplications of d_A d_B^2 that decide between them. Well-conditioned spaces need tens of steps; where one
direction has most of the variance (Gemma-3 to SmolLM2: 44 %) they are small: after 47, R^2 is .02 below the best."""
SPAN_PENALTY = 1e-6
"""Ridge penalty, in mean eigenvalues of C_AA, of the regression whose directions are one start of the iteration."""


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


def load(file: h5py.File, direction: DirectionName, which: Literal["best", "ridge"] = "best") -> LinearMap:
    """A map of an open `linear_map` artifact, trained on all folds but the test fold."""
    group = file[direction]
    return LinearMap(group[f"{which}/slope"][:].astype(np.float64), group["mean_in"][:], group["mean_out"][:])


def squared_error(slope: DoubleArray, scatter: moments.Scatter) -> DoubleArray:
    """Sum of squared errors of each coordinate of B, float64 [d_B], from the scatter about the training means.

    Summed: tr(BB) - 2 tr(R^T AB) + tr(R^T AA R), METHODS 2's held-out error.
    """
    error: DoubleArray = (
        np.diag(scatter.BB) - 2 * np.sum(slope * scatter.AB, axis=0) + np.sum(slope * _times(scatter.AA, slope), axis=0)
    )
    return error


def _times(matrix: DoubleArray, slope: DoubleArray) -> DoubleArray:
    """matrix @ slope, without the product where the slope is a multiple of the identity (0 included)."""
    factor = float(slope[0, 0])
    if np.count_nonzero(slope) == (len(slope) if factor else 0) and (np.diagonal(slope) == factor).all():
        return factor * matrix if factor else np.zeros((len(matrix), slope.shape[1]))
    product: DoubleArray = matrix @ slope
    return product


def procrustes(m: moments.Moments, tolerance: float = RESOLUTION, polar: DoubleArray | None = None) -> DoubleArray:
    """Least-squares s Q, Q semi-orthogonal, as one slope [d_A, d_B] (METHODS 2); `polar` of C_AB where it is known.

    For d_A <= d_B the polar factor of C_AB is the answer. For d_A > d_B the error also depends on which d_B
    directions of A are kept. From the better of two starts, polar(C_AB) and the best Q into the directions that
    regression uses, Q then follows Q <- polar(C_AB / s - C_AA Q + l_max(C_AA) Q), which never raises the error, with
    Nesterov's extrapolation and its restart, until a step improves R^2 by less than `tolerance`, or the bound of
    `STEPS` and `WORK` is reached.
    """
    q = polar_factor(m.C_AB) if polar is None else polar
    s = _procrustes_scale(q, m)
    if m.C_AB.shape[0] <= m.C_AB.shape[1] or s == 0.0:
        return s * q
    q = max((q, _within_regression(m)), key=lambda start: _procrustes_scale(start, m) * float(np.sum(start * m.C_AB)))
    s = _procrustes_scale(q, m)
    largest = float(linalg.eigvalsh(m.C_AA, subset_by_index=[len(m.C_AA) - 1, len(m.C_AA) - 1])[0])
    total = float(np.trace(m.C_BB))
    gain = s * float(np.sum(q * m.C_AB))
    ahead, previous, momentum = q, q, 1.0
    steps = int(np.clip(WORK / q.size / q.shape[1], *STEPS))
    for _ in range(steps):
        new = _polar_of_full_rank(m.C_AB / s - m.C_AA @ ahead + largest * ahead)
        new_s = _procrustes_scale(new, m)
        new_gain = new_s * float(np.sum(new * m.C_AB))
        if new_gain < gain and momentum > 1.0:
            ahead, momentum = q, 1.0
            continue
        previous, q, s = q, new, new_s
        if new_gain - gain < tolerance * total:
            break
        next_momentum = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = q + ((momentum - 1) / next_momentum) * (q - previous)
        gain, momentum = new_gain, next_momentum
    return s * polar_factor(q)


def _within_regression(m: moments.Moments) -> DoubleArray:
    """The best semi-orthogonal Q among those into the d_B directions of A that least squares uses to predict B.

    Inside them Q is square, and the polar factor is exact: it is the answer where B is some of A's directions turned.
    """
    penalty = SPAN_PENALTY * float(np.trace(m.C_AA)) / len(m.C_AA)
    slope = linalg.solve(m.C_AA + penalty * np.eye(len(m.C_AA)), m.C_AB, assume_a="pos")
    basis = np.linalg.qr(slope)[0]
    within: DoubleArray = basis @ polar_factor(basis.T @ m.C_AB)
    return within


def _polar_of_full_rank(matrix: DoubleArray) -> DoubleArray:
    """Polar factor M (M^T M)^-1/2 of a tall matrix far from rank-deficient, at a fraction of the SVD's price.

    A Procrustes step is near l_max Q, so squaring its singular values costs no digits that the iteration would notice.
    """
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    polar: DoubleArray = matrix @ ((vectors / np.sqrt(np.maximum(values, np.finfo(np.float64).tiny))) @ vectors.T)
    return polar


def polar_factor(matrix: DoubleArray) -> DoubleArray:
    """U V^T of the matrix's SVD; that of the transpose is its transpose."""
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    polar: DoubleArray = left @ right
    return polar


def _procrustes_scale(q: DoubleArray, m: moments.Moments) -> float:
    energy = float(np.sum(q * (m.C_AA @ q)))
    return float(np.sum(q * m.C_AB)) / energy if energy > 0 else 0.0


class Rotated(NamedTuple):
    """A held-out scatter in the eigenbasis V of the training moments: V^T AA, V^T AA V, V^T AB."""

    half: DoubleArray
    AA: DoubleArray
    AB: DoubleArray


def rotate(vectors: DoubleArray, scatter: moments.Scatter) -> Rotated:
    """What every path with the same eigenvectors needs of a held-out scatter."""
    half = vectors.T @ scatter.AA
    return Rotated(half, half @ vectors, vectors.T @ scatter.AB)


class RidgePath:
    """Ridge maps of every penalty from one eigendecomposition C_AA = V L V^T.

    R(lambda) = R0 + V (L + lambda)^-1 G with G = V^T C_AB - L V^T R0, lambda = alpha tr(C_AA) / d_A.
    """

    def __init__(self, m: moments.Moments, eigen: Eigen, start: DoubleArray) -> None:
        self.start = start
        self.values, self.vectors = eigen
        self.unit = float(np.trace(m.C_AA)) / len(m.C_AA)
        self.gradient = self.vectors.T @ m.C_AB - self.values[:, None] * _times(self.vectors.T, start)

    @cached_property
    def _gram(self) -> DoubleArray:
        """G G^T [d_A, d_A]."""
        gram: DoubleArray = self.gradient @ self.gradient.T
        return gram

    def slope(self, alpha: float) -> DoubleArray:
        """R [d_A, d_B] of one penalty."""
        weight = 1 / (self.values + alpha * self.unit)
        slope: DoubleArray = self.start + self.vectors @ (weight[:, None] * self.gradient)
        return slope

    def errors(self, alphas: Sequence[float], scatter: moments.Scatter, rotated: Rotated | None = None) -> DoubleArray:
        """Held-out squared error of every penalty, float64 [len(alphas)]; `rotated` is of `scatter`, where it is known.

        With w = 1 / (L + lambda) it is quadratic in w, so that each penalty costs d_A^2 and no matrix product.
        """
        weight = 1 / (self.values + np.array(alphas)[:, None] * self.unit)
        turned = rotate(self.vectors, scatter) if rotated is None else rotated
        linear = np.sum(self.gradient * (_times(turned.half, self.start) - turned.AB), axis=1)
        quadratic = turned.AA * self._gram
        base = squared_error(self.start, scatter).sum()
        errors: DoubleArray = base + 2 * weight @ linear + np.sum((weight @ quadratic) * weight, axis=1)
        return errors


def rank_basis(slope: DoubleArray, C_AA: DoubleArray, penalty: float) -> DoubleArray:
    """Eigenvectors of R^T (C_AA + penalty I) R by falling eigenvalue, float64 [d_B, min(d_A, d_B)].

    R P_r, P_r on the first r of them, is the reduced-rank ridge map.
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
