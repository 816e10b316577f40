"""The one reader of activation rows: which rows count, and blocks of them for every consumer.

A `Rows` is M models' activations on the same tokens (M = 1 for a dictionary, 2 for a pair), reduced to the rows
that are valid in all of them. Row i is the same token in every model. Consumers see only this:

    for block in rows.blocks(4096, select=rows.fold != 0):
        block.x        # M arrays [b, d_m], float32
        block.row      # which of the Rows' own rows they are, 0 <= row < len(rows)
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import h5py
import numpy as np
import numpy.typing as npt

from diptych.runtime.errors import ArtifactError
from diptych.storage import artifacts
from diptych.text import selection

NEAR = 64
"""Rows up to this far apart are read in one go: a read costs more than the rows between them."""
SCATTERED = 8
"""Below this mean length of consecutive rows they are picked one by one."""

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]


class Block(NamedTuple):
    """Some rows: `x[m]` float32 [b, d_m] for each model, `row` int64 [b], which of the Rows' rows they are."""

    x: tuple[FloatArray, ...]
    row: IntArray


class Side(Protocol):
    """One model's stored rows at one site, addressed by token row."""

    @property
    def width(self) -> int:
        """Width of a row, d."""

    def take(self, rows: IntArray) -> FloatArray:
        """The float32 activations [len(rows), width] of sorted token rows."""


@runtime_checkable
class Streamed(Protocol):
    """A side whose rows are made when they are read (`streaming`), and may then turn out not to count."""

    def counts(self, rows: IntArray) -> BoolArray:
        """Which token rows count, bool [len(rows)]."""


@dataclass(frozen=True)
class Rows:
    """Rows of M models at one site each, valid in all.

    Attributes:
        sides: the models' stored rows.
        token_row: int64 [M, n], each model's token row of row i (equal for equal tokenizers), increasing.
        document: int64 [n], the document (unit of independence) of row i.
        fold: int64 [n], the fold of that document; fold 0 is the test fold: nothing is fitted or chosen on it.
        source: int64 [n], index of the corpus source of that document.
        position: int64 [n], position in the sequence.
    """

    sides: tuple[Side, ...]
    token_row: IntArray
    document: IntArray
    fold: IntArray
    source: IntArray
    position: IntArray

    def __len__(self) -> int:
        return int(self.token_row.shape[1])

    @property
    def widths(self) -> tuple[int, ...]:
        """d_m of each model."""
        return tuple(side.width for side in self.sides)

    @property
    def streamed(self) -> bool:
        """Whether models run when rows are read."""
        return any(isinstance(side, Streamed) for side in self.sides)

    def blocks(
        self, size: int, *, select: BoolArray | None = None, shuffle: np.random.Generator | None = None
    ) -> Iterator[Block]:
        """Blocks of at most `size` selected rows; with `shuffle`, blocks come in random order.

        Rows inside a block are contiguous on disk either way: consumers that need mixed rows gather several blocks.
        """
        index = np.arange(len(self)) if select is None else np.flatnonzero(select)
        pieces = [index[start : start + size] for start in range(0, len(index), size)]
        order = np.arange(len(pieces)) if shuffle is None else shuffle.permutation(len(pieces))
        for piece in order:
            yield self.take(pieces[piece])

    def counting(self, index: IntArray) -> BoolArray:
        """Which of the rows `index` count, bool [len(index)]: all that are stored; streamed ones once they are run."""
        counts = np.ones(len(index), dtype=np.bool_)
        for m, side in enumerate(self.sides):
            if isinstance(side, Streamed):
                order = np.argsort(index, kind="stable")
                counts[order] &= side.counts(self.token_row[m, index[order]])
        return counts

    def take(self, index: IntArray) -> Block:
        """The rows `index` (in any order), read in disk order."""
        if (index[1:] > index[:-1]).all():
            x = tuple(side.take(self.token_row[m, index]) for m, side in enumerate(self.sides))
            return Block(x, np.asarray(index, dtype=np.int64))
        order = np.argsort(index, kind="stable")
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        x = tuple(side.take(self.token_row[m, index[order]])[back] for m, side in enumerate(self.sides))
        return Block(x, np.asarray(index, dtype=np.int64))


