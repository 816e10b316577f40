"""What the page opens with: the control's verdict, the answer in words, and what each method found on each pair."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from diptych import methods
from diptych.findings.stage import Findings
from diptych.page import method_sections
from diptych.page.blocks import (
    Banner,
    Block,
    Cell,
    Note,
    Prose,
    Section,
    Table,
    counted,
    figure_cell,
    listed,
    number,
    p_value,
)

SHORT = {
    "found": ("{n} found", "found"),
    "none": ("none found", ""),
    "unclear": ("not enough training to tell", "muted"),
    "untested": ("not tested", "muted"),
    "as_it_must": ("nothing, as it must be", "pass"),
    "broken": ("{n} where nothing differs", "fail"),
    "recovered": ("planted direction found", "pass"),
    "missed": ("planted direction missed", "warn"),
}
"""Status -> what a cell of the matrix says, and its tone."""
CELLS_IN_WORDS = 3
"""Cells of a pair's grid of sites that the opening speaks of: those of like sites before others."""
TEXT_OF_CONTEXTS = 240
"""Characters of contexts shown in the findings table."""


def banner(findings: Findings) -> Banner:
    """The control's verdict."""
    if findings.control_holds is None:
        return Banner(
            "warn",
            "No control.",
            "This study compares no model with itself: nothing shows that the bookkeeping is right.",
        )
    clauses = [clause for control in findings.controls for clause in control["clauses"]]
    names = listed([control["pair"] for control in findings.controls])
    if findings.control_holds:
        tested = sum(clause["holds"] is not None for clause in clauses)
        return Banner(
            "pass",
            "The control holds.",
            f"A model compared with itself ({names}) shows no difference in any of {counted(tested, 'clause')}.",
        )
    broken = [f"{clause['name']} ({clause['text']})" for clause in clauses if clause["holds"] is False]
    what = "; ".join(broken) or "no clause could be tested"
    return Banner(
        "fail",
        "The control is broken: do not believe this page.",
        f"A model compared with itself ({names}) must show no difference, but: {what}.",
    )


def answer(inputs: Mapping[str, Any], findings: Findings) -> str:
    """One paragraph: what differs, by how much, and what cannot be told."""
    compared = [pair for pair in inputs["pairs"] if pair["role"] == "compared"]
    sentences = []
    for name in dict.fromkeys(pair["name"] for pair in compared):
        cells = [pair for pair in compared if pair["name"] == name]
        shown = ([cell for cell in cells if cell["site_a"] == cell["site_b"]] or cells)[:CELLS_IN_WORDS]
        sentences += [_compared(cell, findings) for cell in shown]
        if len(cells) > len(shown):
            rest = counted(len(cells) - len(shown), "other cell")
            sentences.append(f"The tables below say what stands in the {rest} of the grid of {name}.")
    planted = [_planted(pair, findings) for pair in inputs["pairs"] if pair["role"] == "planted"]
    return " ".join([*sentences, *planted]) or "This study compares no two different models."


def _compared(pair: Mapping[str, Any], findings: Findings) -> str:
    answers = _answers(pair, findings)
    answer_of = {methods.named(a["method"]).title: a for a in answers if a["status"] == "found"}
    none = [methods.named(a["method"]).title for a in answers if a["status"] == "none"]
    unclear = [methods.named(a["method"]).title for a in answers if a["status"] == "unclear"]
    untested = [methods.named(a["method"]).title for a in answers if a["status"] == "untested"]
    parts = []
    alike = pair["site_a"] == pair["site_b"]
    a, b = pair["a"] if alike else f"{pair['a']} at {pair['site_a']}", f"{pair['b']} at {pair['site_b']}"
    if answer_of:
        by = listed([f"{a['findings']} by the {name}{_caveats(a)}" for name, a in answer_of.items()])
        claim = f"{pair['b']} differs from {a} at {pair['site_b']}" if alike else f"{b} differs from {a}"
        parts.append(f"{claim}: {counted(sum(a['findings'] for a in answer_of.values()), 'finding')} ({by}).")
    if none:
        parts.append(
            f"The {listed(none)} found no difference between {a} and {b}, though with the same settings a planted one "
            "was found."
        )
    if unclear:
        parts.append(
            f"With this much training the {listed(unclear)} cannot tell whether {pair['b']} has something that "
            f"{pair['a']} has not."
        )
    if untested:
        parts.append(f"What the {listed(untested)} shows between {pair['a']} and {pair['b']} could not be tested.")
    return " ".join([*parts, *_method_openings(pair)]).strip()


def _method_openings(pair: Mapping[str, Any]) -> list[str]:
    """What the methods that were run on a cell say of it beside their findings."""
    run = [method for method in methods.METHODS if pair["files"].get(method.file)]
    return [sentence for method in run if (sentence := method_sections.of(method).opening(pair))]


def _caveats(answer: Mapping[str, Any]) -> str:
    return f", {answer['caveats']}" if answer["caveats"] else ""


