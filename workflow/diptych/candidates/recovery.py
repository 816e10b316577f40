"""The planted truth: what a method made of a direction that is known to be there (METHODS 8)."""

from dataclasses import dataclass

import numpy as np

from diptych.candidates.candidate import SAME_DIRECTION, DoubleArray, SideName, abs_cosine
from diptych.candidates.ranking import Ranking
from diptych.storage import artifacts


@dataclass(frozen=True)
class Recovery:
    """What a method made of a planted direction.

    Attributes:
        written: a hit, a candidate of the right side with |cos| >= .7 to it, clears what a finding must reach.
        rank: place in the method's ranking of the best hit: the first that stands as a finding, else the first that
            clears the bounds, else the first; 0 without hits.
        cosine: |cos| of that hit, or without hits the largest of the right side; NaN without candidates.
        average_precision: of the ranking against this one truth: 1 / place of the first hit, or 0.
        candidates: length of the ranking.
        name: id of the best hit.
        elsewhere: findings that are no hits.
    """

    written: bool
    rank: int
    cosine: float
    average_precision: float
    candidates: int
    name: str
    elsewhere: int


def read_truth(path: str) -> DoubleArray:
    """The planted unit direction [d] that only B has, of an artifact of kind "truth"."""
    with artifacts.read(path, "truth") as file:
        direction: DoubleArray = file["direction"][:].astype(np.float64)
    return direction / np.linalg.norm(direction)


def recovery(ranking: Ranking, truth: DoubleArray, side: SideName = "B") -> Recovery:
    """Where a planted direction stands in a method's ranking (METHODS 8).

    Args:
        ranking: of the planted pair.
        truth: unit direction [d] in the space of `side`.
        side: the model that has it.
    """
    cosines = np.array([abs_cosine(ranked.candidate.direction, truth) for ranked in ranking.candidates])
    right = np.array([ranked.candidate.side == side for ranked in ranking.candidates], dtype=bool)
    hits = np.flatnonzero(right & (cosines >= SAME_DIRECTION)).tolist()
    best = max(hits, key=lambda i: (ranking.candidates[i].stands, ranking.candidates[i].clears, -i), default=None)
    if best is None:
        rank, cosine, name = 0, float(cosines[right].max()) if right.any() else float("nan"), ""
    else:
        hit = ranking.candidates[best].candidate
        rank, cosine, name = best + 1, float(cosines[best]), f"{hit.kind} {hit.id}"
    return Recovery(
        written=any(ranking.candidates[i].clears for i in hits),
        rank=rank,
        cosine=cosine,
        average_precision=1 / (hits[0] + 1) if hits else 0.0,
        candidates=len(ranking.candidates),
        name=name,
        elsewhere=sum(each.stands for i, each in enumerate(ranking.candidates) if i not in hits),
    )
