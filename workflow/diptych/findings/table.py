"""The table of findings: every reported candidate with its legs and contexts, in the order in which they are read.

    entries = ordered(entry for ...)
    columns(entries)["weakest_leg"]         # one value per entry, by name of the column (`findings.schema`)

**Order.** Effects of different methods have different units, and one method may report hundreds: a table by effect or
by one margin is a table of that method. So findings are ranked within a pair and method, by their weakest leg (METHODS
9), and the table goes round: the best of every pair and method, then the second of each, and so on. Within a round
pairs of models that are compared come before those with known truth, and then the strongest weakest leg first. What is
not repeated comes after all findings, what cannot be told after that.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.candidates.leg import Leg, weakest
from diptych.candidates.ranking import Ranked, Status, Threshold
from diptych.findings import legs, schema
from diptych.findings.legs import NOT_REPEATED, Evidence
from diptych.methods import Method
from diptych.steering import effects
from diptych.steering.effects import Steering
from diptych.text.contexts import Text

STATUSES: tuple[Status, ...] = ("finding", "not repeated", "cannot be told")
"""In the order of the table."""
TEXTS = 3
"""Contexts per finding in the table."""
ROWS = 20
"""Token rows stored per finding, from which a reader takes contexts."""
LEG_COLUMNS = ("finding", "leg", "state", "value", "margin", "reason")
"""The table of legs: six rows for each finding, `finding` being its place in the table of findings."""


@dataclass(frozen=True)
class Entry:
    """A reported candidate of one pair and method.

    Attributes:
        pair: as for `stage.collect`.
        method: that proposed it.
        ranked: the candidate in its family.
        legs: its six legs.
        rows: token rows where it is strongest, at most `ROWS`.
        contexts: the text there.
        rank: its place among the entries of its pair and method, from 1.
    """

    pair: Mapping[str, Any]
    method: Method
    ranked: Ranked
    legs: tuple[Leg, ...]
    rows: npt.NDArray[np.int64]
    contexts: str
    rank: int = 0


class Reader:
    """Reads what stands behind candidates: the text and the effects of steering; each file once."""

    def __init__(self) -> None:
        self._texts: dict[str, Text] = {}
        self._steered: dict[str, Steering] = {}

    def entry(
        self, pair: Mapping[str, Any], method: Method, ranked: Ranked, threshold: Threshold, control: float
    ) -> Entry:
        """The entry of a reported candidate; `control` as in `legs.Evidence`."""
        candidate, files = ranked.candidate, pair["files"]
        text = self._text(candidate.tokens or str(files[f"tokens_{candidate.side.lower()}"]))
        rows = candidate.rows[:ROWS]
        key = (candidate.side, method.name, candidate.id)
        steered = self._steering(files["steering"]) if files.get("steering") else None
        effect = steered.causal.get(key) if steered else None
        promoted = steered.promoted.get(key, ()) if steered else ()
        evidence = Evidence(control, effect, text.words(rows), promoted)
        contexts = text.contexts(rows, np.zeros(len(rows)), count=TEXTS)
        shown = " | ".join(context.plain() for context in contexts)
        return Entry(pair, method, ranked, legs.legs_of(ranked, threshold, evidence), rows, shown)

    def _text(self, tokens: str) -> Text:
        self._texts[tokens] = self._texts.get(tokens) or Text(tokens)
        return self._texts[tokens]

    def _steering(self, path: str) -> Steering:
        self._steered[path] = self._steered.get(path) or effects.read(path)
        return self._steered[path]


def ordered(entries: Iterable[Entry]) -> list[Entry]:
    """The entries with their ranks, in the order of the table."""
    best_first = sorted(entries, key=lambda entry: (_status(entry), *(-margin for margin in legs.strength(entry.legs))))
    count: Counter[tuple[str, str]] = Counter()
    ranked = []
    for entry in best_first:
        count[_group(entry)] += 1
        ranked.append(replace(entry, rank=count[_group(entry)]))
    return sorted(ranked, key=lambda entry: (_status(entry), entry.rank, entry.pair["role"] != "compared"))


def _status(entry: Entry) -> int:
    return STATUSES.index(entry.ranked.status)


def _group(entry: Entry) -> tuple[str, str]:
    return entry.pair["name"], entry.method.name


def columns(entries: Sequence[Entry]) -> dict[str, list[Any]]:
    """The columns of `schema.COLUMNS`."""
    rows = [_row(entry) for entry in entries]
    return {name: [row[name] for row in rows] for name in schema.NAMES}


def _row(entry: Entry) -> dict[str, Any]:
    by_name = {each.name: each for each in entry.legs}
    least = weakest(entry.legs)
    return {
        **entry.ranked.candidate._asdict(),
        "pair": entry.pair["name"],
        "site": site_of(entry.pair),
        "method": entry.method.name,
        "status": entry.ranked.status,
        "rank": entry.rank,
        "q": entry.ranked.q,
        "seeds": entry.ranked.seeds,
        "causal": by_name["causal"].value,
        "readable": by_name["readable"].value,
        "weakest_leg": least.name,
        "weakest": least.strength,
        **{schema.state_column(each.name): each.state for each in entry.legs},
        "legs": "; ".join(f"{each.name} {each.state}: {each.reason}" for each in entry.legs),
        "contexts": entry.contexts,
        "note": _note(entry.ranked),
    }


def _note(ranked: Ranked) -> str:
    """Why a candidate is reported and is no finding, and what would tell."""
    if ranked.status == "cannot be told":
        return f"{ranked.candidate.caveat}: {ranked.candidate.remedy}"
    return NOT_REPEATED if ranked.status == "not repeated" else ""


def leg_columns(entries: Sequence[Entry]) -> dict[str, Any]:
    """The table of legs, `LEG_COLUMNS`."""
    rows = [(i, *each) for i, entry in enumerate(entries) for each in entry.legs]
    by_column = list(zip(*rows, strict=True)) or [()] * len(LEG_COLUMNS)
    kinds = {"finding": np.int64, "value": np.float64, "margin": np.float64}
    return {
        name: np.array(values, dtype=kinds.get(name, object))
        for name, values in zip(LEG_COLUMNS, by_column, strict=True)
    }


def legs_of_row(table: Mapping[str, npt.NDArray[Any]], finding: int) -> tuple[Leg, ...]:
    """The legs of one finding, from the table of legs."""
    rows = np.flatnonzero(table["finding"] == finding)
    return tuple(
        Leg(table["leg"][i], table["state"][i], float(table["value"][i]), float(table["margin"][i]), table["reason"][i])
        for i in rows
    )


def padded_rows(entries: Sequence[Entry]) -> npt.NDArray[np.int64]:
    """The token rows of every entry, int64 [entries, ROWS]; -1 is padding."""
    rows = np.full((len(entries), ROWS), -1, dtype=np.int64)
    for row, entry in zip(rows, entries, strict=True):
        row[: len(entry.rows)] = entry.rows
    return rows


def directions(entries: Sequence[Entry]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Places [m] of the entries that are directions, and these, float32 [m, widest of the spaces]; NaN is padding."""
    places = [i for i, entry in enumerate(entries) if len(entry.ranked.candidate.direction)]
    vectors = [entries[i].ranked.candidate.direction for i in places]
    padded = np.full((len(places), max(map(len, vectors), default=0)), np.nan, dtype=np.float32)
    for row, vector in zip(padded, vectors, strict=True):
        row[: len(vector)] = vector
    return np.array(places, dtype=np.int64), padded


def site_of(pair: Mapping[str, Any]) -> str:
    """The site of a comparison; both sites where they differ, "" of models as a whole."""
    same = pair["site_a"] == pair["site_b"]
    return str(pair["site_a"]) if same else f"{pair['site_a']}--{pair['site_b']}"
