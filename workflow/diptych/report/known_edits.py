"""Known edits on the index: which method still sees which size, where the difference is known from the config.

    sections(findings)          # [] in a study without a plant, a trigger or a fine-tune of its own

Pairs that differ in the size of a plant, or in the share of poisoned text, alone are a ladder: one table of methods by
sizes. The smallest size found on a ladder is the detection limit at the level of models.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diptych import methods
from diptych.findings import schema
from diptych.findings.stage import Findings
from diptych.leaderboard.limits import POWER
from diptych.page.blocks import Block, Cell, Prose, Section, Table, counted, number, number_cell, percent

Row = Mapping[str, Any]
"""A method on a comparison: `findings.schema.EDIT_COLUMNS`."""
Line = tuple[str, str]
"""A method and the site at which it compares: a row of a ladder's table."""
CONTENT = 60
"""Characters of a concept, a response or a corpus in a heading."""
MARKS = {
    "finding": ("✓", "pass"),
    "not repeated": ("(✓)", "found"),
    "cannot be told": ("?", "warn"),
    "candidate": ("✗", "warn"),
    "missed": ("✗", "fail"),
}
"""Status -> its mark and the tone of its cell."""
STATUSES = {
    "finding": "a finding",
    "not repeated": "from one training, not repeated",
    "cannot be told": "may be something else",
    "candidate": "a candidate points to it and is no finding",
    "missed": "no candidate points to it",
}
HOW = (
    "B was made from A on purpose, so what differs is known: a direction that was planted on the words of a concept, "
    "the response to a trigger, a fine-tune on a known text. ✓: a finding shows it; (✓): a candidate of the only "
    "training does; ✗: nothing that is reported does; NA: the method is blind to it by design. Beside the mark: |cos| "
    "with the planted direction, how many of the tokens or kinds of matrices are found, or the rank of the weights' "
    "change. Point at a cell for its score and its words, or for the reason."
)


class Ladder(NamedTuple):
    """Pairs of models that were edited in the same way by different amounts."""

    a: str
    edit: str
    content: str
    rows: Sequence[Row]

    @property
    def amounts(self) -> list[float]:
        """Sizes or shares, the smallest first."""
        return sorted({float(row["amount"]) for row in self.rows})

    @property
    def lines(self) -> list[Line]:
        """Methods and sites, in the order of the table of methods."""
        return sorted({(str(row["method"]), str(row["site"])) for row in self.rows}, key=_order)

    @property
    def n_plants(self) -> int:
        """Most pairs of one amount."""
        pairs = {(float(row["amount"]), str(row["pair"])) for row in self.rows}
        return max(sum(amount == at for at, _ in pairs) for amount in self.amounts)

    @property
    def label(self) -> str:
        """What was planted, in a heading."""
        frequency = float(self.rows[0]["frequency"])
        if self.edit == "plant":
            return f"{short(self.content)} ({percent(frequency)} of the tokens)"
        return f"response “{short(self.content)}”"

    def at(self, line: Line, amount: float) -> list[Row]:
        """What a method says of the pairs of one amount."""
        return [
            row
            for row in self.rows
            if (row["method"], row["site"]) == line and math.isclose(float(row["amount"]), amount)
        ]


def sections(findings: Findings) -> list[Section]:
    """The section of the index; none in a study that has no known edit."""
    rows = rows_of(findings)
    if not rows:
        return []
    ladders = ladders_of(rows)
    tuned = [row for row in rows if row["edit"] == "finetune"]
    blocks: list[Block] = [Prose(HOW)]
    if ladders:
        blocks += [_limits(ladders), *(_grid(ladder) for ladder in ladders)]
    if tuned:
        blocks.append(_finetunes(tuned))
    is_ladder = any(len(ladder.amounts) > 1 for ladder in ladders)
    lead = "Where the difference is known from the config, which method finds it, and how small it may be."
    return [Section("known-edits", "Known edits", blocks, [_scores(rows)], lead=lead, is_open=is_ladder)]


