"""The leaderboard: its protocol, scores by hand, intervals, what is absent and why, the page, another tool."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from diptych import methods
from diptych.candidates import detection
from diptych.candidates.detection import Limit
from diptych.config import loading
from diptych.config.jobs import Jobs
from diptych.crosscoder import entry as crosscoder_entry
from diptych.leaderboard import baselines, cases, collect, export, limits, names, scores, stage, summary, table
from diptych.oracle import entry as protocol
from diptych.oracle import planted
from diptych.oracle.entry import Budget, Entry, Fit, Matches, ProtocolError
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from trees import ROOT

SHAPE = {
    "n_documents": 40, "tokens_per_document": 20, "d_A": 20, "d_B": 20, "d_0": None, "n_features": 30, "noise": 0.05,
    "clusters": 0, "rank": None, "same_map": True, "rate": 0.25, "zipf": 0.5,
    "labels": {"only_A": [2, 1.0], "only_B": [2, 1.0], "rotated": [4, [0.2, 1.2]], "rescaled": [4, [0.4, 3.0]]},
}  # fmt: skip
BUDGET = {"n_latents": 32, "k": None, "steps": 40, "batch": 64, "learning_rate": 5e-3}
SEEDS = stage.Seeds(2, 2, 1)


@pytest.fixture(scope="module")
def pair():
    return cases.make("planted", 0, SHAPE)


def perfect(pair, side=None):
    """What a method would say that knows the truth."""
    directions = [*pair.truths("A"), *pair.truths("B")]
    sides = ["A"] * 2 + ["B"] * 2 if side is None else [side] * 4
    matches = Matches(pair.directions_A, pair.directions_B, angle=pair.amount, scale=pair.amount)
    p = np.full(4, 1e-6)
    return Fit(directions, sides, np.arange(4.0)[::-1], p=p, matches=matches, active=3.0)


# --- scores ---------------------------------------------------------------------------------------------------------


def test_the_truth_itself_has_every_score(pair):
    found = scores.of_planted(perfect(pair), pair)
    for name in ("average_precision", "recall_at_5", "reported_recall", "span_K", "angle", "angle_coverage", "scale"):
        assert found[name] == pytest.approx(1.0), name
    assert found["reported_false"] == 0.0
    assert found["chance_K"] == pytest.approx(2 / 20)
    assert np.isnan(found["frequency"]) if "frequency" in found else True


def test_a_side_counts_unless_it_is_not_told(pair):
    wrong = perfect(pair)
    wrong = Fit(wrong.directions, ["B", "B", "A", "A"], wrong.score)
    assert scores.of_planted(wrong, pair)["average_precision"] == 0.0
    assert scores.of_planted(perfect(pair, "either"), pair)["average_precision"] == 1.0


def test_outcomes_and_recall_at_five_percent_by_hand(pair):
    a, b = pair.truths("A"), pair.truths("B")
    other = np.linalg.svd(np.concatenate([a, b]))[2][-1]
    ranking, sides = [a[0], a[0], b[0], other, a[1]], ["A", "A", "either", "B", "A"]
    found = planted.outcomes(ranking, sides, pair)
    assert found == ["hit", "repeat", "hit", "false", "hit"]
    assert planted.average_precision(ranking, sides, pair) == pytest.approx((1 + 1 + 3 / 4) / 4)
    assert planted.recall_at(found, 4) == 0.5
    assert planted.recall_at(found, 4, false_discoveries=0.3) == 0.75
    assert planted.recall_at(["false", "hit"], 4) == 0.0


def test_a_duplicate_is_tested_and_not_ranked(pair):
    fit = Fit([np.ones(20), np.eye(20)[0]], ["A", "A"], [np.nan, 1.0], p=[0.001, 0.5])
    assert fit.ranking.tolist() == [1]
    assert scores.of_null(fit) == {"any_significant": 1.0, "any_reported": 1.0, "tests": 2.0, "share_p_05": 0.5}
    untested = Fit([np.ones(20)], ["A"], [1.0], p=[np.nan])
    assert np.isnan(scores.of_null(untested)["any_significant"])
    assert scores.of_null(Fit([], [], [], p=[]))["any_significant"] == 0.0


def test_matches_that_are_far_from_a_feature_are_no_estimate(pair):
    fit = perfect(pair)
    away = Matches(fit.matches.directions_A, -np.roll(pair.directions_B, 1, axis=0), angle=pair.amount)
    found = scores.of_planted(Fit([], [], [], matches=away), pair)
    assert found["angle_coverage"] < 0.5
    assert np.isnan(found["scale"])
    assert found["average_precision"] == found["span_K"] == 0.0


# --- the protocol ---------------------------------------------------------------------------------------------------


def fit_with(function, pair, **context):
    context = {"document": pair.document, "seed": 0, "budget": Budget(8, 2, 1, 8, 1e-3), "case": "one", **context}
    return protocol.call(Entry("it", function), "it", pair.x_A, pair.x_B, context)


def test_a_function_of_two_matrices_is_enough_and_gets_what_it_names(pair):
    fit = fit_with(lambda rows_A, rows_B: ([rows_B[0]], ["B"], [1.0]), pair)
    assert fit.directions[0].dtype == np.float64
    assert fit.p is None

    def curious(rows_A, rows_B, *, seed, case, document):
        assert (seed, case, len(document)) == (3, "two", len(rows_A))
        return [], [], [], []

    assert fit_with(curious, pair, seed=3, case="two").p == []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda rows_A, rows_B: [1], r"has to return \(directions, side, score\)"),
        (lambda rows_A, rows_B: ([rows_A[0]], ["left"], [1]), "side 'left'"),
        (lambda rows_A, rows_B: ([rows_A[0]], ["A"], [1, 2]), "1 directions and 2 of score"),
        (lambda rows_A, rows_B: ([rows_A[0, :5]], ["A"], [1]), r"shape \(5,\)"),
        (lambda rows_A, rows_B: ([rows_A[0] * np.nan], ["A"], [1]), "not finite"),
        (lambda rows_A, rows_B, gpu: ([], [], []), "asks for 'gpu'"),
    ],
)
def test_what_breaks_the_protocol_is_named(pair, function, message):
    with pytest.raises(ProtocolError, match=message):
        fit_with(function, pair)


def test_every_name_is_an_entry_and_every_other_method_says_why_not():
    entries = names.every()
    assert len(set(entries)) == len(entries)
    for name in entries:
        assert isinstance(table.load(name), Entry)
    for method in methods.METHODS:
        assert method.entries or method.unjudged != methods.Method.unjudged, method.name


# --- another tool ---------------------------------------------------------------------------------------------------


def weights_of(pair):
    """A crosscoder in dictionary_learning's names whose latents are the true features."""
    names = np.array(pair.label)
    in_A = torch.from_numpy(pair.directions_A * (names != "only_B")[:, None]).float()
    in_B = torch.from_numpy(pair.directions_B * (names != "only_A")[:, None]).float()
    decoder = torch.stack([in_A, in_B])
    return {
        "encoder.weight": decoder.transpose(1, 2).contiguous(), "encoder.bias": torch.zeros(len(names)),
        "decoder.weight": decoder, "decoder.bias": torch.zeros(2, 20), "code_normalization_id": torch.tensor(1),
        "k": torch.tensor(4, dtype=torch.int), "threshold": torch.tensor(0.1), "target_rms": torch.tensor(1.0),
        "activation_mean": torch.full((2, 20), torch.nan), "activation_std": torch.full((2, 20), torch.nan),
        "activation_global_scale": torch.ones(2),
    }  # fmt: skip


