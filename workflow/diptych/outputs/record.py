"""What an artifact of kind "outputs" says of a text, for candidates and page.

record = read("results/pairs/tuned/outputs.h5")["text"]
record.listed["effect"]         # of the listed tokens
record.label(0)                 # '" river"'
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from diptych.storage import artifacts

IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]
Columns = Mapping[str, npt.NDArray[Any]]
SPANS = "spans"
IN_REPLIES = " first in a reply"
"""End of the id of a token that is first in a reply."""


@dataclass(frozen=True)
class TopTokens:
    """Both models' most probable next tokens: row int64 [r], token int64 [r, 2, k], p float32 [r, 2, k]."""

    row: IntArray
    token: IntArray
    p: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Topics:
    """k topics, the one with the largest share first.

    Attributes:
        token: int64 [k, n], by descending weight; -1 where the topic has fewer.
        weight: float64 [k, n], over the sum of the topic's weights.
        row: int64 [k, n], token rows at which it is strongest; -1 is padding.
        share: float64 [k], of all positive shifts that the topics account for.
    """

    token: IntArray
    weight: DoubleArray
    row: IntArray
    share: DoubleArray


@dataclass(frozen=True)
class Vocabulary:
    """Texts of the tokens that are named: id int64 [k], ascending, and text."""

    id: IntArray
    text: list[str]

    def of(self, ids: IntArray) -> list[str]:
        """Texts of some tokens."""
        return [self.text[place] for place in np.searchsorted(self.id, ids)]


@dataclass(frozen=True)
class Record:
    """Comparison of two models on one text; attributes as in `comparison.Comparison`.

    Attributes:
        at: text | replies.
        summary: positions, documents, tokens_read, vocabulary, tested.
        positions: columns row, kl_ab, kl_ba, js, agrees, nll_a, nll_b.
        divergences: columns by group.
        tested: columns of all tested tokens.
        listed: columns of the listed ones.
        rows: int64 [listed, rows], where each moved most.
        changes: float64 [listed, rows], p_B - p_A there.
        disagreements: int64, rows where the models differ most.
        tops: top tokens at the rows that are shown.
        topics: of what B says more.
        planted: columns of the planted tokens.
        vocabulary: texts of all tokens.
    """

    at: str
    summary: Mapping[str, int]
    positions: Columns
    divergences: Columns
    tested: Columns
    listed: Columns
    rows: IntArray
    changes: DoubleArray
    disagreements: IntArray
    tops: TopTokens
    topics: Topics
    planted: Columns
    vocabulary: Vocabulary

    def texts(self, ids: IntArray) -> list[str]:
        """Texts of some tokens, in quotes: spaces and line ends are part of a token."""
        return [quoted(text) for text in self.vocabulary.of(ids)]

    def ids(self) -> list[str]:
        """Ids of the listed tokens as candidates: the text in quotes, with the number where that is not unique."""
        numbers = self.listed["token"]
        texts = self.texts(numbers)
        names = [
            f"{text} {number}" if "\N{REPLACEMENT CHARACTER}" in text or texts.count(text) > 1 else text
            for text, number in zip(texts, numbers, strict=True)
        ]
        return names if self.at == "text" else [f"{name}{IN_REPLIES}" for name in names]


def read(path: str | Path) -> dict[str, Record]:
    """The records of an artifact by name ("text", "replies"); {} for models with different tokenizers."""
    with artifacts.read(path, "outputs") as file:
        measured = artifacts.read_json(file, "measured")
        if measured == [SPANS]:
            return {}
        vocabulary = Vocabulary(file["vocabulary/id"][:], artifacts.read_strings(file, "vocabulary/text"))
        return {at: _record(file, at, vocabulary) for at in measured}


def read_spans(path: str | Path) -> Columns | None:
    """The losses by group of models with different tokenizers; None for others."""
    with artifacts.read(path, "outputs") as file:
        is_spans = artifacts.read_json(file, "measured") == [SPANS]
        return artifacts.read_table(file, f"{SPANS}/divergences") if is_spans else None


def quoted(text: str) -> str:
    """A token's text in quotes, its control characters escaped."""
    return json.dumps(text, ensure_ascii=False)


def _record(file: h5py.File, at: str, vocabulary: Vocabulary) -> Record:
    tables = ("positions", "divergences", "tested", "listed", "planted")
    columns = {name: artifacts.read_table(file, f"{at}/{name}") for name in tables}
    return Record(
        at=at,
        summary=artifacts.read_json(file, f"{at}_summary"),
        **columns,
        rows=file[f"{at}/rows"][:],
        changes=file[f"{at}/changes"][:],
        disagreements=file[f"{at}/disagreements"][:],
        tops=TopTokens(*(file[f"{at}/tops/{name}"][:] for name in ("row", "token", "p"))),
        topics=Topics(*(file[f"{at}/topics/{name}"][:] for name in ("token", "weight", "row", "share"))),
        vocabulary=vocabulary,
    )
