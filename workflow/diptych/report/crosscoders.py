"""The section on the crosscoder of one pair: how well it reconstructs, whose its latents are, and which stand alone."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from diptych import artifacts
from diptych.evidence import Shade, Text
from diptych.report import figures
from diptych.report.blocks import (
    Block,
    Cell,
    Figure,
    Item,
    Items,
    Note,
    Prose,
    Reading,
    Section,
    SideName,
    Table,
    figure_cell,
    number,
    p_value,
    percent,
)

Columns = Mapping[str, npt.NDArray[Any]]
R_EDGES = np.linspace(0.0, 1.0, 51)
COLOURS = {"A-only": "var(--a)", "B-only": "var(--b)", "shared": "var(--both)", "other": "var(--warn)"}
ITEMS = 4
"""Latents of each side shown with contexts."""


def section(pair: Mapping[str, Any], text: Text, contexts: int, standing: Collection[str]) -> Section:
    """Reconstruction, relative norms and the most one-sided latents; `standing` holds "side id" of findings."""
    runs = pair["files"]["crosscoders"]
    intro = Prose(
        "One dictionary for both models: each latent reads the same token in both and writes to each with a decoder "
        "row "
        f"of its own. A latent that writes to {pair['b']} alone is a candidate for something that only {pair['b']} has."
    )
    parts = [
        Section(f"{pair['id']}-reconstruction", "How well it reconstructs", _reconstruction(pair, runs, text.sources))
    ]
    with artifacts.read(runs[0]["latents"], "latents") as file:
        columns = artifacts.read_table(file, "latents")
        classes = artifacts.read_json(file, "classes")
        parts.append(Section(f"{pair['id']}-norms", "Whose latents", _norms(pair, file, columns, classes)))
        blocks = [_one_sided(pair, file, columns, side, text, contexts, standing) for side in ("B", "A")]
        parts.append(Section(f"{pair['id']}-latents", "The most one-sided latents", blocks))
    return Section(f"{pair['id']}-crosscoder", "Crosscoder", [intro], parts)


# --- reconstruction -----------------------------------------------------------------------------------------------


def _reconstruction(pair: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> list[Block]:
    rows: list[list[str | Cell]] = []
    warnings: list[Block] = []
    for run in runs:
        with artifacts.read(run["evaluation"], "evaluation") as file:
            numbers = artifacts.read_json(file, "summary")
        with artifacts.read(run["weights"], "crosscoder") as file:
            training = artifacts.read_json(file, "summary")
        rows.append(_run_row(run, numbers, training))
        if numbers["l0_off"]:
            active, asked = number(numbers["l0_mean"]), numbers["k"]
            said = f"Seed {run['seed']}: {active} latents are active on held-out text where {asked} are asked for"
            warnings.append(Note("warn", f"{said}: more tokens are needed."))
    unexplained = [f"unexplained {pair[side]}" for side in ("a", "b")]
    table = Table(
        ["run", "steps", "distinct rows", "k", "active (L0)", *unexplained, "both", "dead"],
        rows,
        caption="Share of variance unexplained (FVU) on held-out documents, for each model and for both together.",
    )
    return [table, *warnings, _by_source(pair, runs[0], sources), _loss(pair, runs)]


def _run_row(run: Mapping[str, Any], numbers: Mapping[str, Any], training: Mapping[str, Any]) -> list[str | Cell]:
    return [
        f"{run['name']}, seed {run['seed']}",
        figure_cell(training["steps"]),
        figure_cell(training["rows_seen"]),
        figure_cell(numbers["k"] or None),
        figure_cell(numbers["l0_mean"]),
        figure_cell(numbers["fvu"][0]),
        figure_cell(numbers["fvu"][-1]),
        figure_cell(numbers["fvu_total"]),
        Cell(percent(numbers["dead_share"]), order=numbers["dead_share"]),
    ]


def _by_source(pair: Mapping[str, Any], run: Mapping[str, Any], sources: Sequence[str]) -> Table:
    with artifacts.read(run["evaluation"], "evaluation") as file:
        fvu = file["fvu_source"][:]
    rows: list[list[str | Cell]] = [
        [source, figure_cell(float(values[0])), figure_cell(float(values[-1]))]
        for source, values in zip(sources, fvu, strict=False)
    ]
    return Table(["source of the text", f"unexplained {pair['a']}", f"unexplained {pair['b']}"], rows)


def _loss(pair: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Figure:
    lines = {}
    for run in runs:
        with artifacts.read(run["weights"], "crosscoder") as file:
            lines[f"{run['name']}, seed {run['seed']}"] = (file["series/step"][:], file["series/loss"][:])
    return Figure(
        f"{pair['id']}-loss",
        "Loss while it was trained",
        "Reconstruction loss over the run (logarithmic). A curve that still falls at the end says that more training "
        "would show more.",
        figures.lines(lines, x="step", y="loss", logarithmic=True),
        height=220,
    )


# --- relative norms -----------------------------------------------------------------------------------------------


def _norms(pair: Mapping[str, Any], file: h5py.File, columns: Columns, classes: Sequence[str]) -> list[Block]:
    code, r = columns["class"], columns["r"]
    series = {
        _class_words(name, pair): (np.histogram(r[code == classes.index(name)], R_EDGES)[0], colour)
        for name, colour in COLOURS.items()
    }
    counts = artifacts.read_json(file, "counts")
    shared = artifacts.read_json(file, "sharedness")
    aligned = artifacts.read_json(file, "alignment")["0-1"]
    twins = len(file["twins/0-1/a"]) if "twins/0-1/a" in file else 0
    rows: list[list[str | Cell]] = [
        [_class_words(name, pair), figure_cell(counts[name])] for name in (*COLOURS, "dead")
    ]
    return [
        Figure(
            f"{pair['id']}-relative-norms",
            "Relative decoder norm of the latents",
            f"Each live latent by the share of its decoder norm that is in {pair['b']}: 0 is only in {pair['a']}, 1 "
            "only "
            f"in {pair['b']}, .5 equally in both. Counts are logarithmic.",
            figures.bars(R_EDGES, series, x="relative norm r", y="latents", logarithmic=True),
            height=280,
        ),
        Table(["class", "latents"], rows),
        Prose(
            f"Sharedness {number(shared['activation'])} (1: every latent is equally in both; weighted by activation), "
            f"{number(shared['unweighted'])} unweighted. {_alignment_words(aligned)} {_twin_words(twins)}"
        ),
    ]


def _class_words(name: str, pair: Mapping[str, Any]) -> str:
    return {"A-only": f"only {pair['a']} (A)", "B-only": f"only {pair['b']} (B)", "other": "in between"}.get(name, name)


def _alignment_words(aligned: Mapping[str, float | None]) -> str:
    """Alignment beside what unrelated rows give."""
    if aligned["value"] is None:
        return f"Alignment of the two decoders is not given: too few latents are live ({aligned['n_live']:,.0f})."
    value, null = number(aligned["value"]), number(aligned["null"])
    return f"Alignment of the two decoders {value}; unrelated rows would give {null}."


def _twin_words(twins: int) -> str:
    if not twins:
        return ""
    return f"{twins} pairs of one-sided latents are twins: one concept split in two, one latent for each model."


# --- the most one-sided latents -----------------------------------------------------------------------------------


def _one_sided(
    pair: Mapping[str, Any], file: h5py.File, columns: Columns, side: SideName, text: Text, contexts: int,
    standing: Collection[str],
) -> Block:  # fmt: skip
    r = columns["r"]
    live = np.flatnonzero((columns["density_selection"] > 0) & np.isfinite(r))
    model = pair["b"] if side == "B" else pair["a"]
    towards = r[live] if side == "B" else 1 - r[live]
    order = live[np.argsort(-towards, kind="stable")][:ITEMS]
    if not len(order) or float(towards.max()) <= 0.5:
        return Prose(f"No latent leans towards {model}.")
    items = [_latent(pair, file, columns, int(latent), side, text, contexts, standing) for latent in order]
    return Items(
        f"Latents that lean most towards {model}. Effect compares how much a latent fires with the models as they are "
        "and with their rows exchanged; nu is how much of the latent the other model has after all, in the "
        "crosscoder's "
        "error and in its reconstruction (0: none, 1: as much). The code is read from both models at once, so its "
        "contexts are those of both.",
        items,
    )


def _latent(
    pair: Mapping[str, Any], file: h5py.File, columns: Columns, latent: int, side: SideName, text: Text, contexts: int,
    standing: Collection[str],
) -> Item:  # fmt: skip
    own = 1 if side == "B" else 0
    facts = [
        ("r", number(float(columns["r"][latent]))),
        ("cosine of its two rows", number(float(columns["cosine_0_1"][latent]))),
        ("fires on", percent(float(columns["density_held_out"][latent]))),
        ("nu error", number(float(file["nu/err"][latent, own, 1 - own]))),
        ("nu reconstruction", number(float(file["nu/rec"][latent, own, 1 - own]))),
    ]
    if "p" in columns:
        facts.insert(1, ("effect", number(float(columns["effect_held_out"][latent]))))
        facts.insert(2, ("p", p_value(float(columns["p"][latent]))))
    readings = []
    for name, title in (("held_out", "held-out documents"), ("selection", "documents it was trained on")):
        rows, values = file[f"top/{name}/token_row"][0, latent], file[f"top/{name}/value"][latent]
        order = np.argsort(rows, kind="stable")
        shade = Shade(rows[order], values[order], scale=float(columns[f"max_{name}"][latent]))
        readings.append(Reading(title, text.contexts(rows, values, shade, count=max(2, contexts // 2)), side))
    tag = "finding" if f"{side} {latent}" in standing else ""
    return Item(f"latent {latent}", facts, readings, side, tag)