def test_weights_of_a_published_trainer_enter_by_a_folder(pair, tmp_path):
    shutil.copy(ROOT / "docs" / "leaderboard_tool" / "entry.py", tmp_path)
    weights = tmp_path / "weights" / "one-0"
    weights.mkdir(parents=True)
    save_file(weights_of(pair), weights / "model.safetensors")
    (weights / "config.json").write_text(json.dumps({"activation_dim": 20, "dict_size": 30, "num_layers": 2, "k": 4}))
    tool = table.load_folder("published", tmp_path)
    assert tool.title == "dictionary_learning's crosscoder"
    context = {"document": pair.document, "seed": 0, "budget": None, "case": "one"}
    fit = protocol.call(tool, "published", pair.x_A, pair.x_B, context)
    assert scores.of_planted(fit, pair)["average_precision"] == 1.0
    assert len(fit.side) == 4


def test_a_folder_without_the_function_is_refused(tmp_path):
    with pytest.raises(DiptychError, match=r"leaderboard\.tools\.mine: .* has no entry.py"):
        table.load_folder("mine", tmp_path)
    (tmp_path / "entry.py").write_text("TITLE = 'mine'\n")
    with pytest.raises(DiptychError, match=r"defines no function fit\(rows_A, rows_B\)"):
        table.load_folder("mine", tmp_path)


