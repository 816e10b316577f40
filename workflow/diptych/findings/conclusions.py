"""What may be said: whether the control holds, what the planted truth shows of each method, and what follows.

Three questions stand between a list of candidates and an answer:

    control(files, rankings)             did a model compared with itself come out as no different, clause by clause?
    recovery(ranking, truth)             did this method write down a direction that is known to be there?
    answer(role, ranking, yardstick)     so what does it mean that it found something here, or nothing?
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.candidates.ranking import (
    SAME_DIRECTION,
    Candidate,
    Method,
    Ranking,
    SideName,
    Threshold,
    abs_cosine,
    has_sides,
    rank,
    template_rows,
)
from diptych.dictionaries import sae
from diptych.storage import artifacts

DoubleArray = npt.NDArray[np.float64]
Status = Literal["found", "none", "unclear", "untested", "as_it_must", "broken", "recovered", "missed"]

R2_TOLERANCE = 1e-6
R_TOLERANCE = 1e-3
DEAD = 0
LEAST_ALIGNMENT = 0.999
"""Bounds of the identical control (METHODS 0.4)."""
METHOD_NAMES: Mapping[Method, str] = {
    "linear_map": "linear map",
    "pairing": "feature pairing",
    "crosscoder": "crosscoder",
    "template": "template diff",
}


@dataclass(frozen=True)
class Clause:
    """One clause of the control: whether it holds (None: that method was not run) and the numbers behind it."""

    name: str
    holds: bool | None
    text: str


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


@dataclass(frozen=True)
class Answer:
    """What follows for one pair and method."""

    status: Status
    text: str


# --- the control --------------------------------------------------------------------------------------------------


def control(files: Mapping[str, Any], rankings: Mapping[Method, Ranking]) -> list[Clause]:
    """Every clause of the identical control (METHODS 0.4) on the pair of a model with itself."""
    clauses = [_map_clause(files), _pairing_clause(files), *_crosscoder_clauses(files), _template_clause(files)]
    found = {METHOD_NAMES[method]: len(ranking.findings) for method, ranking in rankings.items()}
    total = sum(found.values())
    what = ", ".join(f"{name} {count}" for name, count in found.items())
    clauses.append(Clause("no finding", total == 0 if rankings else None, f"findings: {what or 'no method was run'}"))
    return clauses


def holds(clauses: Sequence[Clause]) -> bool:
    """Whether some clause was tested and none is broken."""
    tested = [clause.holds for clause in clauses if clause.holds is not None]
    return bool(tested) and all(tested)


def _map_clause(files: Mapping[str, Any]) -> Clause:
    name = "the best map is the identity, and exact"
    if not files.get("linear_map"):
        return Clause(name, None, "no linear map was fitted")
    with artifacts.read(files["linear_map"], "linear_map") as file:
        verdicts = artifacts.read_json(file, "verdicts")
    best = [verdicts[direction]["best"] for direction in ("forward", "backward")]
    gap = max(abs(1 - verdicts[direction]["r2"]) for direction in ("forward", "backward"))
    text = f"best map {best[0]} there and {best[1]} back, |1 − R²| = {gap:.1e} (at most {R2_TOLERANCE:.0e})"
    return Clause(name, best == ["identity", "identity"] and gap <= R2_TOLERANCE, text)


def _pairing_clause(files: Mapping[str, Any]) -> Clause:
    name = "no eligible feature is unmatched"
    if not files.get("pairing"):
        return Clause(name, None, "no features were paired")
    with artifacts.read(files["pairing"], "pairing") as file:
        summary = artifacts.read_json(file, "summary")
    unmatched = [summary[f"status_{side}"]["unmatched"] for side in ("a", "b")]
    text = f"{unmatched[0]} of A and {unmatched[1]} of B unmatched, {_count(summary['matched'], 'pair')} matched"
    return Clause(name, sum(unmatched) == 0, text)


def _crosscoder_clauses(files: Mapping[str, Any]) -> list[Clause]:
    names = ("every latent is in both models alike", "sharedness is 1", "alignment is 1")
    runs = [run for run in files.get("crosscoders") or () if has_sides(run)]
    if not runs:
        return [Clause(name, None, "no crosscoder was trained") for name in names]
    return [clause for run in runs for clause in _run_clauses(run["latents"], names)]


def _run_clauses(latents: str, names: Sequence[str]) -> list[Clause]:
    with artifacts.read(latents, "latents") as file:
        r = file["latents/r"][:][file["latents/class"][:] != DEAD]
        shared = artifacts.read_json(file, "sharedness")["activation"] or 0.0
        aligned = artifacts.read_json(file, "alignment")["0-1"]
    gap = float(np.max(np.abs(r - 0.5))) if len(r) else float("nan")
    value = aligned["value"] if aligned["value"] is not None else aligned["raw"]
    return [
        Clause(
            names[0],
            gap <= R_TOLERANCE,
            f"max |r − .5| = {gap:.1e} over {_count(len(r), 'live latent')} (at most {R_TOLERANCE:.0e})",
        ),
        Clause(names[1], shared >= LEAST_ALIGNMENT, f"sharedness {shared:.5f} (at least {LEAST_ALIGNMENT})"),
        Clause(names[2], value >= LEAST_ALIGNMENT, f"alignment {value:.5f} (at least {LEAST_ALIGNMENT})"),
    ]


def _template_clause(files: Mapping[str, Any]) -> Clause:
    name = "every template p is 1"
    if not files.get("template_diffs"):
        return Clause(name, None, "no template diff was run")
    p = np.concatenate([_template_p(run["diff"]) for run in files["template_diffs"]])
    if not len(p):
        return Clause(name, None, "no feature fires at a template token")
    return Clause(name, bool((p == 1.0).all()), f"least p {p.min():.3g} of {_count(len(p), 'test')}")


def _template_p(path: str) -> DoubleArray:
    """p of every latent, role and metric of a template diff."""
    with artifacts.read(path, "template_diff") as file:
        metrics = artifacts.read_json(file, "metrics")
        roles = range(len(artifacts.read_json(file, "roles")))
        p: DoubleArray = np.concatenate([file[f"roles/{role}/{metric}/p"][:] for role in roles for metric in metrics])
    return p


# --- the planted truth --------------------------------------------------------------------------------------------


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
    cosines = np.array([abs_cosine(candidate.offer.direction, truth) for candidate in ranking.candidates])
    right = np.array([candidate.offer.side == side for candidate in ranking.candidates], dtype=bool)
    hits = np.flatnonzero(right & (cosines >= SAME_DIRECTION)).tolist()
    best = max(hits, key=lambda i: (ranking.candidates[i].stands, ranking.candidates[i].clears, -i), default=None)
    if best is None:
        place, cosine, name = 0, float(cosines[right].max()) if right.any() else float("nan"), ""
    else:
        offer = ranking.candidates[best].offer
        place, cosine, name = best + 1, float(cosines[best]), f"{offer.kind} {offer.id}"
    return Recovery(
        written=any(ranking.candidates[i].clears for i in hits),
        rank=place,
        cosine=cosine,
        average_precision=1 / (hits[0] + 1) if hits else 0.0,
        candidates=len(ranking.candidates),
        name=name,
        elsewhere=sum(each.stands for i, each in enumerate(ranking.candidates) if i not in hits),
    )


def template_recovery(run: Mapping[str, Any], threshold: Threshold) -> Recovery | None:
    """Whether a template diff wrote down the change planted at every one of its roles; None if it planted none.

    The place is the worst of the roles'; each role's candidates are ranked alone.
    """
    with artifacts.read(run["diff"], "template_diff") as file:
        planted = artifacts.read_json(file, "summary")["planted"]
    if planted is None:
        return None
    W_dec = sae.load(Path(run["dictionary"]).parent).W_dec
    rows = template_rows(run, "planted")
    seen = []
    for role, latent in planted["latents"].items():
        mine = [row for row in rows if row.place == role]
        seen.append(recovery(rank(mine, threshold), W_dec[latent].astype(np.float64)))
    return Recovery(
        written=all(one.written for one in seen),
        rank=max(one.rank for one in seen) if all(one.rank for one in seen) else 0,
        cosine=float(np.min([one.cosine for one in seen])),
        average_precision=float(np.mean([one.average_precision for one in seen])),
        candidates=sum(one.candidates for one in seen),
        name=", ".join(one.name for one in seen),
        elsewhere=sum(one.elsewhere for one in seen),
    )


# --- what follows -------------------------------------------------------------------------------------------------


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
    found = ranking.findings
    if role in ("control", "floor"):
        return _same_model(found, ranking)
    # A planted model's edit is on words of the text: at template tokens it is a difference like any other.
    if role == "planted" and yardstick is not None and method != "template":
        return _planted(found, yardstick.recovery)
    if found:
        sides = [sum(candidate.offer.side == side for candidate in found) for side in ("B", "A")]
        split = f"{sides[0]} that {names[1]} has or has more of, {sides[1]} of {names[0]}"
        said = "; ".join([f"{_count(len(found), 'finding')}: {split}", *filter(None, [caveats(found)])])
        return Answer("found", said)
    if ranking.untestable:
        return Answer("untested", f"nothing can be said: {ranking.untestable}")
    return _silence(method, yardstick)


def caveats(found: Sequence[Candidate]) -> str:
    """`3 of them marked domain shift`, `all of them ...`, or nothing."""
    counts = Counter(candidate.offer.caveat for candidate in found if candidate.offer.caveat)
    shares = {caveat: "all" if n == len(found) else str(n) for caveat, n in sorted(counts.items())}
    return ", ".join(f"{share} of them marked {caveat}" for caveat, share in shares.items())


def _same_model(found: Sequence[Any], ranking: Ranking) -> Answer:
    if found:
        return Answer("broken", f"{_count(len(found), 'finding')} where nothing differs")
    return Answer("as_it_must", f"nothing found, as it must be ({_count(len(ranking.candidates), 'candidate')})")


def _planted(found: Sequence[Any], seen: Recovery) -> Answer:
    if seen.written:
        more = (
            f"; {_count(seen.elsewhere, 'other finding')} with |cos| below {SAME_DIRECTION}" if seen.elsewhere else ""
        )
        return Answer(
            "recovered",
            f"the planted direction is found: {seen.name}, |cos| {seen.cosine:.2f}, rank {seen.rank} of "
            f"{seen.candidates}{more}",
        )
    if seen.rank:
        why = f"{seen.name} points along it (|cos| {seen.cosine:.2f}, rank {seen.rank}) but does not stand as a finding"
    elif not seen.candidates:
        why = "the method put nothing forward"
    else:
        why = f"nothing points along it (largest |cos| {seen.cosine:.2f} of {_count(seen.candidates, 'candidate')})"
    return Answer("missed", f"the planted direction is missed: {why}; {_count(len(found), 'finding')} in all")


def _silence(method: Method, yardstick: Yardstick | None) -> Answer:
    name = METHOD_NAMES[method]
    if yardstick is None:
        return Answer(
            "unclear",
            "nothing found, and no planted pair shows whether it would have been: not enough training to tell",
        )
    if yardstick.differs:
        what = ", ".join(yardstick.differs)
        return Answer(
            "unclear",
            f"nothing found; {yardstick.pair} was run with other settings ({what}): not enough training to tell",
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


def _count(n: int, what: str) -> str:
    return f"{n:,} {what if n == 1 else what + 's'}"
