"""Similarity of feature spaces: closed forms, other implementations, exact nulls against all permutations."""

import itertools

import numpy as np
import pytest
from scipy import linalg, sparse, spatial, stats

from diptych.oracle import planted
from diptych.runtime.errors import DiptychError
from diptych.similarity import stage
from diptych.similarity.measures import formulas, nulls
from diptych.similarity.measures.scores import CANONICAL, Pairs, Settings, measure_names, score
from diptych.storage import artifacts
from diptych.text import word_lists

QUICK = Settings(repairings=99, nuclear_repairings=19, subset_draws=3, neighbours=(4,))


def shared_clouds(p=150, d_a=5, d_b=7, noise=0.6, seed=0):
    rng = np.random.default_rng(seed)
    concept = rng.normal(size=(p, 4)) * [3.0, 2.0, 1.0, 0.5]
    x = concept @ rng.normal(size=(4, d_a)) + noise * rng.normal(size=(p, d_a)) + 1.0
    y = concept @ rng.normal(size=(4, d_b)) + noise * rng.normal(size=(p, d_b)) - 2.0
    return x, y


def cells(x, y, settings=QUICK, seed=0, **parts):
    return {cell.measure: cell for cell in score(Pairs(x, y, **parts), settings, np.random.default_rng(seed))}


def rotation(d, seed=1):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


# --- closed forms


@pytest.mark.parametrize("kind", ["identical", "rotated", "scaled", "shifted"])
def test_the_same_cloud_scores_one_whatever_turns_scales_or_shifts_it(kind):
    x, _ = shared_clouds()
    y = {"identical": x, "rotated": x @ rotation(5), "scaled": -7.0 * x, "shifted": x + 3.0}[kind]
    found = cells(x, y, mapped=y, rho=np.ones(len(x)))
    for name in measure_names(QUICK):
        assert found[name].value == pytest.approx(1.0, abs=2e-5), name
        if name not in ("mmcs", "mean_rho"):
            assert found[name].null.p <= 0.05, name


def test_an_invertible_map_keeps_canonical_correlations_but_not_shape():
    x = np.random.default_rng(0).normal(size=(150, 5))
    found = cells(x, x @ np.diag([5.0, 1.0, 1.0, 1.0, 0.2]) @ rotation(5), QUICK._replace(variance=1.0))
    assert found["svcca"].value == pytest.approx(1.0, abs=1e-6)
    assert found["procrustes"].value < 0.9
    assert found["cka"].value < 0.7


def test_independent_clouds_stand_at_their_null():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(400, 10)), rng.normal(size=(400, 20))
    found = cells(x, y, QUICK._replace(nuclear_repairings=99))
    for name in (*CANONICAL, "cka", "cka_debiased", "rsa", "knn_jaccard_4"):
        null = found[name].null
        assert abs(found[name].value - null.mean) < 4.0 * null.sd, name
        assert null.p > 0.001, name
    assert found["svcca"].value > 0.1  # not zero: why the null is needed
    assert found["mean_squared_cc"].value == pytest.approx(20 / 399, rel=0.3)


# --- other implementations


def test_canonical_measures_against_whitening():
    x, y = shared_clouds()
    a, b = formulas.space(x), formulas.space(y)
    assert 0 < a.k < 5

    def truncated(rows):
        centred = rows - rows.mean(0)
        value, vector = np.linalg.eigh(centred.T @ centred)
        value, vector = value[::-1], vector[:, ::-1]
        k = next(k for k in range(1, len(value) + 1) if value[:k].sum() >= 0.99 * value.sum())
        return centred @ vector[:, :k]

    tx, ty = truncated(x), truncated(y)
    whiten_x = np.linalg.inv(linalg.sqrtm(tx.T @ tx).real)
    whiten_y = np.linalg.inv(linalg.sqrtm(ty.T @ ty).real)
    left, rho, right = np.linalg.svd(whiten_x @ tx.T @ ty @ whiten_y, full_matrices=False)
    variates_x, variates_y = tx @ whiten_x @ left, ty @ whiten_y @ right.T

    def weighted(variates, columns):
        alpha = [sum(abs(h @ column) for column in (columns - columns.mean(0)).T) for h in variates.T]
        return np.dot(alpha, rho) / np.sum(alpha)

    found = formulas.canonical_scores(a.u.T @ b.u, a, b)
    assert found.svcca == pytest.approx(rho.mean(), abs=1e-9)
    assert found.mean_squared_cc == pytest.approx((rho**2).mean(), abs=1e-9)
    assert found.pwcca_a == pytest.approx(weighted(variates_x, x), abs=1e-9)
    assert found.pwcca_b == pytest.approx(weighted(variates_y, y), abs=1e-9)
    assert found.pwcca_a != pytest.approx(found.pwcca_b, abs=1e-4)


