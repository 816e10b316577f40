"""The change of one tensor between two models: its size, its rank, and whether it is more than rounding (METHODS 12).

    change = measure(W_A, W_B)
    change.relative                     # ||W_B - W_A||_F / ||W_A||_F
    change.verdict                      # "equal", "rounding" or "changed"
    spectrum(W_A, W_B).rank             # 16 for a merged LoRA of rank 16

A stored weight is known to p bits. Storing a matrix W in a type with p bits moves it by up to its *floor*, ||W|| 2^-p
(bfloat16: p = 8, a change of .16 % in the mean and at most .4 %), and adds noise to all singular values of a change.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch

from diptych.runtime.errors import DiptychError
from diptych.weights.limits import FLOORS

DoubleArray = npt.NDArray[np.float64]
Verdict = Literal["equal", "rounding", "changed"]

CHUNK = 2**18
"""Entries compared at a time: 1 MiB in float32, which stays in the processor's cache."""
GRAM_CHUNK = 2**21
"""Entries multiplied at a time, 16 MiB in float64."""
STEPS = 4.0
"""The same for an entry, in units in its last place."""
SINGLE_BITS = 24
"""Bits of a float32's significand."""
THOUSANDTH = 1e-3
"""Singular values below this share of the first are not counted (METHODS 12)."""


@dataclass(frozen=True)
class Change:
    """Size of the change W_B - W_A of one tensor; norms are Frobenius norms.

    Attributes:
        entries: of the tensor.
        norm_a: ||W_A||.
        norm: ||W_B - W_A||.
        largest: largest |entry| of the change.
        cosine: between W_A and W_B; NaN if one is zero.
        bits: p, bits of the significand of the coarser stored dtype.
        steps: largest change of an entry in units in its last place, 2^(1 - p) max(|a|, |b|); 0 if p is float32's or
            more, where it is not needed.
    """

    entries: int
    norm_a: float
    norm: float
    largest: float
    cosine: float
    bits: int
    steps: float

    @property
    def relative(self) -> float:
        """||W_B - W_A|| / ||W_A||; NaN if W_A is zero and W_B is not."""
        return self.norm / self.norm_a if self.norm_a else (math.nan if self.norm else 0.0)

    @property
    def floor(self) -> float:
        """The rounding of the coarser stored dtype, ||W_A|| 2^-p."""
        return self.norm_a * 2.0**-self.bits

    @property
    def verdict(self) -> Verdict:
        """Whether nothing changed, no more than rounding, or more.

        Rounding is a change below 4 floors. In half precision these are 1.6 % (bfloat16) of the norm, and fine-tunes
        change less; but they move small entries by many units in their last place, as no rounding does. So there no
        entry may have moved by more than 4 units either.
        """
        if not self.norm:
            return "equal"
        return "rounding" if self.norm < FLOORS * self.floor and self.steps <= STEPS else "changed"


def bits_of(dtype: torch.dtype) -> int:
    """Bits of the significand of a floating-point type, the leading one included.

    >>> bits_of(torch.bfloat16), bits_of(torch.float32)
    (8, 24)
    """
    return 1 - round(math.log2(torch.finfo(dtype).eps))