# --- methods --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["planted", "identical"])
@pytest.mark.parametrize("name", ["crosscoder_batchtopk", "crosscoder_diff", "pairing", "means", "linear_map"])
def test_a_method_runs_by_its_own_stages_and_reports_nothing_of_a_model_with_itself(name, kind, tmp_path):
    case = stage.Case("one", kind, {**SHAPE, "labels": {"only_A": [2, 1.0], "only_B": [2, 1.0]}})
    stage.score(name, table.load(name), case, tmp_path / "s.h5", spec={}, seeds=stage.Seeds(1, 1, 1), budget=BUDGET)
    with artifacts.read(tmp_path / "s.h5", "leaderboard_scores") as file:
        columns = artifacts.read_table(file, "scores")
        assert artifacts.read_json(file, "failed") == {}
    if kind == "identical":
        assert columns["any_reported"].tolist() == [0.0]
    else:
        assert np.isfinite(columns["average_precision"]).all()


def test_the_linear_map_ranks_what_is_planted_first(pair):
    shape = {**SHAPE, "n_documents": 100, "labels": {"only_B": [1, 2.0]}}
    truth = cases.make("planted", 0, shape)
    context = {"document": truth.document, "seed": 0, "budget": None, "case": "one"}
    fit = protocol.call(table.load("linear_map"), "linear_map", truth.x_A, truth.x_B, context)
    assert scores.of_planted(fit, truth)["average_precision"] == 1.0


def test_a_penalty_is_bisected_until_l0_is_k():
    tried = []

    def train(number, more):
        tried.append(more["penalty"])
        return crosscoder_entry.Trained("", "", active=40.0 / more["penalty"])

    assert crosscoder_entry._nearest(train, 4).active == pytest.approx(4.0, rel=0.35)
    assert tried[0] == pytest.approx(np.sqrt(np.prod(crosscoder_entry.PENALTIES)))
    assert len(tried) <= crosscoder_entry.RUNS


def test_baselines(pair):
    shift = np.eye(20, dtype=np.float32)[3]
    found = baselines.mean_difference(pair.x_A, pair.x_A + shift)
    np.testing.assert_allclose(found.directions[0], shift, atol=1e-6)
    assert len(baselines.mean_difference(pair.x_A, pair.x_A).directions) == 0
    varying = pair.x_A + shift * np.random.default_rng(0).normal(size=(len(pair.x_A), 1)).astype(np.float32)
    first = baselines.pca_difference(pair.x_A, varying).directions[0]
    assert abs(first[3]) == pytest.approx(1.0, abs=1e-3)
    assert {len(direction) for direction in baselines.random(pair.x_A, pair.x_A[:, :7], seed=0).directions} == {7, 20}


# --- over seeds -----------------------------------------------------------------------------------------------------


