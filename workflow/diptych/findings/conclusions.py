"""What may be concluded: whether the control holds, and what follows from what a method found or did not find.

    control(files, rankings)                     did a model compared with itself come out as no different?
    answer(role, method, ranking, yardstick)     what does it mean that this method found something here, or nothing?

A method that finds nothing has shown something only if it could have found it: "no difference found" needs a planted
change, run with the same settings, that the method recovered (`candidates.recovery`).
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
    """What follows for one pair and method."""

    status: Status
    text: str


def control(files: Mapping[str, Any], rankings: Mapping[Method, Ranking]) -> list[Clause]:
    """Every clause of the identical control (METHODS 0.4) on the pair of a model with itself."""
    clauses = [clause for method in proposing() for clause in proposer.of(method).control(files)]
    n_findings = {method.title: len(ranking.findings) for method, ranking in rankings.items()}
    total = sum(n_findings.values())
    counts = ", ".join(f"{name} {count}" for name, count in n_findings.items())
    clauses.append(Clause("no finding", total == 0 if rankings else None, f"findings: {counts or 'no method was run'}"))
    return clauses


def holds(clauses: Sequence[Clause]) -> bool:
    """Whether some clause was tested and none is broken."""
    tested = [clause.holds for clause in clauses if clause.holds is not None]
    return bool(tested) and all(tested)


@dataclass(frozen=True)
class Yardstick:
    """The planted pair by which a method's silence is judged: its name, the recovery, and settings that differ."""

    pair: str
    recovery: Recovery
    differs: Sequence[str]


def answer(
    role: str, method: Method, ranking: Ranking, yardstick: Yardstick | None, names: tuple[str, str] = ("A", "B")
) -> Answer:
    """What one method's result on one pair means.

    Args:
        role: compared | control | planted | floor.
        method: which.
        ranking: its result on the pair.
        yardstick: of the same method; None where the study plants nothing.
        names: of the two models.
    """
    findings = ranking.findings
    if role in ("control", "floor"):
        return _same_model(findings, ranking)
    # For a method that plants its own change, a planted model is different like any other.
    if role == "planted" and yardstick is not None and not method.plants:
        return _planted(findings, yardstick.recovery)
    if findings:
        sides = [sum(each.candidate.side == side for each in findings) for side in ("B", "A")]
        split = f"{sides[0]} that {names[1]} has or has more of, {sides[1]} of {names[0]}"
        text = "; ".join([f"{counted(len(findings), 'finding')}: {split}", *filter(None, [caveats(findings)])])
        return Answer("found", text)
    if ranking.untestable:
        return Answer("untested", f"nothing can be said: {ranking.untestable}")
    return _silence(method, yardstick)


def caveats(findings: Sequence[Ranked]) -> str:
    """`3 of them marked domain shift`, `all of them ...`, or nothing."""
    counts = Counter(each.candidate.caveat for each in findings if each.candidate.caveat)
    shares = {caveat: "all" if n == len(findings) else str(n) for caveat, n in sorted(counts.items())}
    return ", ".join(f"{share} of them marked {caveat}" for caveat, share in shares.items())


def _same_model(findings: Sequence[Any], ranking: Ranking) -> Answer:
    if findings:
        return Answer("broken", f"{counted(len(findings), 'finding')} where nothing differs")
    return Answer("as_it_must", f"nothing found, as it must be ({counted(len(ranking.candidates), 'candidate')})")


def _planted(findings: Sequence[Any], recovery: Recovery) -> Answer:
    if recovery.written:
        more = (
            f"; {counted(recovery.elsewhere, 'other finding')} with |cos| below {SAME_DIRECTION}"
            if recovery.elsewhere
            else ""
        )
        return Answer(
            "recovered",
            f"the planted direction is found: {recovery.name}, |cos| {recovery.cosine:.2f}, rank {recovery.rank} of "
            f"{recovery.candidates}{more}",
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


def _silence(method: Method, yardstick: Yardstick | None) -> Answer:
    name = method.title
    if yardstick is None:
        return Answer(
            "unclear",
            "nothing found, and no planted pair shows whether it would have been: not enough training to tell",
        )
    if yardstick.differs:
        settings = ", ".join(yardstick.differs)
        return Answer(
            "unclear",
            f"nothing found; {yardstick.pair} was run with other settings ({settings}): not enough training to tell",
        )
    if not yardstick.recovery.written:
        return Answer(
            "unclear",
            f"nothing found, but the {name} missed the direction planted in {yardstick.pair} too: not enough "
            "training to tell",
        )
    return Answer(
        "none",
        f"no difference found; with the same settings the {name} found the direction planted in {yardstick.pair}",
    )
