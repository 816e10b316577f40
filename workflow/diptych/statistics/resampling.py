"""Sign-flip and permutation tests, bootstrap intervals and false-discovery rates.

Two models are read on the same prompts (or documents) and each gives one number per unit. If nothing changed, the
labels A and B are exchangeable within every unit, so the sum of the differences is one draw from the sums with
random signs. No distribution is assumed:

    >>> import numpy as np
    >>> print(sign_flip_p(np.array([[1.0, 2.0, 3.0]])))  # 2 of the 8 signings reach |1 + 2 + 3|
    [0.25]
    >>> print(permutation_p(np.array(3.0), np.array([1.0, 4.0, 2.0])))  # (1 + 1) / (1 + 3)
    0.5

Signs of few units are enumerated; for many the tail is a saddlepoint approximation, so that p can be as small as
2^(1 - units), which a million tests need and a thousand random flips cannot give.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from scipy import sparse, special

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SMALLEST_P = float(np.finfo(np.float64).tiny)
"""A p below the smallest normal double is reported as that double: p is never 0."""
TIE = 1e-10
"""Two sums closer than this share of the row's sum of sizes are equal (rounding of a few thousand additions)."""
DOMINANT = 0.15
"""A unit with more than this share of sum d^2 makes the null bimodal; it is conditioned on, not approximated."""
MAX_CONDITIONED = 6
"""At most this many units are conditioned on (64 branches)."""
CHUNK = 2**18
"""Entries (or subset sums) handled at once, 2 MiB."""


class Interval(NamedTuple):
    """Lower and upper bound of a statistic, same shape."""

    lo: FloatArray
    hi: FloatArray


def sign_flip_p(
    differences: npt.ArrayLike | sparse.csr_array, *, two_sided: bool = True, exact_below: int = 12
) -> FloatArray:
    """p of the sum of each row under random signs of its units (METHODS 4).

    Exact by enumeration wherever fewer than `exact_below` units matter (few non-zero units, or a sum so extreme that
    only few of them can be flipped), else the Lugannani-Rice saddlepoint of the sign-flip sum.

    Args:
        differences: [K, n_units] dense or CSR; zeros are ignored.
        two_sided: P(|S| >= |sum|); otherwise P(S >= sum), small for a positive sum.
        exact_below: fewer units than this are enumerated (at most 2^11 sums by default).

    Returns:
        p [K], > 0; 1 for a row of zeros; NaN for a row with NaN.
    """
    rows: Any = differences if sparse.issparse(differences) else np.atleast_2d(np.asarray(differences))
    matrix: sparse.csr_array = sparse.csr_array(rows.astype(np.float64))
    matrix.eliminate_zeros()
    p = np.ones(matrix.shape[0])
    for index, values in _padded_chunks(matrix):
        total = values.sum(axis=1)
        is_finite = np.isfinite(total)
        sizes = -np.sort(-np.abs(values[is_finite]), axis=1)
        total = total[is_finite]
        total[np.abs(total) <= TIE * sizes.sum(axis=1)] = 0.0
        if two_sided:
            tail = np.where(total == 0.0, 1.0, 2.0 * _upper_tail(sizes, np.abs(total), exact_below))
        else:
            tail = _upper_tail(sizes, total, exact_below)
        p[index] = np.nan
        p[index[is_finite]] = np.clip(tail, SMALLEST_P, 1.0)
    return p


def sign_flip_effect(differences: npt.ArrayLike) -> FloatArray:
    """Standardised mean of each row [K, n]: mean / sd (population), at most sqrt(n) in size; 0 for a row of zeros.

    sqrt(n) is what one zero among equal differences gives, so a row without any spread stays finite (METHODS 4).
    """
    h = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    return standardised_mean(h.mean(axis=1), (h**2).mean(axis=1), h.shape[1])


