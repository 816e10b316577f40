"""Report section on outputs: what one model says more often, where the two disagree, divergences, topics."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diptych.outputs import evidence, record
from diptych.outputs.evidence import MARK
from diptych.outputs.record import Columns, IntArray, Record
from diptych.page import method_sections
from diptych.page.blocks import (
    Block,
    Cell,
    Facts,
    Note,
    Prose,
    Section,
    Strip,
    Table,
    counted,
    listed,
    number,
    number_cell,
    p_value,
    percent,
    prose_number,
    visible,
)
from diptych.page.cards import ChipRow, Magnitude
from diptych.page.method_sections import Chapters, Evidence, Finding, PageData
from diptych.text.contexts import Text

NAMED = 5
"""Tokens that the page's opening names."""
TABLE_ROWS = 30
"""Tokens of either direction in the page's tables; the TSV has all."""
CONTEXT_TOKENS = 8
"""Tokens of either direction that are shown in their contexts."""
BEFORE, AFTER = 16, 4
"""Tokens of text shown before and after the place of a prediction."""
TITLES = {"text": "What they say differently", "replies": "How they begin a reply"}


def chapters(cell: Mapping[str, Any], page: PageData) -> Chapters:
    """The sections on the outputs of one pair: tokens and places, how much, and by part of the text."""
    path, section_id = cell["files"]["outputs"], f"{cell['id']}-outputs"
    if (spans := record.read_spans(path)) is not None:
        return {
            "different": Section(
                section_id,
                "What the models say",
                _spans(cell, spans),
                lead="The models cut text into different tokens: only the text's own probability can be compared.",
            )
        }
    records = record.read(path)
    texts = {"text": page.texts["a"]}
    if "replies" in records:
        texts["replies"] = Text(cell["files"]["prompts"])
    tokens = [
        Section(f"{section_id}-{at}", TITLES[at], [], _subsections(cell, page, compared, texts[at]))
        for at, compared in records.items()
    ]
    return {
        "what": Section(
            f"{section_id}-tokens",
            "What the models say",
            [],
            tokens,
            lead=f"Which next tokens {cell['b']} gives more and less probability than {cell['a']}, and where they "
            "disagree most.",
        ),
        "different": Section(
            section_id,
            "How far apart their predictions are",
            [block for compared in records.values() for block in _blocks(cell, compared)],
            lead="How often, and how strongly, the two models predict different next tokens.",
        ),
        "where": Section(
            f"{section_id}-parts",
            "Which text they predict differently",
            [_divergences(compared) for compared in records.values()],
            lead="How far apart the predictions are in each part of the text.",
        ),
    }


def _blocks(cell: Mapping[str, Any], compared: Record) -> list[Block]:
    summary, of_all = compared.summary, {name: values[0] for name, values in compared.divergences.items()}
    where = (
        f"{counted(summary['positions'], 'position')} of {counted(summary['documents'], 'document')}"
        if compared.at == "text"
        else f"the end of the assistant's header of {counted(summary['documents'], 'prompt')}"
    )
    found = int((compared.planted["q"] <= 0.05).sum())
    control = (
        f" As a yardstick, {counted(len(compared.planted['q']), 'token')} of all frequencies were made more frequent "
        f"in a copy of these documents with the models' labels exchanged at random; {found:,} of them have q ≤ .05."
        if len(compared.planted["q"])
        else ""
    )
    return [
        Prose(
            f"{cell['a']} and {cell['b']} read the same text, and at {where} their probabilities of all "
            f"{summary['vocabulary']:,} next tokens are compared. {counted(summary['tested'], 'token')} of enough "
            f"probability moved somewhere and are tested by exchanging the models' labels inside documents.{control}"
        ),
        Facts(
            [
                ("KL(A‖B)", f"{number(of_all['kl_ab'])} nats"),
                ("KL(B‖A)", f"{number(of_all['kl_ba'])} nats"),
                ("Jensen-Shannon", f"{number(of_all['js'])} nats"),
                ("same top token", percent(of_all["agreement"])),
                ("q ≤ .05", counted(int((compared.tested["q"] <= 0.05).sum()), "token")),
            ]
        ),
    ]


def _subsections(cell: Mapping[str, Any], page: PageData, compared: Record, text: Text) -> list[Section]:
    section_id = f"{cell['id']}-outputs-{compared.at}"
    parts = [
        Section(f"{section_id}-more", f"More in {cell['b']}", _shifted(cell, page, compared, text, is_up=True)),
        Section(f"{section_id}-less", f"Less in {cell['b']}", _shifted(cell, page, compared, text, is_up=False)),
        Section(f"{section_id}-apart", "Where they disagree most", _disagreements(cell, compared, text)),
    ]
    if len(compared.topics.share):
        parts.append(Section(f"{section_id}-topics", f"What {cell['b']} says more, in topics", _topics(compared, text)))
    return parts


# --- tokens -------------------------------------------------------------------------------------------------------


