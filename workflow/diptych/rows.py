"""The one reader of activation rows: which rows count, and blocks of them for every consumer.

A `Rows` is M models' activations on the same tokens (M = 1 for a dictionary, 2 for a pair), reduced to the rows
that are valid in all of them. Row i is the same token in every model. Consumers see only this:

    for block in rows.blocks(4096, select=rows.fold != 0):
        block.x        # M arrays [b, d_m], float32
        block.row      # which of the Rows' own rows they are, 0 <= row < len(rows)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from diptych import artifacts

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

    def blocks(
        self, size: int, *, select: BoolArray | None = None, shuffle: np.random.Generator | None = None
    ) -> Iterator[Block]:
        """Blocks of at most `size` selected rows; with `shuffle`, blocks come in random order.

        Rows inside a block are contiguous on disk either way: consumers that need mixed rows gather several blocks.
        """
        chosen = np.arange(len(self)) if select is None else np.flatnonzero(select)
        pieces = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        order = np.arange(len(pieces)) if shuffle is None else shuffle.permutation(len(pieces))
        for piece in order:
            yield self.take(pieces[piece])

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

    @cached_property
    def _files(self) -> list[h5py.File]:
        return [artifacts.read(path, "activations") for path in self.shards]

    @cached_property
    def _starts(self) -> IntArray:
        return np.array([int(file.attrs["first_row"]) for file in self._files], dtype=np.int64)

    @property
    def width(self) -> int:
        """Width of a row, d."""
        return int(self._files[0][f"sites/{self.site}/values"].shape[1])

    def take(self, rows: IntArray) -> FloatArray:
        """Sorted token rows as float32; each shard is read once, as one span where the rows are dense in it."""
        out = np.empty((len(rows), self.width), dtype=np.float32)
        shard = np.searchsorted(self._starts, rows, side="right") - 1
        for index in np.unique(shard):
            mine = shard == index
            out[mine] = self._read(int(index), rows[mine] - self._starts[index])
        return out

    def _read(self, index: int, local: IntArray) -> FloatArray:
        dataset = self._files[index][f"sites/{self.site}/values"]
        runs = np.split(local, np.flatnonzero(np.diff(local) > 64) + 1)
        parts = [dataset[run[0] : run[-1] + 1][run - run[0]] for run in runs]
        stored = np.concatenate(parts)
        if dataset.attrs["dtype"] == "bfloat16":
            return artifacts.from_bfloat16(stored)
        return stored.astype(np.float32)

    def covers(self, n: int) -> BoolArray:
        """Which of `n` token rows the shards hold."""
        held = np.zeros(n, dtype=np.bool_)
        for file, start in zip(self._files, self._starts, strict=True):
            held[start : start + len(file[f"sites/{self.site}/norm"])] = True
        return held


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


def stored(models: Sequence[Model], alignment: str | None = None) -> Rows:
    """The rows that count in all of `models`, of the shards that are given.

    Args:
        models: where each model's rows are. The first one's tokens give documents, folds and positions.
        alignment: which row of the second model is which row of the first, where their tokenizers differ.

    Raises:
        ArtifactError: a file is not whole, or no row is valid in all models.
    """
    sides = tuple(StoredSide(model.shards, model.site) for model in models)
    usable = [_usable(model, side) for model, side in zip(models, sides, strict=True)]
    token_row = _aligned(usable, alignment)
    if token_row.shape[1] == 0:
        raise artifacts.ArtifactError(f"{models[0].gates}: no row counts in all models; see its `cause`")
    with artifacts.read(models[0].tokens, "tokens") as file:
        sequence = file["sequence"][:][token_row[0]]
        document = file["sequences/document"][:][sequence].astype(np.int64)
        fold = file["documents/fold"][:][document].astype(np.int64)
        source = file["documents/source"][:][document].astype(np.int64)
        position = file["position"][:][token_row[0]].astype(np.int64)
    return Rows(sides, token_row, document, fold, source, position)


def _usable(model: Model, side: StoredSide) -> BoolArray:
    """Token rows of one model that count and are held by the shards given."""
    with artifacts.read(model.gates, "gates") as file:
        valid: BoolArray = file[f"sites/{model.site}/valid"][:].astype(np.bool_)
    return valid & side.covers(len(valid))


def _aligned(usable: Sequence[BoolArray], alignment: str | None) -> IntArray:
    """Token rows [M, n] usable in every model."""
    if alignment is None:
        both = np.flatnonzero(np.logical_and.reduce(usable)).astype(np.int64)
        return np.tile(both, (len(usable), 1))
    with artifacts.read(alignment, "alignment") as file:
        if artifacts.read_json(file, "identity"):
            return _aligned(usable, None)
        pairs = np.stack([file["row_a"][:], file["row_b"][:]]).astype(np.int64)
    return pairs[:, usable[0][pairs[0]] & usable[1][pairs[1]]]
