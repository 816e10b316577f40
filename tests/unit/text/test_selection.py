"""Row selections: the tokens of some roles, or the last of each document, for rows and for features alike."""

from pathlib import Path

import numpy as np
import pytest

from diptych.dictionaries import codes
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text import selection, templates

ROLES = [*templates.ROLES, "newline"]


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Twelve rows in three sequences of four; the first two are one document."""
    with artifacts.create(tmp_path / "tokens.h5", "tokens", {}) as file:
        file.array("sequence", np.repeat(np.arange(3), 4))
        file.array("sequences/document", np.array([0, 0, 1]))
        file.array("role", np.array([0, 3, 3, 6, 1, 3, 3, 6, 2, 3, 3, 6], dtype=np.int8))
        file.json("roles", ROLES)
    return tmp_path / "tokens.h5"


def test_the_last_row_of_each_document_among_those_that_count(tokens: Path) -> None:
    last = selection.Selection(tokens, "last")
    assert last(np.arange(12)).nonzero()[0].tolist() == [7, 11]
    assert last(np.array([0, 2, 5, 9])).tolist() == [False, False, True, True]
    assert last(np.zeros(0, dtype=np.int64)).tolist() == []


def test_roles(tokens: Path) -> None:
    assert selection.Selection(tokens, ["newline"])(np.arange(12)).nonzero()[0].tolist() == [3, 7, 11]
    assert selection.Selection(tokens, ["system", "newline"])(np.arange(6, 12)).nonzero()[0].tolist() == [1, 2, 5]
    assert selection.Selection(tokens, "all")(np.arange(12)).all()
    assert selection.read(tokens, "all") is None


def test_unknown_and_absent_roles_are_errors(tokens: Path) -> None:
    with pytest.raises(DiptychError, match=r"role 'newlin', which its tokens do not know; they know text, .*newline"):
        selection.Selection(tokens, ["newlin"])(np.arange(12))
    with pytest.raises(DiptychError, match="no row that counts has the role assistant"):
        selection.Selection(tokens, "assistant")(np.arange(12))


def test_features_of_a_pair_are_chosen_by_the_first_models_rows(tokens: Path) -> None:
    def features(token_row: list[int]) -> codes.Features:
        n = len(token_row)
        row = np.array(token_row)
        zeros = np.zeros(n, dtype=np.int64)
        return codes.Features(np.array(token_row, dtype=np.float32)[:, None], row, zeros, zeros, zeros)

    a, b = codes.common_rows(
        features([0, 3, 5, 7]), features([10, 13, 15, 17]), (np.array([0, 3, 7]), np.array([10, 13, 17])),
        selection.Selection(tokens, ["newline"]),
    )  # fmt: skip
    assert a.token_row.tolist() == [3, 7]
    assert b.token_row.tolist() == [13, 17]
