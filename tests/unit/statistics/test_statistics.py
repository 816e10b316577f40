import doctest
import itertools

import numpy as np
import pytest
from scipy import sparse, stats

from diptych.statistics import resampling


def brute_force(differences: np.ndarray) -> float:
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=len(differences))))
    return float((np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean())


def test_examples_in_the_module_hold():
    assert doctest.testmod(resampling).failed == 0


def test_enumeration_equals_brute_force():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 8, 11):
        for values in (rng.normal(0.5, 1, n), rng.integers(-2, 4, n).astype(float), np.ones(n)):
            padded = np.concatenate([values, np.zeros(5)])
            assert resampling.sign_flip_p(padded)[0] == pytest.approx(brute_force(values), rel=1e-12)


def test_one_sided_enumeration_counts_sums_at_least_as_large():
    d = np.array([[1.0, 2.0, -4.0], [-1.0, -2.0, 4.0], [2.0, 2.0, -1.0]])
    sums = np.array(list(itertools.product([-1.0, 1.0], repeat=3))) @ np.abs(d).T
    expected = (sums >= d.sum(axis=1) - 1e-12).mean(axis=0)
    assert resampling.sign_flip_p(d, two_sided=False) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["normal", "heavy", "one unit dominates", "three units dominate", "small counts"])
def test_saddlepoint_is_within_a_few_percent_of_all_signings(kind):
    rng = np.random.default_rng(1)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=16)))
    draws = {
        "normal": lambda: rng.normal(0.3, 1, 16),
        "heavy": lambda: rng.standard_t(1.5, 16) + 0.3,
        "one unit dominates": lambda: rng.choice([-1.0, 1.0], 16) * np.r_[50.0, rng.uniform(0.5, 1.5, 15)],
        "three units dominate": lambda: rng.choice([-1.0, 1.0], 16, p=[0.3, 0.7]) * np.r_[30, 20, 9, rng.random(13)],
        "small counts": lambda: rng.choice([-1.0, 1.0], 16, p=[0.3, 0.7]) * rng.integers(1, 4, 16),
    }
    rows = np.array([draws[kind]() for _ in range(40)])
    exact = np.array([(np.abs(signs @ row) >= abs(row.sum()) - 1e-9).mean() for row in rows])
    error = np.abs(resampling.sign_flip_p(rows) / exact - 1)
    assert np.median(error) < 0.01
    assert error.max() < 0.10


def test_saddlepoint_tail_agrees_with_a_large_monte_carlo():
    rng = np.random.default_rng(2)
    d = np.abs(rng.standard_t(3, 60)) * np.where(rng.random(60) < 0.72, 1.0, -1.0)
    totals = np.concatenate([(rng.integers(0, 2, (100_000, 60)) * 2.0 - 1.0) @ d for _ in range(4)])
    reached = (np.abs(totals) >= abs(d.sum())).sum()
    assert 100 < reached < 20_000
    assert resampling.sign_flip_p(d)[0] == pytest.approx(reached / 4e5, rel=4 / np.sqrt(reached) + 0.02)


def test_equal_sizes_agree_with_the_binomial_far_into_the_tail():
    for n, lost in ((30, 3), (200, 50), (400, 90), (1500, 375)):
        d = np.r_[-np.ones(lost), np.ones(n - lost)]
        assert resampling.sign_flip_p(d)[0] == pytest.approx(2 * stats.binom.cdf(lost, n, 0.5), rel=0.03)


def test_p_never_is_zero_and_zero_rows_have_p_one():
    d = np.vstack([np.ones(3000), np.zeros(3000)])
    p = resampling.sign_flip_p(d)
    assert p[0] > 0
    assert p[1] == 1.0
    assert resampling.sign_flip_p(np.ones(100))[0] == pytest.approx(2.0**-99)
    assert np.isnan(resampling.sign_flip_p(np.array([[np.nan, 1.0]]))[0])


def test_sum_of_zero_has_p_one_and_the_centre_is_smooth():
    rng = np.random.default_rng(3)
    d = rng.normal(size=50)
    d -= d.mean()
    assert resampling.sign_flip_p(d)[0] == 1.0
    p = resampling.sign_flip_p(np.array([d + shift for shift in np.linspace(1e-7, 2e-2, 200)]))
    assert np.all(np.diff(p) < 0)
    assert np.abs(np.diff(p)).max() < 0.01


