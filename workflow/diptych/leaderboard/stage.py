"""The stage that scores one method on one case of the leaderboard, over the case's seeds.

    score("linear_map", table.load("linear_map"), case, "linear_map/tuned.h5", spec=spec, seeds=seeds, budget=budget)

Scores are an artifact with the same bytes for the same inputs; processor seconds and memory lie beside the benchmarks.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diptych.leaderboard import cases, scores
from diptych.leaderboard.kinds import PLANTED, Kind
from diptych.oracle import entry as protocol
from diptych.oracle.entry import Budget, Entry, Fit, ProtocolError
from diptych.runtime import accounting, logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.storage.canonical import canonical_json

ONE_BASIS = "it needs one basis for both models, and these have their own"


@dataclass(frozen=True)
class Case:
    """A case: its name, its kind, and arguments of `planted.make_pair`."""

    name: str
    kind: Kind
    shape: Mapping[str, Any]


class Seeds(NamedTuple):
    """Numbers of pairs: of a planted case, of a null, and of a null for a method that trains."""

    planted: int
    null: int
    trained_null: int

    def number(self, entry: Entry, case: Case) -> int:
        """Number of pairs on which a method is scored."""
        return self.planted if case.kind in PLANTED else self.trained_null if entry.trains else self.null


def score(
    name: str,
    entry: Entry,
    case: Case,
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    seeds: Seeds,
    budget: Mapping[str, Any],
    cost: str | Path | None = None,
) -> None:
    """Stage `score_method`: write an artifact of kind "leaderboard_scores".

    Args:
        name: of the entry.
        entry: the method.
        case: the pairs.
        out: path of the artifact.
        spec: stored with it.
        seeds: numbers of pairs; pair i is of seed i, which also seeds the method.
        budget: fields of `Budget`; a `k` of None is the number of true features active on a row.
        cost: path of a JSON file for the processor seconds of each fit and the peak memory of this process.
    """
    size = Budget(**{**budget, "k": budget["k"] or cases.expected_active(case.shape)})
    absent = ONE_BASIS if entry.one_basis and not cases.shares_basis(case.kind, case.shape) else ""
    runs = [] if absent else [_run(name, entry, case, seed, size) for seed in range(seeds.number(entry, case))]
    with artifacts.create(out, "leaderboard_scores", spec) as file:
        has_test = any(run.tests for run in runs)
        method = {"title": entry.title, "trains": entry.trains, "one_basis": entry.one_basis, "has_test": has_test}
        file.json("method", method)
        file.json("absent", absent)
        file.json("failed", {str(seed): run.failure for seed, run in enumerate(runs) if run.failure})
        file.json("reasons", scores.reasons(entry.blind, has_test=has_test))
        names = list(dict.fromkeys(column for run in runs for column in run.scores))
        columns = {column: np.array([run.scores.get(column, np.nan) for run in runs]) for column in names}
        file.table("scores", columns, nan="the method has no such score, or failed on this pair")
        file.array("p", np.concatenate([np.zeros(0), *(run.p for run in runs)]))
    if cost is not None:
        peak = accounting.usage().peak_memory_mb
        seconds = [run.seconds for run in runs]
        artifacts.write_text(cost, canonical_json({"processor_s": seconds, "peak_memory_mb": peak}) + "\n")


@dataclass(frozen=True)
class _Run:
    """Scores on one pair, tested p values, whether it tests at all, processor seconds, why it failed or ""."""

    scores: Mapping[str, float]
    p: np.ndarray[Any, np.dtype[np.float64]]
    tests: bool
    seconds: float
    failure: str = ""


def _run(name: str, entry: Entry, case: Case, seed: int, budget: Budget) -> _Run:
    """Fit the method on the pair of one seed. A method that refuses a pair has failed on it; that is a result."""
    pair = cases.make(case.kind, seed, case.shape)
    context = {"document": pair.document, "seed": seed, "budget": budget, "case": case.name}
    started = time.process_time()
    try:
        fit = protocol.call(entry, name, pair.x_A, pair.x_B, context)
    except ProtocolError:
        raise
    except DiptychError as error:
        logs.logger.warning("%s on %s, seed %d: %s", name, case.name, seed, error)
        return _Run({}, np.zeros(0), False, time.process_time() - started, str(error))
    seconds = time.process_time() - started
    logs.logger.info("%s on %s, seed %d: %d directions, %.1f s", name, case.name, seed, len(fit.side), seconds)
    measured = scores.of_planted(fit, pair) if case.kind in PLANTED else scores.of_null(fit)
    return _Run(measured, _tested(fit), fit.p is not None, seconds)


def _tested(fit: Fit) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The p values that are known."""
    p = np.asarray([] if fit.p is None else fit.p, dtype=np.float64)
    return p[np.isfinite(p)]