def coarser(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """The one of two floating-point types with fewer bits."""
    return min(a, b, key=bits_of)


def measure(a: torch.Tensor, b: torch.Tensor, name: str = "weights") -> Change:
    """Measure the change from tensor a to tensor b, in one pass.

    Args:
        a: the tensor of A, floating-point.
        b: that of B, of the same shape.
        name: for the message.

    Raises:
        DiptychError: a value is not finite.
    """
    coarse = coarser(a.dtype, b.dtype)
    bits, smallest = bits_of(coarse), torch.finfo(coarse).tiny
    sums = np.zeros(3)
    largest = steps = 0.0
    wide = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    # Memory that is taken anew for every chunk costs more than the sums.
    scratch = torch.empty((3, min(CHUNK, len(flat_a))), dtype=wide)
    for start in range(0, len(flat_a), CHUNK):
        stored_x, stored_y = flat_a[start : start + CHUNK], flat_b[start : start + CHUNK]
        x_, y_, d = scratch[:, : len(stored_x)]
        x = _widened(stored_x, x_)
        sums[0] += float(x @ x)
        if a.dtype == b.dtype and torch.equal(stored_x, stored_y):
            continue
        y = _widened(stored_y, y_)
        torch.sub(y, x, out=d)
        sums[1:] += float(x @ d), float(d @ d)
        largest = max(largest, float(torch.linalg.vector_norm(d, torch.inf)))
        if bits < SINGLE_BITS:
            unit = torch.maximum(torch.abs(x, out=x_), torch.abs(y, out=y_), out=x_).clamp_(min=smallest)
            steps = max(steps, float(torch.linalg.vector_norm(d.div_(unit), torch.inf)) * 2.0 ** (bits - 1))
    if not np.isfinite(sums).all():
        raise DiptychError(f"{name}: holds a value that is not finite, or too large to square; fetch the model again")
    norm_a, norm = math.sqrt(sums[0]), math.sqrt(sums[2])
    return Change(a.numel(), norm_a, norm, largest, _cosine(*sums.tolist()), bits, steps)


def _cosine(square_a: float, product: float, square: float) -> float:
    """The cosine between x and x + d, of x . x, x . d and d . d: exact for small d, as one by their norms is not."""
    norms = math.sqrt(square_a * max(square_a + 2 * product + square, 0.0))
    return min((square_a + product) / norms, 1.0) if norms else math.nan


def _widened(stored: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """A chunk in the dtype of `out`, in its memory; the chunk itself if it has that dtype."""
    return stored if stored.dtype == out.dtype else out.copy_(stored)


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a change W_B - W_A, float64 [min(m, n)] in descending order.

    Attributes:
        values: the singular values.
        noise: largest singular value that rounding alone is expected to give (`noise_edge`).
    """

    values: DoubleArray
    noise: float

    @cached_property
    def stable_rank(self) -> float:
        """||dW||_F^2 / ||dW||_2^2."""
        return float((self.values**2).sum() / self.values[0] ** 2)

    @property
    def above_thousandth(self) -> int:
        """Number of singular values above 1e-3 of the first."""
        return int((self.values > THOUSANDTH * self.values[0]).sum())

    @property
    def rank(self) -> int:
        """Number of singular values above 1e-3 of the first and above the noise of rounding."""
        return int((self.values > max(THOUSANDTH * self.values[0], self.noise)).sum())


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """The shape in which a tensor of two or more axes is a matrix: its last axis by all others.

    Experts [experts, outputs, inputs] then are one matrix of all their outputs, and the rank of their change is at most
    that of all of them together; the kernel of a convolution [channels, 1, width] has a row for each channel.

    >>> matrix_shape((8, 64, 16))
    (512, 16)
    """
    return math.prod(shape[:-1]), shape[-1]


def gram(a: torch.Tensor, b: torch.Tensor) -> DoubleArray:
    """Products of the change D = W_B - W_A along its shorter side, D^T D or D D^T, float64 [min(m, n), min(m, n)].

    Args:
        a: W_A [m, n].
        b: W_B [m, n].
    """
    tall_a, tall_b = (x if x.shape[0] >= x.shape[1] else x.T for x in (a, b))
    n = tall_a.shape[1]
    total = np.zeros((n, n))
    step = max(1, GRAM_CHUNK // n)
    for start in range(0, len(tall_a), step):
        rows = slice(start, start + step)
        d = (tall_b[rows].double() - tall_a[rows].double()).numpy()
        total += d.T @ d
    return total


def spectrum(a: torch.Tensor, b: torch.Tensor) -> Spectrum:
    """All singular values of the change from matrix a to matrix b.

    They are the roots of the Gram matrix' eigenvalues, in float64: those from 1e-7 of the first on are exact to
    a thousandth, and the smaller ones, which are not, count for nothing here.
    """
    eigenvalues = scipy.linalg.eigvalsh(gram(a, b), driver="evd", overwrite_a=True, check_finite=False)
    values: DoubleArray = np.sqrt(np.maximum(eigenvalues[::-1], 0.0))
    return Spectrum(values, noise_edge(b, bits_of(coarser(a.dtype, b.dtype))))


def noise_edge(w: torch.Tensor, bits: int) -> float:
    """The largest singular value of the rounding noise of a matrix that is stored with p = `bits` bits.

    An entry's rounding is at most uniform over one unit in its last place, 2^(1 - p) |w|, so its standard deviation
    s_ij is at most 2^(1 - p) |w_ij| / sqrt(12). The largest singular value of independent noise is about

        max_i (sum_j s_ij^2)^1/2 + max_j (sum_i s_ij^2)^1/2

    (Bandeira and van Handel 2016), which for equal s is s (sqrt(m) + sqrt(n)).
    """
    by_row, by_column = np.zeros(w.shape[0]), np.zeros(w.shape[1])
    step = max(1, GRAM_CHUNK // w.shape[1])
    for start in range(0, len(w), step):
        squares = w[start : start + step].double().square_()
        by_row[start : start + step] = squares.sum(1).numpy()
        by_column += squares.sum(0).numpy()
    deviation = 2.0 ** (1 - bits) / math.sqrt(12)
    return float(deviation * (math.sqrt(by_row.max()) + math.sqrt(by_column.max())))


@dataclass(frozen=True)
class Vectors:
    """The first k singular vectors of a change: `left` [k, m], `right` [k, n] unit rows, and their `values` [k]."""

    left: DoubleArray
    right: DoubleArray
    values: DoubleArray


def first_vectors(a: torch.Tensor, b: torch.Tensor, k: int) -> Vectors:
    """The first k singular vectors of the change from matrix a [m, n] to matrix b, each with the sign of the left one.

    The largest entry of a left vector is positive.
    """
    products = gram(a, b)
    n = len(products)
    k = min(k, n)
    eigenvalues, short = scipy.linalg.eigh(
        products, subset_by_index=(n - k, n - 1), overwrite_a=True, check_finite=False
    )
    values, short = np.sqrt(np.maximum(eigenvalues[::-1], 0.0)), short[:, ::-1]
    is_tall = a.shape[0] >= a.shape[1]
    tall_a, tall_b = (x if is_tall else x.T for x in (a, b))
    long = np.zeros((len(tall_a), k))
    step = max(1, GRAM_CHUNK // n)
    for start in range(0, len(long), step):
        rows = slice(start, start + step)
        long[rows] = (tall_b[rows].double() - tall_a[rows].double()).numpy() @ short
    long /= np.maximum(np.linalg.norm(long, axis=0), np.finfo(float).tiny)
    left, right = (long, short) if is_tall else (short, long)
    sign = np.where(np.take_along_axis(left, np.abs(left).argmax(0)[None], 0)[0] < 0, -1.0, 1.0)
    return Vectors((left * sign).T, (right * sign).T, values)
