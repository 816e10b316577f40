"""Cases of the leaderboard: planted pairs of a shape, and nulls of the same shape in which nothing differs.

pair = make("planted", 0, shape)          # a `PlantedPair`
make("swap", 0, shape)                    # the same pair with the models' labels swapped in half of the documents
"""

from collections.abc import Callable, Mapping
from typing import Any

from diptych.leaderboard.kinds import PLANTED, Kind
from diptych.oracle import planted
from diptych.oracle.planted import PlantedPair


def make(kind: Kind, seed: int, shape: Mapping[str, Any]) -> PlantedPair:
    """The pair of a case.

    Args:
        kind: of the case.
        seed: of all draws.
        shape: arguments of `planted.make_pair`, ranges as lists; a null but `swap` has no labels.
    """
    shape = {**shape, "labels": {name: _tuples(amount) for name, amount in shape["labels"].items()}}
    if kind in PLANTED:
        return planted.make_pair(seed, **shape)
    if kind == "swap":
        return planted.swap_labels(planted.make_pair(seed, **shape), seed)
    makers: Mapping[str, Callable[..., PlantedPair]] = {
        "identical": planted.identical_pair,
        "noise": planted.make_pair,
        "halves": planted.half_rounded_pair,
    }
    return makers[kind](seed, **{**shape, "labels": {}})


def _tuples(amount: Any) -> Any:
    """Lists, as a spec holds them, as tuples."""
    return tuple(map(_tuples, amount)) if isinstance(amount, list) else amount


def shares_basis(kind: Kind, shape: Mapping[str, Any]) -> bool:
    """Whether both models' rows are in one basis, so that they can be subtracted and exchanged."""
    return kind in ("identical", "halves") or bool(shape["same_map"])


def expected_active(shape: Mapping[str, Any]) -> int:
    """Number of true features that are active on a row on average, rounded; at least 1."""
    rates: list[float] = [shape["rate"] * j ** -shape["zipf"] for j in range(1, shape["n_features"] + 1)]
    return max(1, round(sum(rates)))
