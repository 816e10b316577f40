import csv
import doctest
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from diptych.activations import rows
from diptych.runtime.errors import DiptychError
from diptych.statistics import max_t, resampling
from diptych.storage import artifacts
from diptych.template_diff import codes as template_codes
from diptych.template_diff import stage, target_sets
from diptych.template_diff.changes import METRICS, compare, describe, eligible
from diptych.template_diff.codes import Codes
from prompt_codes import F, N, codes_of, planted_pair, random_codes


def test_examples_in_the_module_hold():
    assert doctest.testmod(max_t).failed == 0


def test_statistics_equal_numpy():
    dense = random_codes(np.random.default_rng(0))
    dense[:, 3] = 0.0
    found = describe(sparse.csr_array(dense))
    for latent in (0, 1, 17):
        column = dense[:, latent]
        active = column[column > 0]
        expected = {
            "all_mean": column.mean(), "all_std": column.std(), "active_mean": active.mean(),
            "active_std": active.std(), "active_min": active.min(), "max": active.max(), "num_active": len(active),
            "density": len(active) / N, "p90": np.quantile(active, 0.9), "p95": np.quantile(active, 0.95),
            "p99": np.quantile(active, 0.99),
        }  # fmt: skip
        assert {name: values[latent] for name, values in found.items()} == pytest.approx(expected)
    assert np.isnan(found["active_mean"][3])
    assert found["max"][3] == 0.0
    assert found["all_std"][3] == 0.0


def test_eligibility_is_by_the_union_and_unchanged_by_swapping():
    a, b = np.zeros((200, 4)), np.zeros((200, 4))
    a[0, 0] = b[1, 0] = 1.0
    a[0, 1] = b[0, 1] = 1.0
    b[:2, 2] = 1.0
    both = [sparse.csr_array(side) for side in (a, b)]
    assert eligible(both[0], both[1], 0.01).tolist() == [0, 2]
    assert eligible(both[1], both[0], 0.01).tolist() == [0, 2]


def test_per_prompt_differences_follow_the_formulae():
    codes = planted_pair()
    changes = compare(codes, flips=10).changes["newline"]
    a, b = codes.a["newline"].toarray(), codes.b["newline"].toarray()
    d, delta = b - a, (b > 0) * 1.0 - (a > 0)
    pooled = (a + b).sum(axis=0) / ((a > 0).sum(axis=0) + (b > 0).sum(axis=0))
    expected = {"all_mean": d, "density": delta, "active_mean": d - pooled * delta}
    for metric in METRICS:
        assert pytest.approx(expected[metric][:, changes.latent], abs=1e-12) == changes.h(metric).toarray().T


def test_null_maxima_equal_the_dense_computation():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(3000, 200)) * (rng.random((3000, 200)) < rng.choice([0.02, 0.05, 0.3], (3000, 1)))
    rows[7] = 0.0
    found = max_t.null_maxima(sparse.csr_array(rows), flips=1500, seed=3)
    draws = np.random.default_rng(3)
    signs = np.hstack([draws.integers(0, 2, (200, 1024), dtype=np.int8) for _ in range(2)])[:, :1500] * 2.0 - 1.0
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    dense = np.abs(np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0) @ signs).max(axis=0)
    assert found == pytest.approx(dense, rel=2e-6)


def test_planted_gains_are_found_with_the_right_sign_and_order():
    codes = planted_pair()
    found = compare(codes, flips=500)
    columns = stage.ranked(codes, found, bootstrap=200)
    up = (columns["metric"] == "density") & (columns["direction"] == "up")
    significant = up & (columns["q"] <= 0.05)
    assert columns["latent"][up][:4].tolist() == [5, 0, 1, 2]
    assert {5, 0, 1, 2, 3} <= set(columns["latent"][significant].tolist())
    assert np.all(columns["gain"][up] > 0)
    assert np.all(np.diff(columns["gain"][up]) <= 0)
    down = (columns["metric"] == "density") & (columns["direction"] == "down")
    assert columns["latent"][down].tolist() == [4]
    assert columns["gain"][down][0] < 0
    assert columns["hi"][down][0] < 0
    strength = (columns["metric"] == "active_mean") & (columns["direction"] == "up")
    assert columns["latent"][strength][0] == 6
    assert columns["p_family"][strength][0] == pytest.approx(1 / 501)
    density = found.tests["newline"]["density"]
    assert set(np.flatnonzero(density.p_family <= 0.05)) == {0, 1, 2, 3, 4, 5}


