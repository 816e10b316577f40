"""Base class of a method's parts of the report; every method's `section.SECTIONS` is an instance of a subclass.

class Sections(method_sections.Sections):
    def of_cell(self, cell, page):
        return {"where": Section("toy", "Toy means", [...], lead="Where the toy's means differ.")}

SECTIONS = Sections()

A pair's page has chapters, in the order in which a reader asks; each section of a method says which one it belongs to.
Beside sections, a method says of each of its findings what differs, in words and with contexts, and of a pair as a
whole how much differs and where: that is what the cards of the report are made of.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from diptych.methods import Method
from diptych.page.blocks import Cell as BlockCell
from diptych.page.blocks import Item, Section, SideName, Strip
from diptych.page.cards import ChipRow, Magnitude
from diptych.text.contexts import Text

Cell = Mapping[str, Any]
"""A cell as `config.cells.all_cells` describes it, with the name of its sites, `site`, and an HTML `id`."""


Chapter = Literal["what", "different", "where", "trust", "made"]
"""Chapters of a pair's page: what differs, how different, where, can it be trusted, how was it made."""
Chapters = Mapping[Chapter, Section]
"""The sections of a method by chapter, at most one in each."""


class Finding(NamedTuple):
    """One row of the findings of a cell, as a method is asked about it.

    Attributes:
        method: name of the method that found it.
        side: A or B.
        id: of the candidate, in its run.
        effect: in the method's unit, B minus A.
        run: of what was trained that has it, from 1; later ones only where the first has it not.
    """

    method: str
    side: SideName
    id: str
    effect: float
    run: int = 1


Evidence = Mapping[Finding, Item]
"""What a method shows of findings: contexts, tokens, samples."""


@dataclass(frozen=True)
class PageData:
    """Inputs and options of the page, and the findings on a cell, from which a method builds its sections.

    Attributes:
        inputs: of the page (`report.stage.build`).
        n_contexts: contexts shown for each finding and each model.
        n_full_cells: cells of a grid of sites that are shown in full.
        finding_ids: "side id" of each finding of the method on the cell, without those that only later runs have.
        cell: the cell that the section is on, None for sections on pairs and on the study.
    """

    inputs: Mapping[str, Any]
    n_contexts: int
    n_full_cells: int
    finding_ids: frozenset[str] = frozenset()
    cell: Cell | None = None

    @cached_property
    def texts(self) -> dict[Literal["a", "b"], Text]:
        """The cell's tokens by side ("a", "b"); the same object twice where both models read the same tokens."""
        assert self.cell is not None
        a, b = (self.cell["files"][f"tokens_{side}"] for side in "ab")
        text = Text(a)
        return {"a": text, "b": text if a == b else Text(b)}


class Sections(ABC):
    """One method's parts of the page; a subclass must implement `of_cell`."""

    @abstractmethod
    def of_cell(self, cell: Cell, page: PageData) -> Chapters:
        """The sections on one cell on which the method was run."""

    def of_pair(self, cells: Sequence[Cell], page: PageData) -> Chapters:
        """Sections on all cells of a pair together."""
        return {}

    def opening(self, cell: Cell) -> str:
        """A sentence on one cell for the report's opening, or ""; the cell's `finding_ids` are the method's."""
        return ""

    def claim(self, cell: Cell, finding: Finding) -> str:
        """What differs by one finding of the method, in a sentence without a full stop."""
        return finding.id

    def evidence(self, cell: Cell, page: PageData, findings: Sequence[Finding]) -> Evidence:
        """Contexts and numbers of some of the method's own findings on a cell."""
        return {}

    def evidence_of_others(self, cell: Cell, page: PageData, findings: Sequence[Finding]) -> Evidence:
        """What the method has to add to findings of other methods on a cell."""
        return {}

    def chips(self, cell: Cell, page: PageData) -> Sequence[ChipRow]:
        """Words that say what differs."""
        return ()

    def magnitude(self, cell: Cell) -> Magnitude | None:
        """How much differs, as a share with its meaning."""
        return None

    def strip(self, cell: Cell) -> Strip | None:
        """Where it differs, as values of layers or parts of the text."""
        return None

    def best_cells(self, cells: Sequence[Cell], page: PageData) -> Sequence[Cell]:
        """The cells to show in full, of a pair that compares every site of A with every site of B."""
        return cells

    def number_of(self, ours: Mapping[str, Any], page: PageData) -> BlockCell:
        """The study's number that a published one stands beside (`config.sections.published`), as a table cell."""
        raise NotImplementedError(f"{type(self).__module__} has no numbers that published ones stand beside")

    def of_study(self, page: PageData) -> list[Section]:
        """Sections that belong to no pair."""
        return []


def files_of(page: PageData, pair: str, site_a: str, site_b: str) -> Mapping[str, Any]:
    """The files of one cell of a pair."""
    files: Mapping[str, Any] = next(
        cell["files"]
        for cell in page.inputs["pairs"]
        if (cell["name"], cell["site_a"], cell["site_b"]) == (pair, site_a, site_b)
    )
    return files


def of(method: Method) -> Sections:
    """The sections of a method."""
    sections: Sections = importlib.import_module(f"{method.package}.section").SECTIONS
    return sections