def _shifted(cell: Mapping[str, Any], page: PageData, compared: Record, text: Text, *, is_up: bool) -> list[Block]:
    """Table of the tokens that moved most in one direction, and where they did."""
    effect = compared.listed["effect"]
    order = np.flatnonzero(effect > 0 if is_up else effect < 0)
    word = "more" if is_up else "less"
    if not len(order):
        return [Prose(f"{cell['b']} says no token {word} often at enough places.")]
    names, side = compared.ids(), "B" if is_up else "A"
    findings = [k for k in order if f"{side} {names[k]}" in page.finding_ids]
    order = np.array([*findings, *(k for k in order if k not in findings)])[:TABLE_ROWS]
    columns = ["token", "times", "95 %", "held out", cell["a"], cell["b"], "q", "finding"]
    hints = [
        "", f"How many times as often {cell['b']} says it, outside the held-out documents.",
        "Of all documents; bootstrap over documents.", "The same ratio on held-out documents.",
        "Mean probability over all positions.", "Mean probability over all positions.",
        "Benjamini-Hochberg over all tested tokens.",
        "Whether it stands: q, held-out effect and least effect.",
    ]  # fmt: skip
    if is_up:
        columns.append("diff mining")
        hints.append("Positions at which it is among the 50 largest differences of centred logits.")
    rows = [_token_row(compared, int(k), names[k], k in findings, is_up) for k in order]
    caption = f"Said {word} often by {cell['b']}: findings first, then by size. All: pairs/{cell['name']}/outputs.tsv."
    shown = [k for k in order if len(_shown_rows(compared, int(k), page))][:CONTEXT_TOKENS]
    contexts = [
        [Cell(visible(names[k])), _change(float(compared.changes[k, place])), *_prediction(compared, int(row), text)]
        for k in shown
        for place, row in enumerate(_shown_rows(compared, int(k), page))
    ]
    where = Table(
        ["token", "its change", "text", f"{cell['a']} goes on", f"{cell['b']} goes on"],
        contexts,
        caption=f"Where these moved most: the text up to {MARK}, what follows in it, and both models' next tokens.",
    )
    return [Table(columns, rows, caption=caption, interactive=True, hints=hints), where]


def _token_row(compared: Record, k: int, name: str, is_finding: bool, is_up: bool) -> list[str | Cell]:
    values = {field: float(column[k]) for field, column in compared.listed.items()}
    row: list[str | Cell] = [
        Cell(visible(name)),
        number_cell(2 ** values["effect"]),
        Cell(f"{number(2 ** values['lo'])} to {number(2 ** values['hi'])}", order=values["lo"]),
        number_cell(2 ** values["held_out"]),
        *(Cell(percent(values[field]), order=values[field]) for field in ("mean_a", "mean_b")),
        Cell(p_value(values["q"]), order=values["q"]),
        Cell("yes" if is_finding else "no", tone="found" if is_finding else "muted"),
    ]
    return [*row, number_cell(int(values["mined"]))] if is_up else row


def _change(change: float) -> Cell:
    """A change of a probability with its sign."""
    return Cell(f"{'+' if change > 0 else '−'}{percent(abs(change))}", order=change)


