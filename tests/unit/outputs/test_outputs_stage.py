"""The whole comparison of outputs: artifact, table, findings, control, page; and models with different tokenizers."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych.candidates.ranking import Threshold, rank
from diptych.models.batches import Sequences
from diptych.outputs import candidates, reading, record, spans, stage
from diptych.outputs import section as outputs_section
from diptych.page import document
from diptych.page.method_sections import Finding, PageData
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text import alignment, tokens
from output_pairs import RAISED, make_prompts, make_text, raise_logit
from tiny_models import make_model, make_tokenizer

torch.set_num_threads(1)
THRESHOLD = Threshold(0.05, 0.5)
SETTINGS = {"bootstrap": 100, "top": 20}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("stage")
    make_model(place / "a")
    make_text(place, place / "a")
    raise_logit(place / "a", place / "b", by=2.0, noise=0.02)
    make_prompts(place, place / "a")
    for name, models in (("raised", "ab"), ("same", "aa")):
        run(place, models, place / f"{name}.h5", prompts=place / "prompts.h5")
    return place


def run(place: Path, models: str, out: Path, text: str = "tokens.h5", **options) -> None:
    sides = [stage.Model(place / name, place / text, "float32") for name in models]
    stage.compare(*sides, out, out.with_suffix(".tsv"), spec={"job": "test"}, **{**SETTINGS, **options})


def files_of(place: Path, name: str) -> dict[str, str]:
    text = str(place / "tokens.h5")
    return {
        "outputs": str(place / f"{name}.h5"), "tokens_a": text, "tokens_b": text, "prompts": str(place / "prompts.h5"),
    }  # fmt: skip


def test_the_raised_token_is_the_strongest_finding(place):
    files = files_of(place, "raised")
    ranking = rank(candidates.PROPOSER.candidates(files), THRESHOLD)
    text = record.read(files["outputs"])["text"]
    (name,) = text.texts(np.array([RAISED]))
    strongest = next(found.candidate for found in ranking.findings if not found.candidate.tokens)
    assert (strongest.id, strongest.side, strongest.kind) == (name, "B", "token")
    assert strongest.effect > 2.0
    assert 0 < strongest.lo < strongest.effect < strongest.hi
    first = next(found.candidate for found in ranking.findings if found.candidate.tokens)
    assert first.id == f"{name} first in a reply"
    assert first.tokens == files["prompts"]
    assert len(ranking.findings) < 10
    assert candidates.PROPOSER.planted(files, THRESHOLD).written


def test_a_model_with_itself_gives_nothing(place):
    files = files_of(place, "same")
    assert candidates.PROPOSER.candidates(files) == []
    assert [clause.holds for clause in candidates.PROPOSER.control(files)] == [True, True]
    assert candidates.PROPOSER.planted(files, THRESHOLD) is None
    broken = candidates.PROPOSER.control(files_of(place, "raised"))
    assert [clause.holds for clause in broken] == [False, False]
    assert "largest divergence" in broken[0].text
    assert [clause.holds for clause in candidates.PROPOSER.control({})] == [None, None]


def test_a_copy_in_bfloat16_is_no_finding_at_the_least_effect(place, tmp_path):
    sides = [stage.Model(place / "a", place / "tokens.h5", dtype) for dtype in ("float32", "bfloat16")]
    stage.compare(*sides, tmp_path / "o.h5", tmp_path / "o.tsv", spec={}, **SETTINGS)
    files = {**files_of(place, "same"), "outputs": str(tmp_path / "o.h5")}
    text = record.read(files["outputs"])["text"]
    assert np.abs(text.tested["effect"]).max() < 0.1
    assert 0 < text.divergences["kl_ab"][0] < 1e-3
    assert not rank(candidates.PROPOSER.candidates(files), THRESHOLD).findings
    assert candidates.PROPOSER.planted(files, THRESHOLD).written  # so that nothing found means something


def test_the_table_has_every_tested_token(place):
    lines = (place / "raised.tsv").read_text().splitlines()
    records = record.read(place / "raised.h5")
    assert lines[0].split("\t") == list(stage.TSV_COLUMNS)
    assert len(lines) == 1 + sum(each.summary["tested"] for each in records.values())
    assert (place / "same.tsv").read_text().splitlines() == lines[:1]
    assert not list(place.glob(".outputs-*"))


def test_both_models_top_tokens_stand_beside_each_other(place):
    text = record.read(place / "raised.h5")["text"]
    assert set(text.disagreements) <= set(text.tops.row)
    shown = text.rows[:20, :6]
    assert np.isin(shown[shown >= 0], text.tops.row).all()
    assert (np.diff(text.tops.p, axis=-1) <= 0).all()
    by_row = dict(zip(text.positions["row"], text.positions["agrees"], strict=True))
    tops = text.tops.token[:, :, 0]
    assert (np.array([by_row[row] for row in text.tops.row]) == (tops[:, 0] == tops[:, 1])).all()


def page_of(place: Path, name: str, found: list[str]) -> tuple[dict, PageData]:
    cell = {
        "name": name, "a": "base", "b": "tuned", "site": "", "id": "pair-x", "files": files_of(place, name),
        "finding_ids": found,
    }  # fmt: skip
    return cell, PageData({}, n_contexts=4, n_full_cells=1, finding_ids=frozenset(found), cell=cell)


def test_the_page_says_it_in_words(place):
    text = record.read(place / "raised.h5")["text"]
    (name,) = text.texts(np.array([RAISED]))
    cell, page = page_of(place, "raised", [f"B {name}"])
    opening = outputs_section.SECTIONS.opening(cell)
    assert opening.startswith(f"tuned says {name} ")
    assert opening.endswith("times as often as base.")
    chapters = outputs_section.SECTIONS.of_cell(cell, page)
    html = document.render("title", None, opening, list(chapters.values()))
    for words in ("More in tuned", "Less in tuned", "Where they disagree most", "(A‖B)", "in topics", "base goes on"):
        assert words in html, words
    effect = float(text.listed["effect"][text.ids().index(name)])
    finding = Finding("outputs", "B", name, effect)
    assert outputs_section.SECTIONS.claim(cell, finding).startswith("tuned says “")
    before, after = outputs_section.SECTIONS.evidence(cell, page, [finding])[finding].context_lists
    assert [reading.side for reading in (before, after)] == ["A", "B"]
    assert [context.row for context in before.contexts] == [context.row for context in after.contexts]
    assert all(context.value > 0 for context in after.contexts)
    (more,) = (row for row in outputs_section.SECTIONS.chips(cell, page) if row.side == "B")
    assert more.chips[0].detail.startswith("×")
    assert 0 < outputs_section.SECTIONS.magnitude(cell).share < 1
    assert min(outputs_section.SECTIONS.strip(cell).values.values()) > 0
    cell, _ = page_of(place, "same", [])
    assert outputs_section.SECTIONS.opening(cell) == (
        "There is no token that tuned was shown to say more often than base."
    )


def test_tokens_of_another_tokenizer_are_refused(place, tmp_path):
    make_model(tmp_path / "other")
    make_tokenizer(tmp_path / "other", vocabulary=300)
    with pytest.raises(DiptychError, match="its tokenizer is not the one that made"):
        stage.compare(
            stage.Model(place / "a", place / "tokens.h5", "float32"),
            stage.Model(tmp_path / "other", place / "tokens.h5", "float32"),
            tmp_path / "o.h5", tmp_path / "o.tsv", spec={},
        )  # fmt: skip


def test_different_tokenizers_are_compared_by_the_text_alone(place, tmp_path):
    make_model(tmp_path / "other", "gpt2", seed=3)
    make_tokenizer(tmp_path / "other", vocabulary=300)
    tokens.prepare(place / "corpus", tmp_path / "other", tmp_path / "t.h5", spec={}, tokens=None, sequence_length=32)
    alignment.align(place / "tokens.h5", tmp_path / "t.h5", tmp_path / "al.h5", spec={}, min_coverage=0.0)
    a = stage.Model(place / "a", place / "tokens.h5", "float32")
    b = stage.Model(tmp_path / "other", tmp_path / "t.h5", "float32")
    stage.compare(a, b, tmp_path / "o.h5", tmp_path / "o.tsv", spec={}, alignment=tmp_path / "al.h5", **SETTINGS)
    assert record.read(tmp_path / "o.h5") == {}
    files = {"outputs": str(tmp_path / "o.h5")}
    assert candidates.PROPOSER.candidates(files) == []
    assert candidates.PROPOSER.untestable(files) == candidates.OTHER_TOKENIZER
    with artifacts.read(tmp_path / "o.h5", "outputs") as file:
        found = {name: file[f"spans/positions/{name}"][:] for name in ("row_a", "row_b", "nll_a", "nll_b")}
    assert len(found["row_a"]) > 100
    assert (found["nll_a"] > 0).all()
    assert (found["nll_b"] > 0).all()
    cell, _ = page_of(place, "same", [])
    cell = {**cell, "files": {**cell["files"], **files}}
    assert "different tokenizers allow no more" in outputs_section.SECTIONS.opening(cell)
    assert outputs_section.SECTIONS.of_cell(cell, PageData({}, 4, 1))["different"].blocks[0].tone == "info"
    assert outputs_section.SECTIONS.magnitude(cell) is None


def test_spans_add_up_the_losses_of_their_tokens(place, tmp_path):
    whole = Sequences.read(place / "tokens.h5")
    text = reading.spread(whole, None)
    loss = np.full(len(whole.token), np.nan)
    known = text.next_token >= 0
    loss[text.row[known]] = np.arange(known.sum())
    rows = np.flatnonzero(whole.counts)[::3]
    with artifacts.create(tmp_path / "al.h5", "alignment", {}) as file:
        file.json("identity", False)
        file.array("row_a", rows)
        file.array("row_b", rows)
    found = spans.compare((loss, 2 * loss), (text, text), tmp_path / "al.h5")
    assert np.array_equal(found.nll_b, 2 * found.nll_a)
    ends = dict(pairwise(rows))
    for row, nll in list(zip(found.row_a, found.nll_a, strict=True))[:50]:
        assert nll == loss[row : ends[row]].sum()
    assert (whole.row_sequence[found.row_a] == whole.row_sequence[[ends[row] for row in found.row_a]]).all()
