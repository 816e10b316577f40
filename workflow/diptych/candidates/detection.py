"""What each method can see: its detection limits and its false discoveries, as measured once on planted pairs.

    detection = read()                                      # the table that ships, beside this module
    measured = detection.methods["linear_map"]              # by the names of the leaderboard's entries
    measured.seen_with(36_864)                              # the `Limit` that holds for so many tokens
    measured.is_above_nominal

A limit is of a direction that one model alone has; its size is the share of that model's variance that it carries.
`make limits` measures all of it anew (docs/leaderboard.md).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diptych.runtime.errors import DiptychError

PATH = Path(__file__).with_name("detection.json")
"""The table that ships."""
SCHEMA = 1
"""Version of the keys of the file, which docs/leaderboard.md describes."""


@dataclass(frozen=True)
class Limit:
    """Detection limit of one method at one number of tokens.

    Attributes:
        tokens: rows of the pair.
        documents: that they are in.
        share: smallest share of variance from which on, at all larger sizes too, the method reports 80 % of what is
            planted; None if at none.
        found: directions that it reports at that size; at the largest size if `share` is None.
        planted: directions that are planted at that size, over all pairs.
        least: smallest share that was planted: a limit equal to it is an upper bound.
        most: largest share that was planted.
    """

    tokens: int
    documents: int
    share: float | None
    found: int
    planted: int
    least: float
    most: float


@dataclass(frozen=True)
class Null:
    """False discoveries of one method on one kind of pairs in which nothing differs.

    Attributes:
        kind: of the pairs, `noise`, `halves` or `swap`.
        pairs: that were tested.
        significant: pairs on which anything had q <= .05.
        reported: pairs on which a difference was reported.
        above_nominal: whether the 99 % interval of `significant` lies above .05.
    """

    kind: str
    pairs: int
    significant: int
    reported: int
    above_nominal: bool


@dataclass(frozen=True)
class Measured:
    """What was measured of one method.

    Attributes:
        title: its name in running text.
        steps: optimiser steps that it was trained for; 0 if it does not train.
        limits: by increasing number of tokens.
        nulls: kind by kind.
    """

    title: str
    steps: int
    limits: Sequence[Limit]
    nulls: Sequence[Null]

    def seen_with(self, tokens: int) -> Limit | None:
        """The limit at the largest measured number of tokens that is no more than `tokens`; None if none is."""
        return max((each for each in self.limits if each.tokens <= tokens), key=lambda each: each.tokens, default=None)

    @property
    def fewest(self) -> Limit | None:
        """The limit at the smallest measured number of tokens; None if none was measured."""
        return min(self.limits, key=lambda each: each.tokens, default=None)

    @property
    def is_above_nominal(self) -> bool:
        """Whether the method is marked on every report."""
        return any(null.above_nominal for null in self.nulls)


@dataclass(frozen=True)
class Detection:
    """The table.

    Attributes:
        width: of the planted pairs.
        settings: what else the pairs and trainings were: for a reader.
        methods: by the name of the leaderboard's entry.
    """

    width: int
    settings: Mapping[str, Any]
    methods: Mapping[str, Measured]


NOTHING = Detection(0, {}, {})
"""A table in which nothing was measured."""


def read(path: str | Path = PATH) -> Detection:
    """Read a table.

    Raises:
        DiptychError: it is of another version.
    """
    text = json.loads(Path(path).read_text(encoding="utf-8"))
    if text.get("schema") != SCHEMA:
        raise DiptychError(
            f"{path}: detection limits of schema {text.get('schema')}, this version reads {SCHEMA}; run `make limits`"
        )
    methods = {
        name: Measured(
            entry["title"],
            entry["steps"],
            tuple(sorted((Limit(**limit) for limit in entry["limits"]), key=lambda limit: limit.tokens)),
            tuple(Null(**null) for null in entry["nulls"]),
        )
        for name, entry in text["methods"].items()
    }
    return Detection(text["width"], text["settings"], methods)


def as_text(detection: Detection) -> str:
    """The file of a table: JSON with sorted keys, a line a value, so that two versions can be compared line by line."""
    return json.dumps({"schema": SCHEMA, **asdict(detection)}, indent=1, sort_keys=True, allow_nan=False) + "\n"


def markdown(detection: Detection) -> str:
    """The table for docs/leaderboard.md: limits by method and tokens, and false discoveries."""
    tokens = sorted({limit.tokens for each in detection.methods.values() for limit in each.limits})
    nulls = list(dict.fromkeys(null.kind for each in detection.methods.values() for null in each.nulls))
    head = ["method", "steps", *(f"{n:,} tokens" for n in tokens), *nulls]
    rows = [
        [
            f"{each.title} ▲" if each.is_above_nominal else each.title,
            f"{each.steps:,}" if each.steps else "–",
            *(_limit_text(limit) for limit in (_at(each.limits, n) for n in tokens)),
            *(_null_text([null for null in each.nulls if null.kind == kind]) for kind in nulls),
        ]
        for each in detection.methods.values()
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])


def _at(limits: Sequence[Limit], tokens: int) -> Limit | None:
    return next((limit for limit in limits if limit.tokens == tokens), None)


def _limit_text(limit: Limit | None) -> str:
    if limit is None:
        return "–"
    sign, share = ("> ", limit.most) if limit.share is None else ("≤ " * (limit.share == limit.least), limit.share)
    return f"{sign}{100 * share:.2g} % ({limit.found} of {limit.planted})"


def _null_text(nulls: Sequence[Null]) -> str:
    return f"{nulls[0].significant} of {nulls[0].pairs}" if nulls else "–"
