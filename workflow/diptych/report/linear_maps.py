"""The section on the linear map of one pair: how well each map predicts B from A, and where the best one fails."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import h5py
import numpy as np

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
    Table,
    figure_cell,
    number,
    p_value,
    percent,
)

Direction = Literal["forward", "backward"]
RUNGS = {
    "identity": ("identity", "B is A, unchanged."),
    "scale": ("scale", "One factor on everything."),
    "procrustes": ("Procrustes", "A rotation and one factor."),
    "reduced_rank": ("reduced rank", "A linear map of low rank."),
    "ridge": ("ridge", "Any linear map; its penalty shrinks it to the simplest one."),
    "ridge_zero": ("textbook ridge", "Any linear map, shrunk to zero, as the literature prints it; never chosen."),
}
SHOWN_DIRECTIONS = 4
"""Directions of each kind shown with contexts."""
SPREAD = 12.0
"""Tokens are shaded fully from this many times the mean squared residual."""


def section(pair: Mapping[str, Any], text: Text, contexts: int, standing: Collection[str]) -> Section:
    """Map ladder, and where the map fails in both directions, of one pair; `standing` holds "side id" of findings."""
    with artifacts.read(pair["files"]["linear_map"], "linear_map") as file:
        identical = all(not len(file[f"{name}/directions/filter"]) for name in ("forward", "backward"))
        parts = [_ladder(file, pair)]
        if identical:
            parts.append(
                Section(
                    f"{pair['id']}-map-fails",
                    "Where the map fails",
                    [Note("info", "Nowhere: the map predicts every token to rounding.")],
                )
            )
        else:
            parts.append(_fails(file, pair, text, contexts, standing))
    return Section(f"{pair['id']}-map", "Linear map between the activations", [], parts)


def _ladder(file: h5py.File, pair: Mapping[str, Any]) -> Section:
    verdicts = artifacts.read_json(file, "verdicts")
    tables = {name: artifacts.read_table(file, f"{name}/ladder") for name in ("forward", "backward")}
    names = [str(name) for name in tables["forward"]["rung"]]
    errors = {name: file[f"{name}/ladder_r2_by_fold"][:].std(axis=1, ddof=1) for name in tables}
    shuffled = verdicts["forward"]["shuffled_r2"]
    arrows = {"forward": f"{pair['a']} → {pair['b']}", "backward": f"{pair['b']} → {pair['a']}"}
    plot = figures.dots(
        [RUNGS[name][0] for name in names],
        {
            arrows["forward"]: (tables["forward"]["r2"], errors["forward"], "var(--b)"),
            arrows["backward"]: (tables["backward"]["r2"], errors["backward"], "var(--a)"),
        },
        x="held-out R²",
        lines=[] if shuffled is None else [(shuffled, "shuffled")],
    )
    blocks: list[Block] = [
        Prose(
            f"How much of {pair['b']}'s activations follows from {pair['a']}'s on documents that the map has not seen, "
            "from the simplest claim (they are equal) to the richest (any linear map)."
        ),
        *_words(verdicts, arrows),
        Figure(
            f"{pair['id']}-ladder",
            "Held-out R² of each map",
            "One row a map, simplest on top; 1 is perfect prediction, 0 is no better than the mean; bars are the "
            "spread "
            "over folds of documents. The dashed line is what a map reaches between the activations of different "
            "documents: prediction without knowing the token.",
            plot,
            height=120 + 38 * len(names),
        ),
        _ladder_table(names, tables, arrows, verdicts),
    ]
    return Section(f"{pair['id']}-ladder-section", "Map ladder", blocks)


def _words(verdicts: Mapping[str, Any], arrows: Mapping[str, str]) -> list[Block]:
    said: list[Block] = []
    for name, arrow in arrows.items():
        verdict = verdicts[name]
        said.append(
            Note(
                "info",
                f"{arrow}: the simplest map that is as good as the best one is {verdict['best'].replace('_', ' ')}, "
                f"held-out R² {number(verdict['r2'], 4)} (shuffled documents {number(verdict['shuffled_r2'])}).",
            )
        )
        said += [Note("warn", f"{arrow}: {words}.") for words in verdict["words"]]
    return said


def _ladder_table(
    names: Sequence[str],
    tables: Mapping[str, Mapping[str, Any]],
    arrows: Mapping[str, str],
    verdicts: Mapping[str, Any],
) -> Table:
    rows: list[list[str | Cell]] = []
    for i, name in enumerate(names):
        label, meaning = RUNGS[name]
        cells: list[str | Cell] = [Cell(label, hint=meaning)]
        for direction in ("forward", "backward"):
            table = tables[direction]
            cells.append(
                Cell(number(table["r2"][i], 4), float(table["r2"][i]), tone="found" if table["is_best"][i] else "")
            )
            cells.append(figure_cell(float(table["r2_median_coordinate"][i])))
        forward = tables["forward"]
        edge = " at edge" if forward["alpha_at_edge"][i] else ""
        cells.append(Cell(number(float(forward["alpha"][i])) + edge, order=_order(forward["alpha"][i])))
        cells.append(figure_cell(int(forward["rank"][i]) or None))
        cells.append(figure_cell(float(forward["in_sample_mse"][i])))
        rows.append(cells)
    shuffled: list[str | Cell] = [
        Cell("shuffled", hint="Rows of different documents: the level of knowing nothing of the token.")
    ]
    for direction in ("forward", "backward"):
        shuffled += [figure_cell(_nan(verdicts[direction]["shuffled_r2"]), 4), "–"]
    rows.append([*shuffled, "–", "–", "–"])
    return Table(
        [
            "map",
            f"R² {arrows['forward']}",
            "median coord.",
            f"R² {arrows['backward']}",
            "median coord.",
            "penalty",
            "rank",
            "in-sample MSE",
        ],
        rows,
        caption="Held-out R², pooled over folds; the chosen map of each direction is coloured.",
        hints=(
            "",
            "",
            "Median over coordinates of their own R²: a few large coordinates own the pooled one.",
            "",
            "",
            "Chosen by inner folds, in units of A's mean variance.",
            "",
            "On the training rows, not held out.",
        ),
    )


def _fails(file: h5py.File, pair: Mapping[str, Any], text: Text, contexts: int, standing: Collection[str]) -> Section:
    blocks: list[Block] = [
        Prose(
            f"What the best map cannot predict is the difference. Below: the tokens of {pair['b']} that it misses "
            "most, "
            "and the directions along which it misses them."
        ),
        _by_source(file, text),
        _tokens(file, "forward", pair, text, contexts),
        _directions(file, "forward", pair["a"], pair["b"], "B", text, contexts, standing),
        _directions(file, "backward", pair["b"], pair["a"], "A", text, contexts, standing),
    ]
    return Section(f"{pair['id']}-map-fails", "Where the map fails", blocks)


def _by_source(file: h5py.File, text: Text) -> Table:
    """Mean residual by source of the text, both directions."""
    tables = [artifacts.read_table(file, f"{name}/energy_by_source") for name in ("forward", "backward")]
    rows: list[list[str | Cell]] = [
        [
            source,
            figure_cell(int(tables[0]["rows"][i])),
            figure_cell(float(tables[0]["mean"][i])),
            figure_cell(float(tables[1]["mean"][i])),
        ]
        for i, source in enumerate(text.sources[: len(tables[0]["rows"])])
    ]
    return Table(
        ["source of the text", "tokens", "residual, A → B", "residual, B → A"],
        rows,
        caption="Mean squared residual by source, in units of the activations' own variance: where the models differ "
        "most.",
    )


def _tokens(file: h5py.File, direction: Direction, pair: Mapping[str, Any], text: Text, contexts: int) -> Items:
    energy = file[f"{direction}/energy"][:].astype(np.float64)
    token_row = file["rows/token_row"][0]
    shade = Shade(token_row, energy, scale=SPREAD * float(energy.mean()))
    order = np.argsort(-energy, kind="stable")
    found = text.contexts(token_row[order[: 50 * contexts]], energy[order[: 50 * contexts]], shade, count=contexts)
    item = Item(
        f"Tokens of {pair['b']} that are hardest to predict from {pair['a']}",
        [("mean over all tokens", number(float(energy.mean())))],
        [Reading("Squared residual, in units of the mean variance", found, "B")],
        "B",
    )
    return Items("Every token is shaded by its own residual; the one that the line is about is underlined.", [item])


def _directions(
    file: h5py.File, direction: Direction, known: str, missed: str, side: Literal["A", "B"], text: Text, contexts: int,
    standing: Collection[str],
) -> Items:  # fmt: skip
    group = file[f"{direction}/directions"]
    kinds = [str(kind) for kind in group["kind"].attrs["kinds"]]
    token_row = file["rows/token_row"][0]
    items, seen = [], dict.fromkeys(kinds, 0)
    for k, code in enumerate(group["kind"][:]):
        kind = kinds[int(code)]
        seen[kind] += 1
        if seen[kind] <= SHOWN_DIRECTIONS:
            name = f"{kind} {seen[kind]}"
            tag = "finding" if f"{side} {name}" in standing else ""
            items.append(_direction(group, k, name, tag, token_row, side, text, contexts))
    return Items(
        f"Directions of {missed} that {known} does not predict. “unexplained” ranks by the share of variance that is "
        "missed, “pca” by how much is missed. Shown with the text at both ends (documents that did not choose them).",
        items,
        opened=1 if side == "B" else 0,
    )


def _direction(
    group: h5py.Group, k: int, name: str, tag: str, token_row: Any, side: Literal["A", "B"], text: Text, contexts: int
) -> Item:
    rows, scores = group["top_row"][k, 1], group["top_score"][k, 1]
    readings = []
    for end, label in enumerate(("positive end", "negative end")):
        held = rows[end] >= 0
        at, values = token_row[rows[end][held]], scores[end][held].astype(np.float64)
        order = np.argsort(at)
        shade = Shade(at[order], values[order], scale=float(np.abs(scores).max()))
        readings.append(Reading(label, text.contexts(at, values, shade, count=max(2, contexts // 2)), side))
    p = float(group["p"][k])
    return Item(
        name,
        [
            ("unexplained share", percent(float(group["unexplained"][k, 1]))),
            ("of the residual", percent(float(group["residual_share"][k, 1]))),
            ("excess", number(float(group["excess"][k, 1]))),
            ("p", p_value(p)),
        ],
        readings,
        side,
        tag,
    )


def _order(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
