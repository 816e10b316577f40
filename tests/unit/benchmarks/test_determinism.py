"""What is said of the findings of two runs of one study."""

import numpy as np
import pytest

from diptych.findings import schema
from diptych.storage import tables
from trees import ROOT


@pytest.fixture
def determinism(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import determinism

    return determinism


def study(place, rows):
    """A results directory with a table of findings: identifier, status and effect of each row."""
    place.mkdir()
    given = {"id": [r[0] for r in rows], "status": [r[1] for r in rows], "effect": np.array([r[2] for r in rows])}
    empty = {column.name: [""] * len(rows) for column in schema.COLUMNS}
    constant = {
        "pair": ["tuned"] * len(rows),
        "method": ["outputs"] * len(rows),
        "note": ['said "so" # here'] * len(rows),
    }
    (place / "findings.tsv").write_text(tables.tsv(empty | constant | given, schema.TITLE))
    return place


def test_the_same_findings_with_other_last_digits(determinism, tmp_path):
    a = study(tmp_path / "a", [('" the"', "finding", 1.0), ("#1", "not repeated", 2.0)])
    b = study(tmp_path / "b", [('" the"', "finding", 1.0 + 1e-4), ("#1", "cannot be told", 3.0)])
    for place, bytes_ in ((a, b"same"), (b, b"same")):
        (place / "x.h5").write_bytes(bytes_)
    lines, same = determinism.compare(a, b)
    assert same
    assert lines[0].startswith(
        "1 findings in both, 0 only in the first, 0 only in the second; effects differ by at most 1.0e-04"
    )
    assert lines[0].endswith("1 of 1 artifacts are the same bytes")
    assert lines[1:] == ["  tuned, outputs: 1 of 1 in both, 0 only in the first, 0 in the second"]


def test_a_finding_that_one_study_lacks_is_named_with_what_the_other_says(determinism, tmp_path):
    a = study(tmp_path / "a", [("#1", "finding", 1.0), ("#2", "finding", 1.0)])
    b = study(tmp_path / "b", [("#1", "not repeated", 0.5)])
    lines, same = determinism.compare(a, b)
    assert not same
    assert "only in the first: tuned outputs #1: effect 1" in lines[2]
    assert "the other: not repeated, effect 0.5" in lines[2]
    assert lines[2].endswith(': said "so" # here')
    assert "#2" in lines[3]
    assert lines[3].endswith("does not report it")
    lines, same = determinism.compare(b, a)
    assert not same
    assert "only in the second: tuned outputs #1" in lines[2]
