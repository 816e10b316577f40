"""Rankings against known edits: scores in closed form, and the small study's planted pair from findings to table."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import small_study
from diptych import methods
from diptych.candidates import ranking
from diptych.candidates.known import Known
from diptych.findings import known_edits, schema, stage
from example_candidates import THRESHOLD, make_candidate

FEATURES = ("a", "b", "c", "d")


def ranked(*candidates):
    """Candidates as findings of falling effect, so that they are ranked as they are listed."""
    listed = [
        candidate._replace(effect=sign * (1 - 0.1 * k), held_out=sign * (1 - 0.1 * k), p=10.0 ** (k - 20))
        for k, candidate in enumerate(candidates)
        for sign in [1 if candidate.side == "B" else -1]
    ]
    found = ranking.rank(listed, THRESHOLD)
    assert [each.candidate.id for each in found.candidates] == [each.id for each in candidates]
    return found


def four(**more):
    return [make_candidate(id=name, **more) for name in FEATURES]


def score(found, shown, names=("direction",), **more):
    truths = Known("truth", names, [None if each is None else frozenset(each) for each in shown], **more)
    return known_edits.score(known_edits.differences(found, truths), len(names))


@pytest.mark.parametrize(("place", "precision"), [(0, 1.0), (1, 1 / 2), (3, 1 / 4)])
def test_a_single_truth_scores_one_over_the_place_of_its_hit(place, precision):
    result = score(ranked(*four()), [{0} if k == place else set() for k in range(4)], cosine=[0.1, 0.2, 0.3, 0.4])
    assert (result.average_precision, result.rank, result.status) == (precision, place + 1, "finding")
    assert result.cosine == pytest.approx(0.1 * (place + 1))
    assert (result.reported, result.false, result.shown) == (4, 3, {0})


def test_a_miss_has_the_largest_cosine_and_a_precision_of_zero():
    result = score(ranked(*four()), [set()] * 4, cosine=[0.1, 0.6, 0.3, 0.0])
    assert (result.average_precision, result.rank, result.status, result.cosine) == (0.0, 0, "missed", 0.6)
    assert (result.false, result.shown) == (4, frozenset())
    nothing = score(ranked(), [])
    assert (nothing.average_precision, nothing.status, nothing.reported) == (0.0, "missed", 0)
    assert math.isnan(nothing.cosine)


def test_later_hits_on_a_claimed_truth_are_passed_over():
    """Truths 0, 1, 2; the second hit repeats the first: (1 / 1 + 2 / 3) / 3, as if it were not there."""
    found = ranked(*four(), make_candidate(id="e"))
    result = score(found, [{0}, {0}, set(), {1}, set()], names=("x", "y", "z"))
    assert result.average_precision == pytest.approx((1 + 2 / 3) / 3)
    assert (result.shown, result.reported, result.false) == ({0, 1}, 5, 2)


def test_a_candidate_may_show_several_truths():
    result = score(ranked(*four()), [set(), {0, 1}, set(), {1, 2}], names=("x", "y", "z", "w"))
    assert result.average_precision == pytest.approx((2 * 1 / 2 + 2 / 4) / 4)
    assert (result.rank, result.shown) == (2, {0, 1, 2})


def test_a_duplicate_counts_with_what_it_duplicates():
    """Three directions, the second at |cos| .8 to the first: two differences, and what it shows is the first one's."""
    tilted = (0.8, 0.6, 0.0)
    candidates = [
        make_candidate(id=name, kind="direction", direction=direction)
        for name, direction in (("a", (1.0, 0.0, 0.0)), ("b", tilted), ("c", (0.0, 0.0, 1.0)))
    ]
    found = ranked(*candidates)
    assert [each.duplicate_of for each in found.candidates] == ["", "a", ""]
    behind = score(found, [set(), set(), {0}], cosine=[0.1, 0.2, 0.9])
    assert (behind.average_precision, behind.rank, behind.reported, behind.false) == (1 / 2, 2, 2, 1)
    first = score(found, [set(), {0}, set()], cosine=[0.6, 0.9, 0.0])
    assert (first.average_precision, first.cosine, first.false) == (1.0, 0.9, 1)


def test_candidates_of_one_id_are_told_apart():
    """Two candidates about one feature have its number for their id: the second duplicates the first, not itself."""
    found = ranked(make_candidate(id="7", subject="7"), make_candidate(id="7", subject="7"), make_candidate(id="8"))
    assert [each.duplicate_of for each in found.candidates] == ["", "7", ""]
    result = score(found, [{0}, set(), set()])
    assert (result.average_precision, result.reported, result.false) == (1.0, 2, 1)