def test_procrustes_against_scipy():
    x, y = shared_clouds(d_a=6, d_b=6)
    a, b = formulas.space(x), formulas.space(y)
    disparity = spatial.procrustes(x, y)[2]
    assert formulas.canonical_scores(a.u.T @ b.u, a, b).procrustes == pytest.approx(np.sqrt(1 - disparity), abs=1e-9)


def song_hsic1(k, low):
    """Unbiased HSIC of Song et al. with whole p x p matrices."""
    p = len(k)
    k, low = k - np.diag(np.diag(k)), low - np.diag(np.diag(low))
    one = np.ones(p)
    terms = np.trace(k @ low) + (one @ k @ one) * (one @ low @ one) / ((p - 1) * (p - 2))
    return (terms - 2 / (p - 2) * one @ k @ low @ one) / (p * (p - 3))


def test_cka_against_whole_kernels():
    x, y = shared_clouds(p=60)
    a, b = formulas.space(x), formulas.space(y)
    centring = np.eye(60) - 1 / 60
    k, low = centring @ x @ x.T @ centring, centring @ y @ y.T @ centring
    assert formulas.cka(a, b) == pytest.approx(np.sum(k * low) / np.sqrt(np.sum(k * k) * np.sum(low * low)), abs=1e-12)
    k, low = x @ x.T, y @ y.T  # HSIC_1 centres by itself
    expected = song_hsic1(k, low) / np.sqrt(song_hsic1(k, k) * song_hsic1(low, low))
    assert formulas.cka_debiased(a, b) == pytest.approx(expected, abs=1e-10)


def test_rsa_against_scipy_with_ties():
    x, y = shared_clouds(p=80)
    x[5], y[9] = x[4], y[8]
    a, b = x - x.mean(0), y - y.mean(0)
    expected = stats.spearmanr(spatial.distance.pdist(a, "cosine"), spatial.distance.pdist(b, "cosine")).statistic
    assert formulas.rsa(formulas.distance_ranks(a), formulas.distance_ranks(b)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [1, 4, 10])
def test_neighbour_overlap_against_sets(k):
    x, y = shared_clouds(p=70)

    def neighbours(rows):
        return [
            set(sorted((j for j in range(70) if j != i), key=lambda j: spatial.distance.cosine(rows[i], rows[j]))[:k])
            for i in range(70)
        ]

    near_a, near_b = neighbours(x), neighbours(y)
    assert [set(row) for row in formulas.nearest(x, k).tolist()] == near_a
    common = formulas.common_neighbours(formulas.nearest(x, k), formulas.nearest(y, k))
    jaccard = np.mean([len(n & m) / len(n | m) for n, m in zip(near_a, near_b, strict=True)])
    assert formulas.knn_jaccard(common, k) == pytest.approx(jaccard)
    assert formulas.knn_mutual(common, k) == pytest.approx(
        np.mean([len(n & m) / k for n, m in zip(near_a, near_b, strict=True)])
    )


def test_neighbours_over_several_blocks(monkeypatch):
    x, _ = shared_clouds(p=70)
    whole = formulas.nearest(x, 6)
    monkeypatch.setattr(formulas, "BLOCK_ROWS", 16)
    np.testing.assert_array_equal(formulas.nearest(x, 6), whole)


