"""Directions of one model that the best linear map misses, with the text at both of their ends.

with artifacts.read(path, "linear_map") as file:
    directions(file, "forward", "base", "tuned", "B", text, 6, finding_ids)     # a block of the page
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import h5py
import numpy as np

from diptych.page.blocks import ContextList, Item, Items, number, p_value, percent
from diptych.page.method_sections import Evidence, Finding
from diptych.storage import artifacts
from diptych.text.contexts import Shade, Text

Direction = Literal["forward", "backward"]
SHOWN_DIRECTIONS = 4
"""Directions of each kind that are shown with contexts."""


def directions(
    file: h5py.File, direction: Direction, known: str, missed: str, side: Literal["A", "B"], text: Text, contexts: int,
    finding_ids: Collection[str],
) -> Items:  # fmt: skip
    """Items of the directions of one model that the map from the other misses, `SHOWN_DIRECTIONS` of each kind."""
    group, items = file[f"{direction}/directions"], []
    token_row = file["rows/token_row"][0]
    for name, k in _named(group).items():
        if int(name.rpartition(" ")[2]) <= SHOWN_DIRECTIONS:
            tag = "finding" if f"{side} {name}" in finding_ids else ""
            items.append(_direction(group, k, name, tag, token_row, side, text, contexts))
    return Items(
        f"Directions of {missed} that {known} does not predict. “unexplained” ranks by the share of variance that is "
        "missed, “pca” by how much is missed. Shown with the text at both ends (documents that did not choose them).",
        items,
        n_open=1 if side == "B" else 0,
    )


def _named(group: h5py.Group) -> dict[str, int]:
    """Index of each direction by its name: its kind, and its number among those of its kind."""
    kinds = [str(kind) for kind in group["kind"].attrs["kinds"]]
    count, named = dict.fromkeys(kinds, 0), {}
    for k, code in enumerate(group["kind"][:]):
        kind = kinds[int(code)]
        count[kind] += 1
        named[f"{kind} {count[kind]}"] = k
    return named


def evidence(pair: Mapping[str, Any], text: Text, contexts: int, findings: Sequence[Finding]) -> Evidence:
    """The text at both ends of each direction."""
    items = {}
    with artifacts.read(pair["files"]["linear_map"], "linear_map") as file:
        token_row = file["rows/token_row"][0]
        for finding in findings:
            side: Literal["A", "B"] = "A" if finding.side == "A" else "B"
            group = file["forward/directions" if side == "B" else "backward/directions"]
            k = _named(group)[finding.id]
            items[finding] = _direction(group, k, finding.id, "", token_row, side, text, contexts)
    return items


def _direction(
    group: h5py.Group, k: int, name: str, tag: str, token_row: Any, side: Literal["A", "B"], text: Text, contexts: int
) -> Item:
    rows, scores = group["top_row"][k, 1], group["top_score"][k, 1]
    readings = []
    for end, label in enumerate(("positive end", "negative end")):
        filled = rows[end] >= 0
        at, values = token_row[rows[end][filled]], scores[end][filled].astype(np.float64)
        order = np.argsort(at)
        shade = Shade(at[order], values[order], scale=float(np.abs(scores).max()))
        readings.append(ContextList(label, text.contexts(at, values, shade, count=max(2, contexts // 2)), side))
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
