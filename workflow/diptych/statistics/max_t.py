"""Family-wise p-values by the max-T permutation test, with one set of random signs for all tests.

Exchanging the labels A and B in a random half of the prompts and taking the largest of all tests' statistics gives one
draw of the maximum when nothing changed. A test's family-wise p is the share of such maxima that reach its statistic.
The dependence between latents, roles and metrics is preserved, because all get the same signs.

    >>> from scipy import sparse
    >>> changes = sparse.csr_array([[2.0, 1.0, 2.0, 3.0], [0.0, 1.0, -1.0, 0.0]])
    >>> print(flip_statistic(changes))  # |sum h| / sqrt(sum h^2)
    [1.88561808 0.        ]
    >>> print(null_maxima(changes, flips=3, seed=0).shape)
    (3,)

The dense computation is flips x tests x prompts. Three facts avoid most of it without changing a result: a
difference is zero wherever a latent fires in neither model; |sum s h| is at most sum |h|, so that a test with few
non-zero prompts cannot be the maximum where a larger one is known; and tests with few zeros are dense matrix
products. Measured in benchmarks/template_diff.py.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from diptych.statistics import resampling

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

FLIP_BLOCK = 1024
"""Flips drawn at once; changing it changes the random signs of a seed."""
ROW_BLOCK = 1024
"""Tests multiplied at once: 4 MiB of sums."""
DENSE_SHARE = 0.08
"""Share of non-zero prompts above which a dense product is faster (measured: 21 against 1.6 G multiply-adds/s)."""
ROUNDING = 1e-5
"""The sums are float32: a maximum this close (relatively) below a statistic counts as reaching it."""


class Block(NamedTuple):
    """Some tests of the family.

    Attributes:
        rows: float32 [k, n], h of each test scaled to norm 1.
        dense: whether to multiply them as a dense matrix.
        bound: largest sum |h| of them, which no statistic exceeds.
    """

    rows: sparse.csr_array
    dense: bool
    bound: float


def flip_statistic(changes: sparse.csr_array) -> FloatArray:
    """|sum h| / sqrt(sum h^2) of each row of `changes` [K, n]; 0 for a row of zeros or one that sums to zero."""
    total, size, norm = _sums(changes)
    total[np.abs(total) <= resampling.TIE * size] = 0.0
    return np.divide(np.abs(total), norm, out=np.zeros_like(total), where=norm > 0.0)


def null_maxima(changes: sparse.csr_array, *, flips: int, seed: int) -> FloatArray:
    """Largest |sum s h| / sqrt(sum h^2) over the rows of `changes`, for each of `flips` random signings of its columns.

    Args:
        changes: h of every test and unit, CSR [K, n]; repeated rows may be omitted.
        flips: number of signings.
        seed: of the signs; more flips with the same seed begin with the same ones (in blocks of FLIP_BLOCK).

    Returns:
        Maxima [flips], float32 precision; zeros if there is no test.
    """
    rng = np.random.default_rng(seed)
    blocks = list(_blocks(changes))
    maxima = np.zeros(flips)
    for start in range(0, flips, FLIP_BLOCK):
        signs = rng.integers(0, 2, size=(changes.shape[1], FLIP_BLOCK), dtype=np.int8).astype(np.float32) * 2.0 - 1.0
        n_flips = min(FLIP_BLOCK, flips - start)
        maxima[start : start + n_flips] = _maxima(blocks, np.ascontiguousarray(signs[:, :n_flips]))
    return maxima


def family_p(statistic: FloatArray, maxima: FloatArray) -> FloatArray:
    """Family-wise p of statistics of any shape: (1 + #{maximum >= statistic}) / (1 + flips)."""
    return resampling.permutation_p(statistic * (1.0 - ROUNDING), maxima)


def _sums(changes: sparse.csr_array) -> tuple[FloatArray, FloatArray, FloatArray]:
    """sum h, sum |h| and sqrt(sum h^2) of each row."""
    total = np.asarray(changes.sum(axis=1), dtype=np.float64)
    size = np.asarray(abs(changes).sum(axis=1), dtype=np.float64)
    return total, size, np.sqrt(np.asarray(changes.multiply(changes).sum(axis=1), dtype=np.float64))


def _blocks(changes: sparse.csr_array) -> Iterator[Block]:
    """Rows scaled to norm 1, in blocks: dense ones, then sparse ones, each by descending sum |h| / sqrt(sum h^2)."""
    _, size, norm = _sums(changes)
    nonzero = np.flatnonzero(norm > 0.0)
    bound = size[nonzero] / norm[nonzero]
    unit = sparse.csr_array(sparse.diags_array(1.0 / norm[nonzero]) @ changes[nonzero]).astype(np.float32)
    dense = np.diff(unit.indptr) > DENSE_SHARE * changes.shape[1]
    order = np.argsort(-bound, kind="stable")
    for is_dense in (True, False):
        tests = order[dense[order] == is_dense]
        for start in range(0, len(tests), ROW_BLOCK):
            block = tests[start : start + ROW_BLOCK]
            yield Block(unit[block], is_dense, float(bound[block[0]]) * (1.0 + ROUNDING))


def _maxima(blocks: list[Block], signs: Float32Array) -> Float32Array:
    """Maximum over all tests for each column of `signs` [n, flips]; a block skips the flips that it cannot raise."""
    best = np.zeros(signs.shape[1], dtype=np.float32)
    for rows, dense, bound in blocks:
        open_flips = np.flatnonzero(best < bound)
        if len(open_flips) == 0:
            continue
        is_subset = len(open_flips) < 0.7 * len(best)
        open_signs = np.ascontiguousarray(signs[:, open_flips]) if is_subset else signs
        sums = (rows.toarray() if dense else rows) @ open_signs
        reached = np.maximum(sums.max(axis=0), -sums.min(axis=0))
        if is_subset:
            best[open_flips] = np.maximum(best[open_flips], reached)
        else:
            best = np.maximum(best, reached)
    return best
