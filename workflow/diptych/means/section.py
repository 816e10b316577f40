"""The section on the means of one cell: mean differences at each place, in words; norms and distances; contexts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from diptych.candidates.ranking import HELD_OUT_SHARE, Q
from diptych.means import candidates
from diptych.means.places import ALL_ROWS, MOVED
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
    Strip,
    Table,
    listed,
    number,
    number_cell,
    p_value,
    percent,
    visible,
)
from diptych.page.method_sections import Chapters, Evidence, Finding, PageData
from diptych.storage import artifacts
from diptych.text.contexts import Shade, Text
from diptych.text.word_lists import is_stop_token

SHOWN_TOKENS = 10
"""Tokens of a lens that are shown."""
OPENING_TOKENS = 5
"""Tokens that the opening names."""
OWN_EXAMPLES = 20
"""Tokens of the fine-tune's own vocabulary that are shown."""
Columns = Mapping[str, npt.NDArray[Any]]


def section(pair: Mapping[str, Any], text: Text, contexts: int, finding_ids: frozenset[str]) -> Section:
    """Section on one cell; `finding_ids` are "side id"."""
    lead = "Where, on average over texts, the activations of the two models lie apart, and what the shift says."
    with artifacts.read(pair["files"]["means"], "means") as file:
        summary = artifacts.read_json(file, "summary")
        untested, blocks = summary["untested"], list[Block]()
        if summary["first_only"]:
            blocks.append(Note("info", "Only the first positions of the texts are stored at this site."))
        if untested:
            blocks.append(Note("info", f"Means are not compared: {untested}. Below are the norms of either model."))
        elif "places" not in file:
            blocks.append(Note("info", "Nowhere do the means differ: the activations are equal."))
        else:
            blocks += _places(file, pair)
            blocks.append(_contexts(file, pair, text, contexts, finding_ids))
        blocks += _groups(file, pair)
    return Section(f"{pair['id']}-means", "Difference of means", blocks, lead=lead)


def _places(file: h5py.File, pair: Mapping[str, Any]) -> list[Block]:
    """The table of places, and how readable the differences are."""
    places, q = artifacts.read_table(file, "places"), candidates.q_values(pair["files"])
    lens = artifacts.read_table(file, "lens")
    order = np.argsort(-places["effect"], kind="stable")
    has_lens, own = len(lens["place"]) > 0, artifacts.read_json(file, "own_vocabulary")
    rows = [_place(places, q, lens, int(k), has_own=own is not None) for k in order]
    columns = ["where", "effect", "held out", "q", "rows"]
    hints = [
        "",
        f"Length of the mean of {pair['b']}'s activations minus {pair['a']}'s, in units of {pair['a']}'s typical "
        "distance there from its mean.",
        "Along the same direction, on documents that had no part in it; with a 95 % interval.",
        "Benjamini-Hochberg over all places and sites of the pair.",
        "",
    ]
    if has_lens:
        columns += [f"promotes in {pair['b']}", f"in {pair['a']}", f"suppresses in {pair['b']}"]
        hints += ["Logit lens: the final norm and unembedding on the difference alone."] * 3
    if own is not None:
        columns.append("own words")
        hints.append(f"Share of the tokens promoted in {pair['b']} that its fine-tuning text is rich in.")
    blocks: list[Block] = [
        Prose(
            f"The mean of {pair['b']}'s activations minus that of {pair['a']}'s, over documents: at the first "
            "positions of a text, at the roles of its tokens, over all rows, and over the rows that moved most. A "
            "narrow change of a model shows in such a mean even on unrelated text."
        ),
        Table(columns, rows, hints=tuple(hints), caption="The largest difference first.", interactive=True),
    ]
    return [*blocks, *_readability(file, pair, own)]


def _place(places: Columns, q: npt.NDArray[np.float64], lens: Columns, k: int, *, has_own: bool) -> list[str | Cell]:
    """The table's row of one place."""
    held_out = float(places["held_out"][k])
    interval = f"{number(float(places['lo'][k]))} to {number(float(places['hi'][k]))}"
    cells: list[str | Cell] = [
        Cell(str(places["name"][k]), order=k),
        number_cell(float(places["effect"][k])),
        Cell(f"{number(held_out)} ({interval})", order=held_out),
        Cell(p_value(float(q[k])), order=float(q[k]), tone="found" if q[k] <= Q else ""),
        number_cell(int(places["rows"][k])),
    ]
    for side, end in (("B", "promoted"), ("A", "promoted"), ("B", "suppressed")) if len(lens["place"]) else ():
        cells.append(Cell(" · ".join(map(visible, _tokens(lens, side, k, end)[:SHOWN_TOKENS])), tone="quoted"))
    if has_own:
        share = lens["own_share"][(lens["model"] == "B") & (lens["place"] == k)]
        cells.append(Cell(percent(float(share[0])), order=float(share[0])))
    return cells