def test_intervals_and_marks():
    rows = {
        (method, case): summary.Row(method, case, "swap", "any_significant", value, 0, 1, seeds, "")
        for method, case, value, seeds in (
            ("a", "x", 0.5, 12),
            ("a", "y", 1 / 12, 12),
            ("b", "x", 0.1, 20),
            ("c", "x", 1.0, 2),
        )
    }
    # 6 of 12: at least 16 % with 99 % confidence; 2 of 20 may be 5 %; 2 of 2 may not.
    assert summary.above_nominal(list(rows.values())) == {"a": ["x"], "c": ["x"]}
    low, high = summary.rate_interval(0, 20)
    assert (low, high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
    mean, low, high = summary._interval("l0", np.array([11.0, 12.0, 13.0]))
    assert (mean, high - low) == (12.0, pytest.approx(2 * 4.302653 / np.sqrt(3), rel=1e-6))
    assert summary._interval("average_precision", np.array([1.0, 1.0, 0.7]))[2] == 1.0


def test_a_limit_is_the_smallest_size_from_which_on_power_is_kept():
    labels = {"only_A": [1, 1.0], "only_B": [4, 1.0], "rotated": [2, [0.1, 1.0]]}
    cases_of = {
        f"{documents}-{i}": {"shape": {"n_documents": documents, "tokens_per_document": 10, "labels": labels}}
        for documents in (10, 100)
        for i in range(4)
    }

    def rows(method, powers):
        for (documents, i), power in powers.items():
            for quantity, value in (("planted_share", 0.01 * 2**i), ("reported_recall", power)):
                yield summary.Row(method, f"{documents}-{i}", "limit", quantity, value, 0, 1, 2, "")

    powers = {(10, 0): 0.9, (10, 1): 0.3, (10, 2): 0.8, (10, 3): 1.0, (100, 0): 1.0, (100, 1): 0.9, (100, 2): 1.0}
    curve = limits.limits([*rows("it", powers), *rows("blind", {(10, 0): 0.0, (10, 1): 0.7})], cases_of)
    assert curve == [
        ("blind", Limit(100, 10, None, 7, 10, 0.01, 0.02)),
        ("it", Limit(100, 10, 0.04, 8, 10, 0.01, 0.08)),
        ("it", Limit(1000, 100, 0.01, 10, 10, 0.01, 0.04)),
    ]
    assert limits.rows_of(limits.columns_of(curve)) == curve


def study(**section):
    config = yaml.safe_load((ROOT / "config" / "studies" / "test.yaml").read_text(encoding="utf-8"))
    config["leaderboard"] |= section
    return loading.load(config)


def score(jobs, method, case, out, cost=None):
    """The job of one method on one case, without Snakemake."""
    settings = jobs.score_method(method, case).settings
    seeds, budget = stage.Seeds(*settings["seeds"]), settings["budget"]
    case = stage.Case(case, settings["kind"], settings["shape"])
    stage.score(method, table.load(method), case, out, spec={}, seeds=seeds, budget=budget, cost=cost)


def test_a_small_leaderboard_is_a_file_a_table_and_a_page(tmp_path):
    jobs = Jobs(study(methods=["linear_map", "pca_difference", "random"]))
    scored = artifacts.below(tmp_path, jobs.collect_leaderboard().reads["scored"])
    for cell in scored:
        score(jobs, cell["method"], cell["case"], cell["scores"], cell["cost"])
    board, text, page = (tmp_path / name for name in ("leaderboard.h5", "leaderboard.tsv", "index.html"))
    settings = jobs.collect_leaderboard().settings
    collect.collect(scored, board, text, page, spec={"settings": settings}, **settings)
    score(jobs, "linear_map", "planted", tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / scored[0]["scores"]).read_bytes()
    lines = [line.split("\t") for line in text.read_text(encoding="utf-8").splitlines()]
    assert lines[0] == "schema method case kind quantity value lo hi seeds note".split()
    rows = {tuple(line[1:3] + line[4:5]): line for line in lines[1:]}
    assert {line[0] for line in lines[1:]} == {str(collect.SCHEMA)}
    assert float(rows["random", "planted", "average_precision"][5]) < float(
        rows["linear_map", "planted", "average_precision"][5]
    )
    absent = rows["pca_difference", "changed", "average_precision"]
    assert (absent[5], absent[9]) == ("", stage.ONE_BASIS)
    assert rows["random", "swap", "any_significant"][9] == baselines.NO_TEST
    assert rows["linear_map", "planted", "angle"][9] == "a linear map relates spaces, not features"
    assert float(rows["linear_map", "planted", "processor_s"][5]) > 0
    assert ("linear_map", "swap", "average_precision") not in rows
    assert float(rows["linear_map", "limit.20.0", "planted_share"][5]) > float(
        rows["linear_map", "planted", "planted_share"][5]
    )
    with artifacts.read(board, "leaderboard") as file:
        curve = artifacts.read_table(file, "limits")
    assert [(method, tokens) for method, tokens in zip(curve["method"], curve["tokens"], strict=True)] == [
        ("linear_map", 400)
    ]
    exported = export.table_of(board)
    assert set(exported.methods) == {"linear_map"}
    limit, null = exported.methods["linear_map"].limits[0], exported.methods["linear_map"].nulls[0]
    assert (exported.width, limit.tokens, limit.planted, null.kind, null.pairs) == (24, 400, 12, "swap", 2)
    (tmp_path / "detection.json").write_text(detection.as_text(exported), encoding="utf-8")
    assert detection.read(tmp_path / "detection.json") == exported
    html = page.read_text(encoding="utf-8")
    for words in (
        "PCA of differences",
        "Calibration",
        "not yet hit, is at least .7",
        "it reads weights, exactly",
    ):
        assert words in html


def test_a_method_that_refuses_a_pair_has_failed_on_it(tmp_path):
    def refuse(rows_A, rows_B):
        raise DiptychError("too few rows")

    case = stage.Case("one", "planted", SHAPE)
    stage.score("it", Entry("it", refuse), case, tmp_path / "s.h5", spec={}, seeds=SEEDS, budget=BUDGET)
    rows = summary.of_file(tmp_path / "s.h5", "it", "one", "planted")
    assert {row.note for row in rows} == {"failed on seed 0: too few rows; failed on seed 1: too few rows"}
    assert all(np.isnan(row.value) for row in rows)


# --- config ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"methods": ["linear_mop"]}, "no method is called 'linear_mop'"),
        ({"tools": {"random": "somewhere"}}, "a tool is called 'random'"),
        ({"cases": {"one": {"d_a": 20}}}, "no basis in common"),
        ({"cases": {"one": {"features": 4}}}, "6 features are labelled of 4"),
    ],
)
def test_a_leaderboard_that_cannot_be_is_refused_in_one_line(section, message):
    with pytest.raises(loading.ConfigError, match=message):
        study(**section)