def test_ratio_with_zero_base_and_one_sided_active_mean_are_undefined_not_infinite():
    codes = planted_pair()
    found = compare(codes, flips=50)
    columns = stage.ranked(codes, found, bootstrap=50)
    appeared = columns["latent"] == 5
    assert np.isnan(columns["ratio"][appeared]).all()
    assert np.isfinite(columns["ratio"][~appeared]).all()
    assert set(columns["metric"][appeared]) == {"all_mean", "density"}
    active = found.tests["newline"]["active_mean"]
    assert np.isnan(active.gain[5])
    assert active.p[5] == 1.0
    assert active.p_family[5] == 1.0


def test_identical_pair_has_p_one_everywhere_and_lists_nothing():
    a = random_codes(np.random.default_rng(2))
    codes = codes_of(a, a.copy())
    found = compare(codes, flips=100)
    for test in found.tests["newline"].values():
        assert np.all(test.p == 1.0)
        assert np.all(test.q == 1.0)
        assert np.all(test.p_family == 1.0)
        assert np.all(test.effect == 0.0)
    assert len(stage.ranked(codes, found)["rank"]) == 0


def test_p_is_uniform_and_the_family_rarely_errs_under_label_swap():
    rng = np.random.default_rng(3)
    pooled: dict[str, list[float]] = {metric: [] for metric in METRICS}
    family_errors = 0
    for trial in range(40):
        x, y = random_codes(rng), 3.0 * random_codes(rng, density=0.4)
        swap = rng.random((N, 1)) < 0.5
        found = compare(codes_of(np.where(swap, x, y), np.where(swap, y, x)), flips=199, seed=trial)
        tests = found.tests["newline"]
        family_errors += min(float(test.p_family.min()) for test in tests.values()) <= 0.05
        for metric in METRICS:
            pooled[metric] += tests[metric].p.tolist()
    for metric in ("all_mean", "active_mean"):
        assert stats.kstest(pooled[metric], "uniform").pvalue > 1e-3
    for metric in METRICS:
        assert 0.02 < np.mean(np.array(pooled[metric]) <= 0.05) < 0.07
    assert family_errors <= 6


def test_swapping_the_models_mirrors_everything():
    codes = planted_pair()
    swapped = Codes(codes.b, codes.a, codes.prompts, codes.source, codes.fold, codes.sources)
    one, other = compare(codes, flips=200), compare(swapped, flips=200)
    assert np.array_equal(one.maxima, other.maxima)
    for metric in METRICS:
        forth, back = one.tests["newline"][metric], other.tests["newline"][metric]
        assert np.array_equal(forth.gain, -back.gain, equal_nan=True)
        assert np.array_equal(forth.effect, -back.effect)
        for name in ("p", "q", "p_family", "statistic"):
            assert np.array_equal(getattr(forth, name), getattr(back, name))
    forth, back = (stage.ranked(c, f, bootstrap=100) for c, f in ((codes, one), (swapped, other)))
    for metric in METRICS:
        up = (forth["metric"] == metric) & (forth["direction"] == "up")
        down = (back["metric"] == metric) & (back["direction"] == "down")
        assert np.array_equal(forth["latent"][up], back["latent"][down])
        assert forth["lo"][up] == pytest.approx(-back["hi"][down], nan_ok=True)
        assert forth["gain_hi"][up] == pytest.approx(-back["gain_lo"][down], nan_ok=True)


def test_intervals_cover_the_planted_gain_and_effect():
    rng = np.random.default_rng(4)
    covered = np.zeros((3, 2))
    trials = 100
    for trial in range(trials):
        fires = rng.random((N, 2)) < 0.4
        values = rng.gamma(4.0, 0.25, (N, 2))
        codes = codes_of((fires * values)[:, :1], (fires * (values + np.array([0.0, 1.0])))[:, 1:])
        found = compare(codes, flips=2, seed=trial)
        bounds = stage._intervals(found.changes["newline"], np.array([0]), codes.fold == 0, 200, trial)
        for i, (metric, gain) in enumerate({"all_mean": 0.4, "active_mean": 1.0, "density": 0.0}.items()):
            covered[i, 1] += bounds[metric]["gain_lo"][0] <= gain <= bounds[metric]["gain_hi"][0]
        sd = np.sqrt(0.4 * 1.25 + 0.4 * 4.25 - 2 * 0.4 * 1.0 * 0.4 * 2.0 - 0.4**2)
        covered[0, 0] += bounds["all_mean"]["lo"][0] <= 0.4 / sd <= bounds["all_mean"]["hi"][0]
        covered[2, 0] += bounds["density"]["lo"][0] <= 0.0 <= bounds["density"]["hi"][0]
    share = covered / trials
    assert np.all(share[:, 1] > 0.88)
    assert share[[0, 2], 0] == pytest.approx([0.95, 0.95], abs=0.06)


