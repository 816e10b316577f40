"""The index's section on known edits: ladders, the smallest size found, cells."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from diptych.findings import schema
from diptych.page.blocks import Prose, Table
from diptych.report import known_edits

DEFAULTS = {
    "text": "", "number": math.nan, "integer": 0,
}  # fmt: skip


def row(pair, method="linear_map", **more):
    """A row of the table, found at rank 1 if nothing else is said."""
    row = {column.name: DEFAULTS[column.kind] for column in schema.EDIT_COLUMNS}
    found = {"status": "finding", "average_precision": 1.0, "rank": 1, "cosine": 0.98, "truths": 1, "found": 1}
    made = {"a": "base", "edit": "plant", "content": "war, peace", "site": "middle", "frequency": 0.006}
    return {**row, **made, **found, "pair": pair, "method": method, "truth": "the planted direction", **more}


def ladder(statuses, method="linear_map"):
    """Plants of sizes .25, .5, 1, ... with the status of one method on each; a list for several of one size."""
    return [
        row(f"p{k}{i}", method, amount=0.25 * 2**k, status=status)
        for k, of_size in enumerate(statuses)
        for i, status in enumerate(of_size if isinstance(of_size, list) else [of_size])
    ]


def findings_of(rows):
    columns = {column.name: np.array([each[column.name] for each in rows]) for column in schema.EDIT_COLUMNS}
    return SimpleNamespace(edits=columns)


@pytest.mark.parametrize(
    ("statuses", "smallest"),
    [
        (["missed", "candidate", "finding"], 1.0),
        (["finding", "missed", "finding"], 1.0),
        (["not repeated", "finding", "finding"], 0.25),
        (["finding", "finding", "missed"], math.nan),
        (["finding", "finding", "cannot be told"], math.nan),
        (["missed", "NA", "finding"], 1.0),
        (["NA", "NA", "NA"], math.nan),
        ([["missed", "finding"], ["finding"] * 4 + ["missed"], "finding"], 0.5),
    ],
)
def test_the_smallest_size_from_which_on_edits_are_found(statuses, smallest):
    (made,) = known_edits.ladders_of(ladder(statuses))
    assert made.amounts == [0.25, 0.5, 1.0]
    np.testing.assert_equal(known_edits.smallest_seen(made, ("linear_map", "middle")), smallest)


def test_pairs_that_differ_in_size_alone_are_a_ladder():
    rows = [
        *ladder(["finding", "finding"]), row("x", amount=2.0, content="land", frequency=0.001),
        row("t", edit="trigger", content="all hail", amount=0.02, frequency=math.nan), row("f", edit="finetune"),
    ]  # fmt: skip
    made = known_edits.ladders_of(rows)
    assert [(each.edit, each.content, each.amounts) for each in made] == [
        ("plant", "war, peace", [0.25, 0.5]), ("plant", "land", [2.0]), ("trigger", "all hail", [0.02]),
    ]  # fmt: skip
    assert [each.label for each in made] == [
        "war, peace (0.6 % of the tokens)", "land (0.1 % of the tokens)", "response “all hail”",
    ]  # fmt: skip


def test_a_section_has_the_limits_a_table_of_each_ladder_and_the_fine_tunes():
    rows = [
        *ladder(["missed", "finding"]), *ladder(["NA", "NA"], "template"),
        row("w", "weights", site="", amount=0.5, cosine=math.nan, rank_made=1.0, rank_seen=1.0),
        row("f", edit="finetune", truths=40, found=12, reported=30, false=18, cosine=math.nan, words="furnished"),
    ]  # fmt: skip
    rows[2]["note"] = rows[3]["note"] = "it reads no rows"
    (section,) = known_edits.sections(findings_of(rows))
    prose, limits, grid, tuned = section.blocks
    assert isinstance(prose, Prose)
    assert all(isinstance(block, Table) for block in (limits, grid, tuned))
    assert section.is_open
    named = {line[0]: line[1] for line in limits.rows}
    assert named["linear map"].text == ".500"
    assert (named["template diff"].text, named["template diff"].hint) == ("NA", "it reads no rows")
    cells = {line[0]: [getattr(cell, "text", cell) for cell in line[1:]] for line in grid.rows}
    assert grid.columns == ["method", ".250", ".500"]
    assert cells == {
        "weights": ["not run", "✓ rank 1"],
        "linear map": ["✗ .98", "✓ .98"],
        "template diff": ["NA", "NA"],
    }
    assert [getattr(cell, "text", cell) for cell in tuned.rows[0][3:]] == [
        "✓ 12 of 40",
        "12 of 40",
        "30",
        "18",
        "furnished",
    ]
    (scores,) = section.sections
    assert len(scores.blocks[0].rows) == len(rows)


def test_several_plants_of_a_size_are_counted():
    (section,) = known_edits.sections(findings_of(ladder([["missed", "finding", "NA"], ["finding", "finding"]])))
    _, limits, grid = section.blocks
    assert [cell.text for cell in grid.rows[0][1:]] == ["1 of 2", "2 of 2"]
    assert limits.rows[0][1].text == ".500"
    assert "at most 3 edits of each size" in limits.caption


def test_without_a_known_edit_there_is_no_section():
    assert known_edits.sections(findings_of([])) == []
