"""Opening of the page: outcome of the control, the answer in words, results per pair and method, and the findings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from diptych import methods
from diptych.findings.stage import Findings
from diptych.findings.table import STATUSES
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
    listed,
    number,
    number_cell,
    p_value,
)

STATUS_LABELS = {
    "found": ("{findings} found", "found"),
    "not_repeated": ("{not_repeated} from one training", "muted"),
    "cannot_be_told": ("{cannot_be_told} cannot be told", "muted"),
    "none": ("none found", ""),
    "unclear": ("not enough training to tell", "muted"),
    "untested": ("not tested", "muted"),
    "as_it_must": ("nothing, as it must be", "pass"),
    "broken": ("something where nothing differs", "fail"),
    "recovered": ("planted direction found", "pass"),
    "missed": ("planted direction missed", "warn"),
}
"""Status of an answer -> its text in the table of pairs and methods, and the cell's tone."""
CELLS_IN_WORDS = 3
"""Cells of a pair's grid of sites that the answer in words mentions: those with equal sites, if any."""
MAX_CONTEXT_CHARACTERS = 240
"""Characters of contexts shown in the findings table."""


def banner(findings: Findings) -> Banner:
    """The outcome of the control as the page's banner."""
    if findings.control_holds is None:
        return Banner(
            "warn",
            "No control.",
            "This study compares no model with itself: nothing shows that the bookkeeping is right.",
        )
    clauses = [clause for control in findings.controls for clause in control["clauses"]]
    names = listed(list(dict.fromkeys(control["pair"] for control in findings.controls)))
    if findings.control_holds:
        n_tested = sum(clause["holds"] is not None for clause in clauses)
        return Banner(
            "pass",
            "The control holds.",
            f"A model compared with itself ({names}) shows no difference in any of {counted(n_tested, 'clause')}.",
        )
    broken = [f"{clause['name']} ({clause['text']})" for clause in clauses if clause["holds"] is False]
    reason = "; ".join(broken) or "no clause could be tested"
    return Banner(
        "fail",
        "The control is broken: do not believe this page.",
        f"A model compared with itself ({names}) must show no difference, but: {reason}.",
    )


def answer(inputs: Mapping[str, Any], findings: Findings) -> str:
    """One paragraph on all compared pairs: how many findings by which methods, and which comparisons stay undecided."""
    compared = [pair for pair in inputs["pairs"] if pair["role"] == "compared"]
    sentences = []
    for name in dict.fromkeys(pair["name"] for pair in compared):
        of_pair = [pair for pair in compared if pair["name"] == name]
        for whole in (pair for pair in of_pair if methods.scope_of(pair) == "pair"):
            sentences += [*_method_openings(whole, findings), *_comparison(whole, findings)]
        cells = [pair for pair in of_pair if methods.scope_of(pair) == "site"]
        described = ([cell for cell in cells if cell["site_a"] == cell["site_b"]] or cells)[:CELLS_IN_WORDS]
        for cell in described:
            sentences += [*_comparison(cell, findings), *_method_openings(cell, findings)]
        if len(cells) > len(described):
            rest = counted(len(cells) - len(described), "other cell")
            sentences.append(f"The tables below have the findings in the {rest} of the grid of {name}.")
    planted = [pair for pair in inputs["pairs"] if pair["role"] == "planted"]
    for name in dict.fromkeys(pair["name"] for pair in planted):
        sentences.append(_planted_sentence([pair for pair in planted if pair["name"] == name], findings))
    return " ".join(filter(None, sentences)) or "This study compares no two different models."


