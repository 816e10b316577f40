"""The report: one self-contained HTML page from the artifacts of a study.

    build(inputs, "results/report/index.html", spec=spec, contexts=6)

`inputs` are plain values and paths (see `build`). The page holds its own style, script and plotly.js, works from
file:// without a network and is equal byte for byte for the same artifacts: it contains no date.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych import methods
from diptych.findings import stage as findings_stage
from diptych.findings.stage import Findings
from diptych.page import document, method_sections
from diptych.page.blocks import Section
from diptych.page.method_sections import PageData
from diptych.relations import section as relations_section
from diptych.report import experimental_setup, opening, provenance, published_numbers
from diptych.storage import artifacts

ROLE_ORDER = {"compared": 0, "planted": 1, "floor": 2, "control": 3}
"""Order of the pairs by role: the floor and the control, which have no difference, come last."""


def build(
    inputs: Mapping[str, Any],
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    contexts: int = 6,
    cells: int = 4,
    published: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Stage `build_report`: write the HTML page of a study.

    Args:
        inputs: plain values and paths:
            `title`; `findings`, the artifact of `findings.stage.collect`;
            `models`, each {name, directory} and, where the config gives one, license;
            `corpora`, each {name, directory, tokens} and maybe license;
            `gates`, each {model, corpus, site, path};
            `dictionaries`, each {name, directory};
            `similarity`, the artifact of `similarity.score_table.collect`, if any;
            `relations`, the artifact of `relations.stage.collect`, if any;
            `maps`, the artifact of `similarity.feature_maps.draw`, if any;
            `crosscoders` of more than two models, each {name, models, site, tokens, runs};
            `pairs`, as for `findings.stage.collect`, and with corpus, dictionary_a, dictionary_b (names).
        out: path of the page.
        spec: settings, code and packages of this stage; shown under provenance.
        contexts: contexts shown for each finding and each model.
        cells: cells of a pair's grid of sites that are shown in full.
        published: numbers in print, each {what, value, source, ours} (`config.sections.published`).
    """
    inputs = {
        **inputs,
        "pairs": sorted((_with_id(pair) for pair in inputs["pairs"]), key=lambda pair: ROLE_ORDER[pair["role"]]),
    }
    findings = findings_stage.read(inputs["findings"])
    page = PageData(inputs, n_contexts=contexts, n_full_cells=cells)
    sections = [
        opening.section(inputs, findings),
        *published_numbers.section(published, page),
        experimental_setup.section(inputs),
        *([relations_section.section(inputs["relations"])] if inputs.get("relations") else []),
        *_pair_sections(findings, page),
        *(section for method in methods.METHODS for section in method_sections.of(method).of_study(page)),
        opening.findings_section(findings),
        experimental_setup.gates_section(inputs),
        provenance.section(inputs, spec),
    ]
    html = document.render(inputs["title"], opening.banner(findings), opening.answer(inputs, findings), sections)
    artifacts.write_text(out, html)


def _with_id(pair: Mapping[str, Any]) -> dict[str, Any]:
    """A pair with the name of its sites and an id for its HTML elements."""
    site = pair["site_a"] if pair["site_a"] == pair["site_b"] else f"{pair['site_a']}--{pair['site_b']}"
    name = f"{pair['name']}-{site}" if site else pair["name"]
    slug = "".join(character if character.isalnum() else "-" for character in name)
    return {**pair, "site": site, "id": f"pair-{slug}"}


def _pair_sections(findings: Findings, page: PageData) -> list[Section]:
    """One section per comparison: a pair as a whole, then what is on all of its cells, then each cell."""
    sections = []
    for name in dict.fromkeys(cell["name"] for cell in page.inputs["pairs"]):
        of_pair = [comparison for comparison in page.inputs["pairs"] if comparison["name"] == name]
        wholes = [comparison for comparison in of_pair if methods.scope_of(comparison) == "pair"]
        cells: Sequence[Mapping[str, Any]] = [cell for cell in of_pair if methods.scope_of(cell) == "site"]
        sections += [_cell_section(whole, findings, page) for whole in wholes]
        for method in methods.METHODS:
            sections += method_sections.of(method).of_pair(cells, page)
        for method in methods.METHODS:
            cells = method_sections.of(method).best_cells(cells, page)
        sections += [_cell_section(cell, findings, page) for cell in cells]
    return sections


def _cell_section(cell: Mapping[str, Any], findings: Findings, page: PageData) -> Section:
    """The section on a comparison, with one subsection per method that was run on it."""
    inner = []
    for method in methods.METHODS:
        if cell["files"].get(method.file):
            finding_ids = findings.ids(cell["name"], cell["site"], method.name)
            page_of_cell = replace(page, cell=cell, finding_ids=finding_ids)
            inner.append(method_sections.of(method).of_cell(cell, page_of_cell))
    where = f"at {cell['site']}" if cell["site"] else "as a whole"
    return Section(cell["id"], f"{cell['name']}: {cell['a']} and {cell['b']} {where}", [], inner)
