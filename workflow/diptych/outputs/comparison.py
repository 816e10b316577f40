"""Everything that is said of two models' predictions on one text: divergences, shifted tokens, topics, top tokens.

comparison = analyse(sides, reading, directory, settings)
comparison.shifts, comparison.listed        # tested tokens, and which of them are listed with interval and rows
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.outputs import divergences, planted, shifts, streaming, topics
from diptych.outputs.planted import Planted
from diptych.outputs.reading import IntArray, Reading
from diptych.outputs.record import Topics, TopTokens
from diptych.outputs.shifts import Shifts
from diptych.outputs.states import Side
from diptych.outputs.streaming import DoubleArray, Predictions
from diptych.runtime import logs
from diptych.statistics.resampling import Interval
from diptych.storage import artifacts

Q = 0.05
"""q up to which shifts are listed first."""
ROWS = 20
"""Rows stored for a listed token."""
SHOWN = 20
"""Listed tokens of either side at whose `ROWS_SHOWN` strongest rows both models' top tokens are stored."""
ROWS_SHOWN = 6
DISAGREEMENTS = 12
"""Positions of largest Jensen-Shannon divergence that are stored, one of each document."""
TOP = 5
"""Tokens of a model's prediction that are stored at such rows."""


@dataclass(frozen=True)
class Settings:
    """Settings of an analysis, as in the config: listed tokens a side, topics, planted factor, replicates, seed."""

    top: int
    topics: int
    planted: float
    bootstrap: int
    seed: int


@dataclass(frozen=True)
class Comparison:
    """Two models' predictions on one text.

    Attributes:
        predictions: at every position.
        divergences: columns by group (`divergences.summarise`).
        documents: columns by document.
        shifts: of all eligible tokens.
        listed: indices into `shifts`, increases before decreases, each by size.
        interval: of the listed effects.
        rows: int64 [listed, ROWS], token rows where each moved most.
        changes: float64 [listed, ROWS], p_B - p_A there.
        disagreements: int64, token rows where the models differ most, the largest divergence first.
        tops: at the rows that are shown.
        topics: of what B says more.
        planted: the positive control.
    """

    predictions: Predictions
    divergences: dict[str, Any]
    documents: dict[str, Any]
    shifts: Shifts
    listed: IntArray
    interval: Interval
    rows: IntArray
    changes: DoubleArray
    disagreements: IntArray
    tops: TopTokens
    topics: Topics
    planted: Planted

    @property
    def tokens(self) -> IntArray:
        """Every token of the vocabulary that is named, ascending."""
        named = [self.shifts.token, self.tops.token.ravel(), self.topics.token.ravel()]
        tokens = np.unique(np.concatenate(named))
        return tokens[tokens >= 0]


def analyse(sides: tuple[Side, Side], reading: Reading, directory: str | Path, settings: Settings) -> Comparison:
    """Compare two models' predictions at the positions of a reading.

    Args:
        sides: heads and states at these positions.
        reading: the positions.
        directory: for temporary files.
        settings: see `Settings`.
    """
    predictions = streaming.compare(sides, reading, directory)
    tested = shifts.test(predictions)
    listed = tested.listed(settings.top, Q)
    token, effect = tested.token[listed], tested.effect[listed]
    rows, changes = shifts.strongest(predictions, token, effect, ROWS)
    apart = disagreements(predictions)
    is_shown = [np.flatnonzero(effect > 0)[:SHOWN], np.flatnonzero(effect < 0)[:SHOWN]]
    shown = np.unique(np.concatenate([apart, rows[np.concatenate(is_shown), :ROWS_SHOWN].ravel()]))
    numbers = divergences.numbers_of(predictions)
    logs.logger.info(
        "%d positions of %d documents, KL %.3g nats, %d tokens tested, %d with q <= %g",
        len(reading), len(predictions.documents), numbers["kl_ab"].mean(), len(tested), (tested.q <= Q).sum(), Q,
    )  # fmt: skip
    grouped = _groups(reading)
    seeds = {"bootstrap": settings.bootstrap, "seed": settings.seed}
    return Comparison(
        predictions=predictions,
        divergences=divergences.summarise(numbers, reading.document, grouped, **seeds),
        documents=divergences.by_document(numbers, reading.document),
        shifts=tested,
        listed=listed,
        interval=shifts.intervals(predictions, token, **seeds),
        rows=rows,
        changes=changes,
        disagreements=apart,
        tops=top_tokens(sides, reading, shown[shown >= 0]),
        topics=topics.factorise(predictions, number=settings.topics, seed=settings.seed),
        planted=planted.plant(predictions, tested, factor=settings.planted, seed=settings.seed),
    )


def disagreements(predictions: Predictions) -> IntArray:
    """Token rows of largest Jensen-Shannon divergence, one of each document, the largest first; [] without any."""
    order = np.argsort(-predictions.js, kind="stable")
    order = order[predictions.js[order] > 0]
    _, first = np.unique(predictions.reading.document[order], return_index=True)
    return predictions.reading.row[order[np.sort(first)[:DISAGREEMENTS]]]


def top_tokens(sides: Sequence[Side], reading: Reading, rows: IntArray) -> TopTokens:
    """Both models' most probable next tokens after some rows of a reading."""
    order = np.argsort(reading.row)
    position = order[np.searchsorted(reading.row, rows, sorter=order)]
    block = streaming.block_of(max(side.vocabulary for side in sides))
    token = np.zeros((len(rows), len(sides), TOP), dtype=np.int64)
    p = np.zeros(token.shape, dtype=np.float32)
    for start in range(0, len(rows), block):
        at = slice(start, start + block)
        for number, side in enumerate(sides):
            top = side.logits_at(position[at]).softmax(1).topk(TOP)
            token[at, number], p[at, number] = top.indices.cpu().numpy(), top.values.cpu().numpy()
    return TopTokens(rows, token, p)


def _groups(reading: Reading) -> list[divergences.Group]:
    with artifacts.read(reading.sequences.path, "tokens") as file:
        role, position = (file[name][:].astype(np.int64)[reading.row] for name in ("role", "position"))
        roles = artifacts.read_json(file, "roles")
    return divergences.groups(reading.source, role, position, reading.sequences.sources, roles)


def listed_columns(comparison: Comparison) -> dict[str, DoubleArray | IntArray]:
    """Columns of the listed tokens."""
    tested, listed = comparison.shifts, comparison.listed
    columns = {name: getattr(tested, name)[listed] for name in SHIFT_COLUMNS}
    return {**columns, "lo": comparison.interval.lo, "hi": comparison.interval.hi}


SHIFT_COLUMNS = ("token", "mean_a", "mean_b", "effect", "held_out", "p", "q", "mined")