@dataclass(frozen=True)
class MemorySide:
    """Rows held in memory, float32 [n, d]."""

    values: FloatArray

    @property
    def width(self) -> int:
        """Width of a row, d."""
        return int(self.values.shape[1])

    def take(self, rows: IntArray) -> FloatArray:
        """Rows as a float32 copy."""
        return self.values[rows]


def in_memory(
    x: Sequence[FloatArray],
    document: IntArray,
    fold: IntArray | None = None,
    source: IntArray | None = None,
) -> Rows:
    """Rows of arrays [n, d_m] that are already aligned, for synthetic pairs; 5 folds by document by default."""
    n = len(document)
    zeros = np.zeros(n, dtype=np.int64)
    return Rows(
        sides=tuple(MemorySide(np.asarray(values, dtype=np.float32)) for values in x),
        token_row=np.tile(np.arange(n), (len(x), 1)),
        document=np.asarray(document, dtype=np.int64),
        fold=np.asarray(document if fold is None else fold, dtype=np.int64) % 5 if fold is None else fold,
        source=zeros if source is None else source,
        position=zeros,
    )


@dataclass
class StoredSide:
    """One model's rows at one site in the shards that `dump_activations` wrote."""

    shards: Sequence[str | Path]
    site: str
    _buffer: npt.NDArray[Any] | None = field(default=None, init=False, repr=False)

    @cached_property
    def _files(self) -> list[h5py.File]:
        return [artifacts.read(path, "activations") for path in self.shards]

    @cached_property
    def _starts(self) -> IntArray:
        return np.array([int(file.attrs["first_row"]) for file in self._files], dtype=np.int64)

    @cached_property
    def _datasets(self) -> list[h5py.Dataset]:
        return [file[f"sites/{self.site}/values"] for file in self._files]

    @cached_property
    def _bfloat16(self) -> bool:
        return bool(self._datasets[0].attrs["dtype"] == "bfloat16")

    @cached_property
    def width(self) -> int:
        """Width of a row, d."""
        return int(self._datasets[0].shape[1])

    def take(self, rows: IntArray) -> FloatArray:
        """Sorted token rows as float32; each shard is read once, as one span where the rows are dense in it."""
        out = np.empty((len(rows), self.width), dtype=np.float32)
        edges = np.searchsorted(rows, [*self._starts, np.iinfo(np.int64).max])
        for index, (start, end) in enumerate(itertools.pairwise(edges.tolist())):
            if end > start:
                self._read(index, rows[start:end] - self._starts[index], out[start:end])
        return out

    def _read(self, index: int, local: IntArray, out: FloatArray) -> None:
        """Fill `out` with rows of one shard: few large reads, and one pass from storage dtype to float32."""
        for start, end in _runs(local, NEAR):
            first = int(local[start])
            stored = self._span(index, first, int(local[end - 1]) + 1)
            for inner, (left, right) in _spans(local[start:end] - first):
                part = stored[inner] if isinstance(inner, slice) else stored.take(inner, axis=0)
                target = out[start + left : start + right]
                if self._bfloat16:
                    artifacts.from_bfloat16(part, out=target)
                else:
                    target[:] = part

    def _span(self, index: int, start: int, end: int) -> npt.NDArray[Any]:
        """Stored rows [start, end) of a shard, valid until the next call: the memory is used again."""
        dataset = self._datasets[index]
        if self._buffer is None or len(self._buffer) < end - start:
            self._buffer = np.empty((end - start, self.width), dtype=dataset.dtype)
        dataset.read_direct(self._buffer, np.s_[start:end], np.s_[0 : end - start])
        return self._buffer[: end - start]

    def covers(self, n: int) -> BoolArray:
        """Which of `n` token rows the shards hold."""
        covered = np.zeros(n, dtype=np.bool_)
        for file, start in zip(self._files, self._starts, strict=True):
            covered[start : start + len(file[f"sites/{self.site}/norm"])] = True
        return covered


def _runs(rows: IntArray, gap: int) -> list[tuple[int, int]]:
    """Stretches [start, end) of increasing rows in which no two neighbours are more than `gap` apart."""
    cuts = (np.flatnonzero(np.diff(rows) > gap) + 1).tolist()
    return list(itertools.pairwise([0, *cuts, len(rows)]))


