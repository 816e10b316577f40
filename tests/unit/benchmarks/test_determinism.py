"""What is said of the findings of two runs of one study."""

import json
from types import SimpleNamespace

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

    monkeypatch.setattr(determinism.stage, "read", lambda path: SimpleNamespace(answers=json.loads(path.read_text())))
    return determinism


def study(place, rows, kind="token", answer="found"):
    """A results directory with a table of findings, identifier, status and effect of each row, and one answer."""
    place.mkdir()
    said = {"pair": "tuned", "method": "outputs", "role": "compared", "status": answer}
    (place / "findings.h5").write_text(json.dumps([said]))
    given = {"id": [r[0] for r in rows], "status": [r[1] for r in rows], "effect": np.array([r[2] for r in rows])}
    empty = {column.name: [""] * len(rows) for column in schema.COLUMNS}
    constant = {
        "pair": ["tuned"] * len(rows),
        "method": ["outputs"] * len(rows),
        "kind": [kind] * len(rows),
        "note": ['said "so" # here'] * len(rows),
    }
    (place / "findings.tsv").write_text(tables.tsv(empty | constant | given, schema.TITLE))
    return place


def test_the_same_findings_with_other_last_digits(determinism, tmp_path):
    a = study(tmp_path / "a", [('" the"', "finding", 1.0), ("#1", "not repeated", 2.0)])
    b = study(tmp_path / "b", [('" the"', "finding", 1.0 + 1e-4), ("#1", "cannot be told", 3.0)])
    for place, other in ((a, " "), (b, "  ")):
        (place / "x.h5").write_bytes(b"same")
        (place / "findings.h5").write_text((place / "findings.h5").read_text() + other)
    lines, same = determinism.compare(a, b)
    assert same
    assert lines[0] == "1 of 1 answers (a pair by a method) are the same; 1 of 2 artifacts are the same bytes"
    assert lines[1] == (
        "computed: 1 findings in both, 0 only in the first, 0 only in the second; effects differ by at most 1.0e-04"
    )
    assert lines[3:] == ["  tuned, outputs: 1 of 1 in both, 0 only in the first, 0 in the second"]


def test_features_and_latents_are_counted_apart(determinism, tmp_path):
    a = study(tmp_path / "a", [("7", "finding", 1.0)], kind="feature")
    b = study(tmp_path / "b", [("9", "finding", 1.0)], kind="feature")
    lines, same = determinism.compare(a, b)
    assert not same
    assert lines[1].startswith("computed: 0 findings in both, 0 only in the first, 0 only in the second")
    assert lines[2].startswith("features and latents, which training makes: 0 findings in both, 1 only in the first, 1")


def test_another_answer_is_named_and_no_sameness(determinism, tmp_path):
    a = study(tmp_path / "a", [("7", "finding", 1.0)])
    b = study(tmp_path / "b", [("7", "finding", 1.0)], answer="none")
    lines, same = determinism.compare(a, b)
    assert not same
    assert lines[0].startswith("0 of 1 answers")
    assert lines[3] == "  tuned, outputs: found; the other: none"


def test_a_finding_that_one_study_lacks_is_named_with_what_the_other_says(determinism, tmp_path):
    a = study(tmp_path / "a", [("#1", "finding", 1.0), ("#2", "finding", 1.0)])
    b = study(tmp_path / "b", [("#1", "not repeated", 0.5)])
    lines, same = determinism.compare(a, b)
    assert not same
    assert "only in the first: tuned outputs token #1: effect 1" in lines[4]
    assert "the other: not repeated, effect 0.5" in lines[4]
    assert lines[4].endswith(': said "so" # here')
    assert "#2" in lines[5]
    assert lines[5].endswith("does not report it")
    lines, same = determinism.compare(b, a)
    assert not same
    assert "only in the second: tuned outputs token #1" in lines[4]