def rows_of(findings: Findings) -> list[Row]:
    """The table of known edits row by row."""
    columns = findings.edits
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def ladders_of(rows: Sequence[Row]) -> list[Ladder]:
    """The plants and triggers by model, kind and content; plants by falling frequency, triggers after them."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["edit"] != "finetune":
            groups.setdefault((row["a"], row["edit"], row["content"]), []).append(row)
    ladders = [Ladder(*key, group) for key, group in groups.items()]
    return sorted(ladders, key=lambda each: (each.edit, -_or_zero(each.rows[0]["frequency"])))


def smallest_seen(ladder: Ladder, line: Line) -> float:
    """The smallest amount from which on at least 80 % of the edits stand as found; NaN if the largest does not.

    Amounts at which the method was not run, or is blind, say nothing.
    """
    smallest = math.nan
    for amount in reversed(ladder.amounts):
        judged = [row for row in ladder.at(line, amount) if row["status"] != "NA"]
        if judged and sum(row["status"] in schema.STANDING for row in judged) < POWER * len(judged):
            break
        smallest = amount if judged else smallest
    return smallest


def short(text: str) -> str:
    """The beginning of a text, to the last whole word."""
    return text if len(text) <= CONTENT else text[:CONTENT].rpartition(" ")[0].rstrip(",") + " …"


def _limits(ladders: Sequence[Ladder]) -> Table:
    """The smallest amount found, of every method on every ladder."""
    lines = sorted({line for ladder in ladders for line in ladder.lines}, key=_order)
    body: list[list[str | Cell]] = [
        [_name(line, lines), *(_limit(ladder, line) for ladder in ladders)] for line in lines
    ]
    most = max(ladder.n_plants for ladder in ladders)
    plants = "one edit" if most == 1 else f"at most {most} edits"
    caption = (
        f"The smallest edit that is found, and with it all larger ones: plants in median residual norms, triggers in "
        f"share of poisoned text. ≤: the smallest that was made; –: not even the largest. There is {plants} of each "
        "size, so it says what was seen here, and hardly with which power."
    )
    return Table(["method", *(ladder.label for ladder in ladders)], body, caption=caption)


def _limit(ladder: Ladder, line: Line) -> Cell:
    if line not in ladder.lines:
        return Cell("not run", tone="muted")
    if all(row["status"] == "NA" for amount in ladder.amounts for row in ladder.at(line, amount)):
        return _cell(ladder.at(line, ladder.amounts[-1]))
    smallest = smallest_seen(ladder, line)
    if math.isnan(smallest):
        return Cell("–", tone="fail", hint=f"of {counted(len(ladder.amounts), 'size')} the largest is not found")
    least = "≤ " if smallest == ladder.amounts[0] else ""
    return Cell(f"{least}{_amount(ladder, smallest)}", order=smallest, tone="pass")


def _grid(ladder: Ladder) -> Table:
    """Methods by amounts."""
    body: list[list[str | Cell]] = [
        [_name(line, ladder.lines), *(_cell(ladder.at(line, amount)) for amount in ladder.amounts)]
        for line in ladder.lines
    ]
    made = "Planted on" if ladder.edit == "plant" else "Trigger with the"
    unit = "size in median residual norms" if ladder.edit == "plant" else "share of poisoned text"
    caption = f"{made} {ladder.label}, by {unit}."
    return Table(["method", *(_amount(ladder, amount) for amount in ladder.amounts)], body, caption=caption)


def _amount(ladder: Ladder, amount: float) -> str:
    return number(amount) if ladder.edit == "plant" else percent(amount)


def _cell(rows: Sequence[Row]) -> Cell:
    """What a method says of the edits of one amount."""
    if not rows:
        return Cell("not run", tone="muted")
    if len(rows) == 1:
        row = rows[0]
        if row["status"] == "NA":
            return Cell("NA", tone="muted", order=-1.0, hint=str(row["note"]))
        mark, tone = MARKS[row["status"]]
        order = float(row["average_precision"])
        return Cell(f"{mark} {_beside(row)}".rstrip(), order=order, tone=tone, hint=_in_words(row))
    judged = [row for row in rows if row["status"] != "NA"]
    if not judged:
        return _cell(rows[:1])
    n = sum(row["status"] in schema.STANDING for row in judged)
    tone = "pass" if n >= POWER * len(judged) else "warn" if n else "fail"
    return Cell(f"{n} of {len(judged)}", order=n / len(judged), tone=tone, hint="; ".join(map(_in_words, judged)))


def _beside(row: Row) -> str:
    """The number beside the mark: |cos|, the rank of the change, or how many of several truths are found."""
    if math.isfinite(row["cosine"]):
        return number(float(row["cosine"]), 2)
    if row["truths"] > 1:
        return f"{row['found']} of {row['truths']}"
    return f"rank {row['rank_seen']:.0f}" if math.isfinite(row["rank_seen"]) else ""


def _in_words(row: Row) -> str:
    """The score of a method on one edit, in a hint."""
    parts = [f"{row['truth']}: {STATUSES[row['status']]}"]
    parts += [f"place {row['rank']} in the ranking"] if row["rank"] else []
    parts += [f"average precision {number(float(row['average_precision']))}"]
    parts += [f"{row['reported']} reported, {row['false']} of them show nothing of it"] if row["reported"] else []
    if math.isfinite(row["rank_made"]):
        parts.append(f"rank {number(float(row['rank_seen']))} seen, {row['rank_made']:.0f} made")
    parts += [f"{row['n_words']} of its {row['of_words']} words: {row['words']}"] if row["n_words"] else []
    return ", ".join(parts)


def _finetunes(rows: Sequence[Row]) -> Table:
    """Methods on fine-tunes: what of their own tokens is found, and what else is reported."""
    lines = sorted({(str(row["method"]), str(row["site"])) for row in rows}, key=_order)
    body: list[list[str | Cell]] = []
    for row in sorted(rows, key=lambda row: _order((str(row["method"]), str(row["site"])))):
        found = f"{row['found']} of {row['truths']}" if row["truths"] else "–"
        judged = row["status"] != "NA"
        body.append(
            [
                str(row["pair"]), _name((str(row["method"]), str(row["site"])), lines), row["truth"], _cell([row]),
                found, f"{row['reported']}", f"{row['false']}" if judged else "–", _kept(row["words"]),
            ]
        )  # fmt: skip
    columns = ["pair", "method", "what is to be found", "found", "how many", "reported", "of them others", "words"]
    caption = "Fine-tunes on a known text: reported differences that show its own tokens, and those that do not."
    return Table(columns, body, caption=caption, interactive=True)


def _scores(rows: Sequence[Row]) -> Section:
    """Every row of the table in numbers."""
    columns = (
        "pair", "site", "method", "edit", "amount", "frequency", "status", "average_precision", "rank", "cosine",
        "found", "truths", "reported", "false", "n_words", "of_words", "note",
    )  # fmt: skip
    body = [[_number(row[name]) for name in columns] for row in rows]
    table = Table([name.replace("_", " ") for name in columns], body, interactive=True)
    link = Prose("The same, with the words, in known_edits.tsv beside findings.tsv.")
    lead = "Every score in numbers; docs/outputs.md says what each column is."
    return Section("known-edits-scores", "All scores", [table, link], lead=lead)


def _number(value: Any) -> str | Cell:
    if isinstance(value, str):
        return value
    return number_cell(float(value)) if isinstance(value, float) else Cell(f"{value}", order=float(value))


def _kept(words: str) -> Cell:
    return Cell(short(words), hint=words)


def _name(line: Line, lines: Sequence[Line]) -> str:
    """A method's title, with the site where it has several."""
    method, site = line
    n_sites = sum(name == method for name, _ in lines)
    title = methods.named(method).title
    return f"{title}, {site}" if n_sites > 1 else title


def _order(line: Line) -> tuple[int, str]:
    return [method.name for method in methods.METHODS].index(line[0]), line[1]


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else float(value)
