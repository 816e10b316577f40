"""Standardised codes, and exact correlations as products of blocks of them, sparse or (at dense sites) dense."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

if TYPE_CHECKING:
    Csr = sparse.csr_array[Any, tuple[int, int]]

BoolArray = npt.NDArray[np.bool_]
DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


PAIR_CHUNK = 4_000_000
"""Non-zero codes in memory at a time for the correlations of listed pairs."""


ENTRY_BYTES = 80
"""Peak bytes per entry of a block: value, index, transposed copy, keys, for both halves."""


@dataclass(frozen=True)
class Standardised:
    """Codes of some latents on some rows, scaled so that products of columns are correlations.

    Attributes:
        z: float64 [n, F], codes over s sqrt(n); centred first if dense.
        level: float64 [F], m / s of sparse codes (rho = z_A^T z_B - level_A level_B^T); 0 for dense ones.
    """

    z: "Csr | DoubleArray"
    level: DoubleArray


def standardise(codes: "Csr | FloatArray") -> Standardised:
    """Standardise the latents' codes on n rows; a constant latent becomes all 0 (it has no correlations)."""
    n = codes.shape[0]
    if not isinstance(codes, sparse.csr_array):
        centred = codes - codes.mean(axis=0, dtype=np.float64)
        length = np.sqrt(np.square(centred).sum(axis=0))
        return Standardised(centred * _inverse(length), np.zeros(codes.shape[1]))
    values = codes.data.astype(np.float64)
    mean = np.bincount(codes.indices, weights=values, minlength=codes.shape[1]) / n
    squares = np.bincount(codes.indices, weights=values * values, minlength=codes.shape[1])
    deviation = np.sqrt(np.maximum(squares / n - mean * mean, 0.0))
    scale = _inverse(deviation)
    scaled = sparse.csr_array((values * (scale / np.sqrt(n))[codes.indices], codes.indices, codes.indptr), codes.shape)
    return Standardised(scaled, mean * scale)


def _inverse(values: DoubleArray) -> DoubleArray:
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)


class Correlations:
    """Correlations of A's latents with B's on one set of rows, computed on demand.

    Attributes:
        a: A's latents, F_A of them.
        b: B's latents, F_B, on the same rows.
    """

    def __init__(self, a: Standardised, b: Standardised) -> None:
        self.a, self.b = a, b
        self._z_A = a.z.T.tocsr() if isinstance(a.z, sparse.csr_array) else a.z.T
        self._columns_A = a.z.tocsc() if isinstance(a.z, sparse.csr_array) else a.z
        self._columns_B = b.z.tocsc() if isinstance(b.z, sparse.csr_array) else b.z

    @property
    def shape(self) -> tuple[int, int]:
        """(F_A, F_B)."""
        return len(self.a.level), len(self.b.level)

    def block(self, start: int, stop: int) -> "Csr":
        """Correlations [stop - start, F_B] of A's latents start..stop, float64, for pairs that fire on a common token.

        At dense sites these are all pairs. Column indices are not sorted.
        """
        product = self._z_A[start:stop] @ self.b.z
        block = _dense_csr(product) if isinstance(product, np.ndarray) else product
        repeats = np.diff(block.indptr)
        block.data -= np.repeat(self.a.level[start:stop], repeats) * self.b.level[block.indices]
        np.clip(block.data, -1.0, 1.0, out=block.data)
        return block

    def row_entries(self) -> IntArray:
        """Upper bound of the entries of each row of a block, [F_A]: one per two codes on a common token."""
        columns = self.shape[1]
        if not isinstance(self.a.z, sparse.csr_array) or not isinstance(self.b.z, sparse.csr_array):
            return np.full(self.shape[0], columns, dtype=np.int64)
        per_token = np.diff(self.b.z.indptr)
        fires = sparse.csr_array(
            (np.ones(len(self.a.z.indices), np.int64), self.a.z.indices, self.a.z.indptr), self.a.z.shape
        )
        return np.minimum(fires.T @ per_token.astype(np.int64), columns)

    def at(self, i: IntArray, j: IntArray) -> DoubleArray:
        """Correlations of listed pairs [p], whether or not they fire on a common token."""
        rho = np.empty(len(i))
        per_pair = max(1, self._n_values() // max(min(self.shape), 1))
        step = max(1, PAIR_CHUNK // per_pair)
        for start in range(0, len(i), step):
            left, right = self._columns_A[:, i[start : start + step]], self._columns_B[:, j[start : start + step]]
            rho[start : start + step] = _column_products(left, right)
        clipped: DoubleArray = np.clip(rho - self.a.level[i] * self.b.level[j], -1.0, 1.0)
        return clipped

    def _n_values(self) -> int:
        return max(int(z.nnz) if isinstance(z, sparse.csr_array) else z.size for z in (self.a.z, self.b.z))


def _dense_csr(values: DoubleArray) -> "Csr":
    """A dense block as CSR with every entry, including zeros."""
    rows, columns = values.shape
    indices = np.tile(np.arange(columns, dtype=np.int32), rows)
    return sparse.csr_array((values.ravel(), indices, np.arange(rows + 1) * columns), shape=values.shape)


def _column_products(left: Any, right: Any) -> DoubleArray:
    """Sums over rows of left * right, column by column, each sparse or dense."""
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return np.asarray(np.einsum("np,np->p", left, right), dtype=np.float64)
    product = left.multiply(right) if not isinstance(left, np.ndarray) else right.multiply(left)
    return np.asarray(product.sum(axis=0), dtype=np.float64).ravel()


def varies(codes: "Csr | FloatArray") -> BoolArray:
    """Whether a latent takes more than one value on these rows, [F]."""
    if not isinstance(codes, sparse.csr_array):
        return np.asarray(np.ptp(codes, axis=0) > 0) if len(codes) else np.zeros(codes.shape[1], dtype=bool)
    if not codes.shape[0]:
        return np.zeros(codes.shape[1], dtype=bool)
    return np.asarray(codes.max(axis=0).toarray() != codes.min(axis=0).toarray()).ravel()


def standardised_half(codes: "Csr | FloatArray", half: IntArray, which: int, latents: IntArray) -> Standardised:
    """Standardised codes of some latents on the rows of one half."""
    return standardise(codes[half == which][:, latents])


def block_cuts(entries: IntArray, memory: int) -> list[int]:
    """Row indices that bound blocks of at most `memory` bytes, from 0 to the number of rows; `entries` are per row."""
    max_entries = max(1, memory // ENTRY_BYTES)
    cuts = [0]
    total = np.concatenate([[0], np.cumsum(entries)])
    while cuts[-1] < len(entries):
        stop = int(np.searchsorted(total, total[cuts[-1]] + max_entries, side="right")) - 1
        cuts.append(max(cuts[-1] + 1, stop))
    return cuts
