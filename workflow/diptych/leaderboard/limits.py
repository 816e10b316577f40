"""Detection limits: the smallest difference that a method reports with power .8, by the number of tokens it had.

    curve = limits(rows, cases)                 # one `MethodLimit` a method and number of tokens
    curve[0].limit.share                        # share of a model's variance, .004; None if none was seen

A difference is a direction that one model alone has; its size is the share of that model's variance that it carries.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.candidates.detection import Limit
from diptych.leaderboard.summary import Row

POWER = 0.8
"""Share of the planted features that a method has to report."""
EXCLUSIVE = ("only_A", "only_B")
"""Labels of the features that are to be found."""


class MethodLimit(NamedTuple):
    """The limit of one method, by the name of its entry, at one number of tokens."""

    method: str
    limit: Limit


class _Point(NamedTuple):
    """A size: the share that is planted, the share of the directions that is reported, and how many they are."""

    share: float
    power: float
    planted: int


def limits(rows: Sequence[Row], cases: Mapping[str, Mapping[str, Any]]) -> list[MethodLimit]:
    """The limits of all methods that report, from the cases of kind "limit"; by method, then tokens."""
    by_key = {(row.method, row.case, row.quantity): row for row in rows if row.kind == "limit"}
    points: dict[tuple[str, int, int], list[_Point]] = {}
    for method, case, quantity in by_key:
        reported = by_key.get((method, case, "reported_recall"))
        if quantity == "planted_share" and reported is not None and np.isfinite(reported.value):
            shape, share = cases[case]["shape"], by_key[method, case, quantity].value
            documents = shape["n_documents"]
            key = method, documents * shape["tokens_per_document"], documents
            points.setdefault(key, []).append(_Point(share, reported.value, reported.seeds * _exclusive(shape)))
    return [
        MethodLimit(method, _limit(tokens, documents, sorted(sizes)))
        for (method, tokens, documents), sizes in sorted(points.items())
    ]


def _exclusive(shape: Mapping[str, Any]) -> int:
    """Features of a pair that one model alone has."""
    return sum(int(shape["labels"][name][0]) for name in EXCLUSIVE if name in shape["labels"])


def _limit(tokens: int, documents: int, points: Sequence[_Point]) -> Limit:
    """The limit from its points, smallest share first."""
    seen: _Point | None = None
    for point in reversed(points):
        if point.power < POWER:
            break
        seen = point
    at = seen or points[-1]
    share = None if seen is None else seen.share
    found = round(at.power * at.planted)
    return Limit(tokens, documents, share, found, at.planted, least=points[0].share, most=points[-1].share)


def columns_of(curve: Sequence[MethodLimit]) -> dict[str, npt.NDArray[Any]]:
    """Limits as the columns of a table; NaN where none was seen."""
    names = ("tokens", "documents", "share", "found", "planted", "least", "most")
    columns: dict[str, npt.NDArray[Any]] = {"method": np.array([method for method, _ in curve], dtype=object)}
    for name in names:
        is_share = name in ("share", "least", "most")
        values = [getattr(limit, name) for _, limit in curve]
        columns[name] = np.array(values, dtype=np.float64 if is_share else np.int64)
    return columns


def rows_of(columns: Mapping[str, npt.NDArray[Any]]) -> list[MethodLimit]:
    """The limits of a table's columns."""
    fields = [name for name in columns if name != "method"]
    curve = []
    for i, method in enumerate(columns["method"]):
        values = {name: columns[name][i].item() for name in fields}
        share = values.pop("share")
        curve.append(MethodLimit(str(method), Limit(share=None if np.isnan(share) else share, **values)))
    return curve