def test_target_features_are_those_never_active_on_controls():
    rng = np.random.default_rng(5)
    a, b = random_codes(rng), random_codes(rng)
    target = np.arange(N) % 2 == 0
    b[:, 0] = target * (rng.random(N) < 0.5) * 1.0
    a[:, 1] = b[:, 1] = target * 1.0
    columns = target_sets.exclusive(codes_of(a, b), target, ~target)
    assert list(zip(columns["side"], columns["latent"], strict=True)) == [("a", 1), ("b", 1), ("b", 0)]
    fired = int((b[:, 0] > 0).sum())
    table = [[fired, 150 - fired], [0, 150]]
    assert columns["p"][2] == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue, abs=0)
    assert np.all(columns["n_control"] == 0)
    assert np.all(columns["q"] <= 0.05)


def test_stage_writes_every_promised_column_and_marks_domain_shift(tmp_path: Path):
    codes = planted_pair()
    both = Codes(
        {"assistant": codes.a["newline"], **codes.a}, {"assistant": codes.b["newline"], **codes.b},
        codes.prompts, codes.source, codes.fold, codes.sources,
    )  # fmt: skip
    for name in ("one", "two"):
        stage.diff(
            both, tmp_path / f"{name}.h5", tmp_path / f"{name}.csv", tmp_path / "targets.csv",
            spec={"k": 1}, flips=100, bootstrap=50, top=5,
            fvu_a={"assistant": 0.2, "newline": 0.2}, fvu_b={"assistant": 0.25, "newline": 0.5},
            model="base--chat", sae="tiny", link="https://host/{sae}/{latent}?at={role}",
            target=["targets"], control=["controls"],
        )  # fmt: skip
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    with (tmp_path / "one.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == stage.CSV_COLUMNS
    assert {(row["role"], row["domain_shift"]) for row in rows} == {("assistant", "no"), ("newline", "yes")}
    first = rows[0]
    assert first["link"] == f"https://host/tiny/{first['latent']}?at={first['role']}"
    assert max(int(row["rank"]) for row in rows) == 5
    appeared = next(row for row in rows if row["latent"] == "5")
    assert appeared["ratio"] == ""
    assert float(appeared["a"]) == 0.0
    with artifacts.read(tmp_path / "one.h5", "template_diff") as file:
        table = artifacts.read_table(file, "ranked")
        assert tuple(table) == stage.CSV_COLUMNS
        assert table["gain"].tolist() == [float(row["gain"]) for row in rows]
        assert file["roles/1/a/p95"].shape == (F,)
        assert file["roles/1/density/p_family"].shape == file["roles/1/latent"].shape
        assert tuple(artifacts.read_table(file, "targets")) == target_sets.TABLE_COLUMNS
        summary = artifacts.read_json(file, "summary")
    assert summary["prompts"] == N
    assert summary["roles"]["newline"]["undefined_gain"] == 1
    assert summary["roles"]["newline"]["fvu_ratio"] == pytest.approx(2.5)


def test_unknown_fvu_is_said_and_bad_link_or_source_is_an_error(tmp_path: Path):
    codes = planted_pair()
    stage.diff(
        codes, tmp_path / "x.h5", tmp_path / "x.csv", tmp_path / "x-targets.csv", spec={}, flips=10, bootstrap=10
    )
    with (tmp_path / "x.csv").open() as file:
        assert {row["domain_shift"] for row in csv.DictReader(file)} == {"unknown"}
    with pytest.raises(DiptychError, match=r"link: .*{feature}"):
        stage.diff(
            codes,
            tmp_path / "y.h5",
            tmp_path / "y.csv",
            tmp_path / "y-targets.csv",
            spec={},
            flips=10,
            link="{feature}",
        )
    with pytest.raises(DiptychError, match="no source 'elsewhere'"):
        stage.diff(
            codes,
            tmp_path / "y.h5",
            tmp_path / "y.csv",
            tmp_path / "y-targets.csv",
            spec={},
            flips=9,
            target=["elsewhere"],
        )
    assert not (tmp_path / "y.h5").exists()


def test_large_dictionaries_stay_within_memory():
    rng = np.random.default_rng(6)
    n, width, l0 = 500, 131_072, 60
    sides = []
    for _ in range(2):
        latent = (width * rng.random((n, l0)) ** 3).astype(np.int64)
        dense = sparse.coo_array((np.ones(n * l0), (np.repeat(np.arange(n), l0), latent.ravel())), shape=(n, width))
        sides.append(sparse.csr_array(dense).astype(np.float32))
    codes = Codes({"r": sides[0]}, {"r": sides[1]}, [str(i) for i in range(n)], *np.zeros((2, n), dtype=np.int64))
    tracemalloc.start()
    compare(codes, flips=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6


# --- reading codes at roles -------------------------------------------------------------------------------------

ROLES = ["text", "assistant", "newline"]
TOKENS = {
    "p0": [(7, 0), (8, 0), (9, 1), (1, 2)],
    "p1": [(7, 0), (3, 0), (7, 0), (9, 1), (1, 2)],
    "p2": [(7, 0), (8, 0), (9, 1), (1, 2)],
    "p3": [(5, 0), (9, 1), (1, 2)],
}


def write_tokens(path: Path, prompts: dict[str, list[tuple[int, int]]]) -> None:
    lengths = [len(tokens) for tokens in prompts.values()]
    token, role = np.array([pair for tokens in prompts.values() for pair in tokens]).T
    with artifacts.create(path, "tokens", {}) as out:
        out.array("token", token.astype(np.int32))
        out.array("role", role.astype(np.int8))
        out.array("counts", np.ones(len(token), dtype=bool))
        out.array("sequence", np.repeat(np.arange(len(lengths)), lengths).astype(np.int32))
        out.array("sequences/document", np.arange(len(lengths)))
        out.strings("documents/id", list(prompts))
        out.array("documents/source", np.zeros(len(lengths), dtype=np.int32))
        out.array("documents/fold", np.arange(len(lengths), dtype=np.int32) % 5)
        out.json("roles", ROLES)
        out.json("sources", ["chats"])
        out.array("vocabulary/id", np.array([1, 3, 5, 7, 8, 9]))
        out.strings("vocabulary/text", ["\n", "c", "e", " the", "h", "assistant"])


def write_features(directory: Path, name: str, codes: np.ndarray, token_row: np.ndarray) -> list[Path]:
    paths = []
    for shard, mine in enumerate(np.array_split(np.arange(len(token_row)), 2)):
        matrix = sparse.csr_array(codes[mine].astype(np.float32))
        paths.append(directory / f"{name}-{shard}.h5")
        with artifacts.create(paths[-1], "features", {}) as out:
            out.array("indptr", matrix.indptr.astype(np.int64))
            out.array("indices", matrix.indices.astype(np.int32))
            out.array("data", matrix.data)
            out.array("token_row", token_row[mine])
            out.json("n_features", codes.shape[1])
    return paths


def stored(tmp_path: Path) -> tuple[np.ndarray, np.ndarray, list[Path], list[Path], Path]:
    rng = np.random.default_rng(7)
    n = sum(len(tokens) for tokens in TOKENS.values())
    a, b = random_codes(rng, n, 6, 0.5), random_codes(rng, n, 6, 0.5)
    write_tokens(tmp_path / "tokens.h5", TOKENS)
    every = np.arange(n, dtype=np.int64)
    paths = [write_features(tmp_path, name, codes, every) for name, codes in (("a", a), ("b", b))]
    return a.astype(np.float32), b.astype(np.float32), paths[0], paths[1], tmp_path / "tokens.h5"


def test_codes_at_roles_are_the_rows_of_the_roles_and_equal_prompts_are_one_unit(tmp_path: Path):
    a, b, shards_a, shards_b, tokens = stored(tmp_path)
    codes = template_codes.at_roles(shards_a, shards_b, tokens, ["assistant", "newline"])
    assert codes.prompts == ["p0", "p1", "p3"]
    assert codes.merged == 1
    assert np.array_equal(codes.a["assistant"].toarray(), a[[2, 7, 14]])
    assert np.array_equal(codes.b["newline"].toarray(), b[[3, 8, 15]])


def test_any_position_takes_the_maximum_over_a_prompts_occurrences(tmp_path: Path):
    a, b, shards_a, shards_b, tokens = stored(tmp_path)
    codes = template_codes.at_token(shards_a, shards_b, tokens, " the")
    assert codes.prompts == ["p0", "p1"]
    assert codes.absent == 1
    assert np.array_equal(codes.a[" the"].toarray(), np.array([a[0], np.maximum(a[4], a[6])]))
    assert np.array_equal(codes.b[" the"].toarray(), np.array([b[0], np.maximum(b[4], b[6])]))
    with pytest.raises(DiptychError, match="'the' stands nowhere"):
        template_codes.at_token(shards_a, shards_b, tokens, "the")


def test_a_missing_role_is_an_error_that_names_the_prompt(tmp_path: Path):
    _, _, shards_a, shards_b, _ = stored(tmp_path)
    broken = {**TOKENS, "p3": [(5, 0), (9, 0), (1, 2)]}
    write_tokens(tmp_path / "broken.h5", broken)
    with pytest.raises(DiptychError, match=r"role 'assistant' stands 0 times, not once, in prompt 'p3'"):
        template_codes.at_roles(shards_a, shards_b, tmp_path / "broken.h5", ["assistant"])
    with pytest.raises(DiptychError, match="no role 'user_end'"):
        template_codes.at_roles(shards_a, shards_b, tmp_path / "broken.h5", ["user_end"])


def test_a_role_row_without_codes_is_an_error_that_names_the_prompt(tmp_path: Path):
    a, _, shards_a, _, tokens = stored(tmp_path)
    kept = np.delete(np.arange(len(a)), 7)
    gated = write_features(tmp_path, "gated", a[kept], kept)
    with pytest.raises(DiptychError, match="token row 7 in prompt 'p1'"):
        template_codes.at_roles(shards_a, gated, tokens, ["assistant"])


def test_codes_of_unlike_shape_or_negative_codes_are_refused():
    good = np.ones((3, 2))
    with pytest.raises(DiptychError, match="one dictionary on one corpus"):
        codes_of(good, np.ones((3, 4)))
    with pytest.raises(DiptychError, match="negative codes"):
        codes_of(good, -good)


def test_effects_equal_the_standardised_mean_of_h_in_tests_and_in_bootstrap_sums():
    codes = planted_pair()
    found = compare(codes, flips=2)
    changes = found.changes["newline"]
    a, b = changes.a.toarray().T, changes.b.toarray().T
    from_sums = stage._effects_and_gains(stage._contributions(a, b)[:, 6:7].sum(axis=0), N)
    for i, metric in enumerate(METRICS):
        test = found.tests["newline"][metric]
        assert test.effect == pytest.approx(resampling.sign_flip_effect(changes.h(metric).toarray()))
        assert from_sums[0, i] == pytest.approx([test.effect[6], test.gain[6]])
    crossed = stage._effects_and_gains(stage._contributions(a, b)[:, 4:5].sum(axis=0), N)
    assert crossed[0, 1, 0] == pytest.approx(found.tests["newline"]["active_mean"].effect[4])


def test_held_out_effect_is_that_of_the_test_folds_prompts():
    codes = planted_pair()
    found = compare(codes, flips=2)
    columns = stage.ranked(codes, found, bootstrap=2)
    row = int(np.flatnonzero((columns["metric"] == "all_mean") & (columns["latent"] == 2))[0])
    d = (codes.b["newline"] - codes.a["newline"]).toarray()[:, 2]
    expected = [resampling.sign_flip_effect(d[codes.fold == 0])[0], resampling.sign_flip_effect(d[codes.fold != 0])[0]]
    assert [columns["effect_held_out"][row], columns["effect_fitted"][row]] == pytest.approx(expected)
    without = Codes(codes.a, codes.b, codes.prompts, codes.source, codes.fold + 1, codes.sources)
    assert np.isnan(stage.ranked(without, found, bootstrap=2)["effect_held_out"]).all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_fvu_by_role_is_that_of_the_roles_rows(tmp_path: Path, device: str):
    _, _, shards_a, shards_b, tokens = stored(tmp_path)
    codes = template_codes.at_roles(shards_a, shards_b, tokens, ["assistant", "newline"])
    n = sum(len(prompt) for prompt in TOKENS.values())
    x = np.random.default_rng(8).normal(size=(n, 4)).astype(np.float32)

    class Halves:
        """Reconstructs the first two coordinates and nothing else."""

        width, n_features, normalize_activations = 4, 4, "none"
        W_enc = W_dec = np.eye(4, dtype=np.float32)

        def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
            return x_BD * torch.tensor([1.0, 1.0, 0.0, 0.0], device=device)

        def decode(self, codes_BD: torch.Tensor, x_BD: torch.Tensor) -> torch.Tensor:
            return codes_BD

    found = template_codes.fvu(codes, rows.in_memory([x], np.arange(n)), Halves(), device=device)
    at_role = x[[2, 7, 14]]
    expected = (at_role[:, 2:] ** 2).sum() / ((at_role - at_role.mean(axis=0)) ** 2).sum()
    assert found["assistant"] == pytest.approx(expected, rel=1e-5)
    assert set(found) == {"assistant", "newline"}


def test_the_share_of_the_change_that_features_describe(tmp_path: Path):
    _, _, shards_a, shards_b, tokens = stored(tmp_path)
    codes = template_codes.at_roles(shards_a, shards_b, tokens, ["assistant", "newline"])
    n, width = sum(len(prompt) for prompt in TOKENS.values()), codes.n_features

    class Axes:
        """Each latent writes to one coordinate."""

        width = n_features = codes.n_features
        normalize_activations = "none"
        W_enc = W_dec = np.eye(codes.n_features, dtype=np.float32)

        def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
            return x_BD

        def decode(self, codes_BD: torch.Tensor, x_BD: torch.Tensor) -> torch.Tensor:
            return codes_BD

    x_a = np.random.default_rng(9).normal(size=(n, width)).astype(np.float32)
    x_b = x_a.copy()
    for role in codes.roles:
        x_b[codes.token_rows[role]] += (codes.b[role] - codes.a[role]).toarray()
    sides = [rows.in_memory([x], np.arange(n)) for x in (x_a, x_b)]
    assert list(template_codes.change_unexplained(codes, *sides, Axes()).values()) == pytest.approx(
        [0.0, 0.0], abs=1e-9
    )
    doubled = rows.in_memory([x_a + 2 * (x_b - x_a)], np.arange(n))
    halves = template_codes.change_unexplained(codes, sides[0], doubled, Axes())
    assert list(halves.values()) == pytest.approx([0.25, 0.25])
    same = template_codes.change_unexplained(codes, sides[0], sides[0], Axes())
    assert all(np.isnan(value) for value in same.values())


def test_the_family_holds_every_role_and_metric():
    one, other = planted_pair(0), planted_pair(1)
    codes = Codes(
        {"x": one.a["newline"], "y": other.a["newline"]}, {"x": one.b["newline"], "y": other.b["newline"]},
        one.prompts, one.source, one.fold,
    )  # fmt: skip
    found = compare(codes, flips=300, seed=4)
    rows = [found.changes[role].h(metric) for role in ("x", "y") for metric in METRICS]
    alone = np.array([max_t.null_maxima(h, flips=300, seed=4) for h in rows])
    assert len(np.unique(alone.argmax(axis=0))) == 6
    assert found.maxima == pytest.approx(alone.max(axis=0), rel=1e-6)
    p = np.concatenate([found.tests[role][metric].p for role in ("x", "y") for metric in METRICS])
    q = np.concatenate([found.tests[role][metric].q for role in ("x", "y") for metric in METRICS])
    assert q == pytest.approx(stats.false_discovery_control(p))


def test_latents_that_never_fire_leave_empty_tables(tmp_path: Path):
    silent = codes_of(np.zeros((20, 3)), np.zeros((20, 3)))
    stage.diff(
        silent, tmp_path / "x.h5", tmp_path / "x.csv", tmp_path / "x-targets.csv", spec={}, flips=10, bootstrap=10
    )
    assert (tmp_path / "x.csv").read_text() == ",".join(stage.CSV_COLUMNS) + "\n"
    with artifacts.read(tmp_path / "x.h5", "template_diff") as file:
        assert artifacts.read_json(file, "summary")["roles"]["newline"]["never_fires"] == 3