def standardised_mean(mean: FloatArray, mean_square: FloatArray, n: int) -> FloatArray:
    """mean / sd from the first two moments, clipped to +-sqrt(n) (see `sign_flip_effect`); 0 where the mean is 0."""
    variance = np.maximum(mean_square - mean**2, 0.0)
    sd = np.sqrt(np.where(variance <= 1e-12 * mean_square, 0.0, variance))
    bound = np.sqrt(n)
    ratio = np.divide(mean, sd, out=np.sign(mean) * bound, where=sd > 0.0)
    return cast(FloatArray, np.clip(ratio, -bound, bound))


def benjamini_hochberg(p: npt.ArrayLike) -> FloatArray:
    """Benjamini-Hochberg q-values over all entries of `p` (any shape); NaN stays NaN and is outside the family."""
    values = np.asarray(p, dtype=np.float64)
    q = np.full(values.shape, np.nan)
    tested = ~np.isnan(values)
    if tested.any():
        from scipy import stats  # .6 s to import, which stages without q-values avoid

        q[tested] = stats.false_discovery_control(values[tested], method="bh")
    return q


def permutation_p(observed: npt.ArrayLike, null: npt.ArrayLike) -> FloatArray:
    """(1 + #{null >= observed}) / (1 + N) (METHODS 0.3).

    Args:
        observed: any shape [...].
        null: [N] one null for all, or [N, ...] one for each; N resamples along the first axis.

    Returns:
        p of the shape of `observed`, NaN where `observed` is NaN.
    """
    value = np.asarray(observed, dtype=np.float64)
    draws = np.asarray(null, dtype=np.float64)
    if draws.ndim == 1:
        reached = len(draws) - np.searchsorted(np.sort(draws), value, side="left")
    else:
        reached = (draws >= value).sum(axis=0)
    return np.where(np.isnan(value), np.nan, (1.0 + reached) / (1.0 + len(draws)))


def mcnemar_exact(gained: npt.ArrayLike, lost: npt.ArrayLike) -> FloatArray:
    """Two-sided exact binomial p on discordant units: `gained` fire in B only, `lost` in A only; 1 where none do."""
    b, c = np.broadcast_arrays(np.asarray(gained, dtype=np.float64), np.asarray(lost, dtype=np.float64))
    p = 2.0 * special.bdtr(np.minimum(b, c), (b + c).astype(np.int64), 0.5)
    return cast(FloatArray, np.clip(p, SMALLEST_P, 1.0))


