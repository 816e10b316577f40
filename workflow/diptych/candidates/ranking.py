"""How far each candidate of a method clears what a finding must reach, and which stand (METHODS 9).

The candidates of one pair and method are a family with three legs to stand on:

    q         its Benjamini-Hochberg q in the family is at most `threshold.q`
    held out  on documents that had no part in finding it the effect has the same sign and at least half the size
    effect    |effect| is at least `threshold.min_effect`

    ranking = rank(proposer.candidates(files), Threshold(q=0.05, min_effect=0.1))
    ranking.findings                 # the candidates that stand, the one with the strongest weakest leg first
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from diptych.candidates.candidate import SAME_DIRECTION, Candidate, abs_cosine
from diptych.statistics import resampling

Q = 0.05
"""Usual largest q of a finding."""
HELD_OUT_SHARE = 0.5
"""Least share of the fitted effect that must be seen on held-out documents (METHODS 9)."""


class Threshold(NamedTuple):
    """What a finding must reach: q at most, |effect| at least."""

    q: float
    min_effect: float


@dataclass(frozen=True)
class Ranked:
    """A candidate with its place in the family of its pair and method.

    Attributes:
        candidate: what the method says.
        q: Benjamini-Hochberg.
        legs: how far q (in logs), held-out share and size exceed what is asked; 1 is just met.
        repeats: id of a candidate of the same side that says the same, or "". A method lists directions by two
            criteria, or a feature by several metrics: one difference must not be written down twice. Of directions at
            |cos| >= .7 the better one is kept. Of others, one repeats a stronger one whose surplus, seen along it,
            makes up half of its own or more: variance along v shows at cos^2 along every direction.
    """

    candidate: Candidate
    q: float
    legs: tuple[float, float, float]
    repeats: str = ""

    @property
    def weakest(self) -> float:
        """The least of the legs."""
        return min(self.legs)

    @property
    def clears(self) -> bool:
        """Whether it is a finding, or would be if another did not say the same."""
        return self.weakest >= 1.0 and not self.candidate.barred

    @property
    def stands(self) -> bool:
        """Whether it is a finding."""
        return self.clears and not self.repeats


@dataclass(frozen=True)
class Ranking:
    """Everything that one method put forward on one pair, best first; `untestable` says why it could not, or ""."""

    candidates: Sequence[Ranked]
    untestable: str = ""

    @property
    def findings(self) -> list[Ranked]:
        """The candidates that stand."""
        return [ranked for ranked in self.candidates if ranked.stands]


def rank(candidates: Sequence[Candidate], threshold: Threshold, untestable: str = "") -> Ranking:
    """Give each candidate its q (its own, or in the family) and legs; order by weakest leg, p, then larger effect.

    Args:
        candidates: what a method puts forward.
        threshold: what a finding must reach.
        untestable: why the method could not test anything, where that is known beforehand.
    """
    in_family = resampling.benjamini_hochberg([candidate.p for candidate in candidates])
    family = []
    for candidate, value in zip(candidates, in_family, strict=True):
        q = float(value) if math.isnan(candidate.q) else candidate.q
        family.append(Ranked(candidate, q, _legs(candidate, q, threshold)))
    order = sorted(
        range(len(family)),
        key=lambda i: (
            -family[i].weakest,
            _last(candidates[i].p),
            -_last(abs(candidates[i].effect), -1.0),
            i,
        ),
    )
    return Ranking(_mark_repeats([family[i] for i in order]), untestable or _untestable(candidates))


def best(candidates: Sequence[Candidate], threshold: Threshold, count: int) -> list[Candidate]:
    """The first `count` candidates in the order of findings, without repeats and without those that cannot be one."""
    ranked = rank(candidates, threshold).candidates
    return [each.candidate for each in ranked if not each.repeats and not each.candidate.barred][:count]


def _untestable(candidates: Sequence[Candidate]) -> str:
    if not candidates or not all(math.isnan(candidate.p) for candidate in candidates):
        return ""
    reasons = sorted({candidate.barred for candidate in candidates} - {""})
    return "no candidate could be tested" + (f" ({', '.join(reasons)})" if reasons else "")


def _mark_repeats(family: Sequence[Ranked]) -> list[Ranked]:
    marked: list[Ranked] = []
    first: dict[tuple[str, str], str] = {}
    distinct: list[Candidate] = []
    strong = [each.candidate for each in family if each.candidate.kind == "direction" and each.clears]
    for each in family:
        candidate = each.candidate
        repeats = first.get((candidate.side, candidate.subject), "") if candidate.subject else ""
        if candidate.kind == "direction":
            same = (other.id for other in distinct if _overlap(candidate, other) >= SAME_DIRECTION)
            leaks = (other.id for other in strong if _leaks_into(other, candidate))
            repeats = next(chain(same, leaks), "")
        if not repeats:
            first[candidate.side, candidate.subject] = candidate.id
            distinct += [candidate] * (candidate.kind == "direction")
        marked.append(replace(each, repeats=repeats))
    return marked


def _overlap(x: Candidate, y: Candidate) -> float:
    """|cos| of two directions, 0 on different sides."""
    return abs_cosine(x.direction, y.direction) if x.side == y.side else 0.0


def _leaks_into(strong: Candidate, weak: Candidate) -> bool:
    """Whether half or more of the surplus along `weak` is that of a stronger direction at |cos| < .7."""
    overlap = _overlap(weak, strong)
    leaked = overlap**2 * strong.surplus
    return overlap < SAME_DIRECTION and strong.surplus > weak.surplus and leaked >= 0.5 * weak.surplus


def _legs(candidate: Candidate, q: float, threshold: Threshold) -> tuple[float, float, float]:
    certain = math.log(max(q, resampling.SMALLEST_P)) / math.log(threshold.q) if q == q else 0.0
    towards = 1.0 if candidate.side == "B" else -1.0
    shift, held_out = towards * (candidate.effect - candidate.null), towards * (candidate.held_out - candidate.null)
    repeated = held_out / (HELD_OUT_SHARE * shift) if shift > 0 and math.isfinite(held_out) else 0.0
    large = shift / threshold.min_effect if math.isfinite(shift) else 0.0
    return certain, repeated, large


def _last(value: float, when_nan: float = math.inf) -> float:
    return when_nan if math.isnan(value) else value
