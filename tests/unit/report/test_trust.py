"""How sure a study is, in one line."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.findings.stage import Findings
from diptych.report import trust

CLAUSE = {"name": "no finding", "holds": True, "text": "findings: outputs 0"}
CONTROL = {"pair": "same", "site": "", "holds": True, "clauses": [CLAUSE]}


def answer(pair, status, role="compared", method="linear_map"):
    return {"pair": pair, "site": "middle", "role": role, "method": method, "status": status, "text": "", "besides": ""}


FOUND = [answer("tuned", "none"), answer("yard", "recovered", "planted")]


def study(answers=FOUND, controls=(CONTROL,)):
    return Findings({}, np.zeros((0, 1), dtype=np.int64), list(answers), list(controls), {}, {})


def test_a_study_that_could_have_seen_it_is_sure():
    note = trust.sure("tuned", study())
    assert note.tone == "pass"
    for words in ("The control holds.", "planted on purpose was found by the linear map",
                  "The linear map found nothing, and would have found a change of the planted size."):  # fmt: skip
        assert words in note.text


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
