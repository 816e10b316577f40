"""Blocks of a report's first screens: cards of findings, and the card of a pair on the index.

Card("finding-3", "tuned says “ intercourse” 41 times as often as base", item, method="output comparison", ...)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diptych.page.blocks import Item, Note, SideName, Strip


@dataclass(frozen=True)
class Leg:
    """One thing that a finding stands on.

    Attributes:
        name: what is asked of it, as "held out".
        holds: whether it stands on it; None where that was not measured.
        text: the number and its unit.
    """

    name: str
    holds: bool | None
    text: str


@dataclass(frozen=True)
class Card:
    """A finding.

    Attributes:
        id: of its HTML element.
        claim: what differs, in a sentence.
        method: title of the method that found it.
        site: the site, "" for models as a whole.
        side: the model that has it or has more of it.
        status: as in findings.tsv.
        facts: labelled numbers.
        legs: what it stands on.
        order: sort key -> value; cards are sorted by it in descending order.
        evidence: contexts, tokens, samples; None for a card of numbers alone.
        excerpts: contexts as plain lines, for a card without evidence.
        note: why it is no finding, or "".
    """

    id: str
    claim: str
    method: str
    site: str
    side: SideName
    status: str
    facts: Sequence[tuple[str, str]]
    legs: Sequence[Leg]
    order: Mapping[str, float]
    evidence: Item | None = None
    excerpts: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class CardGroup:
    """The findings of one method: the first `n_first` are seen, the others behind a button.

    `mark` says what is wrong with the method, "" if nothing is.
    """

    title: str
    meaning: str
    cards: Sequence[Card]
    n_first: int
    mark: str = ""


@dataclass(frozen=True)
class Cards:
    """All findings of a pair, in groups, with a filter and an order over all of them."""

    groups: Sequence[CardGroup]
    orders: Mapping[str, str]
    kind: str = field(default="cards", init=False)


@dataclass(frozen=True)
class Chip:
    """A word with a number beside it."""

    text: str
    detail: str


@dataclass(frozen=True)
class ChipRow:
    """Chips under a label, in the colour of a side."""

    label: str
    chips: Sequence[Chip]
    side: SideName = "both"


@dataclass(frozen=True)
class Magnitude:
    """How much two models differ in one respect: a share (0 to 1), its text, and what it means."""

    of: str
    share: float
    text: str
    meaning: str


@dataclass(frozen=True)
class PairCard:
    """A pair on the index: what differs, how much, how sure that is, and where.

    Attributes:
        id: of its HTML element.
        title: the two models.
        subtitle: how they are related.
        href: address of the pair's page.
        sentence: what differs, in words.
        chips: words that one model says more.
        findings: the best cards.
        n_findings: number of findings of the pair.
        magnitudes: how much, one for each respect.
        sure: one line on control and yardsticks.
        strips: where.
    """

    id: str
    title: str
    subtitle: str
    href: str
    sentence: str
    chips: Sequence[ChipRow]
    findings: Sequence[Card]
    n_findings: int
    magnitudes: Sequence[Magnitude]
    sure: Note
    strips: Sequence[Strip]
    kind: str = field(default="pair_card", init=False)


def more_than(gain: float) -> str:
    """How many times as much x is as y, from (x - y) / (x + y): `3.0 times as much`."""
    ratio = (1 + gain) / max(1 - gain, 1e-9)
    return (
        "over 100 times as much"
        if ratio > 100
        else f"{ratio:.0f} times as much"
        if ratio >= 10
        else f"{ratio:.1f} times as much"
    )
