"""Null distributions of similarity scores: the rows of one side are re-paired at random.

Independent clouds do not score 0: 50 pairs of 40-wide rows have a mean canonical correlation of about .9. Every score
therefore has its null mean, sd and p. For statistics sum_ij K_ij L_pi(i)pi(j) (CKA, the mean squared
canonical correlation) the mean, variance and skewness over *all* p! pairings have closed forms:

    >>> x = np.random.default_rng(0).normal(size=(6, 2)); x -= x.mean(axis=0)
    >>> k = gram_kernel(x)
    >>> every = [kernel_product(k, k.permuted(np.array(pi))) for pi in itertools.permutations(range(6))]
    >>> bool(np.allclose(central_moments(k, k), [np.var(every), np.mean(np.power(every, 3))]))
    True

The other measures are re-paired: neighbour lists and rank matrices are computed once and re-indexed (METHODS 3.3).
"""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse, stats

from diptych.similarity.measures import formulas
from diptych.similarity.measures.formulas import DoubleArray, IntArray, SingleArray, Space
from diptych.statistics.resampling import SMALLEST_P, permutation_p

TIE = 1e-6
"""A re-paired score this close to the observed one counts as equal, because re-pairings run in float32."""
Graph = tuple[tuple[int, int], ...]
"""Edges (i, j) of a multigraph; each stands for a factor K_ij."""
Codes = sparse.csr_array | SingleArray


class Null(NamedTuple):
    """Mean and sd of a score over re-pairings, and the score's p (NaN where there is no test)."""

    mean: float
    sd: float
    p: float


@dataclass(frozen=True)
class Kernel:
    """A symmetric p x p matrix F S F^T - diag(d) whose rows and whose trace sum to zero, never formed as a whole.

    Attributes:
        factor: F, float64 [p, r].
        core: S, float64 [r, r], symmetric.
        diagonal: d, float64 [p].
    """

    factor: DoubleArray
    core: DoubleArray
    diagonal: DoubleArray

    def permuted(self, order: IntArray) -> "Kernel":
        """The kernel with rows and columns in another order."""
        return Kernel(self.factor[order], self.core, self.diagonal[order])

    @functools.cached_property
    def raw_diagonal(self) -> DoubleArray:
        """The diagonal of F S F^T, [p]."""
        return np.asarray(np.sum((self.factor @ self.core) * self.factor, axis=1))

    @functools.cached_property
    def graph_sums(self) -> dict[Graph, float]:
        """Sums over all index choices of products of entries, one factor per edge: (0,0) is K_ii, (0,1) K_ij.

        Two edges: sum K_ii^2 and sum K_ij^2. Three: sum K_ii^3, K_ii K_ij^2, K_ii K_ij K_jj, K_ij^3 and
        K_ij K_jk K_ik. Every other graph has a vertex of degree one or an isolated loop, and sums to zero.
        """
        m, d = self.raw_diagonal, self.diagonal
        q = m - d
        factor_core = self.factor @ self.core
        gram = self.core @ (self.factor.T @ self.factor)
        square = np.sum((factor_core @ gram.T) * self.factor, axis=1)
        trace2 = np.sum(gram * gram.T) - 2.0 * (d @ m) + d @ d
        trace3 = np.sum((gram @ gram) * gram.T) - 3.0 * (d @ square) + 3.0 * (d**2 @ m) - np.sum(d**3)
        factor_q = self.factor.T @ q
        return {
            ((0, 0), (0, 0)): float(q @ q),
            ((0, 1), (0, 1)): float(trace2),
            ((0, 0), (0, 0), (0, 0)): float(np.sum(q**3)),
            ((0, 0), (0, 1), (0, 1)): float(q @ (square - 2.0 * d * m + d**2)),
            ((0, 0), (0, 1), (1, 1)): float(factor_q @ self.core @ factor_q - d @ q**2),
            ((0, 1), (0, 1), (0, 1)): self._sum_of_cubes() + float(np.sum(q**3)),
            ((0, 1), (0, 2), (1, 2)): float(trace3),
        }

    def _sum_of_cubes(self) -> float:
        """Sum of K_ij^3 over i != j, from float32 blocks on and above the diagonal."""
        left, right = (self.factor @ self.core).astype(np.float32), self.factor.astype(np.float32)
        total = 0.0
        for start in range(0, len(left), formulas.BLOCK_ROWS):
            stop = min(start + formulas.BLOCK_ROWS, len(left))
            block = left[start:stop] @ right[start:].T
            np.fill_diagonal(block, 0.0)
            block *= block * block
            total += float(np.sum(block[:, : stop - start], dtype=np.float64))
            total += 2.0 * float(np.sum(block[:, stop - start :], dtype=np.float64))
        return total


