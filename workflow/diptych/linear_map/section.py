"""The section on the linear map of one pair: how well each map predicts B from A, and the residuals of the best."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from diptych.linear_map import directions
from diptych.linear_map.directions import Direction
from diptych.page import figures, method_sections
from diptych.page.blocks import (
    Block,
    Cell,
    ContextList,
    Figure,
    Item,
    Items,
    Note,
    Prose,
    Section,
    Table,
    number,
    number_cell,
    percent,
)
from diptych.page.cards import Magnitude
from diptych.page.method_sections import Chapters, Evidence, Finding, PageData
from diptych.storage import artifacts
from diptych.text.contexts import Shade, Text

RUNGS = {
    "identity": ("identity", "B is A, unchanged."),
    "scale": ("scale", "One factor on everything."),
    "procrustes": ("Procrustes", "A rotation and one factor."),
    "reduced_rank": ("reduced rank", "A linear map of low rank."),
    "ridge": ("ridge", "Any linear map; its penalty shrinks it to the simplest one."),
    "ridge_zero": ("textbook ridge", "Any linear map, shrunk to zero, as the literature prints it; never chosen."),
}
FAILS = "Where the linear map fails"
FULL_SHADE = 12.0
"""Multiple of the mean squared residual from which a token is shaded fully."""


def chapters(pair: Mapping[str, Any], text: Text, contexts: int, finding_ids: Collection[str]) -> Chapters:
    """R^2 of each map, and residuals in both directions; `finding_ids` are "side id"."""
    with artifacts.read(pair["files"]["linear_map"], "linear_map") as file:
        identical = all(not len(file[f"{name}/directions/filter"]) for name in ("forward", "backward"))
        if identical:
            where = Section(
                f"{pair['id']}-map-fails",
                FAILS,
                [Note("info", "Nowhere: the map predicts every token to rounding.")],
                lead="The map predicts every token to rounding.",
            )
        else:
            where = _residual_section(file, pair, text, contexts, finding_ids)
        return {"different": _ladder(file, pair), "where": where}


def _ladder(file: h5py.File, pair: Mapping[str, Any]) -> Section:
    verdicts = artifacts.read_json(file, "verdicts")
    tables = {name: artifacts.read_table(file, f"{name}/ladder") for name in ("forward", "backward")}
    names = [str(name) for name in tables["forward"]["rung"]]
    errors = {name: file[f"{name}/ladder_r2_by_fold"][:].std(axis=1, ddof=1) for name in tables}
    shuffled = verdicts["forward"]["shuffled_r2"]
    arrows = {"forward": f"{pair['a']} → {pair['b']}", "backward": f"{pair['b']} → {pair['a']}"}
    plot = figures.dot_plot(
        [RUNGS[name][0] for name in names],
        {
            arrows["forward"]: (tables["forward"]["r2"], errors["forward"], "var(--b)"),
            arrows["backward"]: (tables["backward"]["r2"], errors["backward"], "var(--a)"),
        },
        x="held-out R²",
        vertical_lines=[] if shuffled is None else [(shuffled, "shuffled")],
    )
    blocks: list[Block] = [
        Prose(
            f"How much of {pair['b']}'s activations follows from {pair['a']}'s on documents that the map has not seen, "
            "from the simplest claim (they are equal) to the richest (any linear map)."
        ),
        *_summary_notes(verdicts, arrows),
        Figure(
            f"{pair['id']}-ladder",
            "Held-out R² of each map",
            "One row per map, the simplest on top; 1 is perfect prediction, 0 is no better than the mean; bars are the "
            "spread "
            "over folds of documents. The dashed line is what a map reaches between the activations of different "
            "documents: prediction without knowing the token.",
            plot,
            height=120 + 38 * len(names),
        ),
        _ladder_table(names, tables, arrows, verdicts),
        _in_sample(names, tables, arrows),
    ]
    return Section(
        f"{pair['id']}-ladder-section",
        "Linear map between the activations",
        blocks,
        lead=f"How much of {pair['b']}'s activations follows from {pair['a']}'s by a linear map.",
    )


def _summary_notes(verdicts: Mapping[str, Any], arrows: Mapping[str, str]) -> list[Block]:
    blocks: list[Block] = []
    for name, arrow in arrows.items():
        verdict = verdicts[name]
        blocks.append(
            Note(
                "info",
                f"{arrow}: the simplest map that is as good as the best one is {verdict['best'].replace('_', ' ')}, "
                f"held-out R² {number(verdict['r2'])} (shuffled documents {number(verdict['shuffled_r2'])}).",
            )
        )
        blocks += [Note("warn", f"{arrow}: {warning}.") for warning in verdict["words"]]
    return blocks


def _ladder_table(
    names: Sequence[str],
    tables: Mapping[str, Mapping[str, Any]],
    arrows: Mapping[str, str],
    verdicts: Mapping[str, Any],
) -> Table:
    rows = [_rung(name, i, tables) for i, name in enumerate(names)]
    shuffled: list[str | Cell] = [
        Cell("shuffled", hint="A and B on different documents: the level that is reached without knowing the token.")
    ]
    for direction in ("forward", "backward"):
        shuffled += [number_cell(_nan(verdicts[direction]["shuffled_r2"])), "–"]
    rows.append([*shuffled, "–", "–"])
    return Table(
        [
            "map",
            f"R² {arrows['forward']}",
            "median coord.",
            f"R² {arrows['backward']}",
            "median coord.",
            "penalty",
            "rank",
        ],
        rows,
        caption="Held-out R², pooled over folds; the chosen map of each direction is coloured.",
        hints=(
            "",
            "",
            "Median over coordinates of their own R²: the pooled R² is dominated by a few large coordinates.",
            "",
            "",
            "Chosen by inner folds, in units of A's mean variance.",
            "",
        ),
    )


def _rung(name: str, i: int, tables: Mapping[str, Mapping[str, Any]]) -> list[str | Cell]:
    """The table's row of one class of maps, both directions."""
    label, meaning = RUNGS[name]
    cells: list[str | Cell] = [Cell(label, hint=meaning)]
    for direction in ("forward", "backward"):
        table = tables[direction]
        r2 = float(table["r2"][i])
        cells.append(Cell(number(r2), r2, tone="found" if table["is_best"][i] else ""))
        cells.append(number_cell(float(table["r2_median_coordinate"][i])))
    forward = tables["forward"]
    edge = " at edge" if forward["alpha_at_edge"][i] else ""
    cells.append(Cell(number(float(forward["alpha"][i])) + edge, order=_order(forward["alpha"][i])))
    cells.append(number_cell(int(forward["rank"][i]) or None))
    return cells


