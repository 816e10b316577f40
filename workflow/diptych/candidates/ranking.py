"""Ranking of a method's candidates by how far they exceed the requirements of a finding (METHODS 9).

The candidates of one pair and method are a family; each is tested against three requirements:

    q         its Benjamini-Hochberg q in the family is at most `threshold.q`
    held out  on documents that had no part in finding it the effect has the same sign and at least half the size
    effect    |effect| is at least `threshold.min_effect`

    ranking = rank(proposer.candidates(files), Threshold(q=0.05, min_effect=0.1))
    ranking.findings                 # the candidates that meet all three, the largest smallest margin first
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from diptych.candidates.candidate import SAME_DIRECTION, Candidate, abs_cosine
from diptych.statistics import resampling

Q = 0.05
"""Default largest q of a finding."""
HELD_OUT_SHARE = 0.5
"""Least held-out effect of a finding, as a share of the fitted effect (METHODS 9)."""


class Threshold(NamedTuple):
    """Requirements of a finding: the largest q and the least |effect|."""

    q: float
    min_effect: float


@dataclass(frozen=True)
class Ranked:
    """A candidate with its q and its margins over the requirements of a finding.

    Attributes:
        candidate: as proposed by the method.
        q: Benjamini-Hochberg.
        margins: log q, held-out share and effect, each as a multiple of what is required; 1 is just met.
        duplicate_of: id of the candidate of the same side that describes the same difference, or "". A method lists
            directions by two criteria, or a feature by several metrics: a difference must be counted once. Of
            directions at |cos| >= .7 the better one is kept. Of others, a direction duplicates a stronger one whose
            surplus, projected on it, is half of its surplus or more: variance along v appears at cos^2 along every
            direction.
    """

    candidate: Candidate
    q: float
    margins: tuple[float, float, float]
    duplicate_of: str = ""

    @property
    def smallest_margin(self) -> float:
        """The smallest of the margins."""
        return min(self.margins)

    @property
    def meets_threshold(self) -> bool:
        """Whether it is a finding, or would be if it were not a duplicate."""
        return self.smallest_margin >= 1.0 and not self.candidate.rejection

    @property
    def is_finding(self) -> bool:
        """Whether it meets the threshold and is no duplicate."""
        return self.meets_threshold and not self.duplicate_of


@dataclass(frozen=True)
class Ranking:
    """All candidates of one method on one pair, best first; `untestable` is why none could be tested, or ""."""

    candidates: Sequence[Ranked]
    untestable: str = ""

    @property
    def findings(self) -> list[Ranked]:
        """The candidates that are findings."""
        return [ranked for ranked in self.candidates if ranked.is_finding]


def rank(candidates: Sequence[Candidate], threshold: Threshold, untestable: str = "") -> Ranking:
    """Rank candidates by smallest margin, then p, then |effect|; q is the candidate's, or else over these candidates.

    Args:
        candidates: all of one method on one pair.
        threshold: requirements of a finding.
        untestable: why the method could not test any candidate, if that is known beforehand.
    """
    family_q = resampling.benjamini_hochberg([candidate.p for candidate in candidates])
    family = []
    for candidate, q_in_family in zip(candidates, family_q, strict=True):
        q = float(q_in_family) if math.isnan(candidate.q) else candidate.q
        family.append(Ranked(candidate, q, _margins(candidate, q, threshold)))
    order = sorted(
        range(len(family)),
        key=lambda i: (
            -family[i].smallest_margin,
            _unless_nan(candidates[i].p, math.inf),
            -_unless_nan(abs(candidates[i].effect), -1.0),
            i,
        ),
    )
    return Ranking(_mark_duplicates([family[i] for i in order]), untestable or _untestable(candidates))


def best(candidates: Sequence[Candidate], threshold: Threshold, count: int) -> list[Candidate]:
    """The first `count` candidates by rank, without duplicates and without those that cannot be findings."""
    eligible = [
        ranked.candidate
        for ranked in rank(candidates, threshold).candidates
        if not ranked.duplicate_of and not ranked.candidate.rejection
    ]
    return eligible[:count]


def _untestable(candidates: Sequence[Candidate]) -> str:
    if not candidates or not all(math.isnan(candidate.p) for candidate in candidates):
        return ""
    reasons = sorted({candidate.rejection for candidate in candidates} - {""})
    return "no candidate could be tested" + (f" ({', '.join(reasons)})" if reasons else "")


def _mark_duplicates(family: Sequence[Ranked]) -> list[Ranked]:
    marked: list[Ranked] = []
    best_of_feature: dict[tuple[str, str], str] = {}
    distinct: list[Candidate] = []
    strong = [
        ranked.candidate for ranked in family if ranked.candidate.kind == "direction" and ranked.meets_threshold
    ]
    for ranked in family:
        candidate = ranked.candidate
        duplicate_of = best_of_feature.get((candidate.side, candidate.feature), "") if candidate.feature else ""
        if candidate.kind == "direction":
            same = (other.id for other in distinct if _overlap(candidate, other) >= SAME_DIRECTION)
            leaks = (other.id for other in strong if _leaks_into(other, candidate))
            duplicate_of = next(chain(same, leaks), "")
        if not duplicate_of:
            best_of_feature[candidate.side, candidate.feature] = candidate.id
            distinct += [candidate] * (candidate.kind == "direction")
        marked.append(replace(ranked, duplicate_of=duplicate_of))
    return marked


def _overlap(x: Candidate, y: Candidate) -> float:
    """|cos| of two directions, 0 on different sides."""
    return abs_cosine(x.direction, y.direction) if x.side == y.side else 0.0


def _leaks_into(strong: Candidate, weak: Candidate) -> bool:
    """Whether a stronger direction at |cos| < .7 accounts for half or more of the surplus along `weak`."""
    overlap = _overlap(weak, strong)
    leaked = overlap**2 * strong.surplus
    return overlap < SAME_DIRECTION and strong.surplus > weak.surplus and leaked >= 0.5 * weak.surplus


def _margins(candidate: Candidate, q: float, threshold: Threshold) -> tuple[float, float, float]:
    """log q, held-out share and effect, each as a multiple of what is required."""
    log_q = math.log(max(q, resampling.SMALLEST_P)) / math.log(threshold.q) if q == q else 0.0
    sign = 1.0 if candidate.side == "B" else -1.0
    effect, held_out = sign * (candidate.effect - candidate.null), sign * (candidate.held_out - candidate.null)
    held_out_share = held_out / (HELD_OUT_SHARE * effect) if effect > 0 and math.isfinite(held_out) else 0.0
    size = effect / threshold.min_effect if math.isfinite(effect) else 0.0
    return log_q, held_out_share, size


def _unless_nan(value: float, when_nan: float) -> float:
    return when_nan if math.isnan(value) else value
