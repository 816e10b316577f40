"""The section on the weights of a pair: how much every kind of matrix moved in every block, and what that says."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from diptych.page import figures, method_sections
from diptych.page.blocks import (
    Block,
    Cell,
    Figure,
    Note,
    Prose,
    Section,
    Strip,
    Table,
    counted,
    listed,
    number,
    number_cell,
    percent,
    visible,
)
from diptych.page.cards import Magnitude
from diptych.page.method_sections import Chapters, Evidence, Finding, PageData
from diptych.storage import artifacts
from diptych.weights import evidence
from diptych.weights.candidates import kind_rows, rank_in_words, where
from diptych.weights.names import OUTSIDE
from diptych.weights.sentences import moved

Columns = Mapping[str, Any]
SHOWN = 40
"""Rows of the table of tensors; the TSV has all."""
NAMES = 3
"""Tensors named in a note."""
SCALE = [[0, "var(--panel)"], [1, "var(--b)"]]
"""Colours of the heat map, from nothing to the largest change."""
ACTIONS = {
    "writes": ("writes", "Next tokens that the final norm and unembedding make of what the matrix writes more."),
    "embeds": ("writes", "Next tokens that the final norm and unembedding make of what the embedding has more of."),
    "reads": ("reads", "Tokens whose embeddings lie along what the matrix reads more."),
    "unembeds": ("reads", "Tokens whose embeddings lie along what the unembedding reads more."),
}
"""Part of a matrix in the residual stream -> a verb and what its tokens are."""


def section(pair: Mapping[str, Any]) -> Section:
    """Section on one pair: the answer in words, the heat map, the tables of kinds, tensors and directions."""
    lead = "Which weights moved, by how much of their size, and what the moved ones read and write."
    with artifacts.read(pair["files"]["weights"], "weights") as file:
        comparison = artifacts.read_json(file, "comparison")
        sentence = moved(comparison, file, pair["a"], pair["b"])
        blocks: list[Block] = [Prose(sentence), *_uncompared(file, pair)]
        if comparison["changed"] or comparison["rounding"]:
            tensors, kinds = artifacts.read_table(file, "tensors"), artifacts.read_table(file, "kinds")
            blocks += [*_heat_map(pair, tensors, kinds), _kinds(kinds), _tensors(tensors), *_directions(file, pair)]
    return Section(f"{pair['id']}-weights", "Weights", blocks, lead=lead)


def _uncompared(file: h5py.File, pair: Mapping[str, Any]) -> list[Block]:
    """Notes on the tensors that were not compared, or not whole."""
    lists = artifacts.read_json(file, "uncompared")
    texts = {
        "only_a": f"that only {pair['a']} has",
        "only_b": f"that only {pair['b']} has",
        "other": "whose shapes differ, or that hold no floating-point numbers",
    }
    notes: list[Block] = []
    for key, text in texts.items():
        if names := lists.get(key):
            more = ["others"] if len(names) > NAMES else []
            named = listed([*names[:NAMES], *more])
            notes.append(Note("warn", f"Not compared: {counted(len(names), 'tensor')} {text} ({named})."))
    notes += [Note("warn", f"Compared in part: {sentence}.") for sentence in lists.get("resized", [])]
    return notes


def _heat_map(pair: Mapping[str, Any], tensors: Columns, kinds: Columns) -> list[Block]:
    """Heat map of relative change, kinds of matrices by blocks; none for a model without blocks."""
    numbers = sorted({int(block) for block in tensors["block"]} - {OUTSIDE})
    rows = [str(row["kind"]) for row in kind_rows(kinds) if row["matrices"] and row["top_block"] != OUTSIDE]
    if not numbers or not rows:
        return []
    change = np.full((len(rows), len(numbers)), np.nan)
    at = {(str(kind), int(block)): value for kind, block, value in zip(
        tensors["kind"], tensors["block"], tensors["relative"], strict=True)}  # fmt: skip
    for i, kind in enumerate(rows):
        change[i] = [at.get((kind, block), np.nan) for block in numbers]
    largest = float(np.nanmax(change)) if np.isfinite(change).any() else 0.0
    plot: figures.Plot = {
        "data": [{
            "type": "heatmap", "z": [figures.numbers(row) for row in change], "x": [str(n) for n in numbers], "y": rows,
            "zmin": 0, "zmax": largest or 1.0, "colorscale": SCALE, "xgap": 1, "ygap": 1, "hoverongaps": False,
            "colorbar": {"title": {"text": "change"}, "thickness": 12},
            "hovertemplate": "%{y}, block %{x}: %{z:.3g}<extra></extra>",
        }],
        "layout": figures.layout(
            "block", "", xaxis={"type": "category"}, yaxis={"type": "category", "autorange": "reversed"}
        ),
    }  # fmt: skip
    return [
        Figure(
            f"{pair['id']}-weights-blocks",
            "Change of every matrix",
            "Norm of each matrix' change over the norm of the matrix itself, by kind and block; the kinds that changed "
            "most are on top.",
            plot,
            height=110 + 30 * len(rows),
        )
    ]


def _kinds(kinds: Columns) -> Table:
    rows: list[list[str | Cell]] = [
        [
            Cell(str(row["kind"]), hint=str(row["label"])),
            str(row["label"]),
            Cell(percent(float(row["relative"])), order=float(row["relative"])),
            Cell(percent(float(row["share"])), order=float(row["share"])),
            f"{row['changed']} of {row['tensors']}",
            where(row) if row["changed"] else "rounding" if row["rounded"] else "equal",
            rank_in_words(row),
        ]
        for row in kind_rows(kinds)
    ]
    return Table(
        ["kind", "what it is", "change", "of all", "changed", "where", "rank"],
        rows,
        interactive=True,
        caption="Tensors of one name in all blocks together, the most changed first.",
        hints=(
            "",
            "Where the name is a known one.",
            "Norm of the change over the norm of the weights.",
            "Share of the squared change of all weights.",
            "Tensors that changed by more than rounding.",
            "",
            "Of each matrix' change: singular values above a thousandth of the first and above the noise of rounding.",
        ),
    )


def _tensors(tensors: Columns) -> Table:
    order = np.argsort(-np.nan_to_num(tensors["relative"]), kind="stable")
    moved_ones = [i for i in order if tensors["verdict"][i] != "equal"]
    rows = [_tensor_row(tensors, int(i)) for i in moved_ones[:SHOWN]]
    more = f" The other {len(moved_ones) - SHOWN:,} are in weights.tsv." if len(moved_ones) > SHOWN else ""
    return Table(
        ["tensor", "shape", "change", "of all", "largest", "cosine", "floors", "verdict", "rank", "stable rank"],
        rows,
        interactive=True,
        caption=f"The tensors that moved most.{more}",
        hints=(
            "",
            "As it is stored.",
            "Norm of the change over the norm of the tensor.",
            "Share of the squared change of all weights.",
            "Largest change of an entry.",
            "Between the two tensors.",
            "Norm of the change over what rounding to the coarser stored type may do; below 4 it is rounding.",
            "",
            "Singular values above a thousandth of the first and above the noise of rounding.",
            "Sum of the squared singular values over the square of the first.",
        ),
    )


def _tensor_row(tensors: Columns, i: int) -> list[str | Cell]:
    relative, share = float(tensors["relative"][i]), float(tensors["share"][i])
    floor = float(tensors["floor"][i])
    rank = float(tensors["rank"][i])
    return [
        str(tensors["tensor"][i]),
        str(tensors["shape"][i]),
        Cell(percent(relative), order=relative),
        Cell(percent(share), order=share),
        number_cell(float(tensors["largest"][i])),
        number_cell(float(tensors["cosine"][i])),
        number_cell(float(tensors["norm"][i]) / floor if floor else None),
        Cell(str(tensors["verdict"][i]), tone="found" if tensors["verdict"][i] == "changed" else "muted"),
        number_cell(None if np.isnan(rank) else int(rank)),
        number_cell(float(tensors["stable_rank"][i])),
    ]


def _directions(file: h5py.File, pair: Mapping[str, Any]) -> list[Block]:
    """Table of the first singular vectors of the most changed matrices, as tokens."""
    table = artifacts.read_table(file, "directions")
    if not len(table["key"]):
        return []
    words = {side: artifacts.read_table(file, f"words/{side}") for side in ("a", "b")}
    rows = [_direction_row(table, words, pair, k) for k in range(len(table["key"]))]
    return [
        Table(
            ["tensor", "vector", "of its change", "", "tokens", "tokens of the opposite", "its own rows"],
            rows,
            interactive=True,
            caption="What the most changed matrices write and read: the first singular vectors of their changes in the "
            f"residual stream, in {pair['b']}'s tokens (point at them for {pair['a']}'s). A vector has no sign of its "
            "own.",
            hints=(
                "",
                "1 is the first singular vector.",
                "Share of the squared change of the tensor.",
                "",
                "Of what is written the next tokens that it promotes; of what is read the tokens whose embeddings "
                "point along it.",
                "The same for the opposite direction.",
                "Of an embedding or unembedding: the tokens whose rows moved along it, and against it.",
            ),
        )
    ]


def _direction_row(table: Columns, words: Mapping[str, Columns], pair: Mapping[str, Any], k: int) -> list[str | Cell]:
    verb, meaning = ACTIONS[str(table["part"][k])]
    share = float(table["share"][k])
    tokens = [
        Cell(_tokens(words["b"][end][k]), tone="quoted", hint=f"{pair['a']}: {_tokens(words['a'][end][k])}")
        for end in ("up", "down")
    ]
    own = [_tokens(words["b"][f"rows_{end}"][k]) for end in ("up", "down")]
    return [
        str(table["key"][k]),
        number(int(table["number"][k])),
        Cell(percent(share), order=share),
        Cell(verb, hint=meaning),
        *tokens,
        Cell(" / ".join(filter(None, own)), tone="quoted"),
    ]


def _tokens(text: str) -> str:
    tokens: Sequence[str] = json.loads(text)
    return " ".join(f"“{visible(token)}”" for token in tokens)


class Sections(method_sections.Sections):
    """The parts of the report on weights."""

    def of_cell(self, cell: method_sections.Cell, page: PageData) -> Chapters:
        """The section on the weights of one pair."""
        return {"where": section(cell)}

    def opening(self, cell: method_sections.Cell) -> str:
        """A sentence on how far the weights moved, where, and by which rank."""
        with artifacts.read(cell["files"]["weights"], "weights") as file:
            return moved(artifacts.read_json(file, "comparison"), file, cell["a"], cell["b"])

    def claim(self, cell: method_sections.Cell, finding: Finding) -> str:
        """How far the matrices of a kind moved."""
        return evidence.claim(cell, finding)

    def evidence(self, cell: method_sections.Cell, page: PageData, findings: Sequence[Finding]) -> Evidence:
        """What the most changed matrix of a kind reads and writes, in tokens."""
        return evidence.evidence(cell, findings)

    def magnitude(self, cell: method_sections.Cell) -> Magnitude | None:
        """By how much of their norm the weights moved."""
        return evidence.magnitude(cell)

    def strip(self, cell: method_sections.Cell) -> Strip | None:
        """In which blocks the weights moved."""
        return evidence.strip(cell)


SECTIONS = Sections()
"""The sections of the table of methods."""
