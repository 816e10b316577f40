import numpy as np
import pytest

from diptych.oracle import planted
from diptych.runtime.errors import DiptychError

LABELS = {"only_A": 3, "only_B": 2, "rotated": (4, (0.2, 1.2)), "rescaled": (3, 2.0), "more_frequent": (2, 3.0)}


@pytest.fixture(scope="module")
def pair():
    return planted.make_pair(1, d_A=24, d_B=20, n_features=30, labels=LABELS, noise=0.0)


def test_same_seed_same_bytes_other_seed_other_pair(pair):
    again = planted.make_pair(1, d_A=24, d_B=20, n_features=30, labels=LABELS, noise=0.0)
    assert again.x_B.tobytes() == pair.x_B.tobytes()
    assert planted.make_pair(2, d_A=24, d_B=20, n_features=30).x_B.tobytes() != pair.x_B.tobytes()


def test_activations_are_codes_times_directions_plus_a_mean(pair):
    for x, codes, directions in (
        (pair.x_A, pair.codes_A, pair.directions_A),
        (pair.x_B, pair.codes_B, pair.directions_B),
    ):
        rest = x - codes @ directions
        assert np.abs(rest - rest.mean(axis=0)).max() < 1e-4


def test_labels_hold_their_meaning(pair):
    counts = {name: len(pair.features(name)) for name in LABELS}
    assert counts == {"only_A": 3, "only_B": 2, "rotated": 4, "rescaled": 3, "more_frequent": 2}
    assert (pair.codes_B[:, pair.features("only_A")] == 0).all()
    assert (pair.codes_A[:, pair.features("only_B")] == 0).all()
    assert (pair.codes_B[:, pair.features("only_B")] > 0).any(axis=0).all()
    shared, scaled, often = (pair.features(name) for name in ("shared", "rescaled", "more_frequent"))
    np.testing.assert_array_equal(pair.codes_A[:, shared], pair.codes_B[:, shared])
    np.testing.assert_allclose(pair.codes_B[:, scaled], 2 * pair.codes_A[:, scaled], rtol=1e-6)
    rate = [(codes[:, often] > 0).mean() for codes in (pair.codes_A, pair.codes_B)]
    assert 2.5 < rate[1] / rate[0] < 3.5


def test_rotation_has_the_stated_angle():
    pair = planted.make_pair(0, labels={"rotated": (5, 0.7)}, same_map=True)
    cosine = np.sum(pair.directions_A * pair.directions_B, axis=1)
    np.testing.assert_allclose(cosine[pair.features("rotated")], np.cos(0.7))
    np.testing.assert_allclose(cosine[pair.features("shared")], 1.0)
    np.testing.assert_allclose(np.linalg.norm(pair.directions_B, axis=1), 1.0)


def test_noise_has_the_stated_share_of_variance():
    clean, noisy = (planted.make_pair(0, noise=noise) for noise in (0.0, 0.3))
    ratio = np.var(noisy.x_A - clean.x_A) / np.mean(np.var(clean.x_A, axis=0))
    assert ratio == pytest.approx(0.09, rel=0.05)


def test_clusters_fire_together_and_documents_share_topics():
    pair = planted.make_pair(0, n_features=30, clusters=3, n_documents=200)
    fires = (pair.codes_A > 0).astype(float)
    alike = np.abs(pair.directions_A @ pair.directions_A.T) > 0.2
    correlation = np.corrcoef(fires.T)
    off = ~np.eye(30, dtype=bool)
    assert correlation[alike & off].mean() > 0.1 + correlation[~alike].mean()
    by_document = fires.reshape(200, 40, 30).mean(axis=1).var(axis=0)
    assert (by_document > 2 * fires.var(axis=0) / 40).mean() > 0.9


def test_controls_hold_no_difference():
    same = planted.identical_pair(0)
    assert same.x_A is same.x_B
    rounded = planted.rounded_pair(0)
    assert 0 < np.abs(rounded.x_A - rounded.x_B).max() < 2**-8 * np.abs(rounded.x_A).max()
    assert set(planted.noise_pair(0).label) == {"shared"}