def _planted(pair: Mapping[str, Any], findings: Findings) -> str:
    answers = _answers(pair, findings)
    by = {
        status: [methods.named(a["method"]).title for a in answers if a["status"] == status]
        for status in ("recovered", "missed")
    }
    sentences = []
    if by["recovered"]:
        sentences.append(f"found by the {listed(by['recovered'])}")
    if by["missed"]:
        sentences.append(f"missed by the {listed(by['missed'])}")
    return f"The direction planted in {pair['b']} was {listed(sentences, last='but')}." if sentences else ""


def _answers(pair: Mapping[str, Any], findings: Findings) -> list[dict[str, Any]]:
    return [a for a in findings.answers if a["pair"] == pair["name"] and a["site"] == pair["site"]]


def section(inputs: Mapping[str, Any], findings: Findings) -> Section:
    """The matrix of pairs and methods, the sentences behind it, and the control's clauses."""
    columns = [method for method in methods.proposing() if any(a["method"] == method.name for a in findings.answers)]
    rows: list[list[str | Cell]] = []
    for pair in inputs["pairs"]:
        by_method = {a["method"]: a for a in _answers(pair, findings)}
        rows.append([_label(pair), pair["role"], *(_matrix_cell(by_method.get(method.name)) for method in columns)])
    matrix = Table(
        ["pair", "role", *(method.title for method in columns)],
        rows,
        caption="What each method says of each pair; the sentences below say why.",
    )
    in_words: list[list[str | Cell]] = [
        [_label(pair), methods.named(a["method"]).title, Cell(a["text"], tone=SHORT[a["status"]][1])]
        for pair in inputs["pairs"]
        for a in _answers(pair, findings)
    ]
    inner = [Section("verdicts", "In words", [Table(["pair", "method", "what it says"], in_words)])]
    if findings.controls:
        inner.append(Section("control", "The control, clause by clause", _control(findings)))
    return Section("summary", "Summary", [matrix], inner)


def _label(pair: Mapping[str, Any]) -> str:
    return f"{pair['name']} ({pair['a']} → {pair['b']}, {pair['site']})"


def _matrix_cell(answer: Mapping[str, Any] | None) -> Cell:
    if answer is None:
        return Cell("not run", tone="muted")
    text, tone = SHORT[answer["status"]]
    return Cell(text.format(n=answer["findings"]) + _caveats(answer), tone=tone, hint=answer["text"])


def _control(findings: Findings) -> list[Block]:
    rows: list[list[str | Cell]] = []
    for control in findings.controls:
        for clause in control["clauses"]:
            outcome = {
                True: Cell("holds", tone="pass"),
                False: Cell("BROKEN", tone="fail"),
                None: Cell("not run", tone="muted"),
            }
            rows.append([control["pair"], clause["name"], outcome[clause["holds"]], clause["text"]])
    return [
        Prose(
            "The control compares a model with itself. It catches errors of bookkeeping: rows that do not line up, a "
            "wrong layer, a dictionary on the wrong side."
        ),
        Table(["pair", "what must hold", "verdict", "seen"], rows),
    ]


def findings_section(findings: Findings) -> Section:
    """The table of findings."""
    table = findings.table
    rows = [_finding_row(table, i) for i in range(len(table["pair"]))]
    intro: list[Block] = [
        Prose(
            "Everything that stands: significant in its family, seen again with the same sign and at least half the "
            "size on documents that had no part in finding it, and large enough to matter. Ranked by the weakest of "
            "these."
        )
    ]
    if not rows:
        nothing = Note("info", "Nothing stands. What that means for each method is said above.")
        return Section("findings", "Findings", [*intro, nothing])
    hints = (
        "", "", "", "The model that has it, or has more of it.", "B minus A, in the method's own unit.",
        "On documents that had no part in finding it, with its 95 % interval.",
        "Benjamini-Hochberg, by pair and method.",
        "How far the weakest requirement is exceeded; 1 is just met.",
        "How far steering along it moves its model, over random directions of the same length (1: as far).",
        "",
    )  # fmt: skip
    columns = ["pair", "method", "what", "side", "effect", "held out", "q", "leg", "steered", "contexts"]
    caption = f"{counted(len(rows), 'finding')}, the strongest first. Click a heading to sort."
    return Section(
        "findings", "Findings", [*intro, Table(columns, rows, interactive=True, hints=hints, caption=caption)]
    )


def _finding_row(table: Mapping[str, npt.NDArray[Any]], i: int) -> list[str | Cell]:
    """One finding as cells of the table."""
    interval = f"{number(float(table['lo'][i]))} to {number(float(table['hi'][i]))}"
    held_out = float(table["held_out"][i])
    return [
        str(table["pair"][i]),
        methods.named(table["method"][i]).title,
        str(table["id"][i]) if table["kind"][i] == "direction" else f"{table['kind'][i]} {table['id'][i]}",
        str(table["side"][i]),
        figure_cell(float(table["effect"][i])),
        Cell(f"{number(held_out)} ({interval})", order=held_out),
        Cell(p_value(float(table["q"][i])), order=float(table["q"][i])),
        figure_cell(float(table["weakest"][i]), 2),
        figure_cell(float(table["causal"][i]), 2),
        Cell(_shortened(str(table["contexts"][i])), tone="quoted"),
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= TEXT_OF_CONTEXTS else text[: TEXT_OF_CONTEXTS - 1] + "…"
