"""What a report's cards show of the weights: how far a kind of matrices moved, in which blocks, in which tokens.

claim(cell, finding)        # 'self_attn.v_proj moved by 0.6 % of its norm (all 30 blocks, rank 16)'
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diptych.page.blocks import Item, Strip, percent
from diptych.page.cards import Magnitude
from diptych.page.method_sections import Evidence, Finding
from diptych.storage import artifacts
from diptych.weights.candidates import identifier, kind_rows
from diptych.weights.names import OUTSIDE

WORDS = {"writes": "writes more", "embeds": "has more of", "reads": "reads more", "unembeds": "reads more"}
"""Part of a matrix in the residual stream -> what its tokens are."""
Cell = Mapping[str, Any]


def claim(cell: Cell, finding: Finding) -> str:
    """How far the matrices of a kind moved, in which blocks and by which rank."""
    kind, _, details = finding.id.partition(": ")
    where = f" ({details})" if details else ""
    return f"{kind} moved by {percent(finding.effect)} of its norm{where}"


def evidence(cell: Cell, findings: Sequence[Finding]) -> Evidence:
    """Counts of the changed tensors of each kind, and the tokens along which its most changed matrix moved."""
    with artifacts.read(cell["files"]["weights"], "weights") as file:
        rows = {identifier(row): row for row in kind_rows(artifacts.read_table(file, "kinds"))}
        directions = artifacts.read_table(file, "directions")
        words = artifacts.read_table(file, "words/b") if len(directions["key"]) else {}
    items = {}
    for finding in findings:
        row = rows[finding.id]
        facts = [
            ("what it is", str(row["label"])),
            ("share of the change of all weights", percent(float(row["share"]))),
            ("tensors changed", f"{row['changed']} of {row['tensors']}"),
            ("most changed", str(row["top_tensor"])),
        ]
        first = [
            k
            for k, key in enumerate(directions["key"])
            if str(key) == str(row["top_tensor"]) and directions["number"][k] == 1
        ]
        shown = [pair for k in first for pair in _words(str(directions["part"][k]), words, k)]
        items[finding] = Item("", [fact for fact in facts if fact[1]], (), "B", words=shown)
    return items


def _words(part: str, words: Mapping[str, Any], k: int) -> list[tuple[str, list[str]]]:
    """The tokens of a vector and of its opposite; a vector has no sign of its own."""
    label = WORDS[part]
    return [(label, json.loads(words["up"][k])), (f"{label}, opposite sign", json.loads(words["down"][k]))]


def magnitude(cell: Cell) -> Magnitude | None:
    """Norm of the change of all weights over their norm; None where they were not compared."""
    with artifacts.read(cell["files"]["weights"], "weights") as file:
        comparison = artifacts.read_json(file, "comparison")
    if comparison["reason"]:
        return None
    share = float(comparison["relative"] or 0.0)
    return Magnitude("weights", share, percent(share), f"of the size of {cell['a']}'s weights is how far they moved")


def strip(cell: Cell) -> Strip | None:
    """Share of the squared change of all weights by block; None where nothing changed."""
    with artifacts.read(cell["files"]["weights"], "weights") as file:
        if not artifacts.read_json(file, "comparison")["changed"]:
            return None
        tensors = artifacts.read_table(file, "tensors")
    share = np.nan_to_num(tensors["share"].astype(np.float64))
    blocks = sorted({int(block) for block in tensors["block"]} - {OUTSIDE})
    values = {str(block): 100 * float(share[tensors["block"] == block].sum()) for block in blocks}
    outside = 100 * float(share[tensors["block"] == OUTSIDE].sum())
    return Strip("Weights, by layer", "% of the squared change", values | ({"outside": outside} if outside > 0 else {}))
