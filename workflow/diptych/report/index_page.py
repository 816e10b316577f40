"""The index of a report: the study in two sentences, a card for each pair, and the checks in one line at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diptych import methods
from diptych.findings.stage import Findings
from diptych.page import method_sections
from diptych.page.blocks import Block, Cell, Section, Strip, Table, counted, listed
from diptych.page.cards import Cards, ChipRow, Magnitude, PairCard
from diptych.page.method_sections import PageData
from diptych.relations import section as relations_section
from diptych.report import (
    experimental_setup,
    finding_cards,
    known_edits,
    opening,
    pair_page,
    provenance,
    published_numbers,
    trust,
)
from diptych.report.addresses import page_of, slug
from diptych.storage import artifacts

BRIEFS = 3
"""Findings on the card of a pair."""
FEW_PAIRS = 3
"""Pairs whose cards stand before what is common to all; more of them stand after it."""
STRIPS = 3
"""Strips on the card of a pair."""
CHECKS = {
    "control": "a model with itself: nothing may be found",
    "floor": "one model, two dictionaries: what seeds alone change",
    "planted": "a known difference: what the methods can see",
}
"""Role of a pair that checks the methods -> what it is for."""
Comparison = Mapping[str, Any]
Pairs = Mapping[str, Sequence[Comparison]]
"""The comparisons of each pair, by its name."""


def sections(
    pairs: Pairs,
    cards: Mapping[str, Cards],
    findings: Findings,
    page: PageData,
    spec: Mapping[str, Any],
    published: Sequence[Mapping[str, Any]],
) -> list[Section]:
    """The sections of the index."""
    inputs, everything = page.inputs, [comparison for pair in pairs.values() for comparison in pair]
    asked = asked_pairs(pairs)
    checks = {name: pair for name, pair in pairs.items() if name not in asked}
    question = [_card(name, pairs[name], cards[name], findings, page) for name in asked]
    of_study = [section for method in methods.METHODS for section in method_sections.of(method).of_study(page)]
    relations = [relations_section.section(inputs["relations"])] if inputs.get("relations") else []
    behind = [
        trust.overview(everything, findings, "summary"),
        trust.controls(findings, "control"),
        *experimental_setup.section(inputs).sections,
        provenance.section(inputs, spec, "provenance"),
    ]
    first = [Section("question", "", question), *published_numbers.section(published, page)]
    return [
        *in_order(first, relations, len(asked)),
        *of_study,
        *known_edits.sections(findings),
        Section("checks", "The checks", _checks(checks, findings), lead=_checks_line(findings)),
        Section(
            "study", "The study", [_beside()], behind, lead="All that was compared, by what, on what, and with what."
        ),
    ]


def in_order(first: Sequence[Section], common: Sequence[Section], n_pairs: int) -> list[Section]:
    """The pairs' own sections and those of what is common to all: of many pairs what is common stands first."""
    return [*common, *first] if n_pairs > FEW_PAIRS else [*first, *common]


def asked_pairs(pairs: Pairs) -> list[str]:
    """The pairs that the study asks about; all of them where it only checks its methods."""
    return [name for name, pair in pairs.items() if pair[0]["role"] == "compared"] or list(pairs)


def answer(pairs: Pairs, cards: Mapping[str, Cards], findings: Findings, inputs: Mapping[str, Any]) -> str:
    """The study in two sentences: what was compared on what, and how many differences stand."""
    names = asked_pairs(pairs)
    wholes = [pairs[name][0] for name in names]
    others: dict[str, dict[str, None]] = {}
    for pair in wholes:
        others.setdefault(pair["a"], {})[pair["b"]] = None
    compared = listed([f"{a} with {listed(list(of_a))}" for a, of_a in others.items()])
    text = listed(
        sorted(
            {f"{_tokens(pair['corpus'], inputs):,} tokens of {pair['corpus']}" for pair in wholes if "corpus" in pair}
        )
    )
    n = sum(_n_findings(cards[name]) for name in names)
    by = listed([f"{count} by the {title}" for title, count in _counts([cards[name] for name in names]).items()])
    first = f"This study compares {compared}{f', on {text}' if text else ''}."
    if not n:
        return f"{first} No difference between them stands on text that had no part in finding it."
    return f"{first} {counted(n, 'difference')} between them {'stands' if n == 1 else 'stand'}: {by}."


def _tokens(corpus: str, inputs: Mapping[str, Any]) -> int:
    """Number of tokens of a corpus."""
    path = next(each["tokens"] for each in inputs["corpora"] if each["name"] == corpus)
    with artifacts.read(path, "tokens") as file:
        summary = artifacts.read_json(file, "summary")
    return sum(int(source["tokens"]) for source in summary.values())


