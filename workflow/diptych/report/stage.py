"""The report: one self-contained HTML page from the artifacts of a study.

    build(inputs, "results/report/index.html", spec=spec, contexts=6)

`inputs` are plain values and paths (see `build`). The page holds its own style, script and plotly.js, works from
file:// without a network and is the same to the byte for the same artifacts: it carries no clock.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.candidates.ranking import Method
from diptych.crosscoder import section
from diptych.findings import stage
from diptych.linear_map import section as linear_maps
from diptych.page import document
from diptych.page.blocks import Section
from diptych.pairing import section as features
from diptych.report import opening, provenance, setting
from diptych.similarity import grid_section
from diptych.similarity import section as similarity
from diptych.steering import section as steering
from diptych.storage import artifacts
from diptych.template_diff import section as template_diffs
from diptych.text import contexts as evidence

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
    given = {
        **inputs,
        "pairs": sorted((_named(pair) for pair in inputs["pairs"]), key=lambda pair: ORDER[pair["role"]]),
    }
    found = stage.read(given["findings"])
    sections = [
        opening.section(given, found),
        setting.section(given),
        *_pair_sections(given, found, contexts, cells),
        *(
            section.of_many(described, evidence.Text(described["tokens"]), contexts)
            for described in given.get("crosscoders", ())
        ),
        opening.findings_section(found),
        setting.gates(given),
        provenance.section(given, spec),
    ]
    html = document.render(given["title"], opening.banner(found), opening.answer(given, found), sections)
    artifacts.write_text(out, html)


def _named(pair: Mapping[str, Any]) -> dict[str, Any]:
    """A pair with the name of its site and an id that may stand in HTML."""
    site = pair["site_a"] if pair["site_a"] == pair["site_b"] else f"{pair['site_a']}--{pair['site_b']}"
    slug = "".join(character if character.isalnum() else "-" for character in f"{pair['name']}-{site}")
    return {**pair, "site": site, "id": f"pair-{slug}"}


def _pair_sections(inputs: Mapping[str, Any], found: stage.Findings, contexts: int, in_full: int) -> list[Section]:
    """One section a cell; sites compared with each other get one of their own first, a grid's best cells then."""
    floors = {
        pair["name"]: features.unmatched_share(pair)
        for pair in inputs["pairs"]
        if pair["role"] == "floor" and pair["files"].get("pairing")
    }
    scores = similarity.Scores(inputs.get("similarity"))
    sections = []
    for name in dict.fromkeys(pair["name"] for pair in inputs["pairs"]):
        cells = [pair for pair in inputs["pairs"] if pair["name"] == name]
        shown = cells
        if grid_section.is_grid(cells):
            sections.append(grid_section.grid_section(cells, scores, in_full))
            best = sorted(cells, key=lambda cell: -scores.pairing_quality(name, cell["site_a"], cell["site_b"]))
            shown = best[:in_full]
        elif grid_section.are_layers(cells):
            sections.append(grid_section.layers_section(cells, scores))
        for cell in shown:
            geometry = _geometry(cell, scores, inputs.get("maps"))
            sections.append(_pair_section(cell, found, contexts, floors, geometry))
    return sections


def _geometry(pair: Mapping[str, Any], scores: similarity.Scores, maps: str | None) -> list[Section]:
    return [similarity.section(pair, scores, maps)] if pair["files"].get("similarity") else []


def _pair_section(
    pair: Mapping[str, Any],
    found: stage.Findings,
    contexts: int,
    floors: Mapping[str, float],
    geometry: Sequence[Section],
) -> Section:
    text = evidence.Text(pair["files"]["tokens_a"])
    same = pair["files"]["tokens_a"] == pair["files"]["tokens_b"]
    texts: dict[features.Side, evidence.Text] = {
        "a": text,
        "b": text if same else evidence.Text(pair["files"]["tokens_b"]),
    }

    def standing(method: Method) -> frozenset[str]:
        return found.standing(pair["name"], pair["site"], method)

    inner = []
    if pair["files"].get("linear_map"):
        inner.append(linear_maps.section(pair, text, contexts, standing("linear_map")))
    if pair["files"].get("pairing"):
        inner.append(features.section(pair, texts, contexts, standing("pairing"), floors))
    inner += geometry
    if pair["files"].get("steering"):
        inner.append(steering.section(pair))
    if pair["files"].get("crosscoders"):
        inner.append(section.section(pair, text, contexts, standing("crosscoder")))
    if pair["files"].get("template_diffs"):
        inner.append(template_diffs.section(pair, contexts, standing("template")))
    title = f"{pair['name']}: {pair['a']} and {pair['b']} at {pair['site']}"
    return Section(pair["id"], title, [], inner)
