"""Conclusions from a study's findings: the identical control, and one answer per pair and method.

    control_clauses(pair, rankings)                     the conditions that a model compared with itself must meet
    answer(role, method, ranking, positive_control)     what follows from a method's findings, or from their absence

That a method finds nothing is informative only if it could have found a difference: "no difference found" needs a
positive control, a planted change that the method recovered with the same settings (`candidates.recovery`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from diptych.candidates import proposer
from diptych.candidates.candidate import SAME_DIRECTION, counted
from diptych.candidates.proposer import Clause
from diptych.candidates.ranking import Ranking
from diptych.candidates.recovery import Recovery
from diptych.methods import Method, proposing, scope_of

Status = Literal[
    "found",
    "not_repeated",
    "cannot_be_told",
    "none",
    "unclear",
    "untested",
    "as_it_must",
    "broken",
    "recovered",
    "missed",
]

FOUND_NOTHING: tuple[Status, ...] = ("none", "unclear")
"""Where the next question is what could have been found (`findings.unseen`)."""


@dataclass(frozen=True)
class Answer:
    """The conclusion for one pair and method, as a status and a sentence."""

    status: Status
    text: str


def control_clauses(pair: Mapping[str, Any], rankings: Mapping[Method, Ranking]) -> list[Clause]:
    """All conditions of the identical control (METHODS 0.4) for one comparison of a model with itself."""
    applicable = proposing(scope_of(pair))
    clauses = [clause for method in applicable for clause in proposer.of(method).control(pair["files"])]
    n_findings = {method.title: len(ranking.reported) for method, ranking in rankings.items()}
    total = sum(n_findings.values())
    counts = ", ".join(f"{name} {count}" for name, count in n_findings.items())
    clauses.append(Clause("no finding", total == 0 if rankings else None, f"findings: {counts or 'no method was run'}"))
    return clauses


def control_holds(clauses: Sequence[Clause]) -> bool:
    """Whether at least one condition was tested and all tested ones hold."""
    tested = [clause.holds for clause in clauses if clause.holds is not None]
    return bool(tested) and all(tested)


@dataclass(frozen=True)
class PositiveControl:
    """A planted change of known truth: its pair, how well the method recovers it, and the settings that differ."""

    pair: str
    recovery: Recovery
    differing_settings: Sequence[str]


def answer(
    role: str,
    method: Method,
    ranking: Ranking,
    positive_control: PositiveControl | None,
    names: tuple[str, str] = ("A", "B"),
) -> Answer:
    """The conclusion from one method's ranking on one pair.

    Args:
        role: compared | control | planted | floor.
        method: the method.
        ranking: its candidates on the pair.
        positive_control: of the same method; None if the study plants nothing.
        names: of the two models.
    """
    if role in ("control", "floor"):
        return _same_model(ranking)
    # For a method that plants its own change, a planted model is a different model like any other.
    if role == "planted" and positive_control is not None and not method.plants:
        return _planted(ranking, positive_control.recovery)
    if ranking.reported:
        return _reported(ranking, names)
    if ranking.untestable:
        return Answer("untested", f"nothing can be said: {ranking.untestable}")
    answer = _no_finding(method, positive_control)
    return Answer(answer.status, "; ".join(filter(None, [answer.text, besides(ranking)])))


def _reported(ranking: Ranking, names: tuple[str, str]) -> Answer:
    """The answer where something is reported."""
    findings, not_repeated = ranking.findings, ranking.with_status("not repeated")
    if not findings and not not_repeated:
        remedies = sorted({ranked.candidate.remedy for ranked in ranking.with_status("cannot be told")})
        return Answer("cannot_be_told", "; ".join(["no finding", besides(ranking), *remedies]))
    sides = [sum(ranked.candidate.side == side for ranked in findings or not_repeated) for side in ("B", "A")]
    split = f"{sides[0]} that {names[1]} has or has more of, {sides[1]} of {names[0]}"
    if findings:
        parts = [f"{counted(len(findings), 'finding')}: {split}", besides(ranking)]
        return Answer("found", "; ".join(filter(None, parts)))
    count = counted(len(not_repeated), "candidate")
    parts = [f"{count} from one training, not repeated: {split}", besides(ranking), "a second seed would tell"]
    return Answer("not_repeated", "; ".join(filter(None, parts)))


def besides(ranking: Ranking) -> str:
    """Counts of candidates besides findings: not repeated, cannot be told (and why), found in few of the runs."""
    parts = []
    if ranking.findings and (not_repeated := ranking.with_status("not repeated")):
        parts.append(f"{len(not_repeated)} not repeated")
    caveats = Counter(ranked.candidate.caveat for ranked in ranking.with_status("cannot be told"))
    parts += [f"{n} that cannot be told from a {caveat}" for caveat, n in sorted(caveats.items())]
    if ranking.n_single:
        parts.append(f"{ranking.n_single} that other seeds do not repeat")
    return ", ".join(parts)


def _same_model(ranking: Ranking) -> Answer:
    if ranking.reported:
        return Answer("broken", f"{counted(len(ranking.reported), 'finding')} where nothing differs")
    return Answer("as_it_must", f"nothing found, as it must be ({counted(len(ranking.candidates), 'candidate')})")


def _planted(ranking: Ranking, recovery: Recovery) -> Answer:
    if recovery.written:
        others = (
            f"; {counted(recovery.elsewhere, 'other finding')} with |cos| below {SAME_DIRECTION}"
            if recovery.elsewhere
            else ""
        )
        return Answer(
            "recovered",
            f"the planted direction is found: {recovery.name}, |cos| {recovery.cosine:.2f}, rank {recovery.rank} of "
            f"{recovery.candidates}{others}",
        )
    if recovery.rank:
        reason = (
            f"{recovery.name} points along it (|cos| {recovery.cosine:.2f}, rank {recovery.rank}) "
            "but does not stand as a finding"
        )
    elif not recovery.candidates:
        reason = "the method put nothing forward"
    else:
        n = counted(recovery.candidates, "candidate")
        reason = f"nothing points along it (largest |cos| {recovery.cosine:.2f} of {n})"
    return Answer(
        "missed", f"the planted direction is missed: {reason}; {counted(len(ranking.reported), 'finding')} in all"
    )


def _no_finding(method: Method, positive_control: PositiveControl | None) -> Answer:
    name = method.title
    if method.is_exact:
        return Answer("none", "no difference found: the comparison is exact")
    if positive_control is None:
        return Answer(
            "unclear",
            "nothing found, and no planted pair shows whether it would have been: not enough training to tell",
        )
    if positive_control.differing_settings:
        settings = ", ".join(positive_control.differing_settings)
        return Answer(
            "unclear",
            f"nothing found; {positive_control.pair} was run with other settings ({settings}): not enough training "
            "to tell",
        )
    if not positive_control.recovery.written:
        return Answer(
            "unclear",
            f"nothing found, but the {name} missed what was planted in {positive_control.pair} too: not enough "
            "training to tell",
        )
    return Answer(
        "none",
        f"no difference found; with the same settings the {name} found what was planted in {positive_control.pair}",
    )