def _counts(all_cards: Sequence[Cards]) -> dict[str, int]:
    """Number of findings by title of the method."""
    counts: dict[str, int] = {}
    for cards in all_cards:
        for group in cards.groups:
            n = sum(card.status == "finding" for card in group.cards)
            counts |= {group.title: counts.get(group.title, 0) + n} if n else {}
    return counts


def _n_findings(cards: Cards) -> int:
    return sum(_counts([cards]).values())


def _card(name: str, comparisons: Sequence[Comparison], cards: Cards, findings: Findings, page: PageData) -> PairCard:
    """The card of one pair."""
    first, chips = comparisons[0], _chips(comparisons, findings, page)
    return PairCard(
        id=f"card-{slug(name)}",
        title=f"{first['a']} → {first['b']}",
        subtitle=_subtitle(first, page.inputs),
        href=page_of(name),
        sentence="" if chips else _sentence(comparisons, findings),
        chips=chips,
        findings=finding_cards.best(cards, BRIEFS),
        n_findings=_n_findings(cards),
        magnitudes=_magnitudes(comparisons),
        sure=trust.sure(name, findings),
        strips=_strips(comparisons),
    )


def _subtitle(pair: Comparison, inputs: Mapping[str, Any]) -> str:
    """How model B was made."""
    model = next((each for each in inputs["models"] if each["name"] == pair["b"]), None)
    return f"{pair['b']}: {experimental_setup.origin(model)}" if model else ""


def _sentence(comparisons: Sequence[Comparison], findings: Findings) -> str:
    """What the methods say of a pair, a sentence each: for pairs of which no words can be shown."""
    said = (opening.of_method(method, cell, findings) for method, cell in pair_page.runs_on(comparisons))
    return " ".join(filter(None, said))


def _chips(comparisons: Sequence[Comparison], findings: Findings, page: PageData) -> list[ChipRow]:
    rows: list[ChipRow] = []
    for method, cell in pair_page.runs_on(comparisons):
        ids = findings.ids(cell["name"], cell["site"], method.name)
        rows += method_sections.of(method).chips(cell, replace(page, cell=cell, finding_ids=ids))
    return rows


def _magnitudes(comparisons: Sequence[Comparison]) -> list[Magnitude]:
    """How much differs, once for each respect: the largest over the compared sites."""
    largest: dict[str, Magnitude] = {}
    for method, cell in pair_page.runs_on(comparisons):
        found = method_sections.of(method).magnitude(cell)
        if found and (found.of not in largest or found.share > largest[found.of].share):
            largest[found.of] = found
    return list(largest.values())


def _strips(comparisons: Sequence[Comparison]) -> list[Strip]:
    """The first strip of each method."""
    strips: dict[str, Strip] = {}
    for method, cell in pair_page.runs_on(comparisons):
        if method.name not in strips and (strip := method_sections.of(method).strip(cell)):
            strips[method.name] = strip
    return list(strips.values())[:STRIPS]


def _checks_line(findings: Findings) -> str:
    """Controls and yardsticks in one line."""
    control = trust.banner(findings)
    return " ".join(filter(None, [control.headline, control.text, trust.yardstick(findings)]))


def _checks(pairs: Pairs, findings: Findings) -> list[Block]:
    """Table of the pairs that check the methods, with links to their pages; [] if the study has none."""
    rows: list[list[str | Cell]] = []
    for name, pair in pairs.items():
        answers = trust.answers_of(findings, name)
        texts = [f"{methods.named(a['method']).title}: {trust.status_text(a)}" for a in answers]
        role = pair[0]["role"]
        link = Cell(f"{pair[0]['a']} → {pair[0]['b']}", href=page_of(name))
        rows.append([link, f"{role}: {CHECKS.get(role, 'the question')}", "; ".join(texts)])
    return [Table(["pair", "what it is for", "what the methods say"], rows)] if rows else []


def _beside() -> Block:
    """What lies beside the report, such as what every stage took, which differs from run to run."""
    rows: list[list[str | Cell]] = [
        ["seconds, processor time and peak memory of every stage", Cell("costs", href="../benchmarks/index.html")],
        ["what each job said", Cell("logs/", href="../logs/")],
        ["every finding as a table", Cell("findings.tsv", href="../findings.tsv")],
        ["every method on every known edit", Cell("known_edits.tsv", href="../known_edits.tsv")],
    ]
    return Table(["what", "where"], rows, caption="Beside this report, in the study's results.")
