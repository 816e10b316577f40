"""Candidates: what a method puts forward as differences, in terms that all methods share (METHODS 9)."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Kind = Literal["token", "direction", "feature", "latent"]
SideName = Literal["A", "B"]

SIDES: tuple[SideName, SideName] = ("A", "B")
NAN = float("nan")
SAME_DIRECTION = 0.7
"""|cos| from which two directions count as one (METHODS 8)."""


class Candidate(NamedTuple):
    """What a method's file says of one candidate.

    Attributes:
        id: its name within the method ("unexplained 1", a feature's or latent's number).
        side: the model that has it, or has more of it.
        effect: in the method's own unit (see its proposer), B minus A: above the null for a candidate of B's side.
        held_out: the same on documents that had no part in finding it.
        lo, hi: 95 % interval of the held-out effect.
        p: of the held-out effect; NaN where it cannot be tested.
        null: the effect that is expected where nothing differs.
        direction: float64 [d_side], in the space of its side.
        rows: token rows of its own side where it shows most, the strongest first.
        seeds: in how many runs it is recovered, "k/S"; empty for methods without seeds.
        nu_err, nu_rec: latent scaling (crosscoders).
        barred: why it cannot be a finding whatever its numbers, or "".
        q: Benjamini-Hochberg in the method's own family, where that is larger than what it puts forward; else NaN.
        subject: the feature that it is about; of several candidates of one side about one subject the best is written.
        place: the template token at which it is seen, or "".
        tokens: token file of `rows` where that is not the pair's, or "".
        caveat: what speaks against reading it at face value, or "".
        surplus: of a direction, the variance along it that its side has and the other has not; else NaN.
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
    seeds: str = ""
    nu_err: float = NAN
    nu_rec: float = NAN
    barred: str = ""
    q: float = NAN
    subject: str = ""
    place: str = ""
    tokens: str = ""
    caveat: str = ""
    surplus: float = NAN


def abs_cosine(x: DoubleArray, y: DoubleArray) -> float:
    """|cos| of two vectors; 0 where they differ in width or one is zero."""
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
