"""Conclusions from a study's findings: the identical control, and one answer per pair and method.

    control_clauses(files, rankings)                    the conditions that a model compared with itself must meet
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
from diptych.candidates.ranking import Ranked, Ranking
from diptych.candidates.recovery import Recovery
from diptych.methods import Method, proposing

Status = Literal["found", "none", "unclear", "untested", "as_it_must", "broken", "recovered", "missed"]


@dataclass(frozen=True)
class Answer:
    """The conclusion for one pair and method, as a status and a sentence."""

    status: Status
    text: str


def control_clauses(files: Mapping[str, Any], rankings: Mapping[Method, Ranking]) -> list[Clause]:
    """All conditions of the identical control (METHODS 0.4) for the pair of a model with itself."""
    clauses = [clause for method in proposing() for clause in proposer.of(method).control(files)]
    n_findings = {method.title: len(ranking.findings) for method, ranking in rankings.items()}
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
    findings = ranking.findings
    if role in ("control", "floor"):
        return _same_model(findings, ranking)
    # For a method that plants its own change, a planted model is a different model like any other.
    if role == "planted" and positive_control is not None and not method.plants:
        return _planted(findings, positive_control.recovery)
    if findings:
        sides = [sum(ranked.candidate.side == side for ranked in findings) for side in ("B", "A")]
        split = f"{sides[0]} that {names[1]} has or has more of, {sides[1]} of {names[0]}"
        text = "; ".join([f"{counted(len(findings), 'finding')}: {split}", *filter(None, [caveats(findings)])])
        return Answer("found", text)
    if ranking.untestable:
        return Answer("untested", f"nothing can be said: {ranking.untestable}")
    return _no_finding(method, positive_control)


def caveats(findings: Sequence[Ranked]) -> str:
    """How many findings have each caveat: `3 of them marked domain shift`, `all of them ...`, or ""."""
    counts = Counter(ranked.candidate.caveat for ranked in findings if ranked.candidate.caveat)
    shares = {caveat: "all" if n == len(findings) else str(n) for caveat, n in sorted(counts.items())}
    return ", ".join(f"{share} of them marked {caveat}" for caveat, share in shares.items())


def _same_model(findings: Sequence[Any], ranking: Ranking) -> Answer:
    if findings:
        return Answer("broken", f"{counted(len(findings), 'finding')} where nothing differs")
    return Answer("as_it_must", f"nothing found, as it must be ({counted(len(ranking.candidates), 'candidate')})")


def _planted(findings: Sequence[Any], recovery: Recovery) -> Answer:
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
    return Answer("missed", f"the planted direction is missed: {reason}; {counted(len(findings), 'finding')} in all")


def _no_finding(method: Method, positive_control: PositiveControl | None) -> Answer:
    name = method.title
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
            f"nothing found, but the {name} missed the direction planted in {positive_control.pair} too: not enough "
            "training to tell",
        )
    return Answer(
        "none",
        f"no difference found; with the same settings the {name} found the direction planted in "
        f"{positive_control.pair}",
    )
