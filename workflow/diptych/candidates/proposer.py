"""Interface of the methods that propose candidates: the base class of each method's `candidates.PROPOSER`.

class Proposer(proposer.Proposer):
    def candidates(self, files): ...

PROPOSER = Proposer()
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diptych.candidates.candidate import Candidate
from diptych.candidates.ranking import Threshold
from diptych.candidates.recovery import Recovery
from diptych.methods import Method

Files = Mapping[str, Any]
"""Paths of a cell's files by their key (`config.cells.files_of`)."""


@dataclass(frozen=True)
class Clause:
    """One condition of the identical control: whether it holds (None: that method was not run) and its numbers."""

    name: str
    holds: bool | None
    text: str


class Proposer(ABC):
    """Candidates and checks of one method on a cell; only `candidates` must be implemented."""

    @abstractmethod
    def candidates(self, files: Files) -> list[Candidate]:
        """All candidates of a cell on which the method was run."""

    def untestable(self, files: Files) -> str:
        """Why no candidate of the cell could be tested, or ""."""
        return ""

    def control(self, files: Files) -> Sequence[Clause]:
        """Clauses that must hold when a model is compared with itself (METHODS 0.4), beside having no finding."""
        return ()

    def planted(self, files: Files, threshold: Threshold) -> Recovery | None:
        """Recovery of the change that the method itself planted in the cell; None if it plants none."""
        return None

    def steered(self, files: Files, best: Sequence[Candidate]) -> list[Candidate]:
        """The candidates with the `direction` to steer along and the `rows` where it is largest; [] if not steered."""
        return []


def of(method: Method) -> Proposer:
    """The proposer of a method."""
    proposer: Proposer = importlib.import_module(f"{method.package}.candidates").PROPOSER
    return proposer
