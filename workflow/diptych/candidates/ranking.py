"""Ranking of a method's candidates, and which of them are findings (METHODS 9).

The candidates of one pair, method and run are a family for the correction of p values. A finding meets three criteria:

    q         its Benjamini-Hochberg q in the family is at most `threshold.q`
    held out  on documents that were not used to find it, the effect has the same sign and at least half the size
    effect    |effect| is at least `threshold.min_effect`

    ranking = rank(proposer.candidates(files), Threshold(q=0.05, min_effect=0.1))
    ranking.findings                 # the candidates that meet all, the one with the largest smallest margin first

What depends on training must also be found again with most of the other seeds (`repetition`), and a candidate whose
statistics may show something else than a difference of the models is no finding (`Ranked.status`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal, NamedTuple

from diptych.candidates.candidate import SAME_DIRECTION, Candidate, abs_cosine
from diptych.statistics import resampling

Q = 0.05
"""Default threshold on q."""
HELD_OUT_SHARE = 0.5
"""Smallest ratio of the held-out to the fitted effect of a finding (METHODS 9)."""
TRAINED = ("feature", "latent")
"""Kinds of candidates that name what training made."""
Status = Literal["finding", "not repeated", "cannot be told", ""]
"""How a candidate is reported: as a finding; as found with the only seed there is; as possibly something else than a
difference of the models; not at all."""


class Threshold(NamedTuple):
    """Thresholds of a finding: largest q (None: effects are exact, and only their size counts), smallest |effect|."""

    q: float | None
    min_effect: float


@dataclass(frozen=True)
class Ranked:
    """A candidate with its statistics in the family of its pair and method.

    Attributes:
        candidate: as proposed by the method.
        q: Benjamini-Hochberg.
        margins: log q, held-out effect and effect, each over its threshold; a criterion is met from 1 on. The held-out
            effect's threshold is half the fitted one, and what exceeds the fitted one counts as equal to it; that of a
            token that meets it is half the minimum effect.
        duplicate_of: id of a better candidate of the same side for the same difference, or "": methods list directions
            by two criteria, or a feature by several metrics, training splits a direction into several latents, and a
            difference must not be reported twice. Directions at |cos| >= .7 are duplicates, and so are features and
            latents of one training that meet the criteria, as they are over its seeds. Otherwise, a direction
            duplicates a stronger one whose surplus accounts for half of its own or more: variance along v contributes
            cos^2 of it along every direction.
        n_recovered: runs, of `candidate.n_runs`, in which it is found, k; 0 if it does not meet the criteria.
    """

    candidate: Candidate
    q: float
    margins: tuple[float, float, float]
    duplicate_of: str = ""
    n_recovered: int = 1

    @property
    def smallest_margin(self) -> float:
        """The smallest of the margins."""
        return min(self.margins)

    @property
    def meets_criteria(self) -> bool:
        """Whether it meets all criteria within its run."""
        return self.smallest_margin >= 1.0 and not self.candidate.barred

    @property
    def is_repeated(self) -> bool:
        """Whether it is found in most runs, k > S/2; true of what is not trained, and of a single run."""
        return self.candidate.n_runs < 2 or 2 * self.n_recovered > self.candidate.n_runs

    @property
    def status(self) -> Status:
        """How it is reported (METHODS 9)."""
        if not self.meets_criteria or self.duplicate_of or not self.is_repeated:
            return ""
        if self.candidate.caveat:
            return "cannot be told"
        return "not repeated" if self.candidate.n_runs == 1 else "finding"

    @property
    def is_finding(self) -> bool:
        """Whether it is reported as a finding."""
        return self.status == "finding"

    @property
    def seeds(self) -> str:
        """`k/S`; "" for what is not trained."""
        return f"{self.n_recovered}/{self.candidate.n_runs}" if self.candidate.n_runs else ""


@dataclass(frozen=True)
class Ranking:
    """All candidates of one method on one pair, best first; `untestable` is why none could be tested, or ""."""

    candidates: Sequence[Ranked]
    untestable: str = ""

    @property
    def findings(self) -> list[Ranked]:
        """The candidates that are findings."""
        return self.with_status("finding")

    @property
    def reported(self) -> list[Ranked]:
        """The candidates that are reported, whatever their status."""
        return [ranked for ranked in self.candidates if ranked.status]

    def with_status(self, status: Status) -> list[Ranked]:
        """The candidates with one status."""
        return [ranked for ranked in self.candidates if ranked.status == status]

    @property
    def n_single(self) -> int:
        """Number of candidates that meet the criteria in one run and are not found again in most of the others."""
        return sum(each.meets_criteria and not each.duplicate_of and not each.is_repeated for each in self.candidates)


def rank(candidates: Sequence[Candidate], threshold: Threshold, untestable: str = "") -> Ranking:
    """Compute q (unless the candidate has one) and margins; sort by smallest margin, p, then larger effect.

    Candidates with a caveat come after all others. Numbers that only rounding tells apart count as equal: other kernels
    or threads must not change which of a feature's metrics is reported.

    Args:
        candidates: of one method on one pair.
        threshold: of a finding.
        untestable: why the method could test none, if that is known beforehand.
    """
    in_family = resampling.benjamini_hochberg([candidate.p for candidate in candidates])
    family = []
    for candidate, value in zip(candidates, in_family, strict=True):
        q = float(value) if math.isnan(candidate.q) else candidate.q
        family.append(Ranked(candidate, q, _margins(candidate, q, threshold)))
    order = sorted(
        range(len(family)),
        key=lambda i: (
            bool(candidates[i].caveat),
            -_to_four_digits(family[i].smallest_margin),
            _to_four_digits(_without_nan(candidates[i].p)),
            -_to_four_digits(_without_nan(abs(candidates[i].effect), -1.0)),
            i,
        ),
    )
    if threshold.q is not None:
        untestable = untestable or _untestable(candidates)
    return Ranking(_mark_duplicates([family[i] for i in order]), untestable)


def best(ranking: Ranking, count: int) -> list[Candidate]:
    """The first `count` candidates of a ranking, those that are reported first, without those that cannot be."""
    possible = [each for each in ranking.candidates if not each.duplicate_of and not each.candidate.barred]
    return [each.candidate for each in sorted(possible, key=lambda each: not each.status)][:count]


def _untestable(candidates: Sequence[Candidate]) -> str:
    if not candidates or not all(math.isnan(candidate.p) for candidate in candidates):
        return ""
    reasons = sorted({candidate.barred for candidate in candidates} - {""})
    return "no candidate could be tested" + (f" ({', '.join(reasons)})" if reasons else "")


def _mark_duplicates(family: Sequence[Ranked]) -> list[Ranked]:
    marked: list[Ranked] = []
    first: dict[tuple[str, str], str] = {}
    distinct: list[Candidate] = []
    strong = [each.candidate for each in family if each.candidate.kind == "direction" and each.meets_criteria]
    for each in family:
        candidate = each.candidate
        has_direction = candidate.kind == "direction" or (candidate.kind in TRAINED and each.meets_criteria)
        duplicate_of = first.get((candidate.side, candidate.subject), "") if candidate.subject else ""
        if has_direction and not duplicate_of:
            same = (other.id for other in distinct if _overlap(candidate, other) >= SAME_DIRECTION)
            leaks = (other.id for other in strong if _leaks_into(other, candidate))
            duplicate_of = next(chain(same, leaks), "")
        if not duplicate_of:
            first[candidate.side, candidate.subject] = candidate.id
            distinct += [candidate] * has_direction
        marked.append(replace(each, duplicate_of=duplicate_of))
    return marked


def _overlap(x: Candidate, y: Candidate) -> float:
    """|cos| of two directions; 0 if their sides, or what was trained, differ."""
    return abs_cosine(x.direction, y.direction) if (x.side, x.trained) == (y.side, y.trained) else 0.0


def _leaks_into(strong: Candidate, weak: Candidate) -> bool:
    """Whether half or more of the surplus along `weak` comes from a stronger direction of its side at |cos| < .7."""
    overlap = _overlap(weak, strong)
    leaked = overlap**2 * strong.surplus
    is_stronger = strong.side == weak.side and strong.surplus > weak.surplus
    return is_stronger and overlap < SAME_DIRECTION and leaked >= 0.5 * weak.surplus


def _margins(candidate: Candidate, q: float, threshold: Threshold) -> tuple[float, float, float]:
    sign = 1.0 if candidate.side == "B" else -1.0
    shift, held_out = sign * (candidate.effect - candidate.null), sign * (candidate.held_out - candidate.null)
    size = shift / threshold.min_effect if math.isfinite(shift) else 0.0
    if threshold.q is None:
        return math.inf, math.inf, size
    share = held_out / shift if shift > 0 and math.isfinite(held_out) else 0.0
    replication = min(share, 1.0) / HELD_OUT_SHARE
    if candidate.kind == "token" and replication >= 1.0:
        # Of thousands of tokens that meet it, a ratio of two estimates puts those first whose noise is luckiest.
        replication = max(1.0, held_out / (HELD_OUT_SHARE * threshold.min_effect))
    significance = math.log(max(q, resampling.SMALLEST_P)) / math.log(threshold.q) if q == q else 0.0
    return significance, replication, size


def _to_four_digits(value: float) -> float:
    """A number without the digits that depend on the order of sums."""
    return float(f"{value:.4g}")


def _without_nan(value: float, when_nan: float = math.inf) -> float:
    return when_nan if math.isnan(value) else value
