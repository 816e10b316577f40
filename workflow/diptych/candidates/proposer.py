"""What every method that puts candidates forward can be asked: the base of its `candidates.PROPOSER`.

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
"""The files of a cell, by what they hold (`config.cells.files_of`), as paths."""


@dataclass(frozen=True)
class Clause:
    """One clause of the control: whether it holds (None: that method was not run) and the numbers behind it."""

    name: str
    holds: bool | None
    text: str


class Proposer(ABC):
    """What one method says of a cell; only `candidates` must be given."""

    @abstractmethod
    def candidates(self, files: Files) -> list[Candidate]:
        """All candidates of a cell on which the method was run."""

    def untestable(self, files: Files) -> str:
        """Why no candidate of the cell could be tested, or ""."""
        return ""

    def control(self, files: Files) -> Sequence[Clause]:
        """The clauses that must hold on a model with itself (METHODS 0.4), beside that nothing is found."""
        return ()

    def planted(self, files: Files, threshold: Threshold) -> Recovery | None:
        """What the method made of the change that it planted itself in the cell, if it plants one."""
        return None

    def steered(self, files: Files, best: Sequence[Candidate]) -> list[Candidate]:
        """The candidates as they are steered: along `direction` they show most on `rows`. None if not steered."""
        return []


def of(method: Method) -> Proposer:
    """The proposer of a method."""
    proposer: Proposer = importlib.import_module(f"{method.package}.candidates").PROPOSER
    return proposer