def poisson_bootstrap(
    values: npt.ArrayLike,
    statistic: Callable[[FloatArray], FloatArray] | None = None,
    *,
    n: int = 1000,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a function of sums over units, each unit weighted by an independent Poisson(1).

    The interval of a ratio of two sums over documents, with columns (numerator, denominator):

        poisson_bootstrap(columns, lambda sums: sums[:, 0] / sums[:, 1], seed=0)

    Args:
        values: [n_units, ...], each unit's contribution to the sums; a column of ones gives the count.
        statistic: maps the sums of n replicates [n, ...] to [n, ...]; None for the mean over units.
        n: replicates.
        seed: of the weights; calls with equal seed and number of units use the same weights.
        level: coverage.

    Returns:
        Interval; NaN where more than (1 - level) / 2 of the replicates are not finite.
    """
    units = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    flat = units.reshape(len(units), -1)
    replicates = []
    block = max(1, 2**22 // max(1, len(units)))
    for start in range(0, n, block):
        weights = rng.poisson(1.0, size=(min(block, n - start), len(units))).astype(np.float64)
        sums = (weights @ flat).reshape(-1, *units.shape[1:])
        if statistic is None:
            count = weights.sum(axis=1).reshape(-1, *[1] * (units.ndim - 1))
            replicates.append(np.divide(sums, count, out=np.full_like(sums, np.nan), where=count > 0))
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                replicates.append(np.asarray(statistic(sums), dtype=np.float64))
    return percentiles(np.concatenate(replicates), level)


def document_weights(documents: IntArray, *, n: int, seed: int) -> FloatArray:
    """Poisson(1) weights of documents in n bootstrap replicates, [n, documents].

    The weights of a document depend on its number and the seed alone, so that statistics of several models on one text
    can be compared replicate by replicate, whichever documents each of them counts.
    """
    draws = [np.random.default_rng([seed, int(document)]).poisson(1.0, n) for document in documents]
    return np.array(draws, dtype=np.float64).reshape(len(draws), n).T


def percentiles(replicates: FloatArray, level: float = 0.95) -> Interval:
    """Percentile interval of replicates [n, ...]; NaN where more than (1 - level) / 2 of them are not finite."""
    edge = (1.0 - level) / 2.0
    finite = np.isfinite(replicates)
    mostly_finite = finite.mean(axis=0) >= 1.0 - edge
    all_finite = finite.all(axis=0)
    bounds = np.full((2, *mostly_finite.shape), np.nan)
    # numpy skips NaN column by column, twenty times slower than it ranks all columns at once.
    bounds[:, all_finite] = np.quantile(replicates[:, all_finite], [edge, 1.0 - edge], axis=0)
    if (partly := mostly_finite & ~all_finite).any():
        some = np.where(finite[:, partly], replicates[:, partly], np.nan)
        bounds[:, partly] = np.nanquantile(some, [edge, 1.0 - edge], axis=0)
    return Interval(bounds[0], bounds[1])


def _padded_chunks(matrix: sparse.csr_array) -> Iterator[tuple[IntArray, FloatArray]]:
    """Non-empty rows of similar length, their indices and their values as dense [k, m] padded with zeros."""
    length = np.diff(matrix.indptr)
    order = np.argsort(length, kind="stable")
    order = order[length[order] > 0]
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop - start + 1) * length[order[stop]] <= CHUNK:
            stop += 1
        index = order[start:stop]
        width = int(length[index[-1]])
        is_entry = np.arange(width) < length[index, None]
        values = np.zeros(is_entry.shape)
        values[is_entry] = matrix.data[(matrix.indptr[index, None] + np.arange(width))[is_entry]]
        yield index, values
        start = stop


def _upper_tail(sizes: FloatArray, threshold: FloatArray, exact_below: int, conditioned: int = 0) -> FloatArray:
    """P(S >= threshold) of S = sum of randomly signed `sizes` [k, m] (descending, zeros at the end)."""
    total = sizes.sum(axis=1)
    tie = TIE * total
    below = threshold < -tie
    # P(S >= -x) = 1 - P(S > x); one tie above x turns > into >=.
    x = np.where(below, -threshold + 3.0 * tie, threshold)
    slack = (total - x) / 2.0
    n_flippable = ((sizes > 0.0) & (sizes <= (slack + tie)[:, None])).sum(axis=1)
    p = np.zeros(len(sizes))
    possible = slack >= -tie
    exact = possible & (n_flippable < exact_below)
    for count in np.unique(n_flippable[exact]):
        rows = np.flatnonzero(exact & (n_flippable == count))
        p[rows] = _enumerate(sizes[rows], (slack + tie)[rows], int(count))
    dominated = np.zeros(len(sizes), dtype=bool)
    if conditioned < MAX_CONDITIONED:
        dominated = possible & ~exact & (sizes[:, 0] ** 2 > DOMINANT * (sizes**2).sum(axis=1))
    if dominated.any():
        rest, largest, y = sizes[dominated, 1:], sizes[dominated, 0], x[dominated]
        plus = _upper_tail(rest, y - largest, exact_below, conditioned + 1)
        p[dominated] = (plus + _upper_tail(rest, y + largest, exact_below, conditioned + 1)) / 2.0
    smooth = possible & ~exact & ~dominated
    if smooth.any():
        p[smooth] = _lugannani_rice(sizes[smooth], x[smooth])
    return np.where(below, 1.0 - p, p)


def _enumerate(sizes: FloatArray, slack: FloatArray, count: int) -> FloatArray:
    """Share of the 2^units signings whose flipped units sum to at most `slack`; only the `count` smallest can be."""
    units = (sizes > 0.0).sum(axis=1)
    small = np.take_along_axis(sizes, units[:, None] - 1 - np.arange(count), axis=1)
    p = np.empty(len(sizes))
    block = max(1, CHUNK >> count)
    for start in range(0, len(sizes), block):
        sums = np.zeros((len(small[start : start + block]), 1))
        for column in small[start : start + block].T:
            sums = np.concatenate([sums, sums + column[:, None]], axis=1)
        p[start : start + block] = (sums <= slack[start : start + block, None]).sum(axis=1)
    return cast(FloatArray, p * np.exp2(-units.astype(np.float64)))


def _lugannani_rice(sizes: FloatArray, threshold: FloatArray) -> FloatArray:
    """Saddlepoint P(S >= threshold), threshold >= 0, with K(t) = sum log cosh(t a) and K'(t) = threshold.

    P = 1 - Phi(w) + phi(w) (1/u - 1/w), w = sqrt(2 (t x - K)), u = t sqrt(K''). If all sizes are multiples of the
    smallest, S lives on a lattice of twice that span, and u = (1 - exp(-span t)) / span sqrt(K'') counts the atom at x.
    """
    scale = np.sqrt((sizes**2).sum(axis=1))
    a = sizes / scale[:, None]
    x, span = _to_lattice(a, threshold / scale)
    t = _saddlepoint(a, x)
    ta = t[:, None] * a
    cumulant = (ta + np.log1p(np.exp(-2.0 * ta)) - np.log(2.0)).sum(axis=1)
    deviation = np.sqrt((a**2 / np.cosh(np.minimum(ta, 300.0)) ** 2).sum(axis=1))
    w = np.sqrt(np.maximum(2.0 * (t * x - cumulant), 0.0))
    centre = w < 1e-3
    safe_w, safe_t = np.where(centre, 1.0, w), np.where(centre, 1.0, t)
    lattice = span > 0.0
    step = np.where(lattice, -np.expm1(-span * safe_t) / np.where(lattice, span, 1.0), safe_t)
    correction = 1.0 / (step * deviation) - 1.0 / safe_w
    density = np.exp(-0.5 * w**2) / np.sqrt(2.0 * np.pi)
    # At the centre 1/u - 1/w tends to half the lattice step (K''' = 0 by symmetry).
    p = special.ndtr(-w) + density * np.where(centre, span / 2.0, correction)
    floor = np.exp2(-(sizes > 0.0).sum(axis=1).astype(np.float64))
    return cast(FloatArray, np.clip(p, floor, 1.0))


def _to_lattice(a: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The next attainable sum >= x and the lattice span where all sizes are multiples of the smallest; else x and 0."""
    smallest = np.where(a > 0.0, a, np.inf).min(axis=1)
    ratio = a / smallest[:, None]
    lattice = (np.abs(ratio - np.rint(ratio)) < 1e-7).all(axis=1)
    total = a.sum(axis=1)
    span = 2.0 * smallest
    snapped = total - span * np.floor((total - x + TIE * total) / span)
    return np.where(lattice, np.maximum(snapped, 0.0), x), np.where(lattice, span, 0.0)


def _saddlepoint(a: FloatArray, x: FloatArray) -> FloatArray:
    """t with sum a tanh(t a) = x, rows of unit norm. K' is concave for t > 0: Newton from t = x never oversteps."""
    t = x.copy()
    for _ in range(100):
        hyperbolic = np.tanh(t[:, None] * a)
        residual = x - (a * hyperbolic).sum(axis=1)
        t = t + residual / (a**2 * (1.0 - hyperbolic**2)).sum(axis=1)
        if (np.abs(residual) <= 1e-11 * (1.0 + x)).all():
            break
    return t
