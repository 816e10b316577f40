"""Candidates of the weights: one for each kind of matrices that changed by more than rounding.

Two fine-tuned models differ in every tensor, so a tensor of its own is no news; a kind is, with where in it the change
is concentrated and its rank. The effects are exact: there is no test and no p.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diptych.candidates import known, proposer
from diptych.candidates.candidate import NAN, Candidate, DoubleArray
from diptych.candidates.known import Edit, Known
from diptych.candidates.leg import Leg, measured, not_applicable, untested
from diptych.candidates.proposer import Clause, Files
from diptych.storage import artifacts
from diptych.weights.limits import FLOORS
from diptych.weights.names import OUTSIDE, role_of

EQUAL = "the weights are equal"
FULL_RANK = 0.9
"""Ranks from this share of the shorter side on are called full."""
CONCENTRATED = 0.5
"""Share of a kind's change from which one block has most of it."""

LEGS = (
    untested("causal", "no kind was put back to what it is in A"),
    not_applicable("readable", "a kind of matrices stands in no text"),
)

EDITED = "MLP output"
"""Label of the matrices of which a plant edits that of one block."""

Row = Mapping[str, Any]
"""One row of the table of kinds."""


def kind_rows(columns: Mapping[str, Any]) -> list[Row]:
    """The table of kinds row by row, the most changed kind first."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def where(row: Row) -> str:
    """Where in the blocks the tensors of a kind changed; "" for a kind of one tensor."""
    tensors, changed = int(row["tensors"]), int(row["changed"])
    if tensors == 1:
        return ""
    if changed == 1:
        return f"block {row['top_block']} alone"
    count = f"all {tensors} blocks" if changed == tensors else f"{changed} of {tensors} blocks"
    concentrated = row["top_share"] > CONCENTRATED and row["top_block"] != OUTSIDE
    return f"{count}, most in block {row['top_block']}" if concentrated else count


def rank_in_words(row: Row) -> str:
    """Ranks of the changes of a kind, "rank 16", "rank 9 to 16" or "full rank"; "" for vectors."""
    low, high = int(row["rank_min"]), int(row["rank_max"])
    if not high:
        return ""
    if low >= FULL_RANK * int(row["side"]):
        return "full rank"
    return f"rank {high}" if low == high else f"rank {low} to {high}"


def identifier(row: Row) -> str:
    """The kind with where in it the change is, and its rank."""
    details = ", ".join(filter(None, (where(row), rank_in_words(row))))
    return f"{row['kind']}: {details}" if details else str(row["kind"])


def candidates(files: Files) -> list[Candidate]:
    """One candidate per kind of which a tensor changed by more than rounding, on side B.

    The effect is (sum ||dW||^2 / sum ||W_A||^2)^1/2, with the changes of the changed tensors and the weights of all.
    The direction is what the most changed matrix of a kind that writes to the residual stream writes most: the first
    left singular vector of its change.
    """
    with artifacts.read(files["weights"], "weights") as file:
        rows = kind_rows(artifacts.read_table(file, "kinds"))
        table = artifacts.read_table(file, "directions")
        residual = file["directions/residual"][:].astype(np.float64)
        tensors = artifacts.read_table(file, "tensors")
    first = {str(key): residual[k] for k, key in enumerate(table["key"]) if table["number"][k] == 1}
    return [_candidate(row, first)._replace(legs=(_specific(tensors, row), *LEGS)) for row in rows if row["changed"]]


def _specific(tensors: Mapping[str, Any], row: Row) -> Leg:
    """Norm of the change of a kind's changed tensors over that which rounding them may give (METHODS 12)."""
    at = (tensors["kind"] == row["kind"]) & (tensors["verdict"] == "changed")
    floors = float(np.linalg.norm(tensors["norm"][at])) / max(float(np.linalg.norm(tensors["floor"][at])), 1e-300)
    # A change of less than four floors has moved an entry further than rounding can.
    return measured("specific", floors, max(1.0, floors / FLOORS), f"{floors:.2g} times what rounding may do")


def _candidate(row: Row, first: Mapping[str, DoubleArray]) -> Candidate:
    effect = float(row["effect"])
    writes = row["part"] in ("writes", "embeds")
    return Candidate(
        kind="weights",
        id=identifier(row),
        side="B",
        effect=effect,
        held_out=effect,
        lo=effect,
        hi=effect,
        p=NAN,
        direction=first.get(str(row["top_tensor"]), np.zeros(0)) if writes else np.zeros(0),
        rows=np.zeros(0, dtype=np.int64),
    )


def edited_tensor(tensors: Mapping[str, Any], by_id: Mapping[str, Row], edit: Edit, ids: Sequence[str]) -> Known:
    """A plant's tensor, of rank 1: the kind that changed most in it shows it."""
    keys = zip(tensors["block"], tensors["kind"], strict=True)
    at = [i for i, (block, kind) in enumerate(keys) if (block, role_of(kind).label) == (edit.settings["layer"], EDITED)]
    name = str(tensors["tensor"][at[0]])
    shown = [frozenset({0} if by_id[each]["top_tensor"] == name else ()) for each in ids]
    return Known("the edited tensor", (name,), shown, rank=(1.0, float(tensors["rank"][at[0]])))


def adapted_kinds(by_id: Mapping[str, Row], edit: Edit, ids: Sequence[str]) -> Known:
    """The kinds of matrices that LoRA adapters changed: all linear ones of the blocks, each by its rank at most."""
    if edit.settings["method"] != "lora":
        return known.blind("all weights were trained: none is the one that was edited")
    linear = {name: row for name, row in by_id.items() if row["matrices"] and row["top_block"] != OUTSIDE}
    place = {name: k for k, name in enumerate(linear)}
    shown = [frozenset({place[each]} if each in place else ()) for each in ids]
    seen = max((float(row["rank_max"]) for row in linear.values()), default=NAN)
    names = [str(row["kind"]) for row in linear.values()]
    return Known("the kinds of matrices that were adapted", names, shown, rank=(edit.settings["lora_rank"], seen))


class Proposer(proposer.Proposer):
    """The candidates and the control of the weights of a pair."""

    def candidates(self, files: Files) -> list[Candidate]:
        """The kinds of matrices that changed."""
        return candidates(files)

    def untestable(self, files: Files) -> str:
        """Why the weights cannot be compared, or ""."""
        with artifacts.read(files["weights"], "weights") as file:
            return str(artifacts.read_json(file, "comparison")["reason"])

    def known(self, files: Files, edit: Edit, candidates: Sequence[Candidate]) -> Known:
        """The tensors that were edited, and the rank of their change."""
        with artifacts.read(files["weights"], "weights") as file:
            by_id = {identifier(row): row for row in kind_rows(artifacts.read_table(file, "kinds"))}
            tensors = artifacts.read_table(file, "tensors")
        ids = [each.id for each in candidates]
        if edit.kind == "plant":
            return edited_tensor(tensors, by_id, edit, ids)
        return adapted_kinds(by_id, edit, ids)

    def control(self, files: Files) -> Sequence[Clause]:
        """The weights of a model are equal to themselves."""
        if not files.get("weights"):
            return [Clause(EQUAL, None, "the weights were not compared")]
        with artifacts.read(files["weights"], "weights") as file:
            counts = artifacts.read_json(file, "comparison")
        return [
            Clause(EQUAL, counts["equal"] == counts["tensors"] > 0, f"{counts['equal']} of {counts['tensors']} tensors")
        ]


PROPOSER = Proposer()
"""The proposer of the table of methods."""