def gram_kernel(x: DoubleArray) -> Kernel:
    """X X^T less its mean over re-pairings: K = X X^T - a (I - 11^T/p), a = ||X||_F^2 / (p - 1), X [p, d] centred."""
    p = len(x)
    level = float(np.sum(x**2)) / (p - 1)
    core = np.diag(np.append(np.ones(x.shape[1]), level / p))
    return Kernel(np.column_stack([x, np.ones(p)]), core, np.full(p, level))


def unbiased_kernel(x: DoubleArray) -> Kernel:
    """The U-centred X X^T of HSIC_1 (zero diagonal, zero row sums), X [p, d] centred, p >= 4.

    K_ij = x_i . x_j + (q_i + q_j)/(p - 2) - T/((p - 1)(p - 2)) for i != j, q_i = ||x_i||^2, T = sum q.
    """
    p, d = x.shape
    q = np.sum(x**2, axis=1)
    core = np.eye(d + 2)
    core[d:, d:] = [[0.0, 1.0 / (p - 2)], [1.0 / (p - 2), -q.sum() / ((p - 1) * (p - 2))]]
    factor = np.column_stack([x, q, np.ones(p)])
    return Kernel(factor, core, np.sum((factor @ core) * factor, axis=1))


def kernel_product(a: Kernel, b: Kernel) -> float:
    """sum_ij K_ij L_ij of two kernels on the same rows."""
    cross = a.factor.T @ b.factor
    full = np.sum((a.core @ cross @ b.core) * cross)
    return float(full - a.diagonal @ b.raw_diagonal - b.diagonal @ a.raw_diagonal + a.diagonal @ b.diagonal)


def central_moments(a: Kernel, b: Kernel) -> tuple[float, float]:
    """Exact second and third moments of sum_ij K_ij L_pi(i)pi(j) over all p! orders pi; the mean is 0 (METHODS 3.3).

    E of a product over slots = sum over partitions of the slots into equal indices of (sum over *distinct* indices in
    K) (the same in L) / (p (p - 1) ...); sums over distinct indices come from free sums by Moebius inversion.
    """
    p = len(a.factor)
    second, third = (
        sum(
            (weights @ _graph_sums(a, graphs)) * (weights @ _graph_sums(b, graphs)) * count / math.perm(p, blocks)
            for blocks, weights, count in patterns
            if blocks <= p
        )
        for graphs, patterns in (_partition_weights(2), _partition_weights(3))
    )
    return float(second), float(third)


def pearson3_null(statistic: float, a: Kernel, b: Kernel, scale: float, level: float) -> Null:
    """Null of level + statistic/scale, `statistic` = kernel_product(a, b): exact mean and sd, Pearson-III upper tail.

    The tail is the gamma curve with the exact mean, variance and skewness; below about 1e-6 it is an extrapolation.
    """
    second, third = central_moments(a, b)
    if second <= 0.0:
        return Null(level, 0.0, float("nan"))
    sd = math.sqrt(second)
    p = float(stats.pearson3.sf(statistic / sd, third / sd**3))
    return Null(level, sd / scale, min(1.0, max(p, SMALLEST_P)))


def cka_null(a: Space, b: Space) -> Null:
    """Exact null of the biased linear CKA; its mean is T_A T_B / ((p - 1) ||X^T X||_F ||Y^T Y||_F)."""
    k_a, k_b = gram_kernel(a.x), gram_kernel(b.x)
    scale = math.sqrt(float(np.sum(a.s**4) * np.sum(b.s**4)))
    level = float(np.sum(a.s**2) * np.sum(b.s**2)) / ((a.p - 1) * scale)
    return pearson3_null(kernel_product(k_a, k_b), k_a, k_b, scale, level)


def cka_debiased_null(a: Space, b: Space) -> Null:
    """Exact null of the debiased linear CKA; its mean is 0."""
    k_a, k_b = unbiased_kernel(a.x), unbiased_kernel(b.x)
    scale = math.sqrt(kernel_product(k_a, k_a) * kernel_product(k_b, k_b))
    return pearson3_null(kernel_product(k_a, k_b), k_a, k_b, scale, 0.0)


