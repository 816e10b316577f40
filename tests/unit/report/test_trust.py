"""How sure a study is, in one line."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.findings.stage import Findings
from diptych.page import document
from diptych.page.blocks import Section
from diptych.page.cards import CardGroup, Cards
from diptych.report import opening, trust

CLAUSE = {"name": "no finding", "holds": True, "text": "findings: outputs 0"}
CONTROL = {"pair": "same", "site": "", "holds": True, "clauses": [CLAUSE]}


def answer(pair, status, role="compared", method="linear_map", **more):
    said = dict.fromkeys(("text", "besides", "least", "limit", "false_discoveries", "mark"), "")
    return {"pair": pair, "site": "middle", "role": role, "method": method, "status": status, **said, **more}


FOUND = [answer("tuned", "none"), answer("yard", "recovered", "planted")]


def study(answers=FOUND, controls=(CONTROL,)):
    return Findings({}, np.zeros((0, 1), dtype=np.int64), {}, list(answers), list(controls), {}, {})


def test_a_study_that_could_have_seen_it_is_sure():
    note = trust.sure("tuned", study())
    assert note.tone == "pass"
    for words in ("The control holds.", "planted on purpose was found by the linear map",
                  "The linear map found nothing, and would have found a change of the planted size."):  # fmt: skip
        assert words in note.text


def test_what_could_have_been_seen_is_one_sentence_for_all_methods_and_sites():
    silent = [answer("tuned", "unclear", method=method, least=least, limit="At length.")
              for method, least in (("linear_map", "1 %"), ("linear_map", "1 %"), ("pairing", "1 %"), ("means", "2 %"),
                                    ("weights", ".001"))]  # fmt: skip
    text = trust.sure("tuned", study(silent)).text
    assert text.endswith(
        "The smallest seen on planted pairs, as a share of one model's variance: 1 % (linear map and feature pairing) "
        "and 2 % (difference of means)."
    )
    assert "At length." not in text


@pytest.mark.parametrize(
    ("findings", "tone", "words"),
    [
        (study(controls=[CONTROL | {"holds": False, "clauses": [CLAUSE | {"holds": False}]}]), "fail", "is broken"),
        (study(controls=[]), "warn", "No control."),
        (study([answer("tuned", "none"), answer("yard", "missed", "planted")]), "warn", "missed by the linear map"),
        (study([answer("tuned", "unclear")]), "warn", "cannot tell with this much training"),
    ],
)
def test_one_that_could_not_is_not(findings, tone, words):
    note = trust.sure("tuned", findings)
    assert note.tone == tone
    assert words in note.text


def test_a_method_that_found_it_somewhere_did_not_miss_it():
    twice = [answer("yard", "missed", "planted"), answer("yard", "recovered", "planted")]
    assert "missed" not in trust.yardstick(replace(study(), answers=twice))


HOSTILE = "<script>document.title='broken'</script>"
MARK = f"The linear map finds more than it should {HOSTILE}."
LIMIT = f"The linear map sees .4 % {HOSTILE}."


def marked():
    return study([answer("tuned", "none", limit=LIMIT, least=".4 %", mark=MARK, false_discoveries="14 of 40 swapped"),
                  answer("control", "as_it_must", "control", false_discoveries="not measured")])  # fmt: skip


PAIRS = [
    {"name": name, "site": "middle", "site_a": "middle", "site_b": "middle", "a": "base", "b": "tuned", "files": {}}
    | {"role": role}
    for name, role in (("tuned", "compared"), ("control", "control"))
]


def test_a_method_above_nominal_is_marked_in_the_line_on_its_pair_and_in_every_table():
    note = trust.sure("tuned", marked())
    assert note.tone == "warn"
    assert f"▲ {MARK}" in note.text
    assert "▲" not in trust.sure("control", marked()).text
    (verdicts,) = trust.verdicts(PAIRS, marked(), "v").blocks
    titles = [row[1].text for row in verdicts.rows]
    assert titles == ["linear map ▲", "linear map"]
    assert [row[3] for row in verdicts.rows] == [LIMIT, ""]
    assert [row[4].tone for row in verdicts.rows] == ["fail", ""]
    (overview,) = trust.overview(PAIRS, marked(), "o").blocks
    assert "linear map ▲" in overview.columns
    assert MARK in overview.hints
    assert LIMIT in overview.rows[0][2].hint


def test_what_is_said_of_limits_and_marks_is_escaped():
    sections = [
        trust.verdicts(PAIRS, marked(), "v"),
        trust.overview(PAIRS, marked(), "o"),
        Section("s", "s", [trust.sure("tuned", marked())]),
        Section("c", "c", [Cards([CardGroup("linear map", "", [], 1, mark=MARK)], {})]),
    ]
    html = document.render("t", None, opening.answer(PAIRS, marked()), sections)
    assert HOSTILE not in html
    assert html.count("&lt;script&gt;document.title=") >= 5


def test_the_opening_says_the_smallest_beside_no_difference_found():
    said = opening.answer(PAIRS, marked())
    assert "The linear map found no difference between base and tuned at middle" in said
    assert "The smallest seen on planted pairs, as a share of one model's variance: .4 % (linear map)." in said
