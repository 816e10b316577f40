"""A method is one package and one line of the table: here `tests/toy_method`, and METHODS with it."""

import ast
import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import example_candidates
import small_study
import toy_method
from diptych import methods
from diptych.activations import rows
from diptych.candidates import ranking
from diptych.findings import conclusions, stage
from diptych.methods import Method
from diptych.oracle import planted
from diptych.report import stage as report
from diptych.storage import fingerprint
from toy_method import stage as toy

TOY = Method("toy", "toy means", "toy_method", file="toy", kind="direction", min_effect=0.1, effect="A length.")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The small study with the toy method: a shifted pair and a control."""
    monkeypatch.setattr(methods, "METHODS", (*methods.METHODS, TOY))
    inputs = copy.deepcopy(small_study.shared())
    made = planted.identical_pair(3, **small_study.PLANTED_SETTINGS)
    shift = np.zeros(made.x_A.shape[1], dtype=np.float32)
    shift[0] = 1.0
    for pair, x_B in ((inputs["pairs"][0], made.x_A + shift), (inputs["pairs"][2], made.x_A)):
        both = rows.in_memory([made.x_A, x_B], made.document, fold=made.document % 5)
        toy.compare(both, tmp_path / f"{pair['name']}.h5", spec=small_study.SPEC)
        pair["files"]["toy"] = str(tmp_path / f"{pair['name']}.h5")
    least = {**small_study.MIN_EFFECT, "toy": TOY.min_effect}
    inputs["findings"] = str(tmp_path / "findings.h5")
    stage.collect(
        inputs["pairs"], inputs["findings"], tmp_path / "findings.tsv", spec=small_study.SPEC, min_effect=least
    )
    return inputs


def test_a_method_is_a_package_and_a_line(study, tmp_path):
    lines = [line.split("\t") for line in (tmp_path / "findings.tsv").read_text().splitlines()[1:]]
    table = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    own = [row for row in table if row["method"] == "toy"]
    assert [(row["pair"], row["id"], row["side"]) for row in own] == [("tuned", "mean 1", "B")]
    assert float(own[0]["effect"]) == pytest.approx(1.0, rel=1e-3)

    found = stage.read(study["findings"])
    clauses = {clause["name"]: clause["holds"] for control in found.controls for clause in control["clauses"]}
    assert clauses["the means are equal"] is True
    assert {answer["pair"] for answer in found.answers if answer["method"] == "toy"} == {"tuned", "control"}

    report.build(study, tmp_path / "index.html", spec=small_study.SPEC)
    for name in ("tuned", "control"):
        page = (tmp_path / "pairs" / f"{name}.html").read_text(encoding="utf-8")
        assert page.count("The toy method saw 12 documents.") == 1
    page = (tmp_path / "pairs" / "tuned.html").read_text(encoding="utf-8")
    assert 'id="pair-tuned-middle-toy-1"' in page, "its finding has a card"


def test_a_method_that_compares_models_as_a_whole(study, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "METHODS", (*methods.METHODS[:-1], replace(TOY, scope="pair", is_exact=True)))
    pairs = []
    for pair in study["pairs"]:
        if toy_file := pair["files"].pop("toy", None):
            text = {key: pair["files"][key] for key in ("tokens_a", "tokens_b")}
            pairs.append({**pair, "site_a": "", "site_b": "", "files": {**text, "toy": toy_file}})
        pairs.append(pair)
    study["pairs"] = pairs
    stage.collect(pairs, study["findings"], tmp_path / "findings.tsv", spec=small_study.SPEC,
                  min_effect={**small_study.MIN_EFFECT, "toy": TOY.min_effect})  # fmt: skip
    found = stage.read(study["findings"])
    own = [answer for answer in found.answers if answer["method"] == "toy"]
    assert [(answer["pair"], answer["site"], answer["status"]) for answer in own] == [
        ("tuned", "", "found"), ("control", "", "as_it_must"),
    ]  # fmt: skip
    whole = next(control for control in found.controls if control["site"] == "")
    assert [clause["name"] for clause in whole["clauses"]][-2:] == ["the means are equal", "no finding"]
    report.build(study, tmp_path / "index.html", spec=small_study.SPEC)
    page = (tmp_path / "pairs" / "tuned.html").read_text(encoding="utf-8")
    assert 'id="pair-tuned-toy-1"' in page
    assert page.index("tuned differs from base: 1 finding (1 by the toy means)") < page.index("differs from base at")


def test_an_exact_method_needs_no_test():
    untested = example_candidates.make_candidate(p=float("nan"), effect=0.3, held_out=0.3)
    assert not ranking.rank([untested], ranking.Threshold(0.05, 0.1)).findings
    exact = ranking.rank([untested], ranking.Threshold(None, 0.1))
    assert [ranked.smallest_margin for ranked in exact.findings] == pytest.approx([3.0])
    assert not ranking.rank([untested], ranking.Threshold(None, 0.4)).findings
    none = conclusions.answer("compared", replace(TOY, is_exact=True), ranking.Ranking(()), None)
    assert none == conclusions.Answer("none", "no difference found: the comparison is exact")


def test_the_toy_method_is_small():
    modules = Path(toy_method.__file__).parent.glob("*.py")
    assert sum(len(module.read_text().splitlines()) for module in modules) < 80


TABLES = {"methods.py", "config/cells.py", "config/jobs.py"}
"""The table of methods and the tables of their files."""
KINDS = {"candidates/candidate.py", "config/documentation/reruns.py"}
"""Where `weights` is a kind of candidate or a key of another section."""
ROLES = {"text/templates.py", "text/tokens.py", "config/checks.py", "config/sections/corpora.py"}
"""Where `template` is a chat template or the role of its tokens."""


def test_no_module_branches_on_the_name_of_a_method():
    """As a key or a kind of file a name is free: files are named after what they hold."""
    names = {method.name for method in methods.METHODS}
    found = set()
    for path in fingerprint.LIBRARY.rglob("*.py"):
        own = {method.name for method in methods.METHODS if f"diptych/{method.package.split('.')[1]}/" in str(path)}
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript | ast.Call | ast.Dict):
                continue
            values = [child.value for child in ast.iter_child_nodes(node) if isinstance(child, ast.Constant)]
            if (names - own) & set(values):
                found.add(path.relative_to(fingerprint.LIBRARY).as_posix())
    assert found - KINDS - ROLES - TABLES == set()
