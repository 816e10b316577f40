"""Building blocks of the page: sections of tables, figures, notes and texts, as plain data that the template renders.

    Section("tuned", "base and tuned", blocks=[
        Note("pass", "The control holds."),
        Table(["rung", "R²"], [["identity", number(0.8901)]], caption="Held-out R² of each rung."),
    ])

Blocks hold no HTML: the template escapes every string, tokens of arbitrary text included. What a study's findings, and
the cards of the index, are made of is in `page.cards`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from diptych.text.contexts import Context

Tone = Literal["pass", "fail", "warn", "info"]
SideName = Literal["A", "B", "both"]
LONGEST = 2000
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Cell:
    """A table cell with a sort key, a colour, a hover text or a link beside its text.

    Attributes:
        text: the cell's text.
        order: the number that the column is sorted by, if not the text.
        tone: CSS class that colours the cell, or "".
        hint: text shown on hover, or "".
        href: target of the link, or "".
    """

    text: str
    order: float | None = None
    tone: str = ""
    hint: str = ""
    href: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of equal length under column names; `interactive` tables can be sorted and filtered."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str = ""
    interactive: bool = False
    hints: Sequence[str] = ()
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Figure:
    """A Plotly figure (`data`, `layout`) with a title and a caption that explains it to a newcomer."""

    id: str
    title: str
    caption: str
    plot: dict[str, Any]
    height: int = 320
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class Note:
    """A short message, coloured as passed, failed, a warning or information."""

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
class ContextList:
    """Contexts of a feature in one model (or both) under a heading that names the model and the shading."""

    title: str
    contexts: Sequence[Context]
    side: SideName = "both"


@dataclass(frozen=True)
class Sample:
    """A continuation of a prompt, under a label that says what was done to the model."""

    label: str
    prompt: str
    text: str
    side: SideName = "both"


@dataclass(frozen=True)
class Item:
    """One direction, feature, latent or token with its statistics, contexts, tokens that it promotes, samples, link."""

    title: str
    facts: Sequence[tuple[str, str]]
    context_lists: Sequence[ContextList]
    side: SideName = "both"
    tag: str = ""
    words: Sequence[tuple[str, Sequence[str]]] = ()
    samples: Sequence[Sample] = ()
    href: str = ""


@dataclass(frozen=True)
class Items:
    """Items under a caption; the first `n_open` ones are unfolded."""

    caption: str
    items: Sequence[Item]
    n_open: int = 1
    kind: str = field(default="items", init=False)


@dataclass(frozen=True)
class Strip:
    """Values of parts of a model or a text as a row of shades, from 0 to the largest."""

    title: str
    unit: str
    values: Mapping[str, float]
    kind: str = field(default="strip", init=False)


@dataclass(frozen=True)
class Banner:
    """The outcome of the control, at the top of the page."""

    tone: Tone
    headline: str
    text: str


class OwnBlock(Protocol):
    """A block of another module; `kind` names its macro in the template."""

    @property
    def kind(self) -> str:
        """Name of the block's macro."""


Block = Table | Figure | Note | Prose | Facts | Items | Strip | OwnBlock


@dataclass(frozen=True)
class Section:
    """A heading with blocks and subsections; one with a `lead`, a plain sentence on what it shows, folds."""

    id: str
    title: str
    blocks: Sequence[Block]
    sections: Sequence["Section"] = ()
    lead: str = ""
    is_open: bool = False


def number(value: float | None, digits: int = 3) -> str:
    """Format a number with sensible digits: 7, .9407 -> .941, 4.08 -> 4.08, 24052.0 -> 24,052, 3.2e-9, NaN -> –."""
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
        return f"{value:.{digits}f}".replace("0.", ".", 1).replace("-", "−")
    return f"{value:.{max(0, digits - len(str(int(size))))}f}".replace("-", "−")


def prose_number(value: float) -> str:
    """Format a number as in running text: .5 -> 0.5, 1.0 -> 1, 15.98 -> 16, 1200.0 -> 1,200."""
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", "−")


def visible(text: str, longest: int = LONGEST) -> str:
    """A text with symbols for line ends and tabs, � for other control and direction marks, cut where it is too long."""
    cut = text if len(text) <= longest else f"{text[:longest]}… ({len(text):,} characters)"
    marked = cut.replace("\n", "↵").replace("\t", "⇥")
    return "".join(character if character.isprintable() else "�" for character in marked)


def web_address(address: str) -> str:
    """The address if it leads to the web or into the report's own pages; "" for any other scheme (`javascript:`)."""
    scheme, colon, _ = address.partition(":")
    is_relative = not colon or "/" in scheme or "#" in scheme or "?" in scheme
    return address if is_relative or scheme.lower() in ("http", "https") else ""


def percent(share: float | None) -> str:
    """Format a share as a percentage: .0312 -> 3.1 %."""
    if share is None or math.isnan(share):
        return "–"
    percentage = 100 * share
    if percentage >= 10 or percentage == 0:
        return f"{percentage:.0f} %"
    return f"{percentage:.1f} %" if percentage >= 0.1 else f"{percentage:.2g} %"


def p_value(p: float | None) -> str:
    """Format a p- or q-value: .0312, 4e-6, < 1e-99."""
    if p is None or math.isnan(p):
        return "–"
    if p < 1e-99:
        return "< 1e−99"
    if p < 1e-3:
        return f"{p:.0e}".replace("e-0", "e-").replace("-", "−")
    return f"{p:.3f}".replace("0.", ".", 1)


def number_cell(value: float | None, digits: int = 3) -> Cell:
    """Table cell of a formatted number, sorted by its value."""
    return Cell(number(value, digits), order=None if value is None or math.isnan(value) else float(value))


def counted(n: int, singular: str, plural: str | None = None) -> str:
    """A count with its noun in the right number: `1 finding`, `3 findings`."""
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """Words joined as in a sentence: `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""
