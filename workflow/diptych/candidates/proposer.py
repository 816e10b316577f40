"""Interface of the methods that propose candidates: base class of each method's `candidates.PROPOSER`.

class Proposer(proposer.Proposer):
    def candidates(self, files): ...

PROPOSER = Proposer()
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from diptych.candidates import known
from diptych.candidates.candidate import Candidate
from diptych.candidates.known import Edit, Known
from diptych.candidates.ranking import Threshold
from diptych.candidates.recovery import Recovery
from diptych.methods import Method
from diptych.storage import artifacts

Files = Mapping[str, Any]
"""Paths of a cell's files by name (`config.cells.files_of`)."""


@dataclass(frozen=True)
class Clause:
    """One condition of the identical control: whether it holds (None: the method was not run), and the values."""

    name: str
    holds: bool | None
    text: str


class Judged(NamedTuple):
    """How a method was run on a cell, in the terms of the leaderboard.

    Attributes:
        entry: name of the leaderboard's entry that is fitted in this way; "" if none is.
        tokens: rows that it was fitted and tested on.
    """

    entry: str
    tokens: int


def n_rows(path: str | Path, kind: str) -> int:
    """Number of aligned rows of an artifact that lists them (`rows/token_row`, [..., n])."""
    with artifacts.read(path, kind) as file:
        return int(file["rows/token_row"].shape[-1])


class Proposer(ABC):
    """Candidates and control conditions of one method; a subclass must define `candidates`."""

    @abstractmethod
    def candidates(self, files: Files) -> list[Candidate]:
        """All candidates of a cell on which the method was run."""

    def runs(self, files: Files) -> Mapping[str, Sequence[Files]]:
        """By name of each trained thing, the cell's files as each of its seeds gave them; {} if nothing is trained."""
        return {}

    def untestable(self, files: Files) -> str:
        """Why no candidate of the cell can be tested, or ""."""
        return ""

    def judged(self, files: Files) -> Sequence[Judged]:
        """How the method was run on the cell, once for each thing that it fitted; () if it is not judged."""
        return ()

    def control(self, files: Files) -> Sequence[Clause]:
        """Conditions that must hold for a model compared with itself (METHODS 0.4), besides having no findings."""
        return ()

    def planted(self, files: Files, threshold: Threshold) -> Recovery | None:
        """Recovery of the change that the method itself planted in the cell; None if it plants none."""
        return None

    def known(self, files: Files, edit: Edit, candidates: Sequence[Candidate]) -> Known:
        """What the method is to find of a known edit, and which of it each candidate shows.

        By default a planted direction, and of what was trained the tokens that a candidate is put into (`words`).
        """
        return known.along(edit, candidates) if edit.kind == "plant" else known.saying(edit, candidates)

    def steered(self, files: Files, best: Sequence[Candidate]) -> list[Candidate]:
        """The candidates `best`, each with the `direction` to steer along and the `rows` where it is strongest."""
        return list(best)


def of(method: Method) -> Proposer:
    """The proposer of a method."""
    proposer: Proposer = importlib.import_module(f"{method.package}.candidates").PROPOSER
    return proposer
