"""Training batches from a shuffled buffer of rows, and the rows held out to calibrate the threshold."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.activations import shuffling
from diptych.activations.rows import FloatArray, IntArray, Rows
from diptych.crosscoder.training.parallel import ALONE, Group
from diptych.crosscoder.training.settings import Training
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding import architecture
from diptych.sparse_coding.architecture import Architecture, Crosscoder

CALIBRATION_ROWS = 100_000
"""Largest number of rows that means and scales are computed from, and of rows that set the threshold."""
CALIBRATION_DOCUMENTS = 8
"""Smallest number of documents that set the threshold: in 19th-century addresses their mean L0 is then within 3 %."""
READ_ROWS = 1024
"""Rows per read: the shuffle buffer is filled with blocks of this many rows from all over the corpus."""


class Feed:
    """Normalised training batches in the order of `shuffling`; if all rows fit in the buffer, they are read once."""

    def __init__(self, rows: Rows, crosscoder: Crosscoder, settings: Training, group: Group = ALONE) -> None:
        self.rows, self.crosscoder, self.settings, self.group = rows, crosscoder, settings, group
        aside = calibration_rows(rows, settings)
        self.index = np.flatnonzero((rows.fold != 0) & ~aside)
        self.aside = np.flatnonzero(aside)
        self.seen = np.zeros(len(rows), dtype=np.bool_)
        self._valid = np.ones(len(rows), dtype=np.bool_)
        self._all: FloatArray | None = None
        if len(self.index) < settings.batch or settings.buffer_rows < 2 * settings.batch:
            raise DiptychError(
                f"crosscoder: `batch` {settings.batch} needs as many training rows (there are {len(self.index)}) "
                f"and half of `buffer_rows` ({settings.buffer_rows}); lower `batch`"
            )
        if settings.batch % (settings.accumulate * group.size):
            raise DiptychError(
                f"crosscoder: `batch` {settings.batch} cannot be split into {settings.accumulate} parts (`accumulate`) "
                f"for each of {group.size} processes; choose a multiple of {settings.accumulate * group.size}"
            )

    def calibration(self, *, aside: bool = False) -> IntArray:
        """Row numbers for means and scales, or (`aside`) for the threshold: all, or evenly spread blocks."""
        index = self.aside if aside and len(self.aside) else self.index
        if len(index) > CALIBRATION_ROWS:
            blocks = shuffling.blocks(self.rows.position, index, READ_ROWS)
            n_blocks = min(len(blocks), -(-CALIBRATION_ROWS * len(blocks) // len(index)))
            index = np.concatenate([blocks[i] for i in np.linspace(0, len(blocks) - 1, n_blocks).astype(int)])
        return index[self.rows.valid(index)]

    def batches(self, first: int) -> Iterator[Tensor]:
        """Batches of steps first, first + 1, ..., endlessly: the rows of this process, [batch / processes, D]."""
        for fill in shuffling.fills(
            shuffling.blocks(self.rows.position, self.index, min(READ_ROWS, self.settings.buffer_rows // 2)),
            buffer_rows=self.settings.buffer_rows,
            batch=self.settings.batch,
            seed=self.settings.seed,
            first=first,
        ):
            values = self._load(fill.rows)
            order = fill.order[self._valid[fill.rows][fill.order]]
            for start in fill.starts:
                # If streamed rows turned out not to be valid, the last batch is filled up from the beginning.
                batch = order.take(np.arange(start, start + self.settings.batch), mode="wrap")
                self.seen[fill.rows[batch]] = True
                yield torch.from_numpy(values[self._own(batch)])

    def _own(self, index: IntArray) -> IntArray:
        """The rows of a batch that this process computes: an equal number of each part (`accumulate`)."""
        own: IntArray = index.reshape(self.settings.accumulate, self.group.size, -1)[:, self.group.rank].ravel()
        return own

    def _load(self, part: IntArray) -> FloatArray:
        if self._all is not None:
            return self._all
        values = np.empty((len(part), sum(self.crosscoder.architecture.widths)), dtype=np.float32)
        size = READ_ROWS * self.group.size
        for start in range(0, len(part), size):
            chunk = part[start : start + size]
            values[start : start + size], self._valid[chunk] = self._read(chunk)
        if len(part) == len(self.index):
            self._all = values
        return values

    def _read(self, chunk: IntArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Normalised rows, and which of them are valid; of streamed rows each process computes its share."""
        if not self.rows.streamed or self.group.size == 1:
            return self.normalised(chunk), self.rows.valid(chunk)
        own = np.array_split(chunk, self.group.size)[self.group.rank]
        values, valid = torch.from_numpy(self.normalised(own)), torch.from_numpy(self.rows.valid(own))
        return self.group.gather(values).numpy(), self.group.gather(valid.byte()).bool().numpy()

    def normalised(self, index: IntArray) -> FloatArray:
        """Normalised rows [len(index), D]."""
        crosscoder = self.crosscoder
        x_BD = architecture.crosscoder_input(self.rows.take(index).x, crosscoder.architecture)
        coordinate_scale, mean = crosscoder.coordinate_scale.cpu(), crosscoder.mean.cpu()
        normalised: FloatArray = ((x_BD - mean) * coordinate_scale).numpy()
        return normalised


def calibration_rows(rows: Rows, settings: Training) -> npt.NDArray[np.bool_]:
    """Mask [n] of the rows of the training documents that are held out to set the threshold.

    Documents in random order until they have `calibration_share` of the training rows or `CALIBRATION_ROWS`, but at
    least `CALIBRATION_DOCUMENTS` of them, and at most a fifth of all.
    """
    train = rows.fold != 0
    activation = settings.architecture(rows.widths).activation
    documents, count = np.unique(rows.document[train], return_counts=True)
    if activation != "threshold" or not settings.calibration_share or len(documents) < 2:
        return np.zeros(len(rows), dtype=np.bool_)
    order = np.random.default_rng([settings.seed, 2]).permutation(len(documents))
    n_needed = min(settings.calibration_share * train.sum(), CALIBRATION_ROWS)
    n = int(np.searchsorted(np.cumsum(count[order]), n_needed)) + 1
    n = max(1, min(max(n, CALIBRATION_DOCUMENTS), len(documents) // 5))
    aside: npt.NDArray[np.bool_] = train & np.isin(rows.document, documents[order[:n]])
    return aside


def set_normalisation(crosscoder: Crosscoder, rows: Rows, index: IntArray) -> None:
    """Set for each model the mean of rows `index` and the scale that makes their mean distance from it sqrt(dbar)."""
    arch = crosscoder.architecture
    totals = [np.zeros(width) for width in arch.widths]
    lengths = np.zeros(len(arch.widths))
    blocks = [index[start : start + READ_ROWS] for start in range(0, len(index), READ_ROWS)]
    for block in blocks:
        for model, x in enumerate(_inputs(rows, block, arch)):
            totals[model] += x.sum(axis=0, dtype=np.float64)
    means = [total / len(index) for total in totals]
    for block in blocks:
        for model, x in enumerate(_inputs(rows, block, arch)):
            lengths[model] += np.linalg.norm(x - means[model], axis=1).sum()
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise DiptychError("crosscoder: a model's rows are all equal or not finite; check its activations")
    crosscoder.mean.copy_(torch.from_numpy(np.concatenate(means)))
    crosscoder.scale.copy_(torch.from_numpy(math.sqrt(arch.mean_width) * len(index) / lengths))


def _inputs(rows: Rows, index: IntArray, arch: Architecture) -> list[FloatArray]:
    x = rows.take(index).x
    return [x[1] - x[0]] if arch.difference else list(x)
