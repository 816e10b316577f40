"""What every method can be asked for the page: the base of its `section.SECTIONS`.

class Sections(method_sections.Sections):
    def of_cell(self, cell, shown): ...

SECTIONS = Sections()
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from diptych.methods import Method
from diptych.page.blocks import Section
from diptych.text.contexts import Text

Cell = Mapping[str, Any]
"""A cell as `config.cells.all_cells` describes it, with `site`, the name of its sites, and `id`, fit for HTML."""


@dataclass(frozen=True)
class Shown:
    """What a method's sections are drawn from, beside the cell.

    Attributes:
        inputs: of the page (`report.stage.build`).
        contexts: texts shown for each finding and each model.
        in_full: cells of a grid of sites that are shown in full.
        standing: "side id" of what the method found on the cell.
        cell: the cell.
    """

    inputs: Mapping[str, Any]
    contexts: int
    in_full: int
    standing: frozenset[str] = frozenset()
    cell: Cell | None = None

    @cached_property
    def texts(self) -> dict[Literal["a", "b"], Text]:
        """The tokens of the cell's text, by side ("a", "b"); one text where both models read the same tokens."""
        assert self.cell is not None
        a, b = (self.cell["files"][f"tokens_{side}"] for side in "ab")
        text = Text(a)
        return {"a": text, "b": text if a == b else Text(b)}


class Sections(ABC):
    """One method's parts of the page; only `of_cell` must be given."""

    @abstractmethod
    def of_cell(self, cell: Cell, shown: Shown) -> Section:
        """The section on a cell on which the method was run."""

    def opening(self, cell: Cell) -> str:
        """A sentence on a cell for the page's opening, or ""."""
        return ""

    def of_pair(self, cells: Sequence[Cell], shown: Shown) -> list[Section]:
        """Sections on all cells of a pair together."""
        return []

    def best_cells(self, cells: Sequence[Cell], shown: Shown) -> Sequence[Cell]:
        """Of a pair that compares every site of A with every site of B, the cells to be shown in full."""
        return cells

    def of_study(self, shown: Shown) -> list[Section]:
        """Sections that belong to no pair."""
        return []


def of(method: Method) -> Sections:
    """The sections of a method."""
    sections: Sections = importlib.import_module(f"{method.package}.section").SECTIONS
    return sections