def _in_sample(names: Sequence[str], tables: Mapping[str, Mapping[str, Any]], arrows: Mapping[str, str]) -> Table:
    """Table of in-sample errors and norms, as published comparisons report them."""
    rows: list[list[str | Cell]] = [
        [
            Cell(RUNGS[name][0], hint=RUNGS[name][1]),
            *(
                number_cell(float(tables[direction][column][i]))
                for direction in ("forward", "backward")
                for column in ("in_sample_mse", "in_sample_frobenius", "slope_frobenius")
            ),
        ]
        for i, name in enumerate(names)
    ]
    labels = ("MSE, in-sample", "‖XR − Y‖, in-sample", "‖R‖")
    columns = ["map", *(f"{label} {arrows[name]}" for name in ("forward", "backward") for label in labels)]
    return Table(
        columns,
        rows,
        caption="In-sample: on the rows that the map was fitted to, as published comparisons report it. These favour "
        "the richer maps and are not used to select one; they are for comparison with the literature. "
        "MSE is per row and coordinate; norms are Frobenius.",
    )


def _residual_section(
    file: h5py.File, pair: Mapping[str, Any], text: Text, contexts: int, finding_ids: Collection[str]
) -> Section:
    blocks: list[Block] = [
        Prose(
            f"What the best map cannot predict is the difference. Below: the tokens of {pair['b']} that it misses "
            "most, "
            "and the directions along which it misses them."
        ),
        *_residual_by_group(file, pair, text),
        _spectrum(file, pair),
        _tokens(file, "forward", pair, text, contexts),
        directions.directions(file, "forward", pair["a"], pair["b"], "B", text, contexts, finding_ids),
        directions.directions(file, "backward", pair["b"], pair["a"], "A", text, contexts, finding_ids),
    ]
    lead = (
        f"What of {pair['b']} does not follow from {pair['a']}: in which text, at which tokens, along which directions."
    )
    return Section(f"{pair['id']}-map-fails", FAILS, blocks, lead=lead)


