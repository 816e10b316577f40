"""The report: one self-contained HTML page from the artifacts of a study.

    build(inputs, "results/report/index.html", spec=spec, contexts=6)

`inputs` are plain values and paths (see `build`). The page holds its own style, script and plotly.js, works from
file:// without a network and is the same to the byte for the same artifacts: it carries no clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych import methods
from diptych.findings import stage as findings
from diptych.page import document, method_sections
from diptych.page.blocks import Section
from diptych.page.method_sections import Shown
from diptych.report import opening, provenance, setting
from diptych.storage import artifacts

ORDER = {"compared": 0, "planted": 1, "floor": 2, "control": 3}
"""Pairs by role: the control and the floor, which hold no difference, come last."""


def build(
    inputs: Mapping[str, Any], out: str | Path, *, spec: Mapping[str, Any], contexts: int = 6, cells: int = 4
) -> None:
    """Stage `build_report`: write the page.

    Args:
        inputs: plain values and paths:
            `title`; `findings`, the artifact of `findings.collect`;
            `models`, each {name, directory} and, where the config gives one, license;
            `corpora`, each {name, directory, tokens} and maybe license;
            `gates`, each {model, corpus, site, path};
            `dictionaries`, each {name, directory};
            `similarity`, the artifact of `similarity_table.collect`, and `maps`, that of `feature_maps.draw`, if any;
            `crosscoders` of more than two models, each {name, models, site, tokens, runs};
            `pairs`, as for `findings.collect`, and with corpus, dictionary_a, dictionary_b (names).
        out: path of the page.
        spec: what it was made from; shown under provenance.
        contexts: texts shown for each item and model.
        cells: cells of a pair's grid of sites that are shown in full.
    """
    inputs_shown = {
        **inputs,
        "pairs": sorted((_named(pair) for pair in inputs["pairs"]), key=lambda pair: ORDER[pair["role"]]),
    }
    findings_of_study = findings.read(inputs_shown["findings"])
    shown = Shown(inputs_shown, contexts=contexts, in_full=cells)
    sections = [
        opening.section(inputs_shown, findings_of_study),
        setting.section(inputs_shown),
        *_cells(inputs_shown, findings_of_study, shown),
        *(section for method in methods.METHODS for section in method_sections.of(method).of_study(shown)),
        opening.findings_section(findings_of_study),
        setting.gates(inputs_shown),
        provenance.section(inputs_shown, spec),
    ]
    html = document.render(
        inputs_shown["title"],
        opening.banner(findings_of_study),
        opening.answer(inputs_shown, findings_of_study),
        sections,
    )
    artifacts.write_text(out, html)


def _named(pair: Mapping[str, Any]) -> dict[str, Any]:
    """A pair with the name of its site and an id that may stand in HTML."""
    site = pair["site_a"] if pair["site_a"] == pair["site_b"] else f"{pair['site_a']}--{pair['site_b']}"
    slug = "".join(character if character.isalnum() else "-" for character in f"{pair['name']}-{site}")
    return {**pair, "site": site, "id": f"pair-{slug}"}


def _cells(inputs: Mapping[str, Any], results: findings.Findings, shown: Shown) -> list[Section]:
    """One section a cell; what is said of all cells of a pair comes before them."""
    sections = []
    for name in dict.fromkeys(cell["name"] for cell in inputs["pairs"]):
        cells: Sequence[Mapping[str, Any]] = [cell for cell in inputs["pairs"] if cell["name"] == name]
        for method in methods.METHODS:
            sections += method_sections.of(method).of_pair(cells, shown)
        for method in methods.METHODS:
            cells = method_sections.of(method).best_cells(cells, shown)
        sections += [_cell(cell, results, shown) for cell in cells]
    return sections


def _cell(cell: Mapping[str, Any], results: findings.Findings, shown: Shown) -> Section:
    """The sections of all methods that were run on a cell."""
    own = replace(shown, cell=cell)
    inner = []
    for method in methods.METHODS:
        if cell["files"].get(method.file):
            standing = results.standing(cell["name"], cell["site"], method.name)
            inner.append(method_sections.of(method).of_cell(cell, replace(own, standing=standing)))
    return Section(cell["id"], f"{cell['name']}: {cell['a']} and {cell['b']} at {cell['site']}", [], inner)