def test_mmcs_and_its_level():
    x = np.random.default_rng(0).normal(size=(30, 6))
    y = np.random.default_rng(1).normal(size=(20, 6))
    cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in y] for a in x])
    own = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in y] for a in y]) - 9 * np.eye(20)
    best, level = formulas.mmcs(x, y)
    np.testing.assert_allclose(best, cosine.max(1), atol=1e-6)
    np.testing.assert_allclose(level, cosine[np.arange(30), own.argmax(1)[cosine.argmax(1)]], atol=1e-6)
    shuffled = np.random.default_rng(2).permutation(20)
    np.testing.assert_allclose(formulas.mmcs(x, y[shuffled])[0], best, atol=1e-6)


def test_the_level_of_mmcs_does_not_see_that_rows_are_paired_more_than_once():
    """Rows of B that several rows of A share, as a pairing of one to many has them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(20, 6))
    best, level = formulas.mmcs(x, y)
    again = formulas.mmcs(x, y[np.arange(40) // 2])
    np.testing.assert_allclose(again, (best, level), atol=1e-6)
    assert level.mean() < best.mean() - 0.1
    cosine, none = formulas.mmcs(x, np.ones((5, 6)))
    assert np.isnan(none).all()
    np.testing.assert_allclose(cosine, x.sum(axis=1) / np.linalg.norm(x, axis=1) / np.sqrt(6), atol=1e-6)
    one_direction = np.ones((40, 6)) * 2.0 ** (np.arange(40) % 5)[:, None]
    row = stage.table_row("features", "all", cells(x, one_direction, mapped=x)["mmcs"], Pairs(x, one_direction))
    assert np.isnan(row["null_mean"])
    assert "all rows of B have one direction" in row["reason"]


# --- nulls


@pytest.mark.parametrize("kernel", [nulls.gram_kernel, nulls.unbiased_kernel])
def test_permutation_moments_against_every_permutation(kernel):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 2)), rng.exponential(size=(7, 3)) ** 2
    a, b = kernel(x - x.mean(0)), kernel(y - y.mean(0))
    dense_a, dense_b = (k.factor @ k.core @ k.factor.T - np.diag(k.diagonal) for k in (a, b))
    np.testing.assert_allclose(dense_a.sum(0), 0, atol=1e-10)
    assert np.trace(dense_a) == pytest.approx(0, abs=1e-10)
    every = np.array([np.sum(dense_a * dense_b[np.ix_(o, o)]) for o in map(list, itertools.permutations(range(7)))])
    assert nulls.kernel_product(a, b) == pytest.approx(every[0])
    assert every.mean() == pytest.approx(0, abs=1e-10)
    second, third = nulls.central_moments(a, b)
    assert second == pytest.approx(np.mean(every**2), rel=1e-6)
    assert third == pytest.approx(np.mean(every**3), rel=1e-5)


def test_permutation_moments_over_several_blocks(monkeypatch):
    x, y = shared_clouds(p=50)
    whole = nulls.central_moments(nulls.gram_kernel(x - x.mean(0)), nulls.gram_kernel(y - y.mean(0)))
    monkeypatch.setattr(formulas, "BLOCK_ROWS", 16)
    parts = nulls.central_moments(nulls.gram_kernel(x - x.mean(0)), nulls.gram_kernel(y - y.mean(0)))
    assert parts == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    ("value", "null"),
    [
        (formulas.cka, nulls.cka_null),
        (formulas.cka_debiased, nulls.cka_debiased_null),
        (
            lambda a, b: formulas.canonical_scores(a.u.T @ b.u, a, b).mean_squared_cc,
            nulls.mean_squared_cc_null,
        ),
    ],
)
def test_exact_null_against_re_pairing(value, null):
    x, y = shared_clouds(p=40)
    x = x**3  # far from normal
    rng = np.random.default_rng(0)
    a, b = formulas.space(x), formulas.space(y)
    orders = [rng.permutation(40) for _ in range(1500)]
    draws = np.array([value(a, formulas.space(y[order])) for order in orders])
    found = null(a, b)
    assert found.mean == pytest.approx(draws.mean(), abs=5 * found.sd / np.sqrt(1500))
    assert found.sd == pytest.approx(draws.std(), rel=0.1)
    for share in (0.2, 0.05, 0.01):  # Pearson III is made for the tail
        order = orders[np.argsort(-draws)[int(1500 * share)]]
        assert null(a, formulas.space(y[order])).p == pytest.approx(share, rel=0.4)


def test_mean_squared_cc_null_mean_is_the_closed_form():
    x, y = shared_clouds(p=100)
    a, b = formulas.space(x), formulas.space(y)
    assert nulls.mean_squared_cc_null(a, b).mean == max(a.k, b.k) / 99


def test_re_pairing_by_index_equals_re_pairing_the_rows():
    x, y = shared_clouds(p=60)
    order = np.random.default_rng(5).permutation(60)  # the first draw of the same stream
    a, b, moved = formulas.space(x), formulas.space(y), formulas.space(y[order])
    direct = formulas.canonical_scores(a.u.T @ moved.u, a, moved)
    np.testing.assert_allclose(nulls.canonical_draws(a, b, 1, np.random.default_rng(5))[0], direct, atol=1e-5)
    ranks = formulas.distance_ranks(a.x), formulas.distance_ranks(b.x)
    again = formulas.rsa(ranks[0], formulas.distance_ranks(moved.x))
    assert nulls.rsa_draws(*ranks, 1, np.random.default_rng(5))[0] == pytest.approx(again, abs=1e-5)
    near = formulas.nearest(a.x, 5), formulas.nearest(b.x, 5)
    common = formulas.common_neighbours(near[0], formulas.nearest(moved.x, 5))
    found = nulls.knn_draws(*near, (5,), 1, np.random.default_rng(5))[0, 0]
    np.testing.assert_allclose(found, [formulas.knn_jaccard(common, 5), formulas.knn_mutual(common, 5)])


def test_p_is_uniform_when_nothing_is_shared():
    rng = np.random.default_rng(11)
    exact = ("cka", "cka_debiased", "mean_squared_cc")
    counts = ("knn_mutual_4", "knn_jaccard_4")
    p = {name: [] for name in (*exact, "procrustes", "svcca", "pwcca_a", "pwcca_b", "rsa", *counts)}
    settings = QUICK._replace(repairings=39, nuclear_repairings=39, variance=1.0)
    for seed in range(120):
        x, y = rng.exponential(size=(40, 3)), rng.normal(size=(40, 4))
        found = cells(x, y, settings, seed)
        for name in p:
            p[name].append(found[name].null.p)
    for name, values in p.items():
        spread = np.array(values)
        if name not in exact:  # p on a grid of 1/40: spread it over its step
            spread -= rng.uniform(0, 1 / 40, size=len(spread))
        if name in counts:  # ties make p larger, never smaller
            assert stats.kstest(spread, "uniform", alternative="greater").pvalue > 0.01
        else:
            assert stats.kstest(spread, "uniform").pvalue > 0.005, name


@pytest.mark.parametrize("kept", [np.asarray, sparse.csr_array])
def test_mean_rho_level_against_every_pairing(kept):
    rng = np.random.default_rng(4)
    common = rng.exponential(size=(50, 6)) * (rng.random((50, 6)) < 0.4)
    codes_a = common + rng.exponential(size=(50, 6)) * (rng.random((50, 6)) < 0.2)
    codes_b = common
    r = np.corrcoef(codes_a.T, codes_b.T)[:6, 6:]
    every = [np.mean(r[np.arange(6), list(order)]) for order in itertools.permutations(range(6))]
    found = nulls.mean_rho_null(kept(codes_a), kept(codes_b))
    assert found.mean == pytest.approx(np.mean(every), abs=1e-12)
    assert found.sd == pytest.approx(np.std(every), abs=1e-12)
    assert np.isnan(found.p)


@pytest.mark.parametrize("kept", [np.asarray, sparse.csr_array])
def test_mean_rho_level_survives_a_silent_latent(kept):
    codes = np.random.default_rng(0).exponential(size=(20, 4))
    codes[:, 2] = 0.0
    found = nulls.mean_rho_null(kept(codes), kept(codes))
    assert np.isfinite([found.mean, found.sd]).all()


def test_the_published_one_component_score_is_a_coin_toss_and_the_default_is_not():
    p = 200
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(p, 8)), rng.normal(size=(p, 12))
    settings = QUICK._replace(repairings=2000, compat=("lan2024",))
    found = cells(x, y, settings)
    chance = np.sqrt(2 / (np.pi * p))
    assert found["svcca_lan2024"].null.mean == pytest.approx(chance, rel=0.05)
    assert found["svcca"].null.mean > 3 * chance
    draws = nulls.one_component_draws(formulas.space(x), formulas.space(y), 50, np.random.default_rng(0))
    same = cells(x, x, settings._replace(repairings=50))["svcca_lan2024"]
    assert same.null.p == 0.0  # published p has no 1 in it
    assert same.value == pytest.approx(1.0)
    assert draws.shape == (50,)


# --- planted truth


@pytest.fixture(scope="module")
def planted_scores():
    """Decoder rows of planted pairs: all shared, half of them turned by one radian, and partners mixed up."""
    settings = QUICK._replace(repairings=199, nuclear_repairings=99)
    size = {"n_features": 160, "d_A": 12, "d_B": 16, "d_0": 6, "n_documents": 5}
    shared = planted.make_pair(**size)
    turned = planted.make_pair(labels={"rotated": (80, 1.0)}, **size)
    mixed = np.random.default_rng(0).permutation(160)
    clouds = {
        "shared": (shared.directions_A, shared.directions_B),
        "turned": (turned.directions_A, turned.directions_B),
        "mixed": (shared.directions_A, shared.directions_B[mixed]),
    }
    return {kind: cells(x, y, settings) for kind, (x, y) in clouds.items()}


@pytest.mark.parametrize("name", [*CANONICAL, "cka", "cka_debiased", "rsa", "knn_jaccard_4"])
def test_planted_geometry_comes_back(planted_scores, name):
    shared, turned, mixed = (planted_scores[kind][name] for kind in ("shared", "turned", "mixed"))
    assert shared.value == pytest.approx(1.0, abs=1e-5)
    assert shared.null.p <= 0.01
    assert mixed.value < turned.value < 0.97
    assert turned.null.p <= 0.01
    assert mixed.null.p > 0.01
    assert mixed.value == pytest.approx(mixed.null.mean, abs=4 * mixed.null.sd)


# --- what cannot be answered


def test_few_pairs_leave_only_what_few_pairs_can_answer():
    x, y = shared_clouds(p=40)
    found = cells(x, y, QUICK._replace(neighbours=(4, 30)))
    for name in (*CANONICAL, "cka"):
        assert np.isnan(found[name].value)
        assert "fewer than 5 (k_A + k_B)" in found[name].void_reason
    for name in ("rsa", "cka_debiased", "knn_jaccard_4"):
        assert np.isfinite(found[name].value)
        assert np.isfinite(found[name].null.p)
    assert "2 k" in found["knn_jaccard_30"].void_reason
    assert "no map" in found["mmcs"].void_reason
    assert "no correlations" in found["mean_rho"].void_reason


@pytest.mark.parametrize(("p", "words"), [(3, "min_pairs"), (60, "alike"), (0, "min_pairs")])
def test_degenerate_pairs_are_nan_with_a_reason(p, words):
    x, y = np.ones((p, 4)), np.random.default_rng(0).normal(size=(p, 4))
    for cell in cells(x, y, mapped=x, rho=np.ones(p)).values():
        if cell.measure == "mean_rho" and p == 60:
            continue
        assert np.isnan(cell.value)
        assert words in cell.void_reason


# --- the stage

NUMBERS = [" one", " two", "Seven"]
OTHER = [" river", " the", "xyz"]


def written(tmp_path, **changes):
    x, y = shared_clouds(p=200)
    tokens = [NUMBERS if i < 60 else OTHER for i in range(200)]
    codes = sparse.csr_array(sparse.random(90, 200, 0.1, rng=np.random.default_rng(0)))
    parts = {
        "rho": np.linspace(0, 1, 200),
        "codes": (codes, codes),
        "mapped": y + 0.1,
        "tokens_a": tokens,
        "tokens_b": [OTHER] * 200,
    }
    pairs = {"features": Pairs(x, y, **(parts | changes)), "neurons": Pairs(x[:, :3], y[:, :3])}
    quick = {"repairings": 19, "nuclear_repairings": 9, "subset_draws": 4, "rsa_rows": 120, "rsa_null_rows": 80}
    lists = {"numbers": word_lists.load("numbers"), "emotions": word_lists.load("emotions")}
    stage.compare(pairs, tmp_path / "s.h5", spec={"a": 1}, subspaces=lists, compat=["lan2024"], **quick)
    with artifacts.read(tmp_path / "s.h5", "similarity") as file:
        table = artifacts.read_table(file, "scores")
        members = file["members/features/numbers"][:]
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    return {(row["points"], row["subspace"], row["measure"]): row for row in rows}, members


def test_the_table_has_every_subspace_and_every_nan_its_reason(tmp_path):
    rows, members = written(tmp_path)
    assert {key[:2] for key in rows} == {
        ("features", "all"), ("features", "numbers"), ("features", "emotions"), ("neurons", "all"),
    }  # fmt: skip
    np.testing.assert_array_equal(members, np.arange(60))
    for row in rows.values():
        for column in ("value", "ratio", "p"):
            if np.isnan(row[column]):
                assert row["reason"], row
    whole, part = rows["features", "all", "knn_jaccard_4"], rows["features", "numbers", "knn_jaccard_4"]
    assert whole["ratio"] == pytest.approx(whole["value"] / whole["null_mean"])
    assert (whole["n_pairs"], part["n_pairs"]) == (200, 60)
    assert np.isnan(whole["subset_mean"])
    assert np.isfinite(rows["features", "numbers", "mean_rho"]["null_sd"])
    assert part["subset_mean"] < part["value"]
    assert "min_pairs" in rows["features", "emotions", "rsa"]["reason"]
    assert "no ratio" in rows["features", "all", "cka_debiased"]["reason"]
    assert rows["features", "all", "svcca_lan2024"]["compat"] == "lan2024"


def test_pairs_chosen_by_geometry_carry_no_p_for_geometry(tmp_path):
    rows, _ = written(tmp_path, circular=True)
    row = rows["features", "all", "rsa"]
    assert row["circular"]
    assert np.isnan(row["p"])
    assert "circular" in row["reason"]
    assert not rows["neurons", "all", "rsa"]["circular"]
    assert not rows["features", "all", "mean_rho"]["circular"]


def test_same_inputs_give_the_same_bytes(tmp_path):
    written(tmp_path / "1")
    written(tmp_path / "2")
    assert (tmp_path / "1/s.h5").read_bytes() == (tmp_path / "2/s.h5").read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"rho": np.ones(3)}, "3 of rho"), ({"mapped": np.full((200, 7), np.nan)}, "non-finite")],
)
def test_bad_parts_are_named(tmp_path, changes, words):
    with pytest.raises(DiptychError, match=words):
        written(tmp_path, **changes)


# --- word lists


def test_shipped_lists_are_clean():
    assert len(word_lists.shipped()) >= 8
    for name in word_lists.shipped():
        lines = word_lists.path_of(name).read_text().splitlines()
        words = [line for line in lines if not line.startswith("#")]
        assert 30 <= len(words) <= 80, name
        assert len(set(words)) == len(words) == len(word_lists.load(name)), name


def test_tokens_are_matched_without_case_and_space():
    found = word_lists.contains(word_lists.load("nature"), [[" River"], ["▁lake"], ["Ġsea", "x"], ["riverbank"], []])
    assert found.tolist() == [True, True, True, False, False]


def test_an_unknown_list_names_the_known_ones(tmp_path):
    with pytest.raises(DiptychError, match="numbers"):
        word_lists.load("colours")
    (tmp_path / "none.txt").write_text("# nothing\n")
    with pytest.raises(DiptychError, match="no word"):
        word_lists.load(str(tmp_path / "none.txt"))