def _spans(positions: IntArray) -> Iterator[tuple[slice | IntArray, tuple[int, int]]]:
    """Increasing places as slices where they are mostly consecutive, else as they are; each with where it goes."""
    runs = _runs(positions, 1)
    if len(runs) * SCATTERED > len(positions):
        yield positions, (0, len(positions))
        return
    for start, end in runs:
        yield slice(int(positions[start]), int(positions[end - 1]) + 1), (start, end)


class Model(NamedTuple):
    """Where one model's rows are: its activation shards, its gates, its tokens and the site that is read."""

    shards: Sequence[str]
    gates: str
    tokens: str
    site: str


def models_of(shards: Sequence[str], gates: Sequence[str], tokens: Sequence[str], site: str) -> list[Model]:
    """Places of several models read at one site, from flat lists of files: as many shards of one as of another."""
    each = len(shards) // len(gates)
    return [
        Model(shards[each * index : each * (index + 1)], gates[index], tokens[index], site)
        for index in range(len(gates))
    ]


class Places(NamedTuple):
    """Which token rows are read together, and what the first model's tokens say of them, int64 [n] each.

    Attributes:
        token_row: [M, n].
        document: the document of each.
        fold: its fold.
        source: its source.
        position: place in the sequence.
    """

    token_row: IntArray
    document: IntArray
    fold: IntArray
    source: IntArray
    position: IntArray

    def rows(self, sides: tuple[Side, ...], fold: IntArray | None = None) -> Rows:
        """The rows at these places, in other folds if given."""
        folds = self.fold if fold is None else fold
        return Rows(sides, self.token_row, self.document, folds, self.source, self.position)


def stored(models: Sequence[Model], alignment: str | None = None, wanted: selection.Wanted = "all") -> Rows:
    """The rows that count in all of `models`, of the shards that are given.

    Args:
        models: where each model's rows are. The first one's tokens give documents, folds and positions.
        alignment: which row of the second model is which row of the first, where their tokenizers differ.
        wanted: all rows, the last one of each document, or those of some roles.

    Raises:
        ArtifactError: a file is not whole, or no row is valid in all models.
    """
    sides = tuple(StoredSide(model.shards, model.site) for model in models)
    usable = [_usable(model, side) for model, side in zip(models, sides, strict=True)]
    return places(usable, alignment, models[0].tokens, wanted).rows(sides)


def places(
    usable: Sequence[BoolArray], alignment: str | Path | None, tokens: str | Path, wanted: selection.Wanted
) -> Places:
    """The rows usable in every model that are wanted.

    Args:
        usable: token rows of each model that may be read, bool.
        alignment: see `stored`.
        tokens: the first model's tokens.
        wanted: see `stored`.

    Raises:
        ArtifactError: there is none.
    """
    token_row = _aligned(usable, alignment)
    if token_row.shape[1] == 0:
        raise ArtifactError(f"{tokens}: no row counts in all models; see `cause` in their gates")
    selected = selection.read(tokens, wanted)
    if selected is not None:
        token_row = token_row[:, selected(token_row[0])]
    with artifacts.read(tokens, "tokens") as file:
        sequence = file["sequence"][:][token_row[0]]
        document = file["sequences/document"][:][sequence].astype(np.int64)
        fold = file["documents/fold"][:][document].astype(np.int64)
        source = file["documents/source"][:][document].astype(np.int64)
        position = file["position"][:][token_row[0]].astype(np.int64)
    return Places(token_row, document, fold, source, position)


def _usable(model: Model, side: StoredSide) -> BoolArray:
    """Token rows of one model that count and are held by the shards given."""
    with artifacts.read(model.gates, "gates") as file:
        valid: BoolArray = file[f"sites/{model.site}/valid"][:].astype(np.bool_)
    return valid & side.covers(len(valid))


def _aligned(usable: Sequence[BoolArray], alignment: str | Path | None) -> IntArray:
    """Token rows [M, n] usable in every model."""
    if alignment is None:
        both = np.flatnonzero(np.logical_and.reduce(usable)).astype(np.int64)
        return np.broadcast_to(both, (len(usable), len(both)))
    with artifacts.read(alignment, "alignment") as file:
        if artifacts.read_json(file, "identity"):
            return _aligned(usable, None)
        pairs = np.stack([file["row_a"][:], file["row_b"][:]]).astype(np.int64)
    return pairs[:, usable[0][pairs[0]] & usable[1][pairs[1]]]
