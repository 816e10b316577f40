"""The table of detection limits and false discoveries that reports print, from a leaderboard that measured them.

    python -m diptych.leaderboard.export results/limits/leaderboard/leaderboard.h5

writes it into the package (`candidates.detection`); `make limits` measures and exports.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.candidates import detection
from diptych.candidates.detection import Detection, Limit, Measured, Null
from diptych.leaderboard import limits, summary
from diptych.leaderboard.summary import Row
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

DIGITS = 4
"""Significant digits of a share."""


def table_of(leaderboard: str | Path) -> Detection:
    """Limits and false discoveries of all methods that report, from an artifact of kind "leaderboard".

    Raises:
        DiptychError: it measured no limit.
    """
    with artifacts.read(leaderboard, "leaderboard") as file:
        rows = summary.rows_of(artifacts.read_table(file, "scores"))
        curve = limits.rows_of(artifacts.read_table(file, "limits")) if "limits" in file else []
        titles, trained = dict(artifacts.read_json(file, "titles")), artifacts.read_json(file, "trained")
        marked = artifacts.read_json(file, "above_nominal")
    if not curve:
        raise DiptychError(f"{leaderboard}: no detection limit was measured; set `leaderboard.limit_documents`")
    settings = artifacts.spec_of(leaderboard)["settings"]
    shape = next(case["shape"] for case in settings["cases"].values() if case["kind"] == "limit")
    methods = {}
    for name, title in titles.items():
        seen = tuple(_rounded(limit) for method, limit in curve if method == name)
        nulls = tuple(_nulls(rows, name, marked.get(name, ())))
        if seen or nulls:
            methods[name] = Measured(title, settings["budget"]["steps"] if name in trained else 0, seen, nulls)
    return Detection(shape["d_A"], _settings(shape, settings["budget"]), methods)


def _nulls(rows: Sequence[Row], method: str, marked: Sequence[str]) -> list[Null]:
    """Counts of false discoveries by null."""
    mine = {(row.case, row.quantity): row for row in rows if row.method == method and row.seeds}
    return [
        Null(row.kind, row.seeds, _count(row), _count(mine[case, "any_reported"]), case in marked)
        for (case, quantity), row in mine.items()
        if quantity == "any_significant"
    ]


def _count(row: Row) -> int:
    return round(row.value * row.seeds)


def _rounded(limit: Limit) -> Limit:
    share = None if limit.share is None else _digits(limit.share)
    counts = limit.tokens, limit.documents
    return Limit(*counts, share, limit.found, limit.planted, _digits(limit.least), _digits(limit.most))


def _digits(share: float) -> float:
    return float(f"{share:.{DIGITS}g}")


def _settings(shape: Mapping[str, Any], budget: Mapping[str, Any]) -> dict[str, Any]:
    """What the pairs and trainings were, apart from sizes and numbers of documents."""
    pairs = {key: value for key, value in shape.items() if key not in ("n_documents", "labels")}
    exclusive = {name: amount[0] for name, amount in shape["labels"].items()}
    return {"pairs": {**pairs, "labels": exclusive}, "budget": dict(budget)}


def main() -> None:
    """Export the leaderboard named on the command line."""
    if len(sys.argv) not in (2, 3):
        sys.exit("export: give a leaderboard.h5, and maybe where to write (default: into the package)")
    out = Path(sys.argv[2]) if len(sys.argv) == 3 else detection.PATH
    artifacts.write_text(out, detection.as_text(table_of(sys.argv[1])))
    print(f"detection limits: {out}")


if __name__ == "__main__":
    main()
