"""Readable evidence: the text around a token row, with every token shaded by what a method says of it.

A number about a row of activations means little until the words are seen. A token file already holds the decoded
text of every token, so no tokenizer is needed to show them:

    text = Text("results/tokens/addresses/base.h5")
    shade = Shade(token_row, values, scale=values.max())
    for context in text.contexts(rows, values, shade, count=6):
        context.document, context.source       # where it stands
        context.plain()                        # "... the Union of these «States» which ..."
        context.tokens                         # (text, weight in [-1, 1]) for shading
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from diptych.storage import artifacts

IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]

WINDOW = 12
"""Tokens shown on each side: a line or two of text on a laptop."""


class Token(NamedTuple):
    """One token of a context: its text and its weight in [-1, 1] for shading."""

    text: str
    weight: float


@dataclass(frozen=True)
class Context:
    """The text around one token row.

    Attributes:
        row: the token row.
        document: id of its document.
        source: label of the document's source.
        position: position of the token in its sequence.
        value: what the method says of it.
        tokens: the tokens shown, in order.
        focus: which of them is the token itself.
        scale: the value of a token of weight 1.
    """

    row: int
    document: str
    source: str
    position: int
    value: float
    tokens: tuple[Token, ...]
    focus: int
    scale: float = 1.0

    def plain(self) -> str:
        """One line of text, the token itself in «»."""
        parts = [_marked(token.text) if i == self.focus else token.text for i, token in enumerate(self.tokens)]
        return " ".join("".join(parts).split())


class Weights(Protocol):
    """Weights by which the tokens of a context are shaded; `scale` is the value that is shaded fully."""

    @property
    def scale(self) -> float:
        """The value of a token of weight 1."""

    def at(self, rows: IntArray) -> DoubleArray:
        """Weights in [-1, 1] of increasing token rows; 0 where nothing is known."""


@dataclass(frozen=True)
class Shade:
    """Weights from values known on some token rows.

    Attributes:
        token_row: int64 [n], increasing.
        values: float [n].
        scale: the value that is shaded fully; larger ones are cut off.
    """

    token_row: IntArray
    values: npt.NDArray[np.floating]
    scale: float

    def at(self, rows: IntArray) -> DoubleArray:
        """values / scale on the rows that are known, 0 on the others."""
        weights = np.zeros(len(rows))
        if not len(self.token_row) or not self.scale > 0:
            return weights
        position = np.minimum(np.searchsorted(self.token_row, rows), len(self.token_row) - 1)
        known = self.token_row[position] == rows
        weights[known] = np.clip(self.values[position[known]] / self.scale, -1.0, 1.0)
        return np.nan_to_num(weights)


class Codes:
    """A model's feature shards, read where they are needed only: the row pointers stay in memory, the codes do not."""

    def __init__(self, shards: Sequence[str | Path]) -> None:
        self._files = [artifacts.read(path, "features") for path in shards]
        self._rows = [file["token_row"][:].astype(np.int64) for file in self._files]

    @cached_property
    def _pointers(self) -> list[IntArray]:
        return [file["indptr"][:].astype(np.int64) for file in self._files]

    @cached_property
    def maximum(self) -> DoubleArray:
        """Largest value of each latent on these rows, float64 [F]."""
        largest: DoubleArray = np.max([file["latents/max"][:] for file in self._files], axis=0).astype(np.float64)
        return largest

    @cached_property
    def density(self) -> DoubleArray:
        """Share of the rows on which each latent fires, float64 [F]."""
        rows = np.array([len(rows) for rows in self._rows], dtype=np.float64)
        density: DoubleArray = np.average([file["latents/density"][:] for file in self._files], axis=0, weights=rows)
        return density

    def top(self, latent: int) -> tuple[IntArray, DoubleArray]:
        """Token rows on which a latent fires most, and its values there, highest first (as many as are stored)."""
        rows = np.concatenate([file["latents/top_row"][latent] for file in self._files]).astype(np.int64)
        values = np.concatenate([file["latents/top_value"][latent] for file in self._files]).astype(np.float64)
        return _strongest_first(rows, values)

    def tops(self, latents: IntArray) -> list[tuple[IntArray, DoubleArray]]:
        """`top` of each of many latents, from one pass over the files."""
        rows = np.concatenate([file["latents/top_row"][:][latents] for file in self._files], axis=1)
        values = np.concatenate([file["latents/top_value"][:][latents] for file in self._files], axis=1)
        return [
            _strongest_first(*of_latent)
            for of_latent in zip(rows.astype(np.int64), values.astype(np.float64), strict=True)
        ]

    def values(self, latent: int, rows: IntArray) -> DoubleArray:
        """Values of one latent on increasing token rows [n]; 0 where it does not fire or the row does not count.

        Reads the codes of all rows between the first and the last: meant for the rows of one window.
        """
        values = np.zeros(len(rows))
        for file, known, pointers in zip(self._files, self._rows, self._pointers, strict=True):
            first, last = np.searchsorted(known, [rows[0], rows[-1] + 1])
            start, stop = int(pointers[first]), int(pointers[last])
            at = np.flatnonzero(file["indices"][start:stop] == latent)
            if not len(at):
                continue
            fires_on = known[np.searchsorted(pointers, start + at, side="right") - 1]
            fires = np.isin(rows, fires_on)
            values[fires] = file["data"][start:stop][at][np.isin(fires_on, rows)]
        return values

    def shade(self, latent: int, scale: float | None = None) -> "LatentShade":
        """Weights of one latent's values, over its maximum on these rows if no scale is given."""
        return LatentShade(self, latent, float(self.maximum[latent]) if scale is None else scale)


