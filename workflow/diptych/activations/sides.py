"""One model's activations at one site, addressed by token row: in files, in memory, or computed when they are read.

side = StoredSide(["0.h5", "1.h5"], "middle")
side.take(np.array([3, 4, 90]))             # float32 [3, d]
side.read(np.array([3, 4, 90]), buffer)     # as they are stored, into an array [3, d]: bfloat16 as its 16 bits
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import h5py
import numpy as np
import numpy.typing as npt

from diptych.storage import artifacts

if TYPE_CHECKING:
    from torch import Tensor

NEAR = 64
"""Rows up to this far apart are read at once: another read costs more than the rows between them."""
SCATTERED = 8
"""Where runs of consecutive rows are shorter than this on average, rows are gathered by index."""

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
StoredArray = npt.NDArray[Any]


class Side(Protocol):
    """One model's activations at one site, addressed by token row."""

    @property
    def width(self) -> int:
        """Width of a row, d."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a stored value: float32, float16, or uint16 for the bits of a bfloat16."""

    def take(self, rows: IntArray) -> FloatArray:
        """The float32 activations [len(rows), width] of sorted token rows."""

    def read(self, rows: IntArray, out: StoredArray) -> None:
        """Copy sorted token rows to `out` [len(rows), width] as they are stored."""


@runtime_checkable
class Streamed(Protocol):
    """A side whose activations are computed when they are read (`streaming`), and may then turn out not to be valid."""

    def compute(self, rows: IntArray) -> "Tensor":
        """The activations [len(rows), width] of sorted token rows in the stored dtype, on the model's device."""

    def valid(self, rows: IntArray) -> BoolArray:
        """Which token rows are valid, bool [len(rows)]."""


@dataclass(frozen=True)
class MemorySide:
    """Activations in memory, float32 [n, d]."""

    values: FloatArray

    @property
    def width(self) -> int:
        """Width of a row, d."""
        return int(self.values.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a value."""
        return self.values.dtype

    def take(self, rows: IntArray) -> FloatArray:
        """A float32 copy of some rows."""
        return self.values[rows]

    def read(self, rows: IntArray, out: StoredArray) -> None:
        """Copy some rows to `out`."""
        out[:] = self.values[rows]


@dataclass
class StoredSide:
    """One model's activations at one site, read from the shards that `dump_activations` wrote."""

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
    def _token_rows(self) -> list[IntArray | None]:
        """The token rows of each shard's rows; None where these are a span of the token file."""
        return [file["token_row"][:] if "token_row" in file else None for file in self._files]

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

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a value on disk."""
        dtype: np.dtype[Any] = self._datasets[0].dtype
        return dtype

    def take(self, rows: IntArray) -> FloatArray:
        """Sorted token rows as float32; each shard is read once, as one span where the rows are dense in it."""
        out = np.empty((len(rows), self.width), dtype=np.float32)
        for index, local, target in self._by_shard(rows, out):
            self._convert(index, local, target)
        return out

    def read(self, rows: IntArray, out: StoredArray) -> None:
        """Copy sorted token rows to `out` as they are stored, straight from the file."""
        for index, local, target in self._by_shard(rows, out):
            self._copy(index, local, target)

    def _by_shard(self, rows: IntArray, out: StoredArray) -> Iterator[tuple[int, IntArray, StoredArray]]:
        """Each shard that holds some of the sorted token rows, their places in it, and their part of `out`."""
        edges = np.searchsorted(rows, [*self._starts, np.iinfo(np.int64).max])
        for index, (start, end) in enumerate(itertools.pairwise(edges.tolist())):
            if end > start:
                yield index, self._local(index, rows[start:end]), out[start:end]

    def _local(self, index: int, rows: IntArray) -> IntArray:
        """The places in a shard of token rows that are in it."""
        token_row = self._token_rows[index]
        local: IntArray = rows - self._starts[index] if token_row is None else np.searchsorted(token_row, rows)
        return local

    def _copy(self, index: int, local: IntArray, out: StoredArray) -> None:
        """Fill `out` with rows of one shard: few large reads, and a place to drop the rows between them."""
        dropped = np.empty((NEAR, self.width), dtype=out.dtype)
        for start, end in _runs(local, NEAR):
            targets, first = [], int(local[start])
            row = first
            for left, right in _runs(local[start:end], 1):
                begin = int(local[start + left])
                if begin > row:
                    targets.append(dropped[: begin - row])
                targets.append(out[start + left : start + right])
                row = begin + right - left
            self._datasets[index].read_spans(first, targets)

    def _convert(self, index: int, local: IntArray, out: FloatArray) -> None:
        """Fill `out` with rows of one shard: few large reads, each converted to float32 in one pass."""
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
        """Stored rows [start, end) of a shard, valid until the next call, which reuses the buffer."""
        dataset = self._datasets[index]
        if self._buffer is None or len(self._buffer) < end - start:
            self._buffer = np.empty((end - start, self.width), dtype=dataset.dtype)
        dataset.read_direct(self._buffer, np.s_[start:end], np.s_[0 : end - start])
        return self._buffer[: end - start]

    def covers(self, n: int) -> BoolArray:
        """Which of `n` token rows are in the shards, bool [n]."""
        covered = np.zeros(n, dtype=np.bool_)
        for file, start, token_row in zip(self._files, self._starts, self._token_rows, strict=True):
            span = slice(start, start + len(file[f"sites/{self.site}/norm"]))
            covered[span if token_row is None else token_row] = True
        return covered


def _runs(rows: IntArray, gap: int) -> list[tuple[int, int]]:
    """Stretches [start, end) of increasing rows in which no two neighbours are more than `gap` apart."""
    cuts = (np.flatnonzero(np.diff(rows) > gap) + 1).tolist()
    return list(itertools.pairwise([0, *cuts, len(rows)]))


def _spans(positions: IntArray) -> Iterator[tuple[slice | IntArray, tuple[int, int]]]:
    """Increasing indices as slices if mostly consecutive, else as one array; each with the span of output it fills."""
    runs = _runs(positions, 1)
    if len(runs) * SCATTERED > len(positions):
        yield positions, (0, len(positions))
        return
    for start, end in runs:
        yield slice(int(positions[start]), int(positions[end - 1]) + 1), (start, end)


def ascending_runs(index: IntArray) -> list[tuple[int, int]]:
    """Stretches [start, end) of `index` in which it increases."""
    cuts = (np.flatnonzero(np.diff(index) <= 0) + 1).tolist()
    return list(itertools.pairwise([0, *cuts, len(index)]))