def _tokens(lens: Columns, side: str, place: int, end: str) -> list[str]:
    texts = lens[end][(lens["model"] == side) & (lens["place"] == place)]
    return list(json.loads(str(texts[0]))) if len(texts) else []


def _readability(file: h5py.File, pair: Mapping[str, Any], own: Sequence[str] | None) -> list[Block]:
    """The fine-tune's own vocabulary, and how much of it random directions promote."""
    if own is None:
        return [
            Note(
                "info",
                f"How many of these tokens are {pair['b']}'s own is not counted: it was not tuned on a corpus of this "
                "study other than the one that is compared.",
            )
        ]
    random = file["random_own_share"][-1]
    examples = " · ".join(map(visible, own[:OWN_EXAMPLES]))
    return [
        Prose(
            f"“Own words”: the {len(own)} tokens that the text {pair['b']} was tuned on is richest in, against the "
            f"compared text ({examples}). Of the tokens that {len(random)} random directions promote, "
            f"{percent(float(random.mean()))} are among them, {percent(float(random.max()))} at most."
        )
    ]


def _contexts(
    file: h5py.File, pair: Mapping[str, Any], text: Text, contexts: int, finding_ids: frozenset[str]
) -> Items:
    """Rows at which the difference is largest along its mean, by place."""
    places = artifacts.read_table(file, "places")
    order = np.argsort(-places["effect"], kind="stable")
    items = []
    for k in order:
        item = _item(file, places, int(k), text, contexts)
        items.append(replace(item, tag="finding" if f"B {item.title}" in finding_ids else ""))
    return Items(
        f"Where {pair['b']} moved furthest along each mean difference (documents that had no part in it).", items
    )


def _item(file: h5py.File, places: Columns, k: int, text: Text, contexts: int) -> Item:
    """A place with the rows that moved furthest along its mean difference."""
    filled = file["top_row"][k] >= 0
    rows, values = file["top_row"][k][filled], file["top_value"][k][filled]
    order = np.argsort(rows)
    shade = Shade(rows[order], values[order], scale=float(np.abs(values).max(initial=0.0)))
    facts = [
        ("effect", number(float(places["effect"][k]))),
        ("held out", number(float(places["held_out"][k]))),
        ("p", p_value(float(places["p"][k]))),
    ]
    moved = ContextList("moved furthest along it", text.contexts(rows, values, shade, count=contexts), "B")
    return Item(str(places["name"][k]), facts, [moved], "B")


def _evidence(pair: Mapping[str, Any], text: Text, contexts: int, findings: Sequence[Finding]) -> Evidence:
    """Rows that moved furthest along each mean difference, and what it promotes in either model."""
    items = {}
    with artifacts.read(pair["files"]["means"], "means") as file:
        places, lens = artifacts.read_table(file, "places"), artifacts.read_table(file, "lens")
        names = [str(name) for name in places["name"]]
        for finding in findings:
            k = names.index(finding.id)
            words = [
                (f"{end} in {pair[side.lower()]}", tokens[:SHOWN_TOKENS])
                for side, end in (("A", "promoted"), ("B", "promoted"), ("B", "suppressed"))
                if (tokens := _tokens(lens, side, k, end))
            ]
            item = _item(file, places, k, text, contexts)
            items[finding] = replace(item, facts=[("rows", number(int(places["rows"][k])))], words=words)
    return items


def _strip(pair: Mapping[str, Any]) -> Strip | None:
    """The mean difference at each place; None where none is measured."""
    with artifacts.read(pair["files"]["means"], "means") as file:
        if "places" not in file:
            return None
        places = artifacts.read_table(file, "places")
    values = {str(name): float(effect) for name, effect in zip(places["name"], places["effect"], strict=True)}
    return Strip(f"Mean activation at {pair['site_b']}, by role and position", "typical distances", values)


