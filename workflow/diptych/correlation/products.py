"""Standardised codes, and exact correlations as products of blocks of them, sparse or dense by what is cheaper.

matrix = Correlations(standardise(codes_A), standardise(codes_B))
cuts = block_cuts([matrix], memory)
matrix.block(cuts[0], cuts[1])          # CSR float64, latents of A from the first cut to the second
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from scipy import sparse

from diptych.correlation import ways

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
        panel: A's latents are taken in panels of so many; `is_dense` says of each whether its product is dense.
        is_dense: bool [panels].
    """

    def __init__(self, a: Standardised, b: Standardised) -> None:
        self.a, self.b = a, b
        self._columns_A = a.z.tocsc() if isinstance(a.z, sparse.csr_array) else a.z
        self._columns_B = b.z.tocsc() if isinstance(b.z, sparse.csr_array) else b.z
        self._z_A = a.z.T.tocsr() if isinstance(a.z, sparse.csr_array) else a.z.T
        self._common = _common(a.z, b.z)
        self.panel = ways.panel_rows(self.shape[1])
        self.is_dense = ways.dense_panels(self._common, self.shape[1], a.z.shape[0])
        if self.has_all:
            self.is_dense[:] = True

    @property
    def shape(self) -> tuple[int, int]:
        """(F_A, F_B)."""
        return len(self.a.level), len(self.b.level)

    @property
    def has_all(self) -> bool:
        """Whether every pair is one that fires on a common token: a side is dense."""
        return isinstance(self.a.z, np.ndarray) or isinstance(self.b.z, np.ndarray)

    def block(self, start: int, stop: int) -> "Csr":
        """Correlations [stop - start, F_B] of A's latents start..stop, float64, for pairs that fire on a common token.

        At dense sites these are all pairs. Column indices are not sorted.
        """
        product = self.product(start, stop)
        block: Csr
        if isinstance(product, np.ndarray):
            block = _dense_csr(product) if self.has_all else sparse.csr_array(product)
        else:
            block = product
        repeats = np.diff(block.indptr)
        block.data -= np.repeat(self.a.level[start:stop], repeats) * self.b.level[block.indices]
        np.clip(block.data, -1.0, 1.0, out=block.data)
        return block

    def product(self, start: int, stop: int) -> "Csr | DoubleArray":
        """Sums z_A^T z_B of A's latents start..stop, dense if one of their panels is.

        Codes are not negative, so a sum is 0 exactly where two latents never fire together. A panel's product is the
        same whatever range it is asked for in.
        """
        first, last = start // self.panel, -(-stop // self.panel)
        if not self.is_dense[first:last].any():
            return self._sparse(start, stop)
        low, high = first * self.panel, min(last * self.panel, self.shape[0])
        sums = np.zeros((high - low, self.shape[1]))
        panels = [slice(at, min(at + self.panel, high)) for at in range(low, high, self.panel)]
        is_dense = self.is_dense[first:last]
        self._add_dense(sums, low, [rows for rows, dense in zip(panels, is_dense, strict=True) if dense])
        for rows, dense in zip(panels, is_dense, strict=True):
            if not dense:
                sums[rows.start - low : rows.stop - low] = self._sparse(rows.start, rows.stop).toarray()
        return sums[start - low : stop - low]

    def _sparse(self, start: int, stop: int) -> "Csr":
        product: Any = self._z_A[start:stop] @ self.b.z
        return cast("Csr", product)

    def _add_dense(self, sums: DoubleArray, low: int, panels: list[slice]) -> None:
        """Add the products of whole panels, tokens in order; row 0 of `sums` is latent `low`."""
        step = ways.token_rows(self.shape[1])
        for token in range(0, self.a.z.shape[0], step):
            z_A, z_B = self.a.z[token : token + step], _array(self.b.z[token : token + step])
            for rows in panels:
                sums[rows.start - low : rows.stop - low] += _array(z_A[:, rows]).T @ z_B

    def row_entries(self) -> IntArray:
        """Upper bound of the entries of each row of a block, [F_A]: one per two codes on a common token."""
        dense = np.repeat(self.is_dense, self.panel)[: self.shape[0]]
        return np.where(dense, self.shape[1], np.minimum(self._common, self.shape[1]))

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


def _common(z_A: "Csr | DoubleArray", z_B: "Csr | DoubleArray") -> IntArray:
    """Pairs of codes on a common token of each latent of A with all of B, [F_A]."""
    tokens, columns = z_B.shape
    per_token = np.diff(z_B.indptr) if isinstance(z_B, sparse.csr_array) else np.full(tokens, columns)
    if isinstance(z_A, np.ndarray):
        return np.full(z_A.shape[1], per_token.sum(), dtype=np.int64)
    fires = sparse.csr_array((np.ones(len(z_A.indices), np.int64), z_A.indices, z_A.indptr), z_A.shape)
    return np.asarray(fires.T @ per_token.astype(np.int64))


def _array(values: "Csr | DoubleArray") -> DoubleArray:
    return values if isinstance(values, np.ndarray) else values.toarray()


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


def block_cuts(matrices: Sequence[Correlations], memory: int) -> list[int]:
    """Latents of A that bound blocks of at most `memory` bytes, from 0 to F_A, for matrices of one shape.

    No block has dense panels beside sparse ones, and none ends inside of a dense panel: it may need more memory then.
    """
    rows, panel = matrices[0].shape[0], matrices[0].panel
    total = np.concatenate([[0], np.cumsum(np.maximum.reduce([matrix.row_entries() for matrix in matrices]))])
    ways_of = np.stack([matrix.is_dense for matrix in matrices])
    changes = np.append(np.flatnonzero((np.diff(ways_of) != 0).any(axis=0)) * panel + panel, rows)
    within_dense = np.repeat(ways_of.any(axis=0), panel)[:rows] & (np.arange(rows) % panel != 0)
    allowed = np.append(np.flatnonzero(~within_dense), rows)
    max_entries = max(1, memory // ENTRY_BYTES)
    cuts = [0]
    while cuts[-1] < rows:
        fits = int(np.searchsorted(total, total[cuts[-1]] + max_entries, side="right")) - 1
        next_change = int(changes[np.searchsorted(changes, cuts[-1], side="right")])
        after = int(np.searchsorted(allowed, cuts[-1], side="right"))
        at = max(after, int(np.searchsorted(allowed, fits, side="right")) - 1)
        cuts.append(min(int(allowed[at]), next_change))
    return cuts
