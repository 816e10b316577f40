"""Shifts of tokens: planted truth, exchanged labels, equal models, the positive control and topics."""

import numpy as np
import pytest
from scipy import stats

from diptych.models.batches import Sequences
from diptych.outputs import divergences, planted, shifts, topics
from diptych.outputs.reading import Reading
from output_pairs import make_predictions

V, DOCUMENTS, EACH = 200, 40, 12


@pytest.fixture
def text():
    n = DOCUMENTS * EACH
    documents = np.arange(DOCUMENTS)
    sequences = Sequences(
        path="", token=np.zeros(n, dtype=np.int64), start=np.arange(0, n + 1, EACH), counts=np.ones(n, dtype=np.bool_),
        document=documents, source=documents % 2, fold=documents % 5, text_hash=documents.astype(np.uint64),
        sources=("old", "new"),
    )  # fmt: skip
    return Reading(sequences, documents, np.full(DOCUMENTS, EACH), np.arange(n), np.repeat(documents, EACH))


def probabilities(seed=0, noise=0.3):
    """Two models with the same token frequencies, and noise in every position and document."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(DOCUMENTS * EACH, V)) * 1.5
    p = []
    for _ in range(2):
        drift = np.repeat(rng.normal(size=(DOCUMENTS, V)), EACH, axis=0)
        logits = base + noise * drift + noise * rng.normal(size=base.shape)
        p.append(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    return p


def raised(p, token, factor):
    moved = p.copy()
    moved[:, token] *= factor
    return moved / moved.sum(1, keepdims=True)


def test_a_planted_token_is_found_with_its_size(text, tmp_path):
    p_a, p_b = probabilities()
    predictions = make_predictions(tmp_path, p_a, raised(raised(p_b, 7, 4.0), 11, 0.25), text)
    found = shifts.test(predictions)
    assert len(found) == V
    assert found.effect[7] == pytest.approx(2.0, abs=0.3)
    assert found.held_out[7] == pytest.approx(2.0, abs=0.5)
    assert found.effect[11] == pytest.approx(-2.0, abs=0.3)
    assert found.listed(1, 0.05).tolist() == [7, 11]
    assert set(np.flatnonzero(found.q <= 0.05)) == {7, 11}
    lo, hi = shifts.intervals(predictions, np.array([7, 11]), bootstrap=200, seed=0)
    assert lo[0] < found.effect[7] < hi[0]
    assert hi[1] < 0
    (rows,), (changes,) = shifts.strongest(predictions, np.array([7]), np.array([2.0]), 5)
    of_token = (predictions.raised.change * (predictions.raised.token == 7)).max(1)
    assert np.array_equal(rows, np.argsort(-of_token)[:5])
    assert np.array_equal(changes, of_token[rows])
    _, (losses,) = shifts.strongest(predictions, np.array([11]), np.array([-2.0]), 5)
    assert (losses < 0).all()


def test_exchanged_labels_give_uniform_p(text, tmp_path):
    p_a, p_b = probabilities(1)
    p_b = raised(p_b, 7, 4.0)
    rng = np.random.default_rng(5)
    p = []
    for _ in range(4):
        exchanged = np.repeat(rng.random(DOCUMENTS) < 0.5, EACH)[:, None]
        swapped = np.where(exchanged, p_b, p_a), np.where(exchanged, p_a, p_b)
        found = shifts.test(make_predictions(tmp_path, *swapped, text))
        assert len(found) == V  # eligibility does not depend on the labels
        p.append(found.p)
    assert stats.kstest(np.concatenate(p), "uniform").pvalue > 0.01
    assert not (found.q <= 0.05).any()


def test_equal_models_move_nothing(text, tmp_path):
    p_a, _ = probabilities()
    predictions = make_predictions(tmp_path, p_a, p_a, text)
    assert len(shifts.test(predictions)) == 0
    same = shifts.test_documents(predictions.masses(np.arange(V)), predictions.n_positions, predictions.fold)
    assert (same.p == 1.0).all()
    assert not same.effect.any()
    assert len(topics.factorise(predictions, number=5, seed=0).share) == 0
    assert len(planted.plant(predictions, shifts.test(predictions), factor=2.0, seed=0).token) == 0


def test_rare_tokens_are_not_eligible_and_cannot_shift_far(text, tmp_path):
    p_a, p_b = probabilities()
    for p, least in ((p_a, 1e-9), (p_b, 1e-7)):
        p[:, 3] = least
    predictions = make_predictions(tmp_path, p_a, p_b, text)
    assert 3 not in shifts.eligible(predictions)
    n = text.row.size
    assert shifts.effect_of(n * np.array([[1e-9], [1e-7]]), n)[0] == pytest.approx(np.log2(1.1 / 1.001))


def test_the_positive_control_sees_what_these_documents_can_show(text, tmp_path):
    quiet = make_predictions(tmp_path, *probabilities(noise=0.2), text)
    found = planted.plant(quiet, shifts.test(quiet), factor=2.0, seed=0)
    assert (found.q <= 0.05).mean() > 0.9
    assert np.median(found.effect) == pytest.approx(1.0, abs=0.2)
    (tmp_path / "loud").mkdir()
    loud = make_predictions(tmp_path / "loud", *probabilities(noise=6.0), text)
    assert (planted.plant(loud, shifts.test(loud), factor=2.0, seed=0).q <= 0.05).mean() < 0.5


def test_tokens_that_rise_together_are_a_topic(text, tmp_path):
    p_a, p_b = probabilities(noise=0.01)
    half = text.document < DOCUMENTS // 2
    for members, tokens in ((half, [1, 2, 3]), (~half, [8, 9])):
        p_b[np.ix_(members, tokens)] *= 5.0
    found = topics.factorise(make_predictions(tmp_path, p_a, p_b, text), number=2, seed=0)
    assert {frozenset(tokens[: 3 if 1 in tokens[:3] else 2].tolist()) for tokens in found.token} == {
        frozenset({1, 2, 3}), frozenset({8, 9}),
    }  # fmt: skip
    assert found.share.sum() == pytest.approx(1.0)
    assert found.share[0] >= found.share[1]


def test_divergences_by_group_are_pooled_over_positions(text):
    rng = np.random.default_rng(0)
    values = rng.gamma(1.0, size=len(text))
    values[::7] = np.nan
    position = np.tile(np.arange(EACH), DOCUMENTS)
    grouped = divergences.groups(text.source, np.zeros_like(position), position, ("old", "new"), ("text",))
    names = [(group.by, group.name) for group in grouped]
    assert names == [
        ("all", "all"), ("source", "old"), ("source", "new"), ("position", "0"), ("position", "1"), ("position", "2"),
        ("position", "3"), ("position", "4–7"), ("position", "8–15"),
    ]  # fmt: skip
    table = divergences.summarise({"kl_ab": values}, text.document, grouped, bootstrap=200, seed=0)
    assert table["kl_ab"][1] == pytest.approx(np.nanmean(values[text.source == 0]))
    assert (table["kl_ab_lo"] < table["kl_ab"]).all()
    assert (table["kl_ab"] < table["kl_ab_hi"]).all()
    by_document = divergences.by_document({"kl_ab": values}, text.document)
    assert by_document["kl_ab"][3] == pytest.approx(np.nanmean(values[text.document == 3]))