def _groups(file: h5py.File, pair: Mapping[str, Any]) -> list[Block]:
    """Norms and distances by source, role and position, and the tokens that moved most."""
    columns = ["by", "", "rows", f"norm in {pair['a']}", f"in {pair['b']}", "difference", "distance"]
    rows: list[list[str | Cell]] = []
    for label, name in (("source of the text", "by_source"), ("role in the template", "by_role")):
        rows += [[label, *cells] for cells in _group_rows(artifacts.read_table(file, name))]
    by_token = artifacts.read_table(file, "by_token")
    return [
        Table(
            columns,
            rows,
            caption="Mean norm of the rows that count, the mean of B's norm minus A's, and the mean distance between "
            "the two models' rows.",
        ),
        _by_position(file, pair),
        Table(
            ["token", *columns[2:]],
            _group_rows(by_token),
            caption="Tokens whose rows moved most, among those with several rows.",
            interactive=True,
        ),
    ]


def _group_rows(table: Columns) -> list[list[str | Cell]]:
    return [
        [
            Cell(visible(str(table["name"][i])), tone="quoted"),
            number_cell(int(table["rows"][i])),
            *(number_cell(float(table[key][i])) for key in ("norm_a", "norm_b", "norm_difference", "distance")),
        ]
        for i in range(len(table["rows"]))
    ]


def _by_position(file: h5py.File, pair: Mapping[str, Any]) -> Figure:
    table = artifacts.read_table(file, "by_position")
    at = np.arange(len(table["rows"]))
    series = {"distance": (at, table["distance"])} if np.isfinite(table["distance"]).all() else {}
    series |= {f"norm in {pair['a']}": (at, table["norm_a"]), f"norm in {pair['b']}": (at, table["norm_b"])}
    return Figure(
        f"{pair['id']}-means-position",
        "Norms and distance by position",
        "Mean over all rows at each position of a sequence, massive activations included; the last point is all later "
        "positions.",
        figures.line_plot(series, x="position", y="length", logarithmic=True),
        height=240,
    )


def _opening(pair: Mapping[str, Any]) -> str:
    """A sentence on the largest mean difference that held on other documents, and what it promotes."""
    with artifacts.read(pair["files"]["means"], "means") as file:
        if "places" not in file:
            return ""
        places, lens = artifacts.read_table(file, "places"), artifacts.read_table(file, "lens")
    holds = candidates.q_values(pair["files"]) <= Q
    holds &= places["held_out"] >= HELD_OUT_SHARE * places["effect"]
    if not holds.any():
        return ""
    k = int(np.argmax(np.where(holds, places["effect"], -1.0)))
    where, size = _where(str(places["name"][k])), number(float(places["effect"][k]), 2)
    sentence = (
        f"{where}, {pair['b']}'s activations at {pair['site_b']} lie on average {size} of a typical distance from "
        f"{pair['a']}'s"
    )
    words = [token for token in _tokens(lens, "B", k, "promoted") if not is_stop_token(token)]
    if words:
        promoted = listed([f'"{visible(token)}"' for token in words[:OPENING_TOKENS]])
        sentence += f"; read through the unembedding, the change promotes {promoted}"
    return sentence + "."


def _where(place: str) -> str:
    """A place as the beginning of a sentence."""
    if place in (MOVED, ALL_ROWS):
        return f"Over {place.replace(MOVED, f'the {MOVED}')}"
    return f"At {place} of a text" if place.startswith("position ") else f"At the {place}"


class Sections(method_sections.Sections):
    """The means' section of the page."""

    def of_cell(self, cell: Mapping[str, Any], page: PageData) -> Chapters:
        """Mean differences at each place, in words; norms and distances."""
        return {"where": section(cell, page.texts["a"], page.n_contexts, page.finding_ids)}

    def opening(self, cell: Mapping[str, Any]) -> str:
        """A sentence on the largest mean difference."""
        return _opening(cell)

    def claim(self, cell: Mapping[str, Any], finding: Finding) -> str:
        """How far the means lie apart at a place."""
        size = f"{number(abs(finding.effect), 2)} of a typical distance"
        return f"{_where(finding.id)}, {cell['b']}'s activations lie on average {size} from {cell['a']}'s"

    def evidence(self, cell: Mapping[str, Any], page: PageData, findings: Sequence[Finding]) -> Evidence:
        """Where the activations moved furthest, and the tokens that the shift promotes."""
        return _evidence(cell, page.texts["a"], page.n_contexts, findings)

    def strip(self, cell: Mapping[str, Any]) -> Strip | None:
        """How far the means lie apart at each position and role."""
        return _strip(cell)


SECTIONS = Sections()