def test_what_cannot_be_judged_or_be_a_finding_is_left_out():
    found = ranked(*four())
    assert score(found, [None, None, {0}, set()]).average_precision == 1.0
    barred = ranking.rank([make_candidate(id="a", barred="too few"), make_candidate(id="b", p=math.nan)], THRESHOLD)
    places = {each.candidate.id: k for k, each in enumerate(barred.candidates)}
    result = score(barred, [{0} if k == places["b"] else set() for k in range(2)])
    assert (result.average_precision, result.rank, result.status, result.reported) == (1.0, 1, "candidate", 0)


def test_a_hit_of_one_training_stands_and_is_no_finding():
    result = score(ranked(*four(n_runs=1)), [{0}, set(), set(), set()])
    assert (result.status, result.shown) == ("not repeated", {0})
    doubtful = score(ranked(*four(caveat="domain shift")), [{0}, set(), set(), set()])
    assert (doubtful.status, doubtful.shown) == ("cannot be told", frozenset())


def test_a_finding_counts_where_one_that_other_seeds_do_not_repeat_came_before_it():
    """The first of two hits is found in one run of three, so it is not reported; the second is in all."""
    found = ranked(*(each._replace(n_runs=3) for each in four()))
    repeated = [replace(each, n_recovered=1 if k == 0 else 3) for k, each in enumerate(found.candidates)]
    result = score(ranking.Ranking(repeated), [{0}, {0}, set(), set()])
    assert (result.status, result.rank, result.shown, result.reported) == ("finding", 1, {0}, 3)


def test_words_are_those_of_hits_that_are_reported():
    read = [frozenset({0}), frozenset({1, 2}), frozenset(), frozenset({0, 2})]
    result = score(ranked(*four()), [set(), {0}, set(), {0}], words=("of", "the", "land"), read=read)
    assert result.read == {0, 1, 2}


# --- from a study -----------------------------------------------------------------------------------------------


def rows_by_method(findings, pair):
    edits = findings.edits
    table = [dict(zip(edits, values, strict=True)) for values in zip(*edits.values(), strict=True)]
    return {row["method"]: row for row in table if row["pair"] == pair}


def test_the_planted_pair_is_scored_by_every_method_that_was_run():
    study = small_study.shared()
    rows = rows_by_method(stage.read(study["findings"]), "planted")
    assert list(rows) == [name for name in (m.name for m in methods.proposing("site")) if name != "template"]
    for row in rows.values():
        assert row["status"] in schema.STANDING
        assert (row["site"], row["edit"], row["content"], row["amount"]) == ("middle", "plant", "of", 0.5)
        assert (row["truths"], row["found"], row["of_words"]) == (1, 1, 1)
        assert row["average_precision"] == 1 / row["rank"]
        assert row["cosine"] >= 0.7
    assert 0 < rows["means"]["frequency"] < 1


def test_what_nobody_edited_has_no_row_and_a_fine_tune_without_words_is_not_judged():
    findings = stage.read(small_study.shared()["findings"])
    assert set(findings.edits["pair"]) == {"tuned", "planted"}
    for row in rows_by_method(findings, "tuned").values():
        assert (row["status"], row["truths"], row["truth"]) == ("NA", 0, "")
        assert row["note"] == "no token is more frequent in the text of the fine-tune than in the text that is compared"
        assert math.isnan(row["average_precision"])


def test_a_site_before_the_edit_has_nothing_to_find(tmp_path):
    pair = {**small_study.shared()["pairs"][1]}
    plant = pair["edit"]
    pair["edit"] = {**plant, "settings": {**plant["settings"], "layer": 16}}
    stage.collect([pair], tmp_path / "f.h5", tmp_path / "f.tsv", spec={}, min_effect=small_study.MIN_EFFECT)
    edits = stage.read(tmp_path / "f.h5").edits
    assert set(edits["status"]) == {"NA"}
    assert set(edits["note"]) == {"middle lies before block 16, which was edited"}


def test_the_table_is_the_artifacts(tmp_path):
    pair = small_study.shared()["pairs"][1]
    paths = tmp_path / "f.h5", tmp_path / "f.tsv"
    stage.collect([pair], *paths, spec={}, edits=tmp_path / "known.tsv", min_effect=small_study.MIN_EFFECT)
    assert (tmp_path / "known.tsv").read_text().splitlines()[0] == f"# {schema.EDITS_TITLE}"
    table = pd.read_csv(tmp_path / "known.tsv", sep="\t", comment="#")
    assert list(table) == [column.name for column in schema.EDIT_COLUMNS]
    np.testing.assert_allclose(table["cosine"], stage.read(tmp_path / "f.h5").edits["cosine"], rtol=1e-5)
    control = small_study.shared()["pairs"][2]
    stage.collect([control], *paths, spec={}, edits=tmp_path / "none.tsv", min_effect=small_study.MIN_EFFECT)
    assert len((tmp_path / "none.tsv").read_text().splitlines()) == 2