def _shown_rows(compared: Record, k: int, page: PageData) -> IntArray:
    """The strongest rows of a listed token of which both models' top tokens are stored."""
    rows: IntArray = compared.rows[k][: max(2, page.n_contexts // 2)]
    return rows[np.isin(rows, compared.tops.row)]


# --- places -------------------------------------------------------------------------------------------------------


def _prediction(compared: Record, row: int, text: Text) -> list[str | Cell]:
    """The text around the place after a row, and both models' top tokens there."""
    at = int(np.searchsorted(compared.tops.row, row))
    return [_place(text, row), *(_top(compared, at, side) for side in (0, 1))]


def _place(text: Text, row: int) -> str:
    """The text before and after the place of a prediction, which is marked."""
    sequence = int(text.sequence[row])
    first = max(int(text.start[sequence]), row + 1 - BEFORE)
    last = min(int(text.start[sequence + 1]), row + 1 + AFTER)
    before, after = (text.words(np.arange(*span)) for span in ((first, row + 1), (row + 1, last)))
    return visible(f"{''.join(before)} {MARK}{''.join(after)}")


def _top(compared: Record, at: int, side: int) -> str:
    """The most probable tokens of one model with their probabilities."""
    texts = compared.texts(compared.tops.token[at, side])
    shares = compared.tops.p[at, side]
    return visible(", ".join(f"{text} {percent(float(p))}" for text, p in zip(texts, shares, strict=True)))


def _disagreements(cell: Mapping[str, Any], compared: Record, text: Text) -> list[Block]:
    if not len(compared.disagreements):
        return [Prose("Their predictions differ nowhere.")]
    divergence = dict(zip(compared.positions["row"].tolist(), compared.positions["js"].tolist(), strict=True))
    rows = [
        [number_cell(divergence[row]), *_prediction(compared, row, text)] for row in compared.disagreements.tolist()
    ]
    caption = "The places of largest Jensen-Shannon divergence (nats, at most .693), one of each document."
    return [Table(["JS", "text", f"{cell['a']} goes on", f"{cell['b']} goes on"], rows, caption=caption)]


# --- divergences --------------------------------------------------------------------------------------------------


def _divergences(compared: Record) -> Table:
    columns = compared.divergences
    names = {
        "kl_ab": "KL(A‖B)", "kl_ba": "KL(B‖A)", "js": "Jensen-Shannon", "agreement": "same top token",
        "nll_difference": "loss of B − A",
    }  # fmt: skip
    rows: list[list[str | Cell]] = [
        [
            columns["by"][k],
            columns["name"][k],
            number_cell(int(columns["n"][k])),
            *(cell for name in names for cell in _with_interval(columns, name, k)),
        ]
        for k in range(len(columns["n"]))
    ]
    heads = [head for name in names.values() for head in (name, "95 %")]
    caption = (
        f"{TITLES[compared.at]}: means in nats over positions, with intervals over documents. Loss: of the text's own "
        "next token."
    )
    return Table(["by", "part", "positions", *heads], rows, caption=caption)


def _with_interval(columns: Columns, name: str, k: int) -> list[Cell]:
    mean, lo, hi = (float(columns[f"{name}{suffix}"][k]) for suffix in ("", "_lo", "_hi"))
    return [number_cell(mean), Cell(f"{number(lo)} to {number(hi)}", order=lo)]


def _spans(cell: Mapping[str, Any], columns: Columns) -> list[Block]:
    """Blocks on models with different tokenizers: the text's own log-probability."""
    names = {"nll_a": f"loss of {cell['a']}", "nll_b": f"loss of {cell['b']}", "nll_difference": "difference"}
    rows: list[list[str | Cell]] = [
        [
            columns["name"][k],
            number_cell(int(columns["n"][k])),
            *(bound for name in names for bound in _with_interval(columns, name, k)),
        ]
        for k in range(len(columns["n"]))
    ]
    heads = [head for name in names.values() for head in (name, "95 %")]
    note = Note(
        "info",
        f"{cell['a']} and {cell['b']} have different tokenizers: their next tokens are not the same things, and no "
        "token's probability can be compared. What can be is the text's own probability between places at which tokens "
        "of both end.",
    )
    return [note, Table(["text", "spans", *heads], rows, caption="Mean loss of a span in nats, over documents.")]


# --- topics -------------------------------------------------------------------------------------------------------


def _topics(compared: Record, text: Text) -> list[Block]:
    topics = compared.topics
    rows: list[list[str | Cell]] = [
        [
            percent(float(topics.share[k])),
            visible(", ".join(compared.texts(topics.token[k][topics.token[k] >= 0]))),
            " … ".join(_place(text, int(row)) for row in topics.row[k][topics.row[k] >= 0][:2]),
        ]
        for k in range(len(topics.share))
    ]
    caption = "A non-negative factorisation of what rises at each position; for reading only, it is not tested."
    return [Table(["share", "tokens", "where"], rows, caption=caption)]


# --- opening ------------------------------------------------------------------------------------------------------


def opening(cell: Mapping[str, Any]) -> str:
    """The strongest increases among the findings, in words; how the pair's text fares if the tokenizers differ."""
    path = cell["files"]["outputs"]
    if (spans := record.read_spans(path)) is not None:
        mean, lo, hi = (float(spans[f"nll_difference{suffix}"][0]) for suffix in ("", "_lo", "_hi"))
        return (
            f"{cell['b']} gives the text a loss that is {prose_number(mean)} nats a span higher than that of "
            f"{cell['a']} ({prose_number(lo)} to {prose_number(hi)}); different tokenizers allow no more."
        )
    text = record.read(path)["text"]
    increases = evidence.strongest(text, cell["finding_ids"], "B")[:NAMED]
    if not increases:
        return f"There is no token that {cell['b']} was shown to say more often than {cell['a']}."
    said = [f"{visible(text.ids()[k])} {evidence.times(2 ** float(text.listed['effect'][k]))}" for k in increases]
    return f"{cell['b']} says {listed(said)} as often as {cell['a']}."


class Sections(method_sections.Sections):
    """The report sections of the comparison of outputs."""

    def of_cell(self, cell: Mapping[str, Any], page: PageData) -> Chapters:
        """The sections on one pair."""
        return chapters(cell, page)

    def opening(self, cell: Mapping[str, Any]) -> str:
        """What B says more often, in words."""
        return opening(cell)

    def claim(self, cell: Mapping[str, Any], finding: Finding) -> str:
        """Which model says a token more often."""
        return evidence.claim(cell, finding)

    def evidence(self, cell: Mapping[str, Any], page: PageData, findings: Sequence[Finding]) -> Evidence:
        """Both models' next tokens where a token's probability changed most."""
        return evidence.evidence(cell, page, findings)

    def chips(self, cell: Mapping[str, Any], page: PageData) -> Sequence[ChipRow]:
        """The tokens that B says more and less often."""
        return evidence.chips(cell, page)

    def magnitude(self, cell: Mapping[str, Any]) -> Magnitude | None:
        """At how many places the models would go on with different tokens."""
        return evidence.magnitude(cell)

    def strip(self, cell: Mapping[str, Any]) -> Strip | None:
        """In which text the predictions differ."""
        return evidence.strip(cell)


SECTIONS = Sections()
