"""Activations of one or several models on the same tokens, aligned by row and read in blocks.

A `Rows` holds M models' activations (M = 1 for a dictionary, 2 for a pair) on the tokens that are valid in all of
them (`gates`). Row i is the same token in every model:

    rows = stored([RowFiles(shards, gates, tokens, "middle") for each model])
    for block in rows.blocks(4096, select=rows.fold != 0):
        block.x        # M arrays [b, d_m], float32
        block.row      # their row numbers, 0 <= row < len(rows)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.activations.sides import MemorySide, Side, StoredSide, Streamed
from diptych.runtime.errors import ArtifactError
from diptych.storage import artifacts
from diptych.text import selection

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]


class Block(NamedTuple):
    """Some rows of a `Rows`: activations `x[m]` float32 [b, d_m] of each model, and row numbers `row` int64 [b]."""

    x: tuple[FloatArray, ...]
    row: IntArray


@dataclass(frozen=True)
class Rows:
    """Activations of M models at one site each, on the tokens that are valid in all.

    Attributes:
        sides: the activations of each model.
        token_row: int64 [M, n], each model's token row of row i (equal for equal tokenizers), increasing.
        document: int64 [n], the document of row i, the unit of independence.
        fold: int64 [n], the fold of that document; fold 0 is the test fold, on which nothing is fitted or selected.
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
        """Width d_m of each model."""
        return tuple(side.width for side in self.sides)

    def blocks(
        self, size: int, *, select: BoolArray | None = None, shuffle: np.random.Generator | None = None
    ) -> Iterator[Block]:
        """Blocks of at most `size` selected rows; with `shuffle`, in random order of blocks.

        Rows inside a block are contiguous on disk either way: for shuffled rows, gather several blocks.
        """
        index = np.arange(len(self)) if select is None else np.flatnonzero(select)
        pieces = [index[start : start + size] for start in range(0, len(index), size)]
        order = np.arange(len(pieces)) if shuffle is None else shuffle.permutation(len(pieces))
        for piece in order:
            yield self.take(pieces[piece])

    def valid(self, index: IntArray) -> BoolArray:
        """Which of the rows `index` are valid, bool [len(index)]: stored rows are; for streamed ones the model runs."""
        valid = np.ones(len(index), dtype=np.bool_)
        for m, side in enumerate(self.sides):
            if isinstance(side, Streamed):
                order = np.argsort(index, kind="stable")
                valid[order] &= side.valid(self.token_row[m, index[order]])
        return valid

    def take(self, index: IntArray) -> Block:
        """The rows `index` (in any order), read in disk order."""
        if (index[1:] > index[:-1]).all():
            x = tuple(side.take(self.token_row[m, index]) for m, side in enumerate(self.sides))
            return Block(x, np.asarray(index, dtype=np.int64))
        order = np.argsort(index, kind="stable")
        inverse = np.empty_like(order)
        inverse[order] = np.arange(len(order))
        x = tuple(side.take(self.token_row[m, index[order]])[inverse] for m, side in enumerate(self.sides))
        return Block(x, np.asarray(index, dtype=np.int64))


def in_memory(
    x: Sequence[FloatArray],
    document: IntArray,
    fold: IntArray | None = None,
    source: IntArray | None = None,
) -> Rows:
    """Rows of aligned arrays [n, d_m], for synthetic data; without `fold`, 5 folds by document."""
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


class RowFiles(NamedTuple):
    """The files of one model's activations (shards, gates and tokens), and the site to read."""

    shards: Sequence[str]
    gates: str
    tokens: str
    site: str


def split_files(shards: Sequence[str], gates: Sequence[str], tokens: Sequence[str], site: str) -> list[RowFiles]:
    """The files of each model, from flat lists over all models; every model has the same number of shards."""
    n_shards = len(shards) // len(gates)
    return [
        RowFiles(shards[n_shards * index : n_shards * (index + 1)], gates[index], tokens[index], site)
        for index in range(len(gates))
    ]


class AlignedRows(NamedTuple):
    """Token rows of M models that belong together, with the attributes of the first model's tokens; all int64.

    Attributes:
        token_row: [M, n], each model's token row.
        document: [n], as in `Rows`, like the following.
        fold: [n].
        source: [n].
        position: [n].
    """

    token_row: IntArray
    document: IntArray
    fold: IntArray
    source: IntArray
    position: IntArray

    def only(self, keep: BoolArray) -> "AlignedRows":
        """The rows of a mask [n]."""
        return AlignedRows(self.token_row[:, keep], *(values[keep] for values in self[1:]))

    def read_from(self, sides: tuple[Side, ...], fold: IntArray | None = None) -> Rows:
        """The `Rows` of these token rows, read from `sides`; `fold` [n] replaces the tokens' folds."""
        folds = self.fold if fold is None else fold
        return Rows(sides, self.token_row, self.document, folds, self.source, self.position)