def _comparison(pair: Mapping[str, Any], findings: Findings) -> list[str]:
    """Sentences on one comparison: findings, and what is not repeated, cannot be told, is absent or untested."""
    answers = _answers(pair, findings)
    with_findings = {methods.named(a["method"]).title: a for a in answers if a["status"] == "found"}
    none = [methods.named(a["method"]) for a in answers if a["status"] == "none"]
    unclear = [methods.named(a["method"]).title for a in answers if a["status"] == "unclear"]
    by_status = {
        status: [methods.named(a["method"]).title for a in answers if a["status"] == status]
        for status in ("not_repeated", "cannot_be_told")
    }
    untested = [methods.named(a["method"]).title for a in answers if a["status"] == "untested"]
    sentences = []
    same_site = pair["site_a"] == pair["site_b"]
    a = pair["a"] if same_site else f"{pair['a']} at {pair['site_a']}"
    at_site = f" at {pair['site_b']}" if pair["site_b"] else ""
    b = f"{pair['b']}{at_site}"
    if with_findings:
        counts = listed([f"{a['findings']} by the {name}{_besides(a)}" for name, a in with_findings.items()])
        claim = f"{pair['b']} differs from {a}{at_site}" if same_site else f"{b} differs from {a}"
        n_findings = sum(a["findings"] for a in with_findings.values())
        sentences.append(f"{claim}: {counted(n_findings, 'finding')} ({counts}).")
    if by_status["not_repeated"]:
        sentences.append(
            f"What the {listed(by_status['not_repeated'])} shows between {a} and {b} comes from one training and is "
            "not repeated."
        )
    if by_status["cannot_be_told"]:
        sentences.append(
            f"What the {listed(by_status['cannot_be_told'])} shows between {a} and {b} may be something else than a "
            "difference of the models."
        )
    if exact := [method.title for method in none if method.is_exact]:
        sentences.append(f"The {listed(exact)} of {a} and {pair['b']} show no difference that counts.")
    if sought := [method.title for method in none if not method.is_exact]:
        sentences.append(
            f"The {listed(sought)} found no difference between {a} and {b}, though with the same settings a planted "
            "one was found."
        )
    if unclear:
        sentences.append(
            f"With this much training the {listed(unclear)} cannot tell whether {pair['b']} has something that "
            f"{pair['a']} has not."
        )
    if untested:
        sentences.append(f"What the {listed(untested)} shows between {pair['a']} and {pair['b']} could not be tested.")
    return sentences


def _method_openings(pair: Mapping[str, Any], findings: Findings) -> list[str]:
    """Sentences of the methods that were run on a comparison, besides their findings."""
    sentences = []
    for method in methods.METHODS:
        if pair["files"].get(method.file):
            ids = findings.ids(pair["name"], pair["site"], method.name)
            sentences.append(method_sections.of(method).opening({**pair, "finding_ids": ids}))
    return [sentence for sentence in sentences if sentence]


def _besides(answer: Mapping[str, Any]) -> str:
    return f", besides {answer['besides']}" if answer["besides"] else ""


def _planted_sentence(pairs: Sequence[Mapping[str, Any]], findings: Findings) -> str:
    """Which methods found what was planted in a model, anywhere in the comparisons of its pair, and which missed it."""
    answers = [a for pair in pairs for a in _answers(pair, findings)]
    titles = {
        status: list(dict.fromkeys(methods.named(a["method"]).title for a in answers if a["status"] == status))
        for status in ("recovered", "missed")
    }
    missed = [title for title in titles["missed"] if title not in titles["recovered"]]
    outcomes = []
    if titles["recovered"]:
        outcomes.append(f"found by the {listed(titles['recovered'])}")
    if missed:
        outcomes.append(f"missed by the {listed(missed)}")
    return f"The direction planted in {pairs[0]['b']} was {listed(outcomes, last='but')}." if outcomes else ""


def _answers(pair: Mapping[str, Any], findings: Findings) -> list[dict[str, Any]]:
    return [a for a in findings.answers if a["pair"] == pair["name"] and a["site"] == pair["site"]]


def section(inputs: Mapping[str, Any], findings: Findings) -> Section:
    """The summary: table of pairs and methods, the answers in full sentences, and the control's clauses."""
    columns = [method for method in methods.proposing() if any(a["method"] == method.name for a in findings.answers)]
    rows: list[list[str | Cell]] = []
    for pair in inputs["pairs"]:
        by_method = {a["method"]: a for a in _answers(pair, findings)}
        scope = methods.scope_of(pair)
        cells = [_status_cell(by_method.get(method.name)) if method.scope == scope else "" for method in columns]
        rows.append([_label(pair), pair["role"], *cells])
    overview = Table(
        ["pair", "role", *(method.title for method in columns)],
        rows,
        caption="What each method says of each pair; the sentences below say why.",
    )
    answer_rows: list[list[str | Cell]] = [
        [_label(pair), methods.named(a["method"]).title, Cell(a["text"], tone=STATUS_LABELS[a["status"]][1])]
        for pair in inputs["pairs"]
        for a in _answers(pair, findings)
    ]
    inner = [Section("verdicts", "In words", [Table(["pair", "method", "what it says"], answer_rows)])]
    if findings.controls:
        inner.append(Section("control", "The control, clause by clause", _control_clauses(findings)))
    return Section("summary", "Summary", [overview], inner)