def mean_squared_cc_null(a: Space, b: Space) -> Null:
    """Exact null of the mean squared canonical correlation; its mean is max(k_A, k_B) / (p - 1)."""
    k_a, k_b = gram_kernel(a.u[:, : a.k]), gram_kernel(b.u[:, : b.k])
    return pearson3_null(kernel_product(k_a, k_b), k_a, k_b, min(a.k, b.k), max(a.k, b.k) / (a.p - 1))


def canonical_draws(a: Space, b: Space, draws: int, rng: np.random.Generator) -> DoubleArray:
    """`CanonicalScores` of re-paired rows, [draws, 5]."""
    u_a, u_b = a.u.T.astype(np.float32), b.u.astype(np.float32)
    crosses = (u_a @ u_b[rng.permutation(a.p)] for _ in range(draws))
    return np.array([formulas.canonical_scores(cross, a, b) for cross in crosses])


def one_component_draws(a: Space, b: Space, draws: int, rng: np.random.Generator) -> DoubleArray:
    """`one_component_score` of re-paired rows, [draws]."""
    return np.array([abs(a.u[:, 0] @ b.u[rng.permutation(a.p), 0]) for _ in range(draws)])


def rsa_draws(ranks_a: SingleArray, ranks_b: SingleArray, draws: int, rng: np.random.Generator) -> DoubleArray:
    """Spearman correlations of re-paired rank matrices [p, p], [draws]."""
    out = np.empty_like(ranks_b)
    values = np.empty(draws)
    for draw in range(draws):
        order = rng.permutation(len(ranks_b))
        # mode="clip" lets numpy write straight into `out`.
        np.take(ranks_b[order], order, axis=1, out=out, mode="clip")
        values[draw] = np.vdot(ranks_a, out)
    return values


def knn_draws(
    near_a: IntArray, near_b: IntArray, ks: tuple[int, ...], draws: int, rng: np.random.Generator
) -> DoubleArray:
    """Jaccard and mutual overlap of re-paired neighbour lists [p, max k], [draws, len(ks), 2].

    Row i is paired with row pi(i): its partner's neighbours N_B(pi(i)) are rows pi^-1(N_B(pi(i))) of the pairs.
    """
    values = np.empty((draws, len(ks), 2))
    for draw in range(draws):
        order = rng.permutation(len(near_b))
        repaired_b = np.argsort(order)[near_b[order]]
        for index, k in enumerate(ks):
            common = formulas.common_neighbours(near_a[:, :k], repaired_b[:, :k])
            values[draw, index] = formulas.knn_jaccard(common, k), formulas.knn_mutual(common, k)
    return values


def from_draws(observed: float, draws: DoubleArray) -> Null:
    """Mean, sd and p = (1 + #{null >= observed}) / (1 + N) of re-paired scores [N] (METHODS 0.3)."""
    return Null(float(draws.mean()), float(draws.std(ddof=1)), float(permutation_p(observed - TIE, draws)))


def mean_rho_null(codes_a: Codes, codes_b: Codes) -> Null:
    """Closed-form mean and sd of the mean correlation when the pairs' latents are re-paired; no p.

    With R the p x p correlations of A's latents with B's, the mean of p of them taken along a random permutation has
    mean R.. and variance sum (R_ij - R_i. - R_.j + R..)^2 / (p^2 (p - 1)) (Hoeffding 1951).

    Args:
        codes_a: [n, p] activations of A's latents (CSR) or neurons (an array), column i belongs to pair i.
        codes_b: [n, p] those of B on the same n tokens, in the same format.
    """
    p = codes_a.shape[1]
    row_mean, column_sum, square = np.empty(p), np.zeros(p), 0.0
    blocks = _dense_blocks if isinstance(codes_a, np.ndarray) else _sparse_blocks
    for columns, block in blocks(codes_a, codes_b):
        row_mean[columns] = block.mean(axis=1)
        column_sum += block.sum(axis=0)
        square += float(np.sum(block**2))
    grand, column_mean = float(row_mean.mean()), column_sum / p
    spread = square - p * float(row_mean @ row_mean) - p * float(column_mean @ column_mean) + (p * grand) ** 2
    return Null(grand, math.sqrt(max(0.0, spread) / (p - 1)) / p, float("nan"))


