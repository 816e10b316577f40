"""The findings of a pair as cards: what differs in words, numbers, what it stands on, and text from both models.

    cards = of_pair(comparisons, findings, page)       # one group for each method that found something

Every finding has a card; the strongest and the largest of each method have contexts, so that the page grows with what
can be read on it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych import methods
from diptych.findings.stage import Findings
from diptych.methods import Method
from diptych.page import method_sections
from diptych.page.blocks import Item, SideName, number, p_value
from diptych.page.cards import Card, CardGroup, Cards, Leg
from diptych.page.method_sections import Finding, PageData
from diptych.report import trust

FIRST = 5
"""Cards of a method that are seen before a reader asks for more."""
STRONGEST, LARGEST = 10, 6
"""Findings of a method with contexts: the strongest, and of each side those of largest effect."""
NOT_MEASURED = -1.0
"""Sort key of what was not measured: below all sizes."""
EXCERPTS = " | "
"""What separates the contexts in the table of findings."""
ORDERS = {"rank": "strongest first", "effect": "largest first", "steered": "by steering"}
"""Sort keys of the cards."""
HOLDS = {"holds": True, "weak": False}
"""Of a leg that was measured."""
Comparison = Mapping[str, Any]
Rows = Sequence[int]


def of_pair(comparisons: Sequence[Comparison], findings: Findings, page: PageData) -> Cards:
    """The cards of all comparisons of a pair, one group for each method."""
    groups, marks = [], trust.marked(comparisons[0]["name"], findings)
    for method in methods.proposing():
        by_cell = [(cell, _rows(findings, cell, method)) for cell in comparisons]
        shown = _with_contexts(findings, [row for _, rows in by_cell for row in rows])
        cards = [card for cell, rows in by_cell for card in _cards(cell, method, findings, rows, shown, page)]
        cards.sort(key=lambda card: -card.order["rank"])
        if cards:
            groups.append(CardGroup(method.title, method.effect, cards, FIRST, marks.get(method.title, "")))
    return Cards(groups, ORDERS)


def best(cards: Cards, count: int) -> list[Card]:
    """For each method the largest of its findings that can be read, those with text from both models first.

    Where nothing can be read it is the first finding of each method, as of the weights.
    """
    chosen = []
    for group in cards.groups:
        readable = [card for card in group.cards if card.evidence and card.evidence.context_lists]
        if readable:
            chosen.append(max(readable, key=lambda card: (card.side == "B", card.order["effect"])))
    chosen.sort(key=lambda card: not _is_side_by_side(card))
    if not chosen:
        chosen = [card for group in cards.groups for card in group.cards[:1] if card.status == "finding"]
    return chosen[:count]


def _is_side_by_side(card: Card) -> bool:
    sides = {reading.side for reading in card.evidence.context_lists} if card.evidence else set()
    return {"A", "B"} <= sides


def _rows(findings: Findings, cell: Comparison, method: Method) -> list[int]:
    """Rows of the table of findings of one method on one comparison, the strongest first."""
    table = findings.table
    at = (table["pair"] == cell["name"]) & (table["site"] == cell["site"]) & (table["method"] == method.name)
    return [int(row) for row in np.flatnonzero(at)]


def _with_contexts(findings: Findings, rows: Rows) -> frozenset[int]:
    """The rows whose cards have contexts: the strongest, and those of largest effect on each side."""
    size, side = np.abs(findings.table["effect"]), findings.table["side"]
    chosen = list(rows[:STRONGEST])
    for name in ("A", "B"):
        chosen += sorted((row for row in rows if side[row] == name), key=lambda row: -size[row])[:LARGEST]
    return frozenset(chosen)


def _cards(
    cell: Comparison, method: Method, findings: Findings, rows: Rows, shown: frozenset[int], page: PageData
) -> list[Card]:
    """The cards of one method on one comparison."""
    table, parts = findings.table, method_sections.of(method)
    asked = {row: _finding(findings, row) for row in rows}
    evidence = _evidence(cell, method, [finding for row, finding in asked.items() if row in shown], page)
    return [
        Card(
            id=f"{cell['id']}-{method.name.replace('_', '-')}-{place}",
            claim=parts.claim(cell, asked[row]),
            method=method.title,
            site=cell["site"],
            side=asked[row].side,
            status=str(table["status"][row]),
            facts=_facts(table, row, method.unit),
            legs=legs(findings, row),
            order=_order(table, row),
            evidence=evidence.get(asked[row]),
            excerpts=[text for text in str(table["contexts"][row]).split(EXCERPTS) if text],
            note=str(table["note"][row]),
        )
        for place, row in enumerate(rows, start=1)
    ]


def _finding(findings: Findings, row: int) -> Finding:
    table = findings.table
    side: SideName = "A" if table["side"][row] == "A" else "B"
    own_id, run = findings.run_of(row)
    return Finding(str(table["method"][row]), side, own_id, float(table["effect"][row]), run)


def _evidence(cell: Comparison, method: Method, asked: Sequence[Finding], page: PageData) -> dict[Finding, Item]:
    """What the method itself shows of findings, and what other methods that were run there have to add."""
    if not asked:
        return {}
    at_cell = replace(page, cell=cell)
    items = dict(method_sections.of(method).evidence(cell, at_cell, asked))
    for other in methods.METHODS:
        if other is not method and cell["files"].get(other.file):
            for finding, more in method_sections.of(other).evidence_of_others(cell, at_cell, asked).items():
                own = items.get(finding, Item("", (), (), finding.side))
                items[finding] = replace(
                    own,
                    facts=[*own.facts, *more.facts],
                    words=[*own.words, *more.words],
                    context_lists=[*own.context_lists, *more.context_lists],
                    samples=[*own.samples, *more.samples],
                )
    return items


def _facts(table: Mapping[str, npt.NDArray[Any]], row: int, unit: str) -> list[tuple[str, str]]:
    """Effect, held-out effect with its interval, q and seeds of a finding, as far as they were measured."""
    values = {name: float(table[name][row]) for name in ("effect", "held_out", "lo", "hi", "q")}
    facts = [("effect", f"{number(values['effect'])} {unit}".rstrip())]
    if math.isfinite(values["q"]):
        interval = f"{number(values['lo'])} to {number(values['hi'])}"
        facts += [("held out", f"{number(values['held_out'])} ({interval})"), ("q", p_value(values["q"]))]
    return [*facts, *([("seeds", str(table["seeds"][row]))] if table["seeds"][row] else [])]


def _order(table: Mapping[str, npt.NDArray[Any]], row: int) -> dict[str, float]:
    """Sort keys of a card: its place in the table of findings, the size of its effect, that of steering along it."""
    values = {
        "rank": -float(row),
        "effect": abs(float(table["effect"][row])),
        "steered": float(table["causal"][row]),
    }
    return {key: value if math.isfinite(value) else NOT_MEASURED for key, value in values.items()}


def legs(findings: Findings, row: int) -> list[Leg]:
    """What is asked of a finding, and whether it stands on it."""
    return [
        Leg(leg.name, HOLDS.get(leg.state), leg.reason)
        for leg in findings.legs_of(row)
        if leg.state != "not applicable"
    ]
