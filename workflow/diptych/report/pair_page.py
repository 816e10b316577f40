"""The page of a pair, in the order in which a reader asks: what differs, how different, where, is it sure, how made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from diptych import methods
from diptych.findings.stage import Findings
from diptych.page import method_sections
from diptych.page.blocks import Block, Cell, Note, Prose, Section, Table
from diptych.page.cards import Cards
from diptych.page.method_sections import Chapter, Chapters, PageData
from diptych.report import experimental_setup, gates, opening, provenance, trust
from diptych.report.addresses import page_id

CHAPTERS: dict[Chapter, tuple[str, str]] = {
    "what": ("What differs?", "Every difference that was found, the strongest first: open one for its text."),
    "different": ("How different are they?", "How far apart the models are as a whole, measure by measure."),
    "where": ("Where do they differ?", "In which layers and weights, at which tokens and roles, in which text."),
    "trust": ("Can I trust it?", "What the checks say, and what would have been seen if it were there."),
    "made": ("How was it made?", "Models, settings, versions and hashes, and the commands that make it again."),
}
"""Chapter -> its title and the sentence that opens it."""
STANDS = (
    "Each finding is significant in its family of tests, has the same sign and at least half the size on held-out "
    "documents, and is large enough to matter. What depends on training is also found with most of the seeds; with a "
    "single seed it is listed as not repeated. The findings of a method are ranked by their weakest leg: ✓ holds, ✗ is "
    "weak, – was not tested. Point at a leg for its number."
)
NOTHING = {
    "compared": "No difference stands. “Can I trust it?” says of each method whether it could have seen one.",
    "planted": "No difference stands, though one was planted: with this budget the methods do not see it.",
    "control": "Nothing, as it must be: both models are the same.",
    "floor": "Nothing, as it must be: the model is the same, and only the dictionaries' seeds differ.",
}
"""Role of a pair -> what it means that nothing was found."""
ROLES = {
    "compared": "",
    "planted": "The difference is known: it was planted, to see which methods find it.",
    "control": "The control: a model compared with itself, in which nothing may be found.",
    "floor": "The floor: one model through two dictionaries that differ in their seed alone.",
}
"""Role of a pair -> a sentence on what it is for."""
COMMANDS = (
    ("make every result again that has changed", "snakemake --cores all"),
    ("see what would run, and why", "snakemake --dry-run"),
    ("list every file with the rule that made it", "snakemake --detailed-summary"),
    ("seconds, memory and processor time of every stage", "python benchmarks/stages.py results"),
)
"""What to do, and its command."""
Comparison = Mapping[str, Any]


@dataclass
class _Chapter:
    """The sections of a chapter as they are gathered."""

    blocks: list[Block] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


def sections(
    name: str,
    comparisons: Sequence[Comparison],
    cards: Cards,
    findings: Findings,
    page: PageData,
    spec: Mapping[str, Any],
) -> list[Section]:
    """The chapters of the page of one pair."""
    gathered = {chapter: _Chapter() for chapter in get_args(Chapter)}
    gathered["what"].blocks += _cards(comparisons, cards)
    strips = (method_sections.of(method).strip(cell) for method, cell in runs_on(comparisons))
    gathered["where"].blocks += [strip for strip in strips if strip is not None]
    id_, own = page_id(name), _inputs_of(comparisons, page.inputs)
    gathered["trust"].sections += [
        trust.verdicts(comparisons, findings, f"{id_}-verdicts"),
        trust.controls(findings, f"{id_}-control"),
    ]
    for chapters in _of_methods(comparisons, findings, page):
        for chapter, section in chapters.items():
            gathered[chapter].sections.append(section)
    gathered["trust"].sections.append(gates.section(own, f"{id_}-gates"))
    gathered["made"].sections += [
        Section(
            f"{id_}-models",
            "The models",
            [experimental_setup.models_table(own["models"])],
            lead="How each of the models was made.",
        ),
        _commands(f"{id_}-commands"),
        provenance.section(own, spec, f"{id_}-provenance"),
    ]
    return [
        Section(
            f"{id_}-{chapter}", CHAPTERS[chapter][0], parts.blocks, _opened(chapter, parts), lead=CHAPTERS[chapter][1]
        )
        for chapter, parts in gathered.items()
    ]


def answer(comparisons: Sequence[Comparison], findings: Findings) -> str:
    """What the page says first: what differs in words, or what the pair is for."""
    return opening.answer(comparisons, findings) or ROLES[comparisons[0]["role"]]


def runs_on(comparisons: Sequence[Comparison]) -> list[tuple[methods.Method, Comparison]]:
    """Every method with every comparison on which it was run, method by method."""
    return [(method, cell) for method in methods.METHODS for cell in comparisons if cell["files"].get(method.file)]


def _cards(comparisons: Sequence[Comparison], cards: Cards) -> list[Block]:
    if not cards.groups:
        return [Note("info", NOTHING[comparisons[0]["role"]])]
    return [Prose(STANDS), cards]


def _opened(chapter: Chapter, parts: _Chapter) -> list[Section]:
    """The sections of a chapter, the first one open where the chapter has nothing above it and is not an appendix."""
    if not parts.sections or parts.blocks or chapter == "made":
        return parts.sections
    return [replace(parts.sections[0], is_open=True), *parts.sections[1:]]


def _of_methods(comparisons: Sequence[Comparison], findings: Findings, page: PageData) -> list[Chapters]:
    """The sections of all methods: on all cells together, then on the pair as a whole and on each cell."""
    wholes = [comparison for comparison in comparisons if methods.scope_of(comparison) == "pair"]
    cells: Sequence[Comparison] = [cell for cell in comparisons if methods.scope_of(cell) == "site"]
    gathered = [method_sections.of(method).of_pair(cells, page) for method in methods.METHODS] if cells else []
    for method in methods.METHODS:
        cells = method_sections.of(method).best_cells(cells, page)
    for method, cell in runs_on([*wholes, *cells]):
        ids = findings.ids(cell["name"], cell["site"], method.name)
        chapters = method_sections.of(method).of_cell(cell, replace(page, cell=cell, finding_ids=ids))
        gathered.append({chapter: _at(section, cell, len(cells)) for chapter, section in chapters.items()})
    return gathered


def _at(section: Section, cell: Comparison, n_cells: int) -> Section:
    """A section with its cell's sites in the title, where there are several cells."""
    return replace(section, title=f"{section.title}, {cell['site']}") if cell["site"] and n_cells > 1 else section


def _inputs_of(comparisons: Sequence[Comparison], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of the report that a pair depends on: its models and theirs, its text, rows and dictionaries."""
    names = {pair[side] for pair in comparisons for side in "ab"}
    corpora = {pair["corpus"] for pair in comparisons if "corpus" in pair}
    dictionaries = {pair.get(f"dictionary_{side}") for pair in comparisons for side in "ab"}
    return {
        **inputs,
        "pairs": comparisons,
        "models": [model for model in inputs["models"] if model["name"] in names],
        "gates": [gate for gate in inputs["gates"] if gate["model"] in names],
        "corpora": [corpus for corpus in inputs["corpora"] if not corpora or corpus["name"] in corpora],
        "dictionaries": [each for each in inputs["dictionaries"] if each["name"] in dictionaries],
    }


def _commands(section_id: str) -> Section:
    rows: list[list[str | Cell]] = [[what, Cell(command, tone="code")] for what, command in COMMANDS]
    lead = "What to run, in the study's directory, to get these pages again or to look behind them."
    return Section(section_id, "Commands", [Table(["to", "run"], rows)], lead=lead)