def _strongest_first(rows: IntArray, values: DoubleArray) -> tuple[IntArray, DoubleArray]:
    """Token rows and values in descending order, without padding."""
    order = np.argsort(-values, kind="stable")
    order = order[rows[order] >= 0]
    return rows[order], values[order]


@dataclass(frozen=True)
class LatentShade:
    """Weights from one latent's codes, read row by row."""

    codes: Codes
    latent: int
    scale: float

    def at(self, rows: IntArray) -> DoubleArray:
        """Values over the scale, at most 1."""
        if not self.scale > 0:
            return np.zeros(len(rows))
        return np.clip(self.codes.values(self.latent, rows) / self.scale, -1.0, 1.0)


class Text:
    """The words behind the token rows of one tokens artifact."""

    def __init__(self, path: str | Path) -> None:
        with artifacts.read(path, "tokens") as file:
            self.token = file["token"][:]
            self.sequence = file["sequence"][:].astype(np.int64)
            self.position = file["position"][:].astype(np.int64)
            self.counts = file["counts"][:].astype(np.bool_)
            self.role = file["role"][:]
            self.roles: list[str] = artifacts.read_json(file, "roles")
            self.start = file["sequences/start"][:].astype(np.int64)
            self.document = file["sequences/document"][:].astype(np.int64)
            self.document_id = artifacts.read_strings(file, "documents/id")
            self.document_source = file["documents/source"][:].astype(np.int64)
            self.sources: list[str] = artifacts.read_json(file, "sources")
            self._id = file["vocabulary/id"][:]
            self._text = artifacts.read_strings(file, "vocabulary/text")

    def words(self, rows: IntArray) -> list[str]:
        """Decoded text of each token row."""
        return [self._text[position] for position in np.searchsorted(self._id, self.token[rows])]

    def context(self, row: int, value: float, weights: Weights | None = None, window: int = WINDOW) -> Context:
        """The text around one row, within its sequence."""
        sequence = int(self.sequence[row])
        first = max(int(self.start[sequence]), row - window)
        last = min(int(self.start[sequence + 1]), row + window + 1)
        rows = np.arange(first, last, dtype=np.int64)
        weight = np.zeros(len(rows)) if weights is None else weights.at(rows)
        document = int(self.document[sequence])
        return Context(
            row=row,
            document=self.document_id[document],
            source=self.sources[int(self.document_source[document])],
            position=int(self.position[row]),
            value=float(value),
            tokens=tuple(Token(text, float(w)) for text, w in zip(self.words(rows), weight, strict=True)),
            focus=row - first,
            scale=1.0 if weights is None else weights.scale,
        )

    def contexts(
        self,
        rows: npt.ArrayLike,
        values: npt.ArrayLike,
        weights: Weights | None = None,
        *,
        count: int = 6,
        window: int = WINDOW,
    ) -> list[Context]:
        """The text around the first `count` rows that do not lie in each other's window.

        Args:
            rows: token rows, the most telling first; negative ones are padding.
            values: one for each.
            weights: what shades the tokens.
            count: at most so many contexts.
            window: tokens shown on each side.
        """
        distinct: list[Context] = []
        for row, value in zip(np.asarray(rows, dtype=np.int64), np.asarray(values, dtype=np.float64), strict=True):
            if row < 0 or any(self._overlap(int(row), context.row, window) for context in distinct):
                continue
            distinct.append(self.context(int(row), float(value), weights, window))
            if len(distinct) == count:
                break
        return distinct

    def _overlap(self, row: int, other: int, window: int) -> bool:
        return abs(row - other) <= window and self.sequence[row] == self.sequence[other]


def _marked(text: str) -> str:
    """The text in «», white space before it left outside; a token of white space alone is drawn."""
    bare = text.lstrip()
    shown = bare or ("↵" if "\n" in text else "␣")
    return f"{text[: len(text) - len(bare)]}«{shown}»"
