"""The stage that puts all methods' scores together: one artifact, one table as text, one page.

    collect(scored, "leaderboard.h5", "leaderboard.tsv", "index.html", spec=spec, **settings)

The artifact is equal byte for byte for equal scores. Seconds and memory are measurements of one run on one machine:
they lie beside the benchmarks, and are joined in the table and the page alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.leaderboard import limits, section, summary
from diptych.leaderboard.summary import DoubleArray, Row
from diptych.storage import artifacts, tables

SCHEMA = 1
"""Version of the columns and quantities of leaderboard.tsv, which docs/leaderboard.md describes."""


@dataclass(frozen=True)
class Scores:
    """The scores of all methods.

    Attributes:
        titles: of the methods by name, in the order of the table.
        trained: names of those that train.
        rows: scores over seeds.
        p: by method and null, the p values of all that it tested there.
    """

    titles: Mapping[str, str]
    trained: Sequence[str]
    rows: Sequence[Row]
    p: Mapping[tuple[str, str], DoubleArray]


def collect(
    scored: Sequence[Mapping[str, str]],
    out: str | Path,
    table: str | Path,
    page: str | Path,
    *,
    spec: Mapping[str, Any],
    cases: Mapping[str, Mapping[str, Any]],
    unjudged: Mapping[str, str],
    budget: Mapping[str, Any],
) -> None:
    """Stage `collect_leaderboard`: write an artifact of kind "leaderboard", its text and its page.

    Args:
        scored: each {method, case, scores, cost}, the last two paths.
        out: path of the artifact.
        table: path of leaderboard.tsv.
        page: path of the page.
        spec: stored with the artifact.
        cases: by name {kind, shape}.
        unjudged: by title of a method that is not judged, why.
        budget: of the methods that train.
    """
    scores = _scores(scored, cases)
    curve = limits.limits(scores.rows, cases)
    with artifacts.create(out, "leaderboard", spec) as file:
        file.table("scores", summary.columns_of(scores.rows), nan="`note` says why")
        file.json("titles", list(scores.titles.items()))
        file.json("trained", list(scores.trained))
        file.json("above_nominal", summary.above_nominal(scores.rows))
        if curve:
            file.table("limits", limits.columns_of(curve), nan="not seen with power .8 at any size")
        for (method, case), p in scores.p.items():
            file.array(f"p/{method}/{case}", p)
    costs = [row for entry in scored for row in _costs(entry, cases[entry["case"]]["kind"])]
    columns = summary.columns_of([*scores.rows, *costs])
    n_rows = len(scores.rows) + len(costs)
    artifacts.write_text(table, tables.tsv({"schema": np.full(n_rows, SCHEMA), **columns}))
    artifacts.write_text(page, section.page(scores.titles, scores.rows, costs, scores.p, cases, unjudged, budget))


def _scores(scored: Sequence[Mapping[str, str]], cases: Mapping[str, Mapping[str, Any]]) -> Scores:
    """All scores, read from their artifacts."""
    described: dict[str, dict[str, Any]] = {}
    rows: list[Row] = []
    p: dict[tuple[str, str], DoubleArray] = {}
    for entry in scored:
        method, case, kind = entry["method"], entry["case"], cases[entry["case"]]["kind"]
        rows += summary.of_file(entry["scores"], method, case, kind)
        with artifacts.read(entry["scores"], "leaderboard_scores") as file:
            described[method] = artifacts.read_json(file, "method")
            if kind in ("noise", "halves", "swap"):
                p[method, case] = file["p"][:]
    titles = {method: entry["title"] for method, entry in described.items()}
    return Scores(titles, [method for method, entry in described.items() if entry["trains"]], rows, p)


def _costs(entry: Mapping[str, str], kind: str) -> list[Row]:
    """Processor seconds of a fit, mean and range over seeds, and peak memory of the process that made all of them."""
    path, nan = Path(entry["cost"]), float("nan")
    if not path.is_file():
        return []
    cost = json.loads(path.read_text(encoding="utf-8"))
    seconds = cost["processor_s"]
    if not seconds:
        return []
    row = Row(entry["method"], entry["case"], kind, "", nan, nan, nan, len(seconds), "")
    return [
        row._replace(quantity="processor_s", value=float(np.mean(seconds)), lo=min(seconds), hi=max(seconds)),
        row._replace(quantity="memory_mb", value=cost["peak_memory_mb"]),
    ]
