"""Candidates: differences that a method proposes, with the fields that all methods share (METHODS 9)."""

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
"""Least |cos| of two directions that count as the same (METHODS 8)."""


class Candidate(NamedTuple):
    """A proposed difference: its effect with uncertainty, its direction and where it is most active.

    Attributes:
        id: name within the method ("unexplained 1", the index of a feature or latent).
        side: the model that has it, or has more of it.
        effect: in the unit of the method (see its proposer), B minus A: above the null for a candidate of B's side.
        held_out: effect on documents that had no part in finding it.
        lo, hi: 95 % interval of the held-out effect.
        p: of the held-out effect; NaN where it cannot be tested.
        null: the effect expected where nothing differs.
        direction: float64 [d_side], in the space of its side.
        rows: token rows of `side` with the largest activation, largest first.
        seeds: number k of the S training runs in which it is recovered, "k/S"; "" for methods without seeds.
        nu_err, nu_rec: latent scaling (crosscoders).
        rejection: why it cannot be a finding whatever its effect, or "".
        q: Benjamini-Hochberg over all tests of the method, where it proposes only some of them; else NaN.
        feature: name of the feature that changed, or ""; of several candidates per feature and side the best is kept.
        token_role: role of the template token at which it was measured, or "".
        tokens: token file of `rows` if it is not that of the pair, else "".
        caveat: reason to doubt its interpretation, or "".
        surplus: of a direction, the variance of its side along it in excess of the other side's; else NaN.
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
    rejection: str = ""
    q: float = NAN
    feature: str = ""
    token_role: str = ""
    tokens: str = ""
    caveat: str = ""
    surplus: float = NAN


def abs_cosine(x: DoubleArray, y: DoubleArray) -> float:
    """|cos| of two vectors; 0 where they differ in width or one is zero."""
    length = float(np.linalg.norm(x) * np.linalg.norm(y)) if len(x) == len(y) else 0.0
    return abs(float(x @ y)) / length if length > 0 else 0.0


def numbered(names: Sequence[str]) -> list[str]:
    """Names with a running number per name: `pca, pca, unexplained` -> `pca 1, pca 2, unexplained 1`."""
    count: dict[str, int] = {}
    labels = []
    for name in names:
        count[name] = count.get(name, 0) + 1
        labels.append(f"{name} {count[name]}")
    return labels


def counted(n: int, noun: str) -> str:
    """Count and noun in singular or plural: `1 finding`, `2 findings`."""
    return f"{n:,} {noun if n == 1 else noun + 's'}"
