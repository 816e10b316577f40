"""Selection of the rows that are compared: all valid ones, tokens of some roles, or the last token of each document.

    keep = selection.Selection("results/tokens/prompts/chat.h5", ["newline", "user"])
    keep(token_row)      # bool [n]: the tokens of user turns, and those that end the assistant's header

Roles are those of the token file: `text`, `system`, `user`, `assistant`, `assistant_header`, `template`, and the named
positions of its chat template (see `templates`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
RowSelection = str | Sequence[str]
"""`all` rows, the `last` one of each document, or those of one role or of several."""


@dataclass(frozen=True)
class Selection:
    """A choice among the rows of a token file (the first model's, where tokenizers differ)."""

    tokens: str | Path
    rows: RowSelection

    def __call__(self, token_row: IntArray) -> BoolArray:
        """Whether each of the increasing token rows is selected, bool [n].

        Raises:
            DiptychError: no role has such a name, or no row has it.
        """
        with artifacts.read(self.tokens, "tokens") as file:
            if self.rows == "all":
                return np.ones(len(token_row), dtype=np.bool_)
            if self.rows == "last":
                document = file["sequences/document"][:][file["sequence"][:][token_row]]
                return np.append(document[1:] != document[:-1], np.ones(min(1, len(document)), dtype=np.bool_))
            codes = self._codes(artifacts.read_json(file, "roles"))
            selected: BoolArray = np.isin(file["role"][:][token_row], codes)
        if not selected.any():
            raise DiptychError(f"{self.tokens}: no row that counts has the role {' or '.join(self._names)}; see `rows`")
        return selected

    def _codes(self, roles: Sequence[str]) -> list[int]:
        for name in self._names:
            if name not in roles:
                raise DiptychError(
                    f"{self.tokens}: `rows` names the role {name!r}, which its tokens do not know; they know "
                    f"{', '.join(roles)}"
                )
        return [roles.index(name) for name in self._names]

    @property
    def _names(self) -> Sequence[str]:
        return [self.rows] if isinstance(self.rows, str) else self.rows


def read(tokens: str | Path | None, rows: RowSelection) -> Selection | None:
    """The selection; None if it is all rows."""
    return None if rows == "all" or tokens is None else Selection(tokens, rows)