def test_swap_exchanges_whole_documents():
    pair = planted.make_pair(0, labels={"only_B": 2})
    swapped = planted.swap_labels(pair, seed=1)
    moved = (swapped.x_A == pair.x_B).all(axis=1).reshape(100, 40)
    assert (moved.all(axis=1) | ~moved.any(axis=1)).all()
    assert 25 < moved.all(axis=1).sum() < 75
    np.testing.assert_array_equal(swapped.x_A + swapped.x_B, pair.x_A + pair.x_B)
    assert np.isnan(planted.average_precision([], [], swapped))


def test_average_precision_by_hand(pair):
    a, b = pair.truths("A"), pair.truths("B")
    assert planted.average_precision([*a, *b], ["A"] * 3 + ["B"] * 2, pair) == 1.0
    lost = np.linalg.svd(a)[2][-1]  # orthogonal to every truth of A
    # hit, false, repeated claim (passed over), hit: precisions 1 and 2/3; three truths unfound
    ranking = [a[0], lost, -a[0], a[1]]
    assert planted.average_precision(ranking, ["A"] * 4, pair) == pytest.approx((1 + 2 / 3) / 5)
    assert planted.average_precision(ranking, ["A"] * 4, pair, of=("A",)) == pytest.approx((1 + 2 / 3) / 3)
    wide = planted.make_pair(1, labels=LABELS)  # B's truth claimed for A is false: it is not in A
    assert planted.average_precision(list(wide.truths("B")), ["A"] * 2, wide) == 0.0


def test_subspace_recall():
    truths = np.eye(10)[:2]
    mixed = np.array([[1, 1], [1, -1]]) @ truths / np.sqrt(2)
    assert planted.subspace_recall(mixed, truths) == pytest.approx({1: 0.5, 2: 1.0, 4: 1.0, 8: 1.0})
    chance = planted.subspace_recall(np.random.default_rng(0).normal(size=(8, 4000)), np.eye(4000)[:2])
    assert chance[8] < 0.02
    assert planted.subspace_recall(np.zeros((3, 10)), truths)[2] == 0.0


def test_amount_correlation(pair):
    estimate = np.full(30, np.nan)
    turned = pair.features("rotated")
    estimate[turned] = pair.amount[turned] ** 2
    assert planted.amount_correlation(pair, "rotated", estimate) == pytest.approx((1.0, 1.0))
    estimate[turned[0]] = np.nan
    assert planted.amount_correlation(pair, "rotated", estimate)[1] == 0.75


def test_bad_settings_say_what_is_wrong():
    with pytest.raises(DiptychError, match="same_map"):
        planted.make_pair(d_A=8, d_B=9, same_map=True)
    with pytest.raises(DiptychError, match="onlyB"):
        planted.make_pair(labels={"onlyB": 3})


def test_low_rank_directions_span_that_rank_in_both_spaces():
    pair = planted.make_pair(0, d_A=24, d_B=20, n_features=40, rank=6, noise=0.0)
    for directions in (pair.directions_A, pair.directions_B):
        assert np.linalg.matrix_rank(directions, tol=1e-8) == 6
        np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0)
    with pytest.raises(DiptychError, match="rank = 21 is more than the 20"):
        planted.make_pair(0, d_A=24, d_B=20, rank=21)


def test_exclusive_features_have_the_stated_size():
    whole = planted.make_pair(0, labels={"only_A": 2, "only_B": 2})
    half = planted.make_pair(0, labels={"only_A": (2, 0.5), "only_B": (2, 0.5)})
    for label, of_whole, of_half in (
        ("only_A", whole.codes_A, half.codes_A),
        ("only_B", whole.codes_B, half.codes_B),
    ):
        features = half.features(label)
        np.testing.assert_allclose(of_half[:, features], 0.5 * of_whole[:, features], rtol=1e-6)


def test_halves_differ_by_rounding_in_one_copy_of_each_document():
    pair = planted.half_rounded_pair(0)
    whole = planted.identical_pair(0).x_A
    in_A, in_B = ((x == whole).all(axis=1).reshape(100, 40) for x in (pair.x_A, pair.x_B))
    np.testing.assert_array_equal(in_A.all(axis=1), ~in_B.all(axis=1))
    assert in_A.all(axis=1).sum() == 50
