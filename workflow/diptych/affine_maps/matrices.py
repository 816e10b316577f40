"""Float64 matrices on the CPU (numpy and LAPACK) or on a GPU (torch): what their operators do not provide.

    C = matrices.on("cuda:0", C)                       # or "cpu": unchanged
    values, vectors = matrices.eigh(C)                 # computed where C lies
    error = matrices.to_numpy((vectors * values).sum(axis=0))

A `Matrix` is an array or a tensor. `@`, `*`, `.T`, slices, `sum(axis=)` and `diagonal()` are the same for both, so that
one text of a formula runs on either; a function here takes LAPACK for an array and torch for a tensor.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.linalg import blas

DoubleArray = npt.NDArray[np.float64]
Matrix: TypeAlias = Any
"""A float64 numpy array or CUDA tensor; also one of a single dimension."""

ROW_BLOCKS = 8
"""Blocks of rows of a symmetric product: of its two equal triangles 1 + 1/8 are computed."""


def on(device: str, values: npt.ArrayLike) -> Matrix:
    """The values as float64 on a device: an array for `cpu`, a tensor for `cuda[:i]`."""
    array = np.asarray(values, dtype=np.float64)
    return array if device == "cpu" else _tensor(array, device)


def like(values: npt.ArrayLike, other: Matrix) -> Matrix:
    """The values as float64 of the type and on the device of another matrix."""
    array = np.asarray(values, dtype=np.float64)
    return array if isinstance(other, np.ndarray) else _tensor(array, other.device)


def _tensor(array: npt.NDArray[np.floating[Any]], device: Any) -> Matrix:
    import torch  # slow to import, and only needed on a GPU

    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def single_on(device: str, values: npt.NDArray[np.float32]) -> Matrix:
    """A float32 array on a device: unchanged for `cpu`, a tensor for `cuda[:i]`."""
    return values if device == "cpu" else _tensor(values, device)


def to_numpy(values: Matrix) -> DoubleArray:
    """The values in the memory of the CPU."""
    array: DoubleArray = values if isinstance(values, np.ndarray) else values.cpu().numpy()
    return array


def stack(vectors: Sequence[Matrix]) -> Matrix:
    """Vectors [d] as the rows of a matrix."""
    if isinstance(vectors[0], np.ndarray):
        return np.stack(vectors)
    import torch

    return torch.stack(list(vectors))


def single(matrix: Matrix) -> Matrix:
    """The matrix in float32: products and decompositions in half of the time."""
    return matrix.astype(np.float32) if isinstance(matrix, np.ndarray) else matrix.float()


def columns(first: Matrix, second: Matrix) -> Matrix:
    """The columns of both matrices side by side; of two vectors, one after the other."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second], axis=-1)
    import torch

    return torch.cat([first, second], dim=-1)


def trace(matrix: Matrix) -> float:
    """Sum of the diagonal."""
    return float(matrix.diagonal().sum())


def add_to_diagonal(matrix: Matrix, value: float) -> Matrix:
    """matrix + value I, a new matrix."""
    shifted: Matrix = matrix.copy() if isinstance(matrix, np.ndarray) else matrix.clone()
    indices = range(min(matrix.shape))
    shifted[indices, indices] += value
    return shifted