def stored(
    files: Sequence[RowFiles], alignment: str | None = None, row_selection: selection.RowSelection = "all"
) -> Rows:
    """The stored rows that are valid in all models.

    Args:
        files: of each model. The first one's tokens give documents, folds and positions. Shards may be left out;
            their rows are then left out too.
        alignment: artifact that aligns the second model's token rows with the first's, if their tokenizers differ.
        row_selection: "all" rows, the "last" one of each document, or those of some roles.

    Raises:
        ArtifactError: a file is damaged, or no row is valid in all models.
    """
    sides = tuple(StoredSide(of_model.shards, of_model.site) for of_model in files)
    usable = [_usable(of_model, side) for of_model, side in zip(files, sides, strict=True)]
    return align_rows(usable, alignment, files[0].tokens, row_selection).read_from(sides)


def stored_with_first(
    files: Sequence[RowFiles],
    first: int,
    alignment: str | None = None,
    row_selection: selection.RowSelection = "all",
) -> tuple[Rows, BoolArray]:
    """The rows that `stored` returns, with those at the `first` positions of each sequence, valid or not.

    Inserted tokens and massive activations stand at the first positions, where most statistics must not see them.

    Returns:
        The rows, and which of them `stored` would return, bool [n].

    Raises:
        ArtifactError: as `stored`.
    """
    sides = tuple(StoredSide(of_model.shards, of_model.site) for of_model in files)
    usable = [_usable(of_model, side) for of_model, side in zip(files, sides, strict=True)]
    kept = []
    for of_model, side, valid in zip(files, sides, usable, strict=True):
        with artifacts.read(of_model.tokens, "tokens") as file:
            kept.append(valid | (side.covers(len(valid)) & (file["position"][:] < first)))
    aligned = align_rows(kept, alignment, files[0].tokens, "all")
    counts = np.logical_and.reduce([valid[row] for valid, row in zip(usable, aligned.token_row, strict=True)])
    if selected := selection.read(files[0].tokens, row_selection):
        counts[counts] = selected(aligned.token_row[0, counts])
    keep = counts | (aligned.position < first)
    return aligned.only(keep).read_from(sides), counts[keep]


def align_rows(
    usable: Sequence[BoolArray], alignment: str | Path | None, tokens: str | Path, row_selection: selection.RowSelection
) -> AlignedRows:
    """Align the selected token rows that are usable in every model.

    Args:
        usable: which token rows of each model may be read, bool.
        alignment: see `stored`.
        tokens: token file of the first model.
        row_selection: see `stored`.

    Raises:
        ArtifactError: no row is usable in every model.
    """
    token_row = _aligned(usable, alignment)
    if token_row.shape[1] == 0:
        raise ArtifactError(f"{tokens}: no row is valid in all models; see `cause` in their gates")
    selected = selection.read(tokens, row_selection)
    if selected is not None:
        token_row = token_row[:, selected(token_row[0])]
    with artifacts.read(tokens, "tokens") as file:
        sequence = file["sequence"][:][token_row[0]]
        document = file["sequences/document"][:][sequence].astype(np.int64)
        fold = file["documents/fold"][:][document].astype(np.int64)
        source = file["documents/source"][:][document].astype(np.int64)
        position = file["position"][:][token_row[0]].astype(np.int64)
    return AlignedRows(token_row, document, fold, source, position)


def _usable(files: RowFiles, side: StoredSide) -> BoolArray:
    """Token rows of one model that are valid and in its shards, bool [n]."""
    with artifacts.read(files.gates, "gates") as file:
        valid: BoolArray = file[f"sites/{files.site}/valid"][:].astype(np.bool_)
    return valid & side.covers(len(valid))


def _aligned(usable: Sequence[BoolArray], alignment: str | Path | None) -> IntArray:
    """Token rows [M, n] usable in every model."""
    if alignment is None:
        row = np.flatnonzero(np.logical_and.reduce(usable)).astype(np.int64)
        return np.broadcast_to(row, (len(usable), len(row)))
    with artifacts.read(alignment, "alignment") as file:
        if artifacts.read_json(file, "identity"):
            return _aligned(usable, None)
        pairs = np.stack([file["row_a"][:], file["row_b"][:]]).astype(np.int64)
    return pairs[:, usable[0][pairs[0]] & usable[1][pairs[1]]]