def test_sparse_and_dense_rows_give_the_same_p():
    rng = np.random.default_rng(4)
    d = rng.normal(size=(30, 80)) * (rng.random((30, 80)) < rng.random((30, 1)))
    assert np.array_equal(resampling.sign_flip_p(d), resampling.sign_flip_p(sparse.csr_array(d)))


def test_p_is_uniform_under_random_signs():
    rng = np.random.default_rng(5)
    sizes = rng.lognormal(0, 1.5, size=(4000, 40)) * (rng.random((4000, 40)) < 0.6)
    p = resampling.sign_flip_p(sizes * rng.choice([-1.0, 1.0], sizes.shape))
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert (p <= 0.01).mean() < 0.016


def test_benjamini_hochberg_equals_the_closed_form_and_leaves_nan_outside():
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.5])
    assert resampling.benjamini_hochberg(p) == pytest.approx([0.04, np.nan, 0.16 / 3, 0.16 / 3, 0.5], nan_ok=True)
    many = np.random.default_rng(6).random((10, 20))
    q = resampling.benjamini_hochberg(many)
    assert q.ravel() == pytest.approx(stats.false_discovery_control(many.ravel()))
    assert np.isnan(resampling.benjamini_hochberg([np.nan, np.nan])).all()


def test_permutation_p_counts_the_observed_value_itself():
    null = np.array([1.0, 2.0, 3.0, 4.0])
    assert resampling.permutation_p([5.0, 3.0, 0.0, np.nan], null) == pytest.approx(
        [0.2, 0.6, 1.0, np.nan], nan_ok=True
    )
    per_test = np.array([[1.0, 9.0], [2.0, 9.0]])
    assert resampling.permutation_p([2.0, 2.0], per_test) == pytest.approx([2 / 3, 1.0])


def test_mcnemar_equals_the_exact_binomial_test():
    for b, c in ((0, 0), (1, 0), (3, 9), (9, 3), (40, 41), (70, 20)):
        expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
        assert resampling.mcnemar_exact(b, c) == pytest.approx(expected)
    assert resampling.mcnemar_exact(5000, 0) > 0


def test_bootstrap_intervals_cover_a_ratio_of_sums():
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(300):
        x = rng.gamma(2.0, 1.0, 120)
        columns = np.stack([3.0 * x + rng.normal(size=120), x], axis=1)
        interval = resampling.poisson_bootstrap(columns, lambda sums: sums[:, 0] / sums[:, 1], n=300, seed=trial)
        covered += bool(interval.lo <= 3.0 <= interval.hi)
    assert 0.90 < covered / 300 < 0.98


def test_bootstrap_of_the_mean_is_repeatable_and_has_the_shape_of_the_values():
    values = np.random.default_rng(8).normal(size=(50, 3, 2))
    first, second = (resampling.poisson_bootstrap(values, n=200, seed=1) for _ in range(2))
    assert first.lo.shape == (3, 2)
    assert np.array_equal(first.lo, second.lo)
    assert np.all((first.lo < values.mean(axis=0)) & (values.mean(axis=0) < first.hi))


def test_bootstrap_bounds_are_nan_where_the_statistic_often_is_undefined():
    columns = np.zeros((30, 2))
    columns[0] = 1.0
    interval = resampling.poisson_bootstrap(columns, lambda sums: sums[:, 0] / sums[:, 1], n=200, seed=0)
    assert np.isnan(interval.lo)
    assert np.isnan(interval.hi)


def test_percentiles_pass_over_what_is_not_finite_column_by_column():
    whole = np.random.default_rng(9).permutation(np.arange(201.0))
    some, most = whole.copy(), whole.copy()
    some[whole == whole.max()] = np.inf
    most[:50] = np.nan
    interval = resampling.percentiles(np.stack([whole, some, most], axis=1))
    assert interval.lo == pytest.approx([5.0, 4.975, np.nan], nan_ok=True)
    assert interval.hi == pytest.approx([195.0, 194.025, np.nan], nan_ok=True)
    alone = resampling.percentiles(some)
    assert (alone.lo, alone.hi) == pytest.approx((4.975, 194.025))


def test_effect_is_mean_over_sd_and_bounded_without_spread():
    h = np.array([[1.0, 3.0, 0.0, 2.0], [2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0], [-1.0, -1.0, -1.0, -1.0]])
    assert resampling.sign_flip_effect(h) == pytest.approx([1.5 / np.sqrt(1.25), 2.0, 0.0, -2.0])
