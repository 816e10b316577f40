"""The legs of a finding, their order in findings.tsv, and the schema that other programs read it by."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import small_study
from diptych import methods
from diptych.candidates import leg, ranking
from diptych.candidates.leg import Leg, measured, not_applicable, untested, weakest
from diptych.crosscoder.candidates import _specific as by_scaling
from diptych.findings import legs, schema, stage, table
from diptych.findings.legs import Evidence
from diptych.steering.effects import Effect, strongest_random
from diptych.storage import tables
from example_candidates import THRESHOLD, make_candidate
from trees import ROOT

GOOD = Evidence(control=0.0, effect=Effect(3.0, 1.5), words=[" States", "states", " nation", "river"], promoted=[])


def legs_of(evidence=GOOD, threshold=THRESHOLD, n_recovered=1, **changed):
    ranked = ranking.rank([make_candidate(**changed)], threshold).candidates[0]
    return {each.name: each for each in legs.legs_of(replace(ranked, n_recovered=n_recovered), threshold, evidence)}


def test_every_leg_has_its_number():
    found = legs_of(held_out=0.4, n_runs=3, n_recovered=2)
    assert tuple(found) == leg.NAMES
    numbers = {name: (each.state, each.value, each.margin) for name, each in found.items()}
    assert numbers == {
        "statistical": ("holds", 1e-4, pytest.approx(math.log(1e-4) / math.log(0.05))),
        "held out": ("holds", pytest.approx(0.8), pytest.approx(1.6)),
        "repeated": ("holds", pytest.approx(2 / 3), 1.0),
        "specific": ("holds", pytest.approx(5.0), pytest.approx(5.0)),
        "causal": ("holds", 3.0, 2.0),
        "readable": ("holds", 0.5, 1.0),
    }
    assert all(each.reason for each in found.values())


@pytest.mark.parametrize(
    ("name", "state", "changed"),
    [
        ("repeated", "not applicable", {}),
        ("repeated", "untested", {"n_runs": 1}),
        ("repeated", "weak", {"n_runs": 4, "n_recovered": 2}),
        ("specific", "untested", {"evidence": Evidence()}),
        ("specific", "weak", {"evidence": Evidence(control=0.6)}),
        ("specific", "weak", {"caveat": "domain shift", "remedy": "another dictionary would tell"}),
        ("causal", "untested", {"evidence": Evidence()}),
        ("causal", "untested", {"evidence": Evidence(effect=Effect(math.nan, math.nan))}),
        ("causal", "weak", {"evidence": Evidence(effect=Effect(1.2, 1.3))}),
        ("readable", "untested", {"evidence": Evidence()}),
        ("readable", "weak", {"evidence": Evidence(words=["a", "b", "c"], promoted=[" A"])}),
        ("readable", "holds", {"evidence": Evidence(words=["a", "b", "c"], promoted=[" A", "b"])}),
        ("statistical", "not applicable", {"threshold": ranking.Threshold(None, 0.1)}),
        ("held out", "not applicable", {"threshold": ranking.Threshold(None, 0.1)}),
    ],
)
def test_a_leg_that_is_weak_untested_or_not_asked_says_so(name, state, changed):
    assert legs_of(**changed)[name].state == state


def test_what_is_untested_stands_between_what_holds_and_what_does_not():
    strong, weak = measured("causal", 2.0, 1.1, ""), measured("causal", 0.5, 0.5, "")
    order = [weak, untested("repeated", ""), strong, not_applicable("readable", "")]
    strengths = [each.strength for each in order]
    assert strengths == sorted(strengths)
    assert weakest(order[::-1]) == weak


def test_a_methods_own_leg_takes_the_place_of_the_common_one():
    own = by_scaling(0.1, 0.05)
    assert (own.state, own.value, own.margin) == ("holds", 0.1, pytest.approx(2.0))
    assert by_scaling(0.1, -0.6).state == "weak"
    assert by_scaling(math.nan, 0.1).state == "untested"
    assert legs_of(legs=(own,))["specific"] == own


def test_the_strongest_random_direction_is_over_the_mean_of_all():
    trials = {
        "model": np.array(["A"] * 4 + ["B"]), "role": np.array(["random"] * 5),
        "name": np.array(["1", "2"] * 2 + ["1"]),
        "strength": np.array([1.0, 1.0, 2.0, 2.0, 1.0]), "kl": np.array([1.0, 3.0, 4.0, 4.0, 9.0]),
    }  # fmt: skip
    assert strongest_random(trials, "A") == pytest.approx(math.sqrt(1.5 * 1.0))


def entry(pair, method, strength, *, role="compared", status=None, site=""):
    """An entry of a pair and method, ranked by a leg of this margin."""
    ranked = ranking.rank([make_candidate(n_runs=1 if status == "not repeated" else 0)], THRESHOLD).candidates[0]
    described = {"name": pair, "role": role, "site_a": site, "site_b": site}
    leg_of_strength = Leg("causal", "holds" if strength >= 1 else "weak", strength, strength, "")
    return table.Entry(described, methods.named(method), ranked, (leg_of_strength,), np.zeros(0, dtype=np.int64), "")


def test_the_first_rows_are_the_best_of_every_method():
    many = [entry("tuned", "outputs", 10 + k) for k in range(50)]
    few = [entry("tuned", "linear_map", 0.5), entry("tuned", "linear_map", 2.0), entry("tuned", "means", 5.0)]
    planted = [entry("planted", "means", 99.0, role="planted")]
    single = [entry("tuned", "crosscoder", 99.0, status="not repeated")]
    ordered = table.ordered([*single, *many, *planted, *few])
    seen = [(each.pair["name"], each.method.name, each.rank, each.legs[0].margin) for each in ordered]
    assert seen[:6] == [
        ("tuned", "outputs", 1, 59),
        ("tuned", "means", 1, 5.0),
        ("tuned", "linear_map", 1, 2.0),
        ("planted", "means", 1, 99.0),
        ("tuned", "outputs", 2, 58),
        ("tuned", "linear_map", 2, 0.5),
    ]
    assert seen[-1][1] == "crosscoder"
    assert len(seen) == 55


def test_legs_are_stored_and_read():
    found = stage.read(small_study.shared()["findings"])
    for k in range(len(found.table["pair"])):
        six = found.legs_of(k)
        assert tuple(each.name for each in six) == leg.NAMES
        least = weakest(six)
        assert (found.table["weakest_leg"][k], found.table["weakest"][k]) == (least.name, least.strength)
        assert [found.table[schema.state_column(each.name)][k] for each in six] == [each.state for each in six]
        assert {each.state for each in six[:2]} == {"holds"}


def test_the_schema_is_that_of_the_file_and_pandas_reads_it():
    pandas = pytest.importorskip("pandas")
    path = Path(small_study.shared()["findings"]).with_suffix(".tsv")
    assert path.read_text(encoding="utf-8").startswith(f"# {schema.TITLE}\n")
    found, stored = pandas.read_csv(path, sep="\t", comment="#"), stage.read(path.with_suffix(".h5")).table
    assert tuple(found.columns) == tuple(stored) == schema.NAMES
    assert len(found) == len(stored["pair"]) > 0
    for column in schema.COLUMNS:
        texts = found[column.name].dropna().map(str)
        if column.kind == "text":
            assert list(found[column.name].fillna("").map(str)) == [
                " ".join(str(cell).split()) for cell in stored[column.name]
            ]
        else:
            assert not pandas.to_numeric(texts).isna().any()
            np.testing.assert_allclose(found[column.name].to_numpy(dtype=float), stored[column.name], rtol=1e-5)
    assert set(found["status"]) <= set(table.STATUSES)
    for name in leg.NAMES:
        assert set(found[schema.state_column(name)]) <= set(schema.STATES)


def test_cells_with_quotes_and_comments_come_back(tmp_path):
    pandas = pytest.importorskip("pandas")
    cells = ['"#"', '"...\\""', "'re", "a # b", '"', "", "x"]
    (tmp_path / "t.tsv").write_text(tables.tsv({"id": cells, "n": range(len(cells))}, schema.TITLE))
    read = pandas.read_csv(tmp_path / "t.tsv", sep="\t", comment="#", keep_default_na=False)
    assert (list(read["id"]), list(read["n"])) == (cells, list(range(len(cells))))
    with (tmp_path / "t.tsv").open() as file:
        next(file)
        assert [row["id"] for row in csv.DictReader(file, delimiter="\t")] == cells


def test_the_site_names_the_version_of_the_columns():
    assert f"`# {schema.TITLE}`" in (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
