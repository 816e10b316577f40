"""Scores over seeds: means with 95 % intervals, rates of false discoveries with theirs, and reasons for what is absent.

rows = [row for path in paths for row in of_file(path, "linear_map", "one_basis", "planted")]
rows[0].value, rows[0].lo, rows[0].hi, rows[0].note
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from diptych.leaderboard import kinds
from diptych.oracle.entry import NOMINAL
from diptych.storage import artifacts

DoubleArray = npt.NDArray[np.float64]

LEVEL = 0.95
"""Of the intervals."""
MARK_LEVEL = 0.99
"""Of the interval by which a method is marked: of some thirty rates, one or two would miss a 95 % one by chance."""
RATES = ("any_significant", "any_reported")
"""Scores of a null that are 0 or 1."""
UNBOUNDED = ("l0", "tests")
"""Scores that are no share and no correlation."""
CORRELATIONS = ("angle", "scale", "frequency")
PLANTED = (
    *("average_precision", "recall_at_5", "reported_recall", "reported_false"),
    *(f"{kind}_{name}" for kind in ("span", "chance") for name in ("1", "K", "2K", "4K")),
    *("angle", "angle_coverage", "scale", "scale_coverage", "frequency", "frequency_coverage", "l0", "planted_share"),
)
"""Scores on a planted case, in the order of the table."""
UNKNOWN: Mapping[str, str] = {
    **dict.fromkeys(("reported_recall", "reported_false", *RATES, "share_p_05"), "nothing could be tested"),
    **dict.fromkeys(CORRELATIONS, "it matches fewer than three of the changed features"),
    "l0": "it has no sparse code",
}
"""Why a score that a method may have is not known on any pair."""
NULL = ("any_significant", "any_reported", "tests", "share_p_05")
"""Scores on a null."""


class Row(NamedTuple):
    """One quantity of one method on one case.

    Attributes:
        method: name of the entry.
        case: name of the case.
        kind: of the case.
        quantity: name of the score.
        value: mean over seeds; NaN where the method has no such score.
        lo, hi: 95 % interval over seeds, of a rate by Clopper and Pearson, else by Student's t; NaN for one seed.
        seeds: seeds with a value.
        note: why there is none, or what happened on some seeds.
    """

    method: str
    case: str
    kind: str
    quantity: str
    value: float
    lo: float
    hi: float
    seeds: int
    note: str


def of_file(path: str | Path, method: str, case: str, kind: kinds.Kind) -> list[Row]:
    """The rows of one artifact of kind "leaderboard_scores"."""
    with artifacts.read(path, "leaderboard_scores") as file:
        absent = artifacts.read_json(file, "absent")
        reasons = artifacts.read_json(file, "reasons")
        failed = artifacts.read_json(file, "failed")
        columns = artifacts.read_table(file, "scores")
    failure = "; ".join(f"failed on seed {seed}: {error}" for seed, error in sorted(failed.items()))
    rows = []
    for quantity in PLANTED if kind in kinds.PLANTED else NULL:
        values = columns.get(quantity, np.full(0, np.nan))
        known = values[np.isfinite(values)]
        note = absent or (failure if not columns else reasons.get(quantity, "")) or failure
        if quantity not in columns and columns:
            continue
        if quantity in reasons:
            known = known[:0]
        if not len(known):
            note = note or UNKNOWN.get(quantity, "")
        rows.append(Row(method, case, kind, quantity, *_interval(quantity, known), len(known), note))
    return rows


def _interval(quantity: str, values: DoubleArray) -> tuple[float, float, float]:
    """Mean and its 95 % interval."""
    n = len(values)
    if n == 0:
        return float("nan"), float("nan"), float("nan")
    mean = float(values.mean())
    if quantity in RATES:
        return mean, *rate_interval(round(values.sum()), n)
    if n == 1:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    if quantity in UNBOUNDED:
        return mean, max(0.0, mean - half), mean + half
    lowest = -1.0 if quantity in CORRELATIONS else 0.0
    return mean, max(lowest, mean - half), min(1.0, mean + half)


def rate_interval(count: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact (Clopper-Pearson) interval of a rate of which `count` of n were seen."""
    interval = stats.binomtest(int(count), n).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def above_nominal(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Methods whose rate of false discoveries is above nominal on some null, with the names of these.

    A method is marked where the lower end of the 99 % interval of the share of pairs on which anything has q <= .05
    is above .05.
    """
    marked: dict[str, list[str]] = {}
    for row in rows:
        if row.quantity == "any_significant" and row.seeds:
            low, _ = rate_interval(round(row.value * row.seeds), row.seeds, MARK_LEVEL)
            if low > NOMINAL:
                marked.setdefault(row.method, []).append(row.case)
    return marked


def columns_of(rows: Sequence[Row]) -> dict[str, npt.NDArray[Any]]:
    """Rows as the columns of a table."""
    types: Mapping[str, Any] = {"value": np.float64, "lo": np.float64, "hi": np.float64, "seeds": np.int64}
    return {name: np.array([getattr(row, name) for row in rows], dtype=types.get(name, object)) for name in Row._fields}


def rows_of(columns: Mapping[str, npt.NDArray[Any]]) -> list[Row]:
    """The rows of a table's columns."""
    values = zip(*(columns[name].tolist() for name in Row._fields), strict=True)
    return [Row(*row) for row in values]
