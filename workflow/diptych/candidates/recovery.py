"""Recovery of a planted direction by a method's ranking (METHODS 8)."""

from dataclasses import dataclass

import numpy as np

from diptych.candidates.candidate import SAME_DIRECTION, DoubleArray, SideName, abs_cosine
from diptych.candidates.ranking import Ranked, Ranking
from diptych.storage import artifacts


@dataclass(frozen=True)
class Recovery:
    """Recovery of a planted direction by a method's ranking.

    A hit is a candidate of the right side with |cos| >= .7 to the planted direction.

    Attributes:
        written: whether a hit meets the criteria of a finding, in most runs or in the only one.
        rank: rank of the best hit: the first that is a finding, else the first that meets the criteria, else the
            first; 0 without hits.
        cosine: |cos| of that hit, or without hits the largest of the right side; NaN without candidates.
        average_precision: of the ranking against this single truth: 1 / rank of the first hit, or 0.
        candidates: length of the ranking.
        name: kind and id of the best hit.
        elsewhere: number of findings that are no hits.
    """

    written: bool
    rank: int
    cosine: float
    average_precision: float
    candidates: int
    name: str
    elsewhere: int


def read_truth(path: str) -> DoubleArray:
    """Read the planted unit direction [d], which only B has, from an artifact of kind "truth"."""
    with artifacts.read(path, "truth") as file:
        direction: DoubleArray = file["direction"][:].astype(np.float64)
    return direction / np.linalg.norm(direction)


def recovery(ranking: Ranking, truth: DoubleArray, side: SideName = "B") -> Recovery:
    """Recovery of a planted direction by a method's ranking (METHODS 8).

    Args:
        ranking: of the planted pair.
        truth: unit direction [d] in the space of `side`.
        side: the model that has it.
    """
    cosines = np.array([abs_cosine(ranked.candidate.direction, truth) for ranked in ranking.candidates])
    right = np.array([ranked.candidate.side == side for ranked in ranking.candidates], dtype=bool)
    hits = np.flatnonzero(right & (cosines >= SAME_DIRECTION)).tolist()
    best = max(
        hits, key=lambda i: (bool(ranking.candidates[i].status), _is_found(ranking.candidates[i]), -i), default=None
    )
    if best is None:
        rank, cosine, name = 0, float(cosines[right].max()) if right.any() else float("nan"), ""
    else:
        hit = ranking.candidates[best].candidate
        rank, cosine, name = best + 1, float(cosines[best]), f"{hit.kind} {hit.id}"
    return Recovery(
        written=any(_is_found(ranking.candidates[i]) for i in hits),
        rank=rank,
        cosine=cosine,
        average_precision=1 / (hits[0] + 1) if hits else 0.0,
        candidates=len(ranking.candidates),
        name=name,
        elsewhere=sum(bool(ranked.status) for i, ranked in enumerate(ranking.candidates) if i not in hits),
    )


def _is_found(ranked: Ranked) -> bool:
    """Whether a candidate is a finding or a duplicate of one, the number of runs left aside where there is only one."""
    return ranked.meets_criteria and ranked.is_repeated and not ranked.candidate.caveat