def eigh(symmetric: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues, increasing, and eigenvectors in columns."""
    if isinstance(symmetric, np.ndarray):
        # In float32 scipy's driver takes less than half of numpy's time.
        values, vectors = linalg.eigh(symmetric, driver="evd", check_finite=False)
        return values, vectors
    import torch

    values, vectors = torch.linalg.eigh(symmetric)
    return values, vectors


def eigenvectors(symmetric: Matrix, start: int, stop: int) -> Matrix:
    """Eigenvectors of the eigenvalues start .. stop - 1 in increasing order, in columns."""
    if isinstance(symmetric, np.ndarray):
        if start == stop:
            return np.zeros((len(symmetric), 0))
        vectors: DoubleArray = linalg.eigh(symmetric, subset_by_index=(start, stop - 1), check_finite=False)[1]
        return vectors
    return eigh(symmetric)[1][:, start:stop]


def eigvalsh(symmetric: Matrix) -> DoubleArray:
    """Eigenvalues, increasing."""
    if isinstance(symmetric, np.ndarray):
        values: DoubleArray = np.linalg.eigvalsh(symmetric)
        return values
    import torch

    return to_numpy(torch.linalg.eigvalsh(symmetric))


def svd(matrix: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """U, s, V^T of the thin singular value decomposition."""
    if isinstance(matrix, np.ndarray):
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        return left, values, right
    import torch

    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left, values, right


def orthonormal(matrix: Matrix) -> Matrix:
    """Orthonormal basis of the column space of a tall matrix: Q of its QR decomposition."""
    if isinstance(matrix, np.ndarray):
        return np.linalg.qr(matrix)[0]
    import torch

    return torch.linalg.qr(matrix)[0]


def complement(orthonormal_columns: Matrix) -> Matrix:
    """Orthonormal basis, in columns, of what is orthogonal to all of these columns."""
    n = orthonormal_columns.shape[1]
    if isinstance(orthonormal_columns, np.ndarray):
        return np.linalg.qr(orthonormal_columns, mode="complete")[0][:, n:]
    import torch

    return torch.linalg.qr(orthonormal_columns, mode="complete")[0][:, n:]


def cholesky(positive: Matrix) -> Matrix:
    """Lower triangular L with L L^T equal to a symmetric positive definite matrix."""
    if isinstance(positive, np.ndarray):
        return linalg.cholesky(positive, lower=True, check_finite=False)
    import torch

    return torch.linalg.cholesky(positive)


def solve_triangular(lower: Matrix, right: Matrix, *, transposed: bool = False) -> Matrix:
    """L^-1 right, or L^-T right if `transposed`, for a lower triangular L."""
    if isinstance(lower, np.ndarray):
        return linalg.solve_triangular(lower, right, lower=True, trans="T" if transposed else "N", check_finite=False)
    import torch

    return torch.linalg.solve_triangular(lower.T if transposed else lower, right, upper=transposed)


def upper_gram(rows: Matrix) -> Matrix:
    """X^T X of float32 rows X in C order, at least its upper triangle."""
    if isinstance(rows, np.ndarray):
        return blas.ssyrk(1.0, rows.T)  # rows.T is Fortran-ordered: no copy, half the work of a full product
    return rows.T @ rows


def symmetric(upper: Matrix) -> Matrix:
    """The symmetric matrix with this upper triangle."""
    if isinstance(upper, np.ndarray):
        mirrored: DoubleArray = upper.T.copy()
        above = np.triu_indices(len(mirrored), 1)
        mirrored[above] = upper[above]
        return mirrored
    return upper.triu() + upper.triu(1).T


def quadratic_forms(symmetric: Matrix, columns: Matrix) -> Matrix:
    """x^T S x of every column x, from the lower triangle of S: half the work of S @ columns."""
    forms = 0.0
    for start, stop in _row_blocks(len(symmetric)):
        rows = symmetric[start:stop]
        product = rows[:, start:stop] @ columns[start:stop]
        if start:
            product += 2 * (rows[:, :start] @ columns[:start])
        forms = forms + (columns[start:stop] * product).sum(axis=0)
    return forms


def folded_product(left: Matrix, right: Matrix) -> Matrix:
    """A symmetric product S = left @ right folded: its upper block triangle, blocks off the diagonal doubled.

    x^T (F * W) x equals x^T (S * W) x for a symmetric W, and F takes little more than half of the work of S.
    """
    folded = 0.0 * right
    for start, stop in _row_blocks(len(left)):
        rows = left[start:stop] @ right[:, start:]
        rows[:, stop - start :] *= 2
        folded[start:stop, start:] = rows
    return folded


def _row_blocks(n: int) -> Iterator[tuple[int, int]]:
    size = -(-n // ROW_BLOCKS)
    return ((start, min(start + size, n)) for start in range(0, n, size))
