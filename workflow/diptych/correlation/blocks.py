"""What is read from a block of correlations: the best of its rows and columns, listed pairs, a histogram.

A block in which most pairs fire together is kept dense, another one as its entries; both hold the same numbers and say
the same of them:

    block = read_block(rho, start, stop)
    block.best_of_rows(10)               # (i, j, rho): all entries that may be among the 10 best of their rows
    block.at(i, j)                       # correlations of listed pairs
    block.histogram(200)                 # pairs that fire together, by correlation
"""

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from diptych.correlation.products import Correlations
from diptych.statistics import top_k

if TYPE_CHECKING:
    Csr = sparse.csr_array[Any, tuple[int, int]]

DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

DENSE_FILL = 0.4
"""Share of a block's pairs that fire together above which it is kept dense, because its entries cost more than all
cells (measured with 1,024 latents: equal near .5). Either form has the same numbers."""
CACHED_CELLS = 2**15
"""Cells that are worked on at a time, 256 KiB."""


class Entries(NamedTuple):
    """Listed entries [p] of a block: rows and columns counted from its first, and correlations."""

    row: IntArray
    column: IntArray
    rho: DoubleArray


class Block(Protocol):
    """Correlations of some latents of A with all of B."""

    def best_of_rows(self, k: int) -> Entries:
        """All entries that may be among the k best of their rows, of pairs that fire together."""

    def best_of_columns(self, k: int, floor: DoubleArray) -> Entries:
        """All entries that may be among the k best of their columns and reach the columns' `floor`, [F_B]."""

    def at(self, row: IntArray, column: IntArray) -> DoubleArray:
        """Correlations of listed pairs [p]; the closed form where they never fire together."""

    def histogram(self, bins: int) -> IntArray:
        """Pairs that fire together by correlation, [bins] from -1 to 1."""


def read_block(matrix: Correlations, start: int, stop: int) -> Block:
    """Correlations of A's latents start..stop, kept dense or as entries."""
    product = matrix.product(start, stop)
    level_A, level_B = matrix.a.level[start:stop], matrix.b.level
    if not isinstance(product, np.ndarray):
        if product.nnz <= DENSE_FILL * (stop - start) * len(level_B):
            return SparseBlock(product, level_A, level_B)
        product = product.toarray()
    return DenseBlock(product, level_A, level_B, has_all=matrix.has_all)


class SparseBlock:
    """A block as its entries, by row and by column."""

    def __init__(self, product: "Csr", level_A: DoubleArray, level_B: DoubleArray) -> None:
        product.data -= np.repeat(level_A, np.diff(product.indptr)) * level_B[product.indices]
        np.clip(product.data, -1.0, 1.0, out=product.data)
        self._rows, self._columns = product, product.tocsc()
        self._level_A, self._level_B = level_A, level_B
        n_rows, counts = product.shape[0], np.diff(self._columns.indptr)
        self._keys = np.repeat(np.arange(len(counts)) * n_rows, counts) + self._columns.indices

    def best_of_rows(self, k: int) -> Entries:
        """See `Block`."""
        i, entry = top_k.survivors(self._rows.indptr, self._rows.data, k)
        return Entries(i, self._rows.indices[entry].astype(np.int64), self._rows.data[entry])

    def best_of_columns(self, k: int, floor: DoubleArray) -> Entries:
        """See `Block`."""
        j, entry = top_k.survivors(self._columns.indptr, self._columns.data, k, floor)
        return Entries(self._columns.indices[entry].astype(np.int64), j, self._columns.data[entry])

    def at(self, row: IntArray, column: IntArray) -> DoubleArray:
        """See `Block`."""
        rho = -self._level_A[row] * self._level_B[column]
        if len(self._keys):
            key = column * self._rows.shape[0] + row
            order = np.argsort(key)  # searching in key order stays in the cache
            position = np.empty_like(key)
            position[order] = np.minimum(np.searchsorted(self._keys, key[order]), len(self._keys) - 1)
            rho = np.where(self._keys[position] == key, self._columns.data[position], rho)
        return rho

    def histogram(self, bins: int) -> IntArray:
        """See `Block`."""
        return _count(self._rows.data, bins)


class DenseBlock:
    """A block as a matrix; -inf stands for pairs that never fire together."""

    def __init__(self, product: DoubleArray, level_A: DoubleArray, level_B: DoubleArray, *, has_all: bool) -> None:
        self._rho, self._level_A, self._level_B = product, level_A, level_B
        for rows in self._slices():
            rho = product[rows]
            never = None if has_all else rho == 0.0
            rho -= level_A[rows, None] * level_B
            np.clip(rho, -1.0, 1.0, out=rho)
            if never is not None:
                rho[never] = -np.inf

    def _slices(self) -> list[slice]:
        step = max(1, CACHED_CELLS // max(self._rho.shape[1], 1))
        return [slice(at, at + step) for at in range(0, self._rho.shape[0], step)]

    def best_of_rows(self, k: int) -> Entries:
        """See `Block`."""
        return self._entries(top_k.lower_bound_dense(self._rho, k, axis=1)[:, None])

    def best_of_columns(self, k: int, floor: DoubleArray) -> Entries:
        """See `Block`."""
        return self._entries(np.maximum(top_k.lower_bound_dense(self._rho, k, axis=0), floor))

    def _entries(self, bound: DoubleArray) -> Entries:
        """The finite entries that reach a bound, [rows, 1] or [columns]."""
        entry = np.flatnonzero((self._rho >= bound) & (self._rho > -np.inf))
        row, column = np.divmod(entry, self._rho.shape[1])
        return Entries(row, column, self._rho.ravel()[entry])

    def at(self, row: IntArray, column: IntArray) -> DoubleArray:
        """See `Block`."""
        rho = self._rho[row, column]
        return np.where(np.isfinite(rho), rho, -self._level_A[row] * self._level_B[column])

    def histogram(self, bins: int) -> IntArray:
        """See `Block`."""
        count = np.zeros(bins, dtype=np.int64)
        for rows in self._slices():
            rho = self._rho[rows].ravel()
            count += _count(rho[rho > -np.inf], bins)
        return count


def _count(rho: DoubleArray, bins: int) -> IntArray:
    bin_index = ((rho + 1.0) * (bins / 2)).astype(np.int32)
    return np.bincount(np.minimum(bin_index, bins - 1), minlength=bins)