def _residual_by_group(file: h5py.File, pair: Mapping[str, Any], text: Text) -> list[Block]:
    """Mean residual by source, role and position, both directions."""
    arrows = (f"{pair['a']} → {pair['b']}", f"{pair['b']} → {pair['a']}")
    tables = [artifacts.read_table(file, f"{name}/energy_by_source") for name in ("forward", "backward")]
    columns = (tables[0]["rows"], tables[0]["mean"], tables[1]["mean"])
    energy = [file[f"{name}/energy"][:].astype(np.float64) for name in ("forward", "backward")]
    role = text.role[file["rows/token_row"][0]]
    present = [code for code in range(len(text.roles)) if (role == code).any()]
    rows: list[list[str | Cell]] = [
        ["source of the text", name, *(number_cell(column[i].item()) for column in columns)]
        for i, name in enumerate(text.sources[: len(columns[0])])
    ]
    if len(present) > 1:
        for code in present:
            here = role == code
            cells = [number_cell(int(here.sum())), *(number_cell(float(values[here].mean())) for values in energy)]
            rows.append(["role in the template", text.roles[code], *cells])
    return [
        Table(
            ["by", "", "tokens", f"residual, {arrows[0]}", f"residual, {arrows[1]}"],
            rows,
            caption="Mean squared residual, in units of the activations' own variance: where the models differ most.",
        ),
        _by_position(file, pair, arrows),
    ]


def _by_position(file: h5py.File, pair: Mapping[str, Any], arrows: tuple[str, str]) -> Figure:
    tables = [artifacts.read_table(file, f"{name}/energy_by_position") for name in ("forward", "backward")]
    at = np.flatnonzero(tables[0]["rows"] > 0)
    series = {arrow: (at, table["mean"][at]) for arrow, table in zip(arrows, tables, strict=True)}
    return Figure(
        f"{pair['id']}-map-position",
        "Residual by position in the sequence",
        f"Mean squared residual at each position, in units of the activations' own variance; the last point is all "
        f"from position {len(tables[0]['rows']) - 1} on.",
        figures.line_plot(series, x="position", y="residual"),
        height=220,
    )


def _spectrum(file: h5py.File, pair: Mapping[str, Any]) -> Figure:
    """Spectra of the residual: unexplained share and share of the residual by rank of the direction."""
    share = file["forward/spectrum/unexplained"][:]
    variance = file["forward/spectrum/pca"][:]
    rank = np.arange(1, len(share) + 1)
    total = max(float(variance.sum()), 1e-300)
    return Figure(
        f"{pair['id']}-map-spectrum",
        f"Spectrum of what {pair['a']} does not predict of {pair['b']}",
        "Directions by rank. “Unexplained”: share of a direction's variance that the map misses; a feature that only "
        f"{pair['b']} has stands out near 1. “Of the residual”: share of the whole residual that lies along a "
        "principal direction.",
        figures.line_plot(
            {"unexplained share": (rank, _positive(share)), "of the residual": (rank, _positive(variance / total))},
            x="rank of the direction",
            y="share",
            logarithmic=True,
        ),
        height=260,
    )


