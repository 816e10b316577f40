"""What is said of the findings of two runs of one study."""

from types import SimpleNamespace

import numpy as np
import pytest

from diptych.findings import schema
from trees import ROOT

X, NEAR, FAR = (1.0, 0.0), (0.8, -0.6), (0.6, 0.8)


@pytest.fixture
def determinism(monkeypatch):
    """The script as a module; a results directory of `study` holds arrays in place of its artifact."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import determinism

    monkeypatch.setattr(determinism.stage, "read", lambda path: STUDIES[path.parent])
    return determinism


STUDIES = {}


def study(place, rows, kind="token", answer="found", directions=(), side="B"):
    """A results directory with a table of findings, identifier, status and effect of each row, and one answer."""
    place.mkdir()
    said = {"pair": "tuned", "method": "outputs", "role": "compared", "status": answer}
    given = {"id": [r[0] for r in rows], "status": [r[1] for r in rows], "effect": [r[2] for r in rows]}
    constant = {"pair": "tuned", "method": "outputs", "kind": kind, "side": side, "note": "said so"}
    empty = {column.name: [np.nan if column.kind == "number" else ""] * len(rows) for column in schema.COLUMNS}
    table = empty | {name: [value] * len(rows) for name, value in constant.items()} | given
    vectors = {i: np.array([*vector, np.nan], dtype=np.float32) for i, vector in enumerate(directions)}
    STUDIES[place] = SimpleNamespace(answers=[said], table=table, directions=vectors)
    return place


def test_the_same_findings_with_other_last_digits(determinism, tmp_path):
    a = study(tmp_path / "a", [('" the"', "finding", 1.0), ("#1", "not repeated", 2.0)])
    b = study(tmp_path / "b", [('" the"', "finding", 1.0 + 1e-4), ("#1", "cannot be told", 3.0)])
    for place, other in ((a, b" "), (b, b"  ")):
        (place / "x.h5").write_bytes(b"same")
        (place / "findings.h5").write_bytes(other)
    lines, same = determinism.compare(a, b)
    assert same
    assert lines == [
        "1 of 1 answers (a pair by a method) are the same; 1 of 2 artifacts are the same bytes",
        "computed: 1 findings in both, 0 only in the first, 0 only in the second; effects differ by at most 1.0e-04",
        "features and latents, which training makes: 0 findings in both, 0 only in the first, 0 only in the second; "
        "effects differ by at most 0.0e+00",
    ]


@pytest.mark.parametrize(
    ("other", "side", "counts"),
    [
        (NEAR, "B", "1 findings in both, 0 only in the first, 0 only in the second"),
        (FAR, "B", "0 findings in both, 1 only in the first, 1 only in the second"),
        (X, "A", "0 findings in both, 1 only in the first, 1 only in the second"),
    ],
)
def test_what_training_makes_is_the_same_along_the_same_direction(determinism, tmp_path, other, side, counts):
    a = study(tmp_path / "a", [("7", "finding", 1.0)], kind="feature", directions=[X])
    b = study(tmp_path / "b", [("9", "finding", 1.0)], kind="feature", directions=[other], side=side)
    lines, same = determinism.compare(a, b)
    assert same is counts.startswith("1")
    assert lines[1].startswith("computed: 0 findings in both, 0 only in the first, 0 only in the second")
    assert lines[2].startswith(f"features and latents, which training makes: {counts}")


def test_what_is_computed_is_told_apart_by_its_name(determinism, tmp_path):
    a = study(tmp_path / "a", [("pca 1", "finding", 1.0)], kind="direction", directions=[X])
    b = study(tmp_path / "b", [("pca 2", "finding", 1.0)], kind="direction", directions=[X])
    assert determinism.compare(a, b)[1] is False


def test_another_answer_is_named_and_no_sameness(determinism, tmp_path):
    a = study(tmp_path / "a", [("7", "finding", 1.0)])
    b = study(tmp_path / "b", [("7", "finding", 1.0)], answer="none")
    lines, same = determinism.compare(a, b)
    assert not same
    assert lines[0].startswith("0 of 1 answers")
    assert lines[1] == "  tuned, outputs: found; the other: none"


def test_a_finding_that_one_study_lacks_is_named_with_what_the_other_says(determinism, tmp_path):
    a = study(tmp_path / "a", [("#1", "finding", 1.0), ("#2", "finding", 1.0)])
    b = study(tmp_path / "b", [("#1", "not repeated", 0.5)])
    lines, same = determinism.compare(a, b)
    assert not same
    assert lines[3:] == [
        "  only in the first: tuned outputs token #1 B: effect 1; the other: not repeated, effect 0.5: said so",
        "  only in the first: tuned outputs token #2 B: effect 1; the other: does not report it",
    ]
    lines, same = determinism.compare(b, a)
    assert not same
    assert lines[3].startswith("  only in the second: tuned outputs token #1 B")
