"""Detection limits: the smallest difference that a method reports with power .8, by the number of tokens it had.

    curve = limits(rows, cases)                          # one `Limit` a method and number of tokens
    smallest_seen(curve, "linear_map", tokens=30_000)    # share of a model's variance, .004; NaN if none was seen

A difference is a direction that one model alone has; its size is the share of that model's variance that it carries.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diptych.leaderboard.summary import Row

POWER = 0.8
"""Share of the planted features that a method has to report."""


class Limit(NamedTuple):
    """Detection limit of one method at one number of tokens.

    Attributes:
        method: name of the entry.
        tokens: rows of the pair.
        share: smallest share of variance from which on, at all larger sizes too, power is at least .8; NaN if at none.
        power: at that size; NaN if at none.
        least: smallest share that was planted: a limit equal to it is an upper bound.
    """

    method: str
    tokens: int
    share: float
    power: float
    least: float


def limits(rows: Sequence[Row], cases: Mapping[str, Mapping[str, Any]]) -> list[Limit]:
    """The limits of all methods that report, from the cases of kind "limit"; by method, then tokens."""
    values = {(row.method, row.case, row.quantity): row.value for row in rows if row.kind == "limit"}
    sizes: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for method, case, quantity in values:
        power = values.get((method, case, "reported_recall"), float("nan"))
        if quantity == "planted_share" and power == power:
            shape = cases[case]["shape"]
            tokens = shape["n_documents"] * shape["tokens_per_document"]
            sizes.setdefault((method, tokens), []).append((values[method, case, quantity], power))
    return [_limit(method, tokens, sorted(powers)) for (method, tokens), powers in sorted(sizes.items())]


def _limit(method: str, tokens: int, powers: Sequence[tuple[float, float]]) -> Limit:
    """The limit from (share, power), smallest share first."""
    limit = Limit(method, tokens, float("nan"), float("nan"), powers[0][0])
    for share, power in reversed(powers):
        if power < POWER:
            break
        limit = limit._replace(share=share, power=power)
    return limit


def smallest_seen(curve: Sequence[Limit], method: str, tokens: int) -> float:
    """The limit of a method at the largest measured number of tokens that is no more than `tokens`; NaN if none is."""
    measured = [limit for limit in curve if limit.method == method and limit.tokens <= tokens]
    return max(measured, key=lambda limit: limit.tokens).share if measured else float("nan")