def _sparse_blocks(codes_a: Codes, codes_b: Codes) -> Iterator[tuple[slice, DoubleArray]]:
    """Blocks of A's columns and their correlations [columns, p] with all columns of B, from sparse codes."""
    a, b = (sparse.csc_array(codes, dtype=np.float64) for codes in (codes_a, codes_b))
    (mean_a, sd_a), (mean_b, sd_b) = _column_moments(a), _column_moments(b)
    n, p = a.shape
    for start in range(0, p, formulas.BLOCK_ROWS):
        columns = slice(start, min(start + formulas.BLOCK_ROWS, p))
        product = np.asarray((a[:, columns].T @ b).todense())
        yield columns, (product / n - np.outer(mean_a[columns], mean_b)) / np.outer(sd_a[columns], sd_b)


def _dense_blocks(codes_a: Codes, codes_b: Codes) -> Iterator[tuple[slice, DoubleArray]]:
    """Blocks of A's columns and their correlations [columns, p] with all columns of B, from dense activations."""
    a, b = np.asarray(codes_a), _unit_columns(np.asarray(codes_b))
    for start in range(0, a.shape[1], formulas.BLOCK_ROWS):
        columns = slice(start, min(start + formulas.BLOCK_ROWS, a.shape[1]))
        yield columns, _unit_columns(a[:, columns]).T @ b


def _unit_columns(values: npt.NDArray[Any]) -> DoubleArray:
    """Columns [n, p] centred and scaled to norm 1; a constant column becomes 0."""
    centred = np.asarray(values - values.mean(axis=0, dtype=np.float64), dtype=np.float64)
    length = np.linalg.norm(centred, axis=0)
    return np.asarray(np.divide(centred, length, out=np.zeros_like(centred), where=length > 0.0))


def _column_moments(codes: sparse.csc_array) -> tuple[DoubleArray, DoubleArray]:
    """Mean and sd of each column; a latent that never fires gets sd infinity, so that its correlations are 0."""
    mean = np.asarray(codes.mean(axis=0)).ravel()
    variance = np.asarray(codes.multiply(codes).mean(axis=0)).ravel() - mean**2
    return mean, np.where(variance > 0.0, np.sqrt(np.maximum(variance, 0.0)), np.inf)


def _graph_sums(kernel: Kernel, graphs: tuple[Graph, ...]) -> DoubleArray:
    return np.array([kernel.graph_sums[graph] for graph in graphs])


@functools.cache
def _partition_weights(edges: int) -> tuple[tuple[Graph, ...], list[tuple[int, npt.NDArray[Any], int]]]:
    """Graphs of `edges` factors K_ij with a non-zero sum, and their weights in each partition of the 2 edges slots.

    Returns:
        graphs, and a list of (blocks of the partition, weight of each graph in its sum over distinct indices, number
        of such partitions).
    """
    n_alike: dict[tuple[int, tuple[tuple[Graph, int], ...]], int] = {}
    for labels in _partitions(2 * edges):
        blocks = max(labels) + 1
        weights: dict[Graph, int] = {}
        for merge in _partitions(blocks):
            sizes = np.bincount(merge)
            moebius = math.prod((-1) ** (size - 1) * math.factorial(size - 1) for size in map(int, sizes))
            if graph := _graph([merge[label] for label in labels]):
                weights[graph] = weights.get(graph, 0) + moebius
        key = (blocks, tuple(sorted(weights.items())))
        n_alike[key] = n_alike.get(key, 0) + 1
    graphs = tuple(sorted({graph for _, weights in n_alike for graph, _ in weights}))
    patterns = [
        (blocks, np.array([dict(items).get(graph, 0) for graph in graphs], dtype=np.float64), count)
        for (blocks, items), count in n_alike.items()
    ]
    return graphs, patterns


def _partitions(n: int) -> Iterator[tuple[int, ...]]:
    """All partitions of n slots as labels, each slot's label at most one above the largest before it."""
    if n == 0:
        yield ()
        return
    for head in _partitions(n - 1):
        for label in range(max(head, default=-1) + 2):
            yield (*head, label)


def _graph(labels: list[int]) -> Graph | None:
    """The multigraph of slots (0,1), (2,3), ... in its least labelling; None if its sum is zero for a `Kernel`."""
    edges = list(zip(labels[::2], labels[1::2], strict=True))
    degree = np.bincount(labels)
    has_isolated_loop = any(i == j and degree[i] == 2 for i, j in edges)
    if has_isolated_loop or degree.min() == 1:
        return None
    return min(
        tuple(sorted((min(names[i], names[j]), max(names[i], names[j])) for i, j in edges))
        for names in itertools.permutations(range(len(degree)))
    )