def _label(pair: Mapping[str, Any]) -> str:
    models = f"{pair['a']} → {pair['b']}"
    return f"{pair['name']} ({models}, {pair['site']})" if pair["site"] else f"{pair['name']} ({models})"


def _status_cell(answer: Mapping[str, Any] | None) -> Cell:
    if answer is None:
        return Cell("not run", tone="muted")
    text, tone = STATUS_LABELS[answer["status"]]
    return Cell(text.format(**answer), tone=tone, hint=answer["text"])


def _control_clauses(findings: Findings) -> list[Block]:
    outcome = {
        True: Cell("holds", tone="pass"),
        False: Cell("BROKEN", tone="fail"),
        None: Cell("not run", tone="muted"),
    }
    rows: list[list[str | Cell]] = []
    for control in findings.controls:
        for clause in control["clauses"]:
            rows.append([control["pair"], clause["name"], outcome[clause["holds"]], clause["text"]])
    return [
        Prose(
            "The control compares a model with itself. It catches errors of bookkeeping: rows that do not line up, a "
            "wrong layer, a dictionary on the wrong side."
        ),
        Table(["pair", "what must hold", "outcome", "observed"], rows),
    ]


def findings_section(findings: Findings) -> Section:
    """The table of all findings, the strongest first."""
    table = findings.table
    rows = [_finding_row(table, i) for i in range(len(table["pair"]))]
    intro: list[Block] = [
        Prose(
            "Each finding is significant in its family of tests, has the same sign and at least half the size on "
            "documents that had no part in finding it, and is large enough to matter. What depends on training is also "
            "found with most of the seeds (k of S); with a single seed it is no finding but listed as not repeated. "
            "What may show something else than a difference of the models is listed as cannot be told. Findings are "
            "ranked by the weakest of these requirements."
        )
    ]
    if not rows:
        no_findings = Note("info", "No findings. The summary above says what that means for each method.")
        return Section("findings", "Findings", [*intro, no_findings])
    hints = (
        "", "", "One training gave it (not repeated); it may be something else (cannot be told): point at it for why.",
        "", "The model that has it, or has more of it.", "B minus A, in the method's own unit.",
        "On documents that had no part in finding it, with a 95 % interval (template tokens: of all prompts).",
        "Benjamini-Hochberg, by pair and method.",
        "How far the weakest requirement is exceeded; 1 is just met.",
        "In how many runs with other seeds it is found; empty where nothing was trained.",
        "How far steering along it moves its model, over random directions of the same length (1: as far).",
        "",
    )  # fmt: skip
    columns = [
        "pair", "method", "status", "what", "side", "effect", "held out", "q", "weakest", "seeds", "steered",
        "contexts",
    ]  # fmt: skip
    others = [f"{n} {status}" for status in STATUSES[1:] if (n := int((table["status"] == status).sum()))]
    counts = ", ".join([counted(int((table["status"] == "finding").sum()), "finding"), *others])
    caption = f"{counts}; the strongest first. Click a heading to sort."
    return Section(
        "findings", "Findings", [*intro, Table(columns, rows, interactive=True, hints=hints, caption=caption)]
    )


def _finding_row(table: Mapping[str, npt.NDArray[Any]], i: int) -> list[str | Cell]:
    """One row of the table of findings."""
    interval = f"{number(float(table['lo'][i]))} to {number(float(table['hi'][i]))}"
    held_out = float(table["held_out"][i])
    return [
        str(table["pair"][i]),
        methods.named(table["method"][i]).title,
        _row_status(table, i),
        str(table["id"][i]) if table["kind"][i] == "direction" else f"{table['kind'][i]} {table['id'][i]}",
        str(table["side"][i]),
        number_cell(float(table["effect"][i])),
        Cell(f"{number(held_out)} ({interval})", order=held_out),
        Cell(p_value(float(table["q"][i])), order=float(table["q"][i])),
        number_cell(float(table["weakest"][i]), 2),
        str(table["seeds"][i]),
        number_cell(float(table["causal"][i]), 2),
        Cell(_shortened(str(table["contexts"][i])), tone="quoted"),
    ]


def _row_status(table: Mapping[str, npt.NDArray[Any]], i: int) -> Cell:
    status = str(table["status"][i])
    return Cell(status, tone="found" if status == "finding" else "muted", hint=str(table["note"][i]))


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CONTEXT_CHARACTERS else text[: MAX_CONTEXT_CHARACTERS - 1] + "…"