def _positive(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values for a logarithmic axis: those below 1e-6 of the largest become NaN, a gap in the line."""
    return np.where(values > 1e-6 * float(values.max(initial=0.0)), values, np.nan)


def _tokens(file: h5py.File, direction: Direction, pair: Mapping[str, Any], text: Text, contexts: int) -> Items:
    energy = file[f"{direction}/energy"][:].astype(np.float64)
    token_row = file["rows/token_row"][0]
    shade = Shade(token_row, energy, scale=FULL_SHADE * float(energy.mean()))
    order = np.argsort(-energy, kind="stable")
    contexts_of_rows = text.contexts(
        token_row[order[: 50 * contexts]], energy[order[: 50 * contexts]], shade, count=contexts
    )
    item = Item(
        f"Tokens of {pair['b']} that are hardest to predict from {pair['a']}",
        [("mean over all tokens", number(float(energy.mean())))],
        [ContextList("Squared residual, in units of the mean variance", contexts_of_rows, "B")],
        "B",
    )
    return Items("Every token is shaded by its own residual; the one that the line is about is underlined.", [item])


def _magnitude(pair: Mapping[str, Any]) -> Magnitude:
    """Share of the variance of B's activations that the best map from A leaves unexplained."""
    with artifacts.read(pair["files"]["linear_map"], "linear_map") as file:
        share = max(0.0, 1 - float(artifacts.read_json(file, "verdicts")["forward"]["r2"]))
    meaning = (
        f"of how {pair['b']}'s activations vary at {pair['site_b']} does not follow from {pair['a']}'s by a linear map"
    )
    return Magnitude("activations", share, percent(share), meaning)


def _order(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _opening(pair: Mapping[str, Any]) -> str:
    """A sentence on how much of B's variance the best map predicts."""
    with artifacts.read(pair["files"]["linear_map"], "linear_map") as file:
        verdict = artifacts.read_json(file, "verdicts")["forward"]
        ladder = artifacts.read_table(file, "forward/ladder")
    r2 = dict(zip([str(name) for name in ladder["rung"]], ladder["r2"].tolist(), strict=True))
    name = verdict["best"].replace("_", " ")
    sentence = (
        f"The {name} map predicts {number(100 * verdict['r2'])} % of the variance of {pair['b']}'s activations from "
        f"{pair['a']}'s"
    )
    if "identity" in r2 and verdict["best"] != "identity":
        sentence += f", {pair['a']}'s unchanged activations {number(100 * r2['identity'], 3)} %"
    return sentence + "."


class Sections(method_sections.Sections):
    """The linear map's sections of the page."""

    def of_cell(self, cell: Mapping[str, Any], page: PageData) -> Chapters:
        """R^2 of each map, and the residuals of the best one."""
        return chapters(cell, page.texts["a"], page.n_contexts, page.finding_ids)

    def opening(self, cell: Mapping[str, Any]) -> str:
        """A sentence on how much of B's variance the best map predicts."""
        return _opening(cell)

    def claim(self, cell: Mapping[str, Any], finding: Finding) -> str:
        """How much of the variance along a direction of one model does not follow from the other."""
        missed, known = (cell["a"], cell["b"]) if finding.side == "A" else (cell["b"], cell["a"])
        share = percent(abs(finding.effect))
        return f"Along a direction of {missed} ({finding.id}), {share} of the variance does not follow from {known}"

    def evidence(self, cell: Mapping[str, Any], page: PageData, findings: Sequence[Finding]) -> Evidence:
        """The text at both ends of each direction."""
        return directions.evidence(cell, page.texts["a"], page.n_contexts, findings)

    def magnitude(self, cell: Mapping[str, Any]) -> Magnitude | None:
        """How much of B's variance does not follow from A."""
        return _magnitude(cell)


SECTIONS = Sections()
