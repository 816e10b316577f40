"""Measures of similarity of two clouds of paired points, as formulas without nulls.

Row i of X [p, d_A] and row i of Y [p, d_B] are the two decoder rows of one pair. The measures are invariant to
rotations and scalings of either cloud, so the spaces may have different widths and axes:

    >>> rng = np.random.default_rng(0)
    >>> rows = rng.normal(size=(200, 4))
    >>> rotated = 3.0 * rows @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    >>> print(round(cka(space(rows), space(rotated)), 6))
    1.0

Shapes: p pairs, d width, r rank, k leading components. The formulas are METHODS 3.3; `nulls` has each
score's distribution by chance.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

DoubleArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
RealArray = npt.NDArray[Any]

RANK_TOLERANCE = 1e-10
"""Singular values below this share of the largest are rounding (float32 decoder rows carry 1e-7)."""
BLOCK_ROWS = 1024
"""Rows of a p x p product held at once: 40 MiB in float32 at p = 10,000."""


@dataclass(frozen=True)
class Space:
    """One model's rows of the pairs, column-centred and scaled so that the mean squared row norm is 1.

    Attributes:
        x: float64 [p, d], the rows.
        u: float64 [p, r], left singular vectors.
        s: float64 [r], singular values, descending.
        v: float64 [d, r], right singular vectors.
        k: components that explain the given share of the variance, k <= r.
    """

    x: DoubleArray
    u: DoubleArray
    s: DoubleArray
    v: DoubleArray
    k: int

    @property
    def p(self) -> int:
        """Number of pairs."""
        return len(self.x)


class CanonicalScores(NamedTuple):
    """Scores from the canonical correlations of two spaces, and Procrustes (METHODS 3.3)."""

    svcca: float
    mean_squared_cc: float
    pwcca_a: float
    pwcca_b: float
    procrustes: float


def space(rows: RealArray, variance: float = 0.99) -> Space:
    """Centre, scale and decompose decoder rows [p, d]; k is the fewest components that explain `variance`.

    Rows that are all equal give r = k = 0.
    """
    x = np.asarray(rows, dtype=np.float64)
    x = x - x.mean(axis=0)
    length = np.sqrt(np.mean(np.sum(x**2, axis=1)))
    if length <= RANK_TOLERANCE * np.sqrt(np.mean(np.sum(np.asarray(rows, dtype=np.float64) ** 2, axis=1))):
        d = x.shape[1]
        return Space(np.zeros_like(x), np.zeros((len(x), 0)), np.zeros(0), np.zeros((d, 0)), 0)
    x /= length
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    rank = int(np.sum(s > RANK_TOLERANCE * s[0]))
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    share = np.cumsum(s**2) / np.sum(s**2)
    return Space(x, u, s, vt.T, min(rank, int(np.searchsorted(share, variance - 1e-12)) + 1))


def canonical_scores(cross: RealArray, a: Space, b: Space) -> CanonicalScores:
    """SVCCA, PWCCA and Procrustes from `cross` = U_A^T P U_B [r_A, r_B], P the pairing of the rows.

    The canonical correlations are the singular values of its leading [k_A, k_B] block; ||X^T P Y||_* is that of
    S_A cross S_B, because U, V are orthonormal. PWCCA's weights sum_j |<h_i, x_j>| run over the columns x_j of X (of
    Y for `pwcca_b`), h_i the canonical variates of that side.
    """
    left, correlation, right = np.linalg.svd(cross[: a.k, : b.k], full_matrices=False)
    correlation = np.minimum(correlation.astype(np.float64), 1.0)
    weights_a = np.abs((left.T * a.s[: a.k]) @ a.v[:, : a.k].T).sum(axis=1)
    weights_b = np.abs((right * b.s[: b.k]) @ b.v[:, : b.k].T).sum(axis=1)
    nuclear = np.linalg.svd(a.s[:, None] * cross * b.s, compute_uv=False).sum()
    return CanonicalScores(
        svcca=float(correlation.mean()),
        mean_squared_cc=float(np.mean(correlation**2)),
        pwcca_a=float(np.average(correlation, weights=weights_a)),
        pwcca_b=float(np.average(correlation, weights=weights_b)),
        procrustes=float(nuclear / (np.linalg.norm(a.s) * np.linalg.norm(b.s))),
    )


def one_component_score(a: Space, b: Space) -> float:
    """|r| of the two first principal components: the "SVCCA" of `compat: lan2024`.

    That procedure compared the cumulative *share* of the variance with .99 of the *total* variance, which no share
    reaches when the total exceeds about 1, so one component of each space was left.
    """
    return float(abs(a.u[:, 0] @ b.u[:, 0]))


def cka(a: Space, b: Space) -> float:
    """Linear CKA, biased: ||X^T Y||_F^2 / (||X^T X||_F ||Y^T Y||_F)."""
    numerator = np.sum((a.x.T @ b.x) ** 2)
    return float(numerator / np.sqrt(np.sum(a.s**4) * np.sum(b.s**4)))


def cka_debiased(a: Space, b: Space) -> float:
    """Linear CKA from the unbiased HSIC_1, in feature form, O(p d^2); 0 in expectation for independent rows."""
    return hsic(a, b) / float(np.sqrt(hsic(a, a) * hsic(b, b)))


def hsic(a: Space, b: Space) -> float:
    """Unbiased HSIC_1 of the linear kernels of two centred spaces; p >= 4.

    With q_i = ||x_i||^2 and T = sum q (the rows are centred, so the kernel without its diagonal has row sums -q):
    p (p - 3) HSIC_1 = ||X^T Y||_F^2 - p/(p - 2) q_A . q_B + T_A T_B / ((p - 1) (p - 2)).
    """
    p = a.p
    q_a, q_b = np.sum(a.x**2, axis=1), np.sum(b.x**2, axis=1)
    total = np.sum((a.x.T @ b.x) ** 2) - p / (p - 2) * (q_a @ q_b) + q_a.sum() * q_b.sum() / ((p - 1) * (p - 2))
    return float(total / (p * (p - 3)))


def unit_rows(rows: RealArray) -> DoubleArray:
    """Rows divided by their norms; a row of zeros stays zero, so that its cosines are 0."""
    x = np.asarray(rows, dtype=np.float64)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.divide(x, norm, out=np.zeros_like(x), where=norm > 0.0))


def distance_ranks(rows: RealArray) -> SingleArray:
    """Ranks of the cosine dissimilarities between rows, as a symmetric matrix M [p, p] with zero diagonal.

    The ranks over the lower triangle (ties get their mean) are centred and scaled so that sum M_A * M_B is the
    Spearman correlation of the two triangles; re-pairing rows then only permutes M.
    """
    unit = unit_rows(rows)
    lower = np.tril_indices(len(unit), k=-1)
    # Rounded, because equal rows must tie whatever order BLAS sums them in.
    cosine = np.round(unit @ unit.T, 12)
    ranks = stats.rankdata(-cosine[lower])
    ranks -= ranks.mean()
    norm = np.sqrt(2.0 * np.sum(ranks**2))
    matrix = np.zeros((len(unit), len(unit)), dtype=np.float32)
    matrix[lower] = ranks / norm if norm > 0.0 else 0.0
    matrix += matrix.T
    return matrix


def rsa(ranks_a: SingleArray, ranks_b: SingleArray) -> float:
    """Spearman correlation of two dissimilarity triangles given by `distance_ranks`; NaN if one is constant."""
    if not (ranks_a.any() and ranks_b.any()):
        return float("nan")
    return float(np.einsum("ij,ij->", ranks_a, ranks_b, dtype=np.float64))


def nearest(rows: RealArray, k: int) -> IntArray:
    """The k rows of highest cosine to each row, itself excluded, nearest first: int64 [p, k]. Needs p > k."""
    unit = unit_rows(rows).astype(np.float32)
    neighbours = np.empty((len(unit), k), dtype=np.int64)
    for start, cosine in _cosine_blocks(unit, unit):
        index = np.arange(len(cosine))
        cosine[index, start + index] = -np.inf
        top = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        order = np.lexsort((top, -np.take_along_axis(cosine, top, axis=1)), axis=1)
        neighbours[start : start + len(cosine)] = np.take_along_axis(top, order, axis=1)
    return neighbours


def common_neighbours(near_a: IntArray, near_b: IntArray) -> IntArray:
    """|N_A(i) and N_B(i)| for each row i of two neighbour lists [p, k]."""
    return np.asarray((near_a[:, :, None] == near_b[:, None, :]).sum(axis=(1, 2)), dtype=np.int64)


def knn_jaccard(common: IntArray, k: int) -> float:
    """Mean over rows of |N and N'| / |N or N'|, from the counts of common neighbours."""
    return float(np.mean(common / (2 * k - common)))


def knn_mutual(common: IntArray, k: int) -> float:
    """Mean over rows of |N and N'| / k, from the counts of common neighbours."""
    return float(np.mean(common / k))


