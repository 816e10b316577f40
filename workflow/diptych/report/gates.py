"""Quality gates of the rows on the page: how many count, why others do not, their precision, and the layer check."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from diptych.dictionaries import layer_check
from diptych.page import figures
from diptych.page.blocks import Block, Cell, Figure, Note, Section, Table, number, number_cell, percent
from diptych.storage import artifacts

CAUSES = {
    "inserted": "inserted by the tokenizer",
    "common_prefix": "prefix common to all documents",
    "skip_first": "first positions of a sequence",
    "outlier_norm": "norm far above the median",
}
"""Cause for which a row is left out (`invalid_share` of the gates) -> its column title."""


def section(inputs: Mapping[str, Any], section_id: str) -> Section:
    """The section on the rows' quality: how many count, why others do not, precision, layer check and warnings."""
    rows: list[list[str | Cell]] = []
    warnings: list[Block] = []
    for gate in inputs["gates"]:
        summary = _gate_summary(gate)
        label = f"{gate['model']} at {gate['site']} on {gate['corpus']}"
        rows.append(_gate_row(gate, summary))
        warnings += [Note("warn", f"{label}: {warning}.") for warning in summary["warnings"]]
    blocks = warnings or [Note("pass", "No warning: the rows of every model are fit to be compared.")]
    columns = ["model", "site", "text", "rows", "that count", *CAUSES.values(), "massive, but named in a template"]
    blocks.append(Table(columns, rows, caption="Rows that count, and the share of all rows that do not, by cause."))
    blocks.append(_quality(inputs["gates"]))
    blocks += _layer_check(inputs["pairs"])
    if inputs["gates"]:
        blocks.append(_norms(inputs["gates"], f"{section_id}-norms"))
    lead = "Rows are tokens: these are the checks that the rows of each model passed before any comparison."
    return Section(section_id, "Quality gates and warnings", blocks, lead=lead)


def _gate_summary(gate: Mapping[str, Any]) -> dict[str, Any]:
    """The summary statistics that a gates artifact holds of one site."""
    with artifacts.read(gate["path"], "gates") as file:
        summary: dict[str, Any] = artifacts.read_json(file, "gates")[gate["site"]]
    return summary


def _quality(gates: Sequence[Mapping[str, Any]]) -> Table:
    """Table of hook, norms, ranks, duplicates and precision errors of the rows that count."""
    rows: list[list[str | Cell]] = []
    for gate in gates:
        summary = _gate_summary(gate)
        rows.append(
            [
                f"{gate['model']}, {gate['corpus']}",
                f"{gate['site']}: {summary['hook']}",
                number_cell(summary["median_norm"]),
                number_cell(summary["rows_per_width"]),
                Cell(f"{summary['numerical_rank']} / {summary['width']}", order=summary["numerical_rank"]),
                number_cell(summary["effective_rank"]),
                number_cell(summary["constant_columns"]),
                Cell(percent(summary["duplicate_share"]), order=summary["duplicate_share"]),
                number_cell(summary["distinct_tokens"]),
                f"{summary['compute_dtype']}, {_compute_error(summary)}",
                f"{summary['stored_dtype']}, {percent(summary['storage_error']['mean'])}",
            ]
        )
    columns = [
        "model, text",
        "site",
        "median norm",
        "rows / width",
        "rank / width",
        "effective rank",
        "constant columns",
        "duplicates",
        "distinct tokens",
        "computed in, error",
        "stored in, error",
    ]
    return Table(
        columns,
        rows,
        caption="Quality of the rows that count. Errors are those of a row relative to its length: of the forward pass "
        "against float32 (median), and of storing it (mean).",
    )


def _compute_error(summary: Mapping[str, Any]) -> str:
    """Median relative error of the forward pass against float32, as text."""
    if summary["compute_dtype"] == "float32":
        return "exact"
    if error := summary["compute_error"]:
        return percent(error["median"])
    return f"not measured ({summary['compute_unmeasured']})" if summary["compute_unmeasured"] else "not measured"


def _layer_check(pairs: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Table of each dictionary's FVU at its site and one layer away, with a warning where a neighbour is lower."""
    rows: dict[str, list[str | Cell]] = {}
    warnings: list[Block] = []
    for model, paths, directory in _encoded_features(pairs):
        fvu = layer_check.read(paths) if directory not in rows else {}
        if len(fvu) < 2:
            continue
        site, *neighbours = fvu
        name = Path(directory).parent.name
        rows[directory] = [
            name,
            model,
            site,
            number_cell(fvu[site]),
            ", ".join(f"{hook}: {number(fvu[hook])}" for hook in sorted(neighbours)),
        ]
        if better := layer_check.suspect(fvu):
            text = f"{name} reconstructs {better} of {model} better ({number(fvu[better])} unexplained) than {site}"
            warnings.append(
                Note("warn", f"Site suspect: {text} ({number(fvu[site])}), where it is read. Off by one layer?")
            )
    if not rows:
        return []
    table = Table(
        ["dictionary", "model", "site", "unexplained there", "unexplained one layer away"],
        list(rows.values()),
        caption="Is each dictionary read at the layer that it belongs to? Its share of variance unexplained, there and "
        "at the neighbouring layers.",
    )
    return [*warnings, table]


def _encoded_features(pairs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Sequence[str], str]]:
    """(model, feature shards, dictionary) of each encoding of a model, for the pairs and their template diffs."""
    for pair in pairs:
        files = pair["files"]
        for side in "ab":
            if files.get(f"features_{side}"):
                yield pair[side], files[f"features_{side}"], files[f"dictionary_{side}"]
        for run, side in product(files.get("template_diffs") or [], "ab"):
            yield pair[side], run[f"features_{side}"], run["dictionary"]


def _gate_row(gate: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str | Cell]:
    shares: list[str | Cell] = [
        Cell(percent(summary["invalid_share"][cause]), order=summary["invalid_share"][cause]) for cause in CAUSES
    ]
    return [
        gate["model"],
        gate["site"],
        gate["corpus"],
        number_cell(summary["rows"]),
        number_cell(summary["valid_rows"]),
        *shares,
        number_cell(summary["template_outliers"]),
    ]


def _norms(gates: Sequence[Mapping[str, Any]], figure_id: str) -> Figure:
    """Median norm by position, one line per model, site and corpus."""
    lines = {}
    for gate in gates:
        norms = _gate_summary(gate)["norm_by_position"]
        lines[f"{gate['model']}, {gate['site']}, {gate['corpus']}"] = (np.arange(len(norms)), norms)
    return Figure(
        figure_id,
        "Length of the activations by position",
        "Median length of a row at each position of a sequence, all rows included. Massive activations at the first "
        "positions would dominate every statistic; that is why those rows do not count.",
        figures.line_plot(lines, x="position in the sequence", y="median norm", logarithmic=True),
        height=260,
    )
