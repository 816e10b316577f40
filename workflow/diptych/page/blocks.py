"""What a page is made of: sections of a few kinds of block, each plain data that the template knows how to draw.

    Section("tuned", "base and tuned", blocks=[
        Note("pass", "The control holds."),
        Table(["rung", "R²"], [["identity", number(0.8901)]], caption="Held-out R² of each rung."),
    ])

Nothing here knows HTML: the template escapes every string, among them tokens of arbitrary text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from diptych.text.contexts import Context

Tone = Literal["pass", "fail", "warn", "info"]
SideName = Literal["A", "B", "both"]


@dataclass(frozen=True)
class Cell:
    """A table cell whose look or order is more than its text.

    Attributes:
        text: what is shown.
        order: what the column is sorted by, if not the text.
        tone: a colour with a meaning, or "".
        hint: shown on hover.
        href: where the text leads, or "".
    """

    text: str
    order: float | None = None
    tone: str = ""
    hint: str = ""
    href: str = ""


@dataclass(frozen=True)
class Table:
    """Equally long rows under column names; `interactive` ones can be sorted and filtered."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str = ""
    interactive: bool = False
    hints: Sequence[str] = ()
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Figure:
    """A Plotly figure (`data`, `layout`) with the sentence that explains it to a newcomer."""

    id: str
    title: str
    caption: str
    plot: dict[str, Any]
    height: int = 320
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class Note:
    """One statement with a tone."""

    tone: Tone
    text: str
    kind: str = field(default="note", init=False)


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str
    kind: str = field(default="prose", init=False)


@dataclass(frozen=True)
class Facts:
    """Short labelled values, side by side."""

    items: Sequence[tuple[str, str]]
    kind: str = field(default="facts", init=False)


@dataclass(frozen=True)
class Reading:
    """Contexts under a heading: in which model, shaded by what."""

    title: str
    contexts: Sequence[Context]
    side: SideName = "both"


@dataclass(frozen=True)
class Item:
    """One direction, feature, latent or list of tokens with its evidence."""

    title: str
    facts: Sequence[tuple[str, str]]
    readings: Sequence[Reading]
    side: SideName = "both"
    tag: str = ""


@dataclass(frozen=True)
class Items:
    """Items under a caption; the first `opened` ones are unfolded."""

    caption: str
    items: Sequence[Item]
    opened: int = 1
    kind: str = field(default="items", init=False)


@dataclass(frozen=True)
class Banner:
    """The verdict that the page opens with."""

    tone: Tone
    headline: str
    text: str


Block = Table | Figure | Note | Prose | Facts | Items


@dataclass(frozen=True)
class Section:
    """A heading with blocks and subsections."""

    id: str
    title: str
    blocks: Sequence[Block]
    sections: Sequence["Section"] = ()


def number(value: float | None, digits: int = 3) -> str:
    """A number with sensible digits: 7 -> 7, .9407 -> .941, 4.08 -> 4.08, 24052.0 -> 24,052, 3.2e-9, NaN -> –."""
    if value is None or math.isnan(value):
        return "–"
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace("-", "−")
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e7):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    if value == 0:
        return "0"
    if size >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    if size < 1:
        shown = f"{value:.{digits}f}"
        return shown.replace("0.", ".", 1).replace("-", "−")
    return f"{value:.{max(0, digits - len(str(int(size))))}f}".replace("-", "−")


def plain(value: float) -> str:
    """A number as prose has it: .5 -> 0.5, 1.0 -> 1, 15.98 -> 16, 1200.0 -> 1,200."""
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", "−")


def visible(text: str) -> str:
    """A token's text with line ends and tabs made visible and other control characters taken out."""
    shown = text.replace("\n", "↵").replace("\t", "⇥")
    return "".join(character if character.isprintable() else "�" for character in shown)


def percent(share: float | None) -> str:
    """A share as a percentage: .0312 -> 3.1 %."""
    if share is None or math.isnan(share):
        return "–"
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %" if value >= 0.1 else f"{value:.2g} %"


def p_value(p: float | None) -> str:
    """A p- or q-value: .0312, 4e-6, < 1e-99."""
    if p is None or math.isnan(p):
        return "–"
    if p < 1e-99:
        return "< 1e−99"
    if p < 1e-3:
        return f"{p:.0e}".replace("e-0", "e-").replace("-", "−")
    return f"{p:.3f}".replace("0.", ".", 1)


def figure_cell(value: float | None, digits: int = 3) -> Cell:
    """A number that sorts as a number."""
    return Cell(number(value, digits), order=None if value is None or math.isnan(value) else float(value))


def counted(n: int, singular: str, plural: str | None = None) -> str:
    """`1 finding`, `3 findings`."""
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""
