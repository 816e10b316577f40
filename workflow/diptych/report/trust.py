"""Whether a study can be trusted, in one line: its controls, its yardsticks, and what could have been seen.

sure(pair, findings)        # a note for the pair's card on the index
"""

from collections.abc import Mapping, Sequence
from typing import Any

from diptych import methods
from diptych.findings.stage import Findings
from diptych.page.blocks import Banner, Block, Cell, Note, Prose, Section, Table, Tone, counted, listed

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
LEADERBOARD = "docs/leaderboard.md"
"""Where it is said how limits and false discoveries were measured."""
YARDSTICK = (
    "The last two columns were measured once on planted activations, whose truth is known, and not on these models "
    f"({LEADERBOARD}). ▲: that share is above the nominal 5 %."
)
"""What is said above the table of verdicts."""
MARK = "▲"
"""Beside the name of a method whose false discoveries are above nominal."""
Comparison = Mapping[str, Any]


def banner(findings: Findings) -> Banner:
    """The outcome of the control."""
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


def sure(pair: str, findings: Findings) -> Note:
    """One line on a pair: the control, what was planted, what could have been seen, and methods above nominal."""
    control = banner(findings)
    planted, unseen, marks = yardstick(findings), detection(pair, findings), marked(pair, findings)
    missed = any(a["status"] == "missed" for a in _planted_answers(findings))
    unclear = any(a["status"] == "unclear" for a in answers_of(findings, pair))
    weak = missed or unclear or findings.control_holds is None or bool(marks)
    tone: Tone = "fail" if findings.control_holds is False else "warn" if weak else "pass"
    return Note(tone, " ".join(filter(None, [control.headline, control.text, planted, unseen, *marks.values()])))


def yardstick(findings: Findings) -> str:
    """Which methods found what was planted in a model, anywhere in the comparisons of its pair, and which missed it."""
    answers = _planted_answers(findings)
    by_status = {
        status: list(dict.fromkeys(methods.named(a["method"]).title for a in answers if a["status"] == status))
        for status in ("recovered", "missed")
    }
    missed = [title for title in by_status["missed"] if title not in by_status["recovered"]]
    outcomes = [f"found by the {listed(by_status['recovered'])}"] if by_status["recovered"] else []
    outcomes += [f"missed by the {listed(missed)}"] if missed else []
    return f"A direction that was planted on purpose was {listed(outcomes, last='but')}." if outcomes else ""


def detection(pair: str, findings: Findings) -> str:
    """What methods that found nothing in a pair could have seen."""
    answers = answers_of(findings, pair)
    silent = {status: [a for a in answers if a["status"] == status] for status in ("none", "unclear")}
    sentences = []
    if silent["none"]:
        could = "would have found a change of the planted size"
        sentences.append(f"The {titles(silent['none'])} found nothing, and {could}.")
    if silent["unclear"]:
        sentences.append(f"The {titles(silent['unclear'])} cannot tell with this much training.")
    return " ".join([*sentences, smallest([*silent["none"], *silent["unclear"]])]).strip()


def smallest(answers: Sequence[Mapping[str, Any]]) -> str:
    """Of methods that found nothing the smallest difference that each would have seen, in a sentence; "" of none."""
    by_size: dict[str, list[Mapping[str, Any]]] = {}
    for answer in answers:
        if answer["least"] and not methods.named(answer["method"]).is_exact:
            by_size.setdefault(answer["least"], []).append(answer)
    seen = [f"{size} ({titles(alike)})" for size, alike in by_size.items()]
    return f"The smallest seen on planted pairs, as a share of one model's variance: {listed(seen)}." if seen else ""


def titles(answers: Sequence[Mapping[str, Any]]) -> str:
    """The titles of the methods of some answers, each once."""
    return listed(list(dict.fromkeys(methods.named(answer["method"]).title for answer in answers)))


def marked(pair: str, findings: Findings) -> dict[str, str]:
    """By title of a method that is above nominal as it was run on a pair, the sentence that says so."""
    answers = [a for a in answers_of(findings, pair) if a["mark"]]
    return {methods.named(a["method"]).title: f"{MARK} {a['mark']}" for a in answers}