def mmcs(mapped: RealArray, y: RealArray) -> tuple[DoubleArray, DoubleArray]:
    """Maximum cosine of each row of A to the rows of B, and its null level.

    MMCS does not change when rows are re-paired. Its null level replaces the best row of B by that row's nearest
    other row of B: the score that the density of B's dictionary alone would give. A row in several pairs (a pairing
    of one to many) counts once: its copies are not other rows.

    Args:
        mapped: [p_A, d_B], A's rows mapped to B's space.
        y: [p_B, d_B].

    Returns:
        maximum cosine [p_A] and level [p_A], NaN if all rows of B have one direction; both uncentred cosines. MMCS
        is the mean of the first.
    """
    unit_a = unit_rows(mapped).astype(np.float32)
    unit_b = np.unique(unit_rows(y).astype(np.float32), axis=0)
    best, level = np.empty(len(unit_a)), np.full(len(unit_a), np.nan)
    if len(unit_b) == 1:
        return np.minimum((unit_a @ unit_b.T)[:, 0].astype(np.float64), 1.0), level
    other = nearest(unit_b, 1)[:, 0]
    for start, cosine in _cosine_blocks(unit_a, unit_b):
        index = np.arange(len(cosine))
        winner = np.argmax(cosine, axis=1)
        best[start : start + len(cosine)] = cosine[index, winner]
        level[start : start + len(cosine)] = cosine[index, other[winner]]
    return np.minimum(best, 1.0), level


def _cosine_blocks(unit_a: SingleArray, unit_b: SingleArray) -> Iterator[tuple[int, SingleArray]]:
    """Blocks of rows of unit_a unit_b^T, each with the index of its first row."""
    for start in range(0, len(unit_a), BLOCK_ROWS):
        yield start, unit_a[start : start + BLOCK_ROWS] @ unit_b.T
