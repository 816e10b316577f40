"""Candidate differences between two models, in a form that all methods share (METHODS 9)."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.candidates.leg import Leg

DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Kind = Literal["token", "direction", "feature", "latent", "weights"]
SideName = Literal["A", "B"]

SIDES: tuple[SideName, SideName] = ("A", "B")
NAN = float("nan")
SAME_DIRECTION = 0.7
"""|cos| from which two directions count as the same (METHODS 8)."""
LATER_RUN = re.compile(r"(.*) \(run (\d+)\)", re.DOTALL)
"""Id of a candidate that a later run has and the first has not."""


class Candidate(NamedTuple):
    """One difference that a method proposes, with its statistics.

    Attributes:
        id: its name within the method ("unexplained 1", a feature's or latent's number).
        side: the model that has it, or has more of it.
        effect: in the method's unit (see its proposer), B minus A: above the null for a candidate of side B.
        held_out: the same on documents that were not used to find it.
        lo, hi: 95 % interval of the held-out effect; at template tokens, of the effect over all prompts.
        p: of the held-out effect; NaN where it cannot be tested or is exact.
        null: the effect that is expected where nothing differs.
        direction: float64 [d_side], in the space of its side.
        rows: token rows of its side where it is strongest, in descending order.
        trained: name of the dictionaries or the crosscoder behind it, or "" if nothing was trained.
        n_runs: runs of that with different seeds, S; 0 if nothing was trained.
        nu_err, nu_rec: latent scaling (crosscoders).
        barred: why it cannot be a finding whatever its statistics, or "".
        q: Benjamini-Hochberg in the method's own family, if that has more tests than there are candidates; else NaN.
        subject: the feature it is about, or ""; only the best of the candidates of a side with the same subject can be
            a finding.
        template_position: the template token at which it is measured, or "".
        tokens: token file of `rows` if that is not the pair's, or "".
        caveat: what its statistics may show in place of a difference of the models ("domain shift"), or "".
        remedy: what would tell, for a candidate with a caveat.
        surplus: for a direction, the variance along it that its side has and the other has not; else NaN.
        words: tokens that it is put into: a token itself, or those that a direction promotes. By them, if not by those
            of `rows`, a text that is steered along it is recognised.
        legs: those that the method states itself, in place of the common ones (`findings.legs`).
    """

    kind: Kind
    id: str
    side: SideName
    effect: float
    held_out: float
    lo: float
    hi: float
    p: float
    direction: DoubleArray
    rows: IntArray
    null: float = 0.0
    trained: str = ""
    n_runs: int = 0
    nu_err: float = NAN
    nu_rec: float = NAN
    barred: str = ""
    q: float = NAN
    subject: str = ""
    template_position: str = ""
    tokens: str = ""
    caveat: str = ""
    remedy: str = ""
    surplus: float = NAN
    words: tuple[str, ...] = ()
    legs: tuple[Leg, ...] = ()


def id_in_run(own_id: str, run: int) -> str:
    """The id of a candidate of a run among those of the first, whose numbers mean other things: `7`, `7 (run 2)`."""
    return own_id if run == 1 else f"{own_id} (run {run})"


def run_of(candidate_id: str) -> tuple[str, int]:
    """The id that a candidate has in its own run, and the number of that run; 1 for the first."""
    later = LATER_RUN.fullmatch(candidate_id)
    return (later[1], int(later[2])) if later else (candidate_id, 1)


def abs_cosine(x: DoubleArray, y: DoubleArray) -> float:
    """|cos| of two vectors; 0 if their widths differ or one of them is zero."""
    length = float(np.linalg.norm(x) * np.linalg.norm(y)) if len(x) == len(y) else 0.0
    return abs(float(x @ y)) / length if length > 0 else 0.0


def numbered(names: Sequence[str]) -> list[str]:
    """`pca, pca, unexplained` -> `pca 1, pca 2, unexplained 1`."""
    count: dict[str, int] = {}
    labels = []
    for name in names:
        count[name] = count.get(name, 0) + 1
        labels.append(f"{name} {count[name]}")
    return labels


def counted(n: int, noun: str) -> str:
    """`1 finding`, `2 findings`."""
    return f"{n:,} {noun if n == 1 else noun + 's'}"