def answers_of(findings: Findings, pair: str, site: str | None = None) -> list[dict[str, Any]]:
    """The conclusions of all methods on a pair, or on one of its comparisons."""
    return [a for a in findings.answers if a["pair"] == pair and site in (None, a["site"])]


def _planted_answers(findings: Findings) -> list[dict[str, Any]]:
    return [a for a in findings.answers if a["role"] == "planted"]


# --- sections -----------------------------------------------------------------------------------------------------


def overview(comparisons: Sequence[Comparison], findings: Findings, section_id: str) -> Section:
    """Table of pairs and methods."""
    columns = [method for method in methods.proposing() if any(a["method"] == method.name for a in findings.answers)]
    rows: list[list[str | Cell]] = []
    for pair in comparisons:
        by_method = {a["method"]: a for a in answers_of(findings, pair["name"], pair["site"])}
        scope = methods.scope_of(pair)
        cells = [_status_cell(by_method.get(method.name)) if method.scope == scope else "" for method in columns]
        rows.append([_label(pair), pair["role"], *cells])
    titles = [_marked_title(method, findings.answers) for method in columns]
    table = Table(["pair", "role", *(title.text for title in titles)], rows, hints=["", "", *(t.hint for t in titles)])
    lead = "What each method says of each pair; point at a cell for the sentence."
    return Section(section_id, "Every pair by every method", [table], lead=lead)


def verdicts(comparisons: Sequence[Comparison], findings: Findings, section_id: str) -> Section:
    """What every method says of comparisons, in full sentences."""
    rows: list[list[str | Cell]] = [
        [
            _label(pair),
            _marked_title(methods.named(a["method"]), [a]),
            Cell(a["text"], tone=STATUS_LABELS[a["status"]][1]),
            a["limit"],
            Cell(a["false_discoveries"], tone="fail" if a["mark"] else ""),
        ]
        for pair in comparisons
        for a in answers_of(findings, pair["name"], pair["site"])
    ]
    columns = [
        "pair",
        "method",
        "what it says",
        "what it would have seen",
        "something at q ≤ .05 where nothing differs",
    ]
    lead = "What each method says, and where it found nothing whether it could have found something."
    return Section(section_id, "What each method says", [Table(columns, rows, caption=YARDSTICK)], lead=lead)


def controls(findings: Findings, section_id: str) -> Section:
    """The clauses of the control, one by one."""
    outcome = {
        True: Cell("holds", tone="pass"),
        False: Cell("BROKEN", tone="fail"),
        None: Cell("not run", tone="muted"),
    }
    rows: list[list[str | Cell]] = []
    for control in findings.controls:
        for clause in control["clauses"]:
            rows.append([control["pair"], clause["name"], outcome[clause["holds"]], clause["text"]])
    stated = banner(findings)
    blocks: list[Block] = [
        Note(stated.tone, f"{stated.headline} {stated.text}"),
        Prose(
            "It catches errors of bookkeeping: rows that do not line up, a wrong layer, a dictionary on the wrong side."
        ),
    ]
    if rows:
        blocks.append(Table(["pair", "what must hold", "outcome", "observed"], rows))
    lead = "A model compared with itself: whatever were found there would be an error."
    return Section(section_id, "The control, clause by clause", blocks, lead=lead)


def status_text(answer: Mapping[str, Any]) -> str:
    """A conclusion in a few words."""
    return STATUS_LABELS[answer["status"]][0].format(**answer)


def _label(pair: Comparison) -> str:
    models = f"{pair['a']} → {pair['b']}"
    return f"{pair['name']} ({models}, {pair['site']})" if pair["site"] else f"{pair['name']} ({models})"


def _status_cell(answer: Mapping[str, Any] | None) -> Cell:
    if answer is None:
        return Cell("not run", tone="muted")
    hint = f"{answer['text']}. {answer['limit']}" if answer["limit"] else answer["text"]
    return Cell(status_text(answer), tone=STATUS_LABELS[answer["status"]][1], hint=hint)


def _marked_title(method: methods.Method, answers: Sequence[Mapping[str, Any]]) -> Cell:
    """A method's title, marked if it is above nominal as it was run for one of the answers."""
    marks = dict.fromkeys(a["mark"] for a in answers if a["method"] == method.name and a["mark"])
    return Cell(f"{method.title} {MARK}", tone="fail", hint=" ".join(marks)) if marks else Cell(method.title)
