"""Intervals over documents and runs: closed forms, a planted difference, and none."""

import numpy as np
import pytest

from diptych.relations import estimates
from diptych.relations.estimates import Estimate
from diptych.statistics import resampling

DOCUMENTS = 40


def runs(rng, mean, *, models=("m",), seeds=(0, 1), between=0.0, documents=None):
    """Runs whose values vary by `between` from model to model, each a mean over documents."""
    documents = np.zeros(DOCUMENTS) if documents is None else documents
    weights = resampling.document_weights(np.arange(DOCUMENTS), n=200, seed=0)
    found = []
    for model in models:
        level = mean + between * rng.normal()
        for seed in seeds:
            values = level + documents
            found.append(Estimate(values.mean(), weights @ values / weights.sum(1), model, seed))
    return found


def test_means_are_of_each_models_seeds_and_then_of_models():
    first = [Estimate(value, np.array([value, value + 2]), "a", seed) for seed, value in enumerate((1.0, 2.0, 3.0))]
    found = estimates.pooled([*first, Estimate(6.0, np.array([6.0, 8.0]), "b")])
    assert (found.value, found.least, found.most, found.runs) == (4, 1, 6, 4)
    assert (found.lo, found.hi) == pytest.approx(np.quantile([4, 6], [0.025, 0.975]))


def test_what_no_document_enters_has_no_interval_over_documents():
    found = estimates.pooled([Estimate(0.5, np.zeros(0), "a"), Estimate(0.7, np.zeros(0), "a", 1)])
    assert found.value == pytest.approx(0.6)
    assert np.isnan([found.lo, found.hi]).all()
    assert np.isnan(estimates.pooled([Estimate(float("nan"), np.zeros(0), "a")]).value)


def test_a_document_that_is_hard_for_all_is_no_difference():
    rng = np.random.default_rng(0)
    hard = 10 * rng.normal(size=DOCUMENTS)
    groups = {"KL": runs(rng, 0.0, seeds=(0,), documents=hard), "J": runs(rng, 0.1, seeds=(0,), documents=hard)}
    found = estimates.difference(groups, "J", "KL")
    assert found.value == pytest.approx(0.1)
    assert estimates.pooled(groups["KL"]).hi - estimates.pooled(groups["KL"]).lo > 2
    assert found.hi - found.lo < 1e-9
    assert found.p < 1e-6
    assert not found.repeated


def test_the_variance_between_runs_is_pooled_over_all_relations():
    values = {"KL": (1.0, 3.0), "J": (5.0, 6.0), "both": (2.0, 2.0)}
    groups = {name: [Estimate(value, np.zeros(0), "m", s) for s, value in enumerate(of)] for name, of in values.items()}
    found = estimates.difference(groups, "J", "KL")
    s2 = (2 + 0.5 + 0) / 3
    assert found.value == 3.5
    assert found.hi - found.value == pytest.approx(3.182446 * np.sqrt(s2), rel=1e-6)  # t of 3 degrees of freedom
    assert found.repeated


@pytest.mark.parametrize(("shift", "rate"), [(0.0, (0.01, 0.10)), (2.0, (0.6, 1.0))])
def test_differences_are_told_apart_as_often_as_they_should_be(shift, rate):
    """Two models a relation: level 5 % without a difference, by chance of the models and of the documents."""
    rng = np.random.default_rng(1)
    told = []
    for _ in range(300):
        groups = {
            name: runs(rng, mean, models=("x", "y"), between=0.3, documents=rng.normal(size=DOCUMENTS))
            for name, mean in (("KL", 0.0), ("J", shift), ("both", 0.0))
        }
        told.append(estimates.difference(groups, "J", "KL").p <= 0.05)
    assert rate[0] <= np.mean(told) <= rate[1]


def test_equal_runs_do_not_differ():
    same = [Estimate(1.0, np.zeros(0), "a"), Estimate(1.0, np.zeros(0), "a", 1)]
    found = estimates.difference({"KL": same, "J": same}, "J", "KL")
    assert (found.value, found.p) == (0, 1)
