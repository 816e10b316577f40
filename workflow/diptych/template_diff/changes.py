"""Statistics and tests of every latent's change between two models at every template token (METHODS 4).

For each latent and role three numbers are compared: the mean over all prompts, the mean over prompts where it fires,
and how often it fires. A gain is B minus A. Each has a difference h per prompt whose sum is tested by exchanging A
and B inside prompts: alone (exact, or a saddlepoint tail) and in the family of all tests (max-T):

    comparison = compare(codes, flips=1000, seed=0)         # codes: codes.Codes
    comparison.tests["newline"]["density"].gain             # [E], density in B minus density in A
    comparison.tests["newline"]["density"].q                # [E], Benjamini-Hochberg over latents, roles and metrics

All is computed from sparse codes, so that a latent that fires on no prompt costs nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from diptych.statistics import max_t, resampling
from diptych.template_diff.codes import Codes

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

METRICS = ("all_mean", "active_mean", "density")
QUANTILES = {"p90": 0.90, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Changes:
    """Codes of the eligible latents of one role in both models, float64 CSR [E, n]: one row per latent.

    Attributes:
        latent: int64 [E], ascending.
        a: codes of model A.
        b: codes of model B.
    """

    latent: IntArray
    a: sparse.csr_array
    b: sparse.csr_array

    def h(self, metric: str) -> sparse.csr_array:
        """Per-prompt difference h whose sum is tested by random signs for `metric` (METHODS 4), CSR [E, n].

        d = b - a (all_mean); delta = 1[b > 0] - 1[a > 0] (density); d - m delta (active_mean), m the mean activation
        over the firings of both models. The last is exact when A and B are exchangeable within a prompt, and only
        asymptotic for "equal active mean" alone.
        """
        difference, delta = self.b - self.a, self.b.sign() - self.a.sign()
        if metric == "all_mean":
            h = difference
        elif metric == "density":
            h = delta
        else:
            firings = self.a.sign().sum(axis=1) + self.b.sign().sum(axis=1)
            pooled = (self.a.sum(axis=1) + self.b.sum(axis=1)) / np.maximum(firings, 1.0)
            h = difference - sparse.diags_array(pooled) @ delta
            # A latent that always fires with one value leaves b - m = rounding, which is not a difference.
            h.data[np.abs(h.data) <= 1e-12 * np.repeat(pooled, np.diff(h.indptr))] = 0.0
        result = sparse.csr_array(h)
        result.eliminate_zeros()
        return result


class MetricTest(NamedTuple):
    """Gains of one metric at one role and their tests, float64 [E] each; `gain` is NaN where a model never fires."""

    gain: FloatArray
    statistic: FloatArray
    effect: FloatArray
    p: FloatArray
    q: FloatArray
    p_family: FloatArray


@dataclass(frozen=True)
class Comparison:
    """Statistics and tests of a template diff.

    Attributes:
        a: role -> statistic -> float64 [F], model A (see `describe`).
        b: the same of model B.
        changes: role -> codes of the eligible latents.
        tests: role -> metric -> tests of the eligible latents.
        maxima: maximum of all statistics under each sign flip, float64 [flips].
    """

    a: Mapping[str, Mapping[str, FloatArray]]
    b: Mapping[str, Mapping[str, FloatArray]]
    changes: Mapping[str, Changes]
    tests: Mapping[str, Mapping[str, MetricTest]]
    maxima: FloatArray


def describe(codes: sparse.csr_array) -> dict[str, FloatArray]:
    """Statistics of each latent over n prompts.

    Args:
        codes: CSR [n, F], values >= 0.

    Returns:
        float64 [F] each: all_mean, all_std (over all prompts), active_mean, active_std, active_min, p90, p95, p99 (over
        prompts where it fires; NaN if there is none; standard deviations are the population's), max, num_active,
        density = num_active / n.
    """
    n, n_features = codes.shape
    columns = codes.tocsc()
    latent = np.repeat(np.arange(n_features), np.diff(columns.indptr))
    order = np.lexsort((columns.data, latent))
    order = order[columns.data[order] > 0]
    latent, value = latent[order], columns.data[order].astype(np.float64)
    count = np.bincount(latent, minlength=n_features)
    fires = count > 0
    start = np.cumsum(count) - count
    total = np.bincount(latent, weights=value, minlength=n_features)
    active_mean = np.divide(total, count, out=np.full(n_features, np.nan), where=fires)
    squares = np.bincount(latent, weights=(value - active_mean[latent]) ** 2, minlength=n_features)
    all_mean = total / n
    between = count * np.where(fires, active_mean - all_mean, 0.0) ** 2 + (n - count) * all_mean**2
    statistics = {
        "all_mean": all_mean,
        "all_std": np.sqrt((squares + between) / n),
        "active_mean": active_mean,
        "active_std": np.sqrt(np.divide(squares, count, out=np.full(n_features, np.nan), where=fires)),
        "active_min": _at_quantile(value, start, count, 0.0),
        "max": np.nan_to_num(_at_quantile(value, start, count, 1.0)),
        "num_active": count.astype(np.float64),
        "density": count / n,
    }
    return statistics | {name: _at_quantile(value, start, count, share) for name, share in QUANTILES.items()}


def _at_quantile(value: FloatArray, start: IntArray, count: IntArray, share: float) -> FloatArray:
    """Linearly interpolated quantile of each latent's ascending values [start, start + count); NaN without values."""
    quantile = np.full(len(count), np.nan)
    fires = count > 0
    position = share * (count[fires] - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, count[fires] - 1)
    lower, upper = value[start[fires] + low], value[start[fires] + high]
    quantile[fires] = lower + (upper - lower) * (position - low)
    return quantile


def eligible(codes_a: sparse.csr_array, codes_b: sparse.csr_array, min_share: float) -> IntArray:
    """Latents that fire in A or B on at least `min_share` of the prompts; swapping A and B changes nothing."""
    either = sparse.csr_array(codes_a + codes_b)
    firing = np.bincount(either.indices[either.data > 0], minlength=codes_a.shape[1])
    return np.flatnonzero(firing >= max(1.0, np.ceil(min_share * codes_a.shape[0] - 1e-9)))


def compare(codes: Codes, *, min_share: float = 0.01, flips: int = 1000, seed: int = 0) -> Comparison:
    """Statistics, tests and family-wise p of every eligible latent, role and metric.

    Args:
        codes: both models at every role.
        min_share: a latent must fire in A or B on this share of the prompts.
        flips: sign flips for the family-wise p.
        seed: of the flips.
    """
    statistics = [{role: describe(side[role]) for role in codes.roles} for side in (codes.a, codes.b)]
    changes = {}
    for role in codes.roles:
        latent = eligible(codes.a[role], codes.b[role], min_share)
        changes[role] = Changes(latent, _transposed(codes.a[role], latent), _transposed(codes.b[role], latent))
    unadjusted = {
        (role, metric): _test(changes[role], metric, statistics[0][role][metric], statistics[1][role][metric])
        for role in codes.roles
        for metric in METRICS
    }
    maxima = max_t.null_maxima(_family(changes), flips=flips, seed=seed)
    q = resampling.benjamini_hochberg(np.concatenate([test.p for test in unadjusted.values()]))
    q_of_tests = np.split(q, np.cumsum([len(test.p) for test in unadjusted.values()])[:-1])
    tests: dict[str, dict[str, MetricTest]] = {role: {} for role in codes.roles}
    for ((role, metric), test), test_q in zip(unadjusted.items(), q_of_tests, strict=True):
        tests[role][metric] = test._replace(q=test_q, p_family=max_t.family_p(test.statistic, maxima))
    return Comparison(statistics[0], statistics[1], changes, tests, maxima)


def _transposed(codes: sparse.csr_array, latent: IntArray) -> sparse.csr_array:
    rows = sparse.csr_array(codes.tocsc()[:, latent].T.astype(np.float64))
    rows.eliminate_zeros()
    rows.sort_indices()
    return rows


def _family(changes: Mapping[str, Changes]) -> sparse.csr_array:
    """Rows h of every role and metric; active_mean only where it differs from all_mean (some prompt is discordant)."""
    rows: list[Any] = []
    for change in changes.values():
        delta = change.h("density")
        discordant = np.diff(delta.indptr) > 0
        rows += [change.h("all_mean"), delta[discordant], change.h("active_mean")[discordant]]
    return sparse.csr_array(sparse.vstack(rows, format="csr"))


def _test(changes: Changes, metric: str, a: FloatArray, b: FloatArray) -> MetricTest:
    """Gain, statistic, effect and p of one metric; q and the family-wise p are NaN, to be filled in later."""
    h = changes.h(metric)
    n = h.shape[1]
    total = np.asarray(h.sum(axis=1), dtype=np.float64)
    size = np.asarray(abs(h).sum(axis=1), dtype=np.float64)
    total[np.abs(total) <= resampling.TIE * size] = 0.0
    mean_square = np.asarray(h.multiply(h).sum(axis=1), dtype=np.float64) / n
    if metric == "density":
        lost = (size - total) / 2.0
        p = resampling.mcnemar_exact(size - lost, lost)
    else:
        p = resampling.sign_flip_p(h)
    undefined = np.full(len(p), np.nan)
    return MetricTest(
        gain=b[changes.latent] - a[changes.latent],
        statistic=max_t.flip_statistic(h),
        effect=resampling.standardised_mean(total / n, mean_square, n),
        p=p,
        q=undefined,
        p_family=undefined,
    )
