"""What a report's cards show of the outputs: a claim in words, both models' next tokens in context, sizes, parts.

claim(cell, finding)        # 'tuned says " intercourse" 41 times as often as base'
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from diptych.outputs import record
from diptych.outputs.record import IN_REPLIES, Record
from diptych.page.blocks import ContextList, Item, Strip, percent, visible
from diptych.page.cards import Chip, ChipRow, Magnitude
from diptych.page.method_sections import Evidence, Finding, PageData
from diptych.text.contexts import Context, Text, Token

BEFORE = 16
"""Tokens of text shown before the place of a prediction."""
CHIPS = 8
"""Tokens of either direction on the card of a pair."""
POSITION = "position"
"""What a part of the text is by, if it is a range of positions."""
MARK = "▸"
"""Where the next token is predicted."""
Cell = Mapping[str, Any]


def claim(cell: Cell, finding: Finding) -> str:
    """Which model says a token how many times as often as the other."""
    more, less = (cell["b"], cell["a"]) if finding.effect > 0 else (cell["a"], cell["b"])
    name = finding.id.removesuffix(IN_REPLIES)
    verb = "begins a reply with" if name != finding.id else "says"
    return f"{more} {verb} {_in_quotes(name)} {times(2 ** abs(finding.effect))} as often as {less}"


def _in_quotes(name: str) -> str:
    """A token's id with typographic quotes, spaces inside them."""
    text, quote, number = name.removeprefix('"').rpartition('"')
    return f"“{visible(text)}”{number}" if quote else visible(name)


def times(ratio: float) -> str:
    """`56 times`, `2.1 times`."""
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


def strongest(compared: Record, finding_ids: Sequence[str] | frozenset[str], side: Literal["A", "B"]) -> list[int]:
    """Indices of the findings of one side among the listed tokens, the largest change first."""
    names, effect = compared.ids(), compared.listed["effect"]
    of_side = [k for k in range(len(names)) if (effect[k] > 0) == (side == "B") and f"{side} {names[k]}" in finding_ids]
    return sorted(of_side, key=lambda k: -abs(effect[k]))


def chips(cell: Cell, page: PageData) -> list[ChipRow]:
    """The tokens that B says more, and less, with how many times as often."""
    records = record.read(cell["files"]["outputs"])
    rows = []
    for compared in records.values():
        where = "" if compared.at == "text" else "to begin a reply, "
        for side, label in (("B", f"{where}{cell['b']} says more often"), ("A", f"{where}and less often")):
            found = strongest(compared, page.finding_ids, "B" if side == "B" else "A")[:CHIPS]
            texts = compared.vocabulary.of(compared.listed["token"][found])
            details = [_ratio(float(compared.listed["effect"][k])) for k in found]
            words = [Chip(visible(text.strip() or text), detail) for text, detail in zip(texts, details, strict=True)]
            rows += [ChipRow(label, words, "B" if side == "B" else "A")] if words else []
    return rows


def _ratio(effect: float) -> str:
    """How many times as often (×), or how many times less often (÷), from a binary logarithm."""
    return f"{'×' if effect > 0 else '÷'}{times(2 ** abs(effect)).removesuffix(' times')}"


def magnitude(cell: Cell) -> Magnitude | None:
    """Share of the places at which the models' most probable next tokens differ; None for different tokenizers."""
    records = record.read(cell["files"]["outputs"])
    if not records:
        return None
    share = 1 - float(records["text"].divergences["agreement"][0])
    meaning = f"of places in the text, {cell['b']} would go on with another token than {cell['a']}"
    return Magnitude("behaviour", share, percent(share), meaning)


def strip(cell: Cell) -> Strip | None:
    """Divergence of the next token by part of the text; None for different tokenizers."""
    records = record.read(cell["files"]["outputs"])
    if not records:
        return None
    columns = records["text"].divergences
    parts = {
        _part(str(columns["by"][k]), str(columns["name"][k])): float(columns["kl_ab"][k])
        for k in range(1, len(columns["n"]))
    }
    return Strip("What they say, by part of the text", "KL, nats per token", parts) if parts else None


def _part(by: str, name: str) -> str:
    """A part of the text by its name; positions are numbers, and say what they count."""
    return f"{by} {name}" if name[:1].isdigit() and by == POSITION else name


def evidence(cell: Cell, page: PageData, findings: Sequence[Finding]) -> Evidence:
    """The places where each token's probability changed most, with both models' next tokens there."""
    items = {}
    for compared in record.read(cell["files"]["outputs"]).values():
        place = {name: k for k, name in enumerate(compared.ids())}
        text = page.texts["a"] if compared.at == "text" else Text(cell["files"]["prompts"])
        for finding in findings:
            if finding.id in place:
                items[finding] = _item(cell, page, compared, text, place[finding.id])
    return items


def _item(cell: Cell, page: PageData, compared: Record, text: Text, k: int) -> Item:
    values = {name: float(column[k]) for name, column in compared.listed.items()}
    rows = [int(row) for row in compared.rows[k] if row in compared.tops.row][: page.n_contexts]
    changes = {int(row): float(change) for row, change in zip(compared.rows[k], compared.changes[k], strict=True)}
    token = int(compared.listed["token"][k])
    readings = [
        ContextList(
            f"{cell[name]} goes on" + (" (± probability)" if side else ""),
            [_context(compared, text, row, token, side, changes[row] if side else math.nan) for row in rows],
            "B" if side else "A",
        )
        for side, name in enumerate("ab")
    ]
    facts = [(f"said by {cell[name]}", f"{percent(values[f'mean_{name}'])} of all tokens") for name in "ab"]
    return Item("", facts, readings, "B" if values["effect"] > 0 else "A")


def _context(compared: Record, text: Text, row: int, token: int, side: int, change: float) -> Context:
    """The text before a place, then one model's most probable next tokens, shaded by probability."""
    before = text.context(row, change, window=BEFORE)
    at = int(np.searchsorted(compared.tops.row, row))
    tokens, shares = compared.tops.token[at, side], compared.tops.p[at, side]
    shown = [*(Token(part.text, 0.0) for part in before.tokens[: before.focus + 1]), Token(f" {MARK} ", 0.0)]
    focus = -1
    for number, name, share in zip(tokens.tolist(), compared.vocabulary.of(tokens), shares.tolist(), strict=True):
        focus = len(shown) if number == token else focus
        shown += [Token(name, share), Token(f" {percent(share).replace(' ', '')}   ", 0.0)]
    return Context(row, before.document, before.source, before.position, change, tuple(shown), focus)
