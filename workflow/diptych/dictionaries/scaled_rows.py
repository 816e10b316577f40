"""The rows that a dictionary is trained on, centred and scaled, in shuffled batches.

rows = scale_rows(source, index)               # E||x - mean|| * factor = sqrt(d) over the rows `index`
next(rows.batches(batch=1024, seed=0, first=0))

Every batch is a function of (seed, step).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.activations import shuffling
from diptych.activations.rows import Rows
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

READ_ROWS = 4096
BUFFER_ROWS = 262_144
"""Rows held in memory to be shuffled: whole small corpora, 0.6 GB at width 576."""


class Scale(NamedTuple):
    """Rows become (x - mean) * factor: `mean` float32 [d], `factor` so that E||x - mean|| * factor = sqrt(d)."""

    mean: FloatArray
    factor: float


@dataclass(frozen=True)
class ScaledRows:
    """Rows of one model in units in which their mean distance from their mean is sqrt(d).

    Attributes:
        rows: their source.
        index: row numbers, int64 [n], ascending.
        scale: their mean and scale.
    """

    rows: Rows
    index: IntArray
    scale: Scale

    @property
    def width(self) -> int:
        """d."""
        return self.rows.widths[0]

    def batches(self, *, batch: int, seed: int, first: int) -> Iterator[Tensor]:
        """Scaled batches [batch, d] of steps first, first + 1, ..., without end."""
        buffer: FloatArray | None = None
        for fill in shuffling.fills(
            shuffling.blocks(self.rows.position, self.index, READ_ROWS),
            buffer_rows=max(BUFFER_ROWS, 2 * batch),
            batch=batch,
            seed=seed,
            first=first,
        ):
            if buffer is None or len(fill.rows) < len(self.index):
                buffer = self._scaled(self.rows.take(fill.rows).x[0])
            for start in fill.starts:
                yield torch.from_numpy(buffer[fill.order[start : start + batch]])

    def sample(self, n_rows: int, seed: int) -> IntArray:
        """Row numbers of `n_rows` random rows, ascending; of all if there are no more."""
        if len(self.index) <= n_rows:
            return self.index
        return np.sort(np.random.default_rng([seed, 2]).choice(self.index, n_rows, replace=False))

    def blocks(self, index: IntArray, label: str) -> Iterator[FloatArray]:
        """The scaled rows `index` in turn, [<= READ_ROWS, d] each, with a bar called `label`."""
        return map(self._scaled, raw_blocks(self.rows, index, label))

    def _scaled(self, x: FloatArray) -> FloatArray:
        x = x - self.scale.mean
        x *= np.float32(self.scale.factor)
        return x


def scale_rows(rows: Rows, index: IntArray) -> ScaledRows:
    """Rows `index` of one model with their mean and scale, from two passes in float64.

    Raises:
        DiptychError: all rows are equal.
    """
    total = np.zeros(rows.widths[0])
    for x in raw_blocks(rows, index, "mean of the rows"):
        total += x.sum(axis=0, dtype=np.float64)
    mean = (total / len(index)).astype(np.float32)
    blocks = raw_blocks(rows, index, "scale of the rows")
    norm = sum(float(np.linalg.norm(x - mean, axis=1).sum(dtype=np.float64)) for x in blocks)
    if norm == 0:
        raise DiptychError("dictionary: all training rows are equal; nothing to learn")
    return ScaledRows(rows, index, Scale(mean, float(np.sqrt(rows.widths[0]) * len(index) / norm)))


def raw_blocks(rows: Rows, index: IntArray, label: str) -> Iterator[FloatArray]:
    """The rows in turn, as they are, with a bar called `label`."""
    for start in logs.progress(range(0, len(index), READ_ROWS), label, unit="block"):
        yield rows.take(index[start : start + READ_ROWS]).x[0]
