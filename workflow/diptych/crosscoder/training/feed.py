"""Training batches from a shuffled buffer of rows, and the rows held out to calibrate the threshold.

    with closing(feed.batches(first=0, end=1000)) as batches:
        for z_BD in batches:                 # normalised rows on the crosscoder's device, until the next batch

While one filling of the buffer is used, a thread reads the next one, or runs the models of a stream. The buffer holds
rows as they are stored, and a batch is normalised on the crosscoder's device. It lies there too if it fits; else a
second thread gathers batches in pinned memory and copies them to the GPU while steps are computed. Several processes
share one buffer in memory, each reading its part of it.
"""

import math
from collections.abc import Generator
from contextlib import closing, nullcontext
from threading import Event
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.activations import buffer, shuffling
from diptych.activations.buffer import RowBuffer
from diptych.activations.rows import FloatArray, IntArray, Rows
from diptych.crosscoder.training.parallel import ALONE, Group
from diptych.crosscoder.training.settings import Training
from diptych.runtime.ahead import ahead
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding.architecture import Architecture, Crosscoder

CALIBRATION_ROWS = 100_000
"""Largest number of rows that means and scales are computed from, and of rows that set the threshold."""
CALIBRATION_DOCUMENTS = 8
"""Smallest number of documents that set the threshold: in 19th-century addresses their mean L0 is then within 3 %."""
READ_ROWS = 1024
"""Rows per read: the shuffle buffer is filled with blocks of this many rows from all over the corpus."""
CACHED_ROWS = 64
"""Rows that a CPU normalises at once: what is gathered for them stays in its cache."""
GATHERED = 2
"""Batches that are on their way to a GPU while a step is computed."""


class Batch(NamedTuple):
    """The rows of one step before they are normalised.

    Attributes:
        rows: row numbers, int64 [batch], of all processes.
        parts: of each model, rows on the crosscoder's device as they are stored.
        places: places in `parts` of this process's rows, in their order; None: all of them.
        copied: recorded after the copy of `parts` to the device.
    """

    rows: IntArray
    parts: tuple[Tensor, ...]
    places: Tensor | None
    copied: torch.cuda.Event | None = None


class Feed:
    """Normalised training batches in the order of `shuffling`; if all rows fit in the buffer, they are read once."""

    def __init__(self, rows: Rows, crosscoder: Crosscoder, settings: Training, group: Group = ALONE) -> None:
        self.rows, self.crosscoder, self.settings, self.group = rows, crosscoder, settings, group
        aside = calibration_rows(rows, settings)
        self.index = np.flatnonzero((rows.fold != 0) & ~aside)
        self.aside = np.flatnonzero(aside)
        self.seen = np.zeros(len(rows), dtype=np.bool_)
        self._stopped = Event()
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

    @property
    def device(self) -> torch.device:
        """Where batches are needed."""
        return self.crosscoder.mean.device

    def calibration(self, *, aside: bool = False) -> IntArray:
        """Row numbers for means and scales, or (`aside`) for the threshold: all, or evenly spread blocks."""
        index = self.aside if aside and len(self.aside) else self.index
        if len(index) > CALIBRATION_ROWS:
            blocks = shuffling.blocks(self.rows.position, index, READ_ROWS)
            n_blocks = min(len(blocks), -(-CALIBRATION_ROWS * len(blocks) // len(index)))
            index = np.concatenate([blocks[i] for i in np.linspace(0, len(blocks) - 1, n_blocks).astype(int)])
        return index[self.rows.valid(index)]

    def batches(self, first: int, end: int | None = None) -> Generator[Tensor]:
        """Batches of the steps first, ..., end - 1: the rows of this process, [batch / processes, D].

        A batch is overwritten by the next one. Close the generator before reading `rows`: its threads read them.
        """
        n_own = self.settings.batch // self.group.size
        z_BD = torch.empty((n_own, sum(self.crosscoder.architecture.widths)), device=self.device)
        scale_D = self.crosscoder.coordinate_scale
        with closing(self._on_device(first, end)) as batches:
            try:
                for batch in batches:
                    self.seen[batch.rows] = True
                    normalise(self.crosscoder, scale_D, batch, out=z_BD)
                    yield z_BD
            finally:
                self._stopped.set()

    def _on_device(self, first: int, end: int | None) -> Generator[Batch]:
        """Batches whose rows are on the crosscoder's device, in a buffer or copied from one."""
        self._stopped.clear()
        parts = shuffling.blocks(self.rows.position, self.index, min(READ_ROWS, self.settings.buffer_rows // 2))
        n = shuffling.largest(parts, self.settings.buffer_rows)
        n_held = n if n == len(self.index) else 2 * n
        on_device = self.group.size == 1 and buffer.fits(self.rows, n_held, self.device)
        place = self.device if on_device else torch.device("cpu")
        batches = self._batches(ahead(self._fillings(parts, n, place, first, end)), place)
        return batches if place == self.device else ahead(_copied(batches, self.device), GATHERED)

    def _batches(self, fillings: Generator[tuple[shuffling.Fill, RowBuffer]], place: torch.device) -> Generator[Batch]:
        """Batches in the buffer, on the device `place`; when the next filling is asked for, this one is not read."""
        size = self.settings.batch
        with closing(fillings):
            for fill, filled in fillings:
                order = fill.order[filled.valid[fill.order]]
                for start in fill.starts:
                    # If streamed rows turned out not to be valid, the last batch is filled up from the beginning.
                    batch = order.take(np.arange(start, start + size), mode="wrap")
                    own = own_part(batch, self.settings.accumulate, self.group)
                    yield Batch(fill.rows[batch], filled.parts, torch.from_numpy(own).to(place))
                if place.type == "cuda":
                    torch.cuda.current_stream(place).synchronize()

    def _fillings(
        self, parts: list[IntArray], n: int, place: torch.device, first: int, end: int | None
    ) -> Generator[tuple[shuffling.Fill, RowBuffer]]:
        """The buffer each time that it is filled, two of them in turn unless all rows fit in one."""
        settings, buffers = self.settings, list[RowBuffer]()
        n_buffers = 1 if n == len(self.index) else 2
        stream = _stream(self.device) if self.device.type == "cuda" else None
        fills = shuffling.fills(
            parts, buffer_rows=settings.buffer_rows, batch=settings.batch, seed=settings.seed, first=first, end=end
        )
        for number, fill in enumerate(fills):
            # Streamed models and copies have a CUDA stream of their own, beside that of the training steps.
            with torch.cuda.stream(stream) if stream else nullcontext():
                if number < n_buffers:
                    buffers.append(buffer.allocate(self.rows, n, place, self.group.array))
                filled = buffers[number % n_buffers]
                if number == 0 or n_buffers > 1:
                    self._fill(filled, fill.rows)
                if stream:
                    stream.synchronize()
            yield fill, filled

    def _fill(self, filled: RowBuffer, part: IntArray) -> None:
        """Write rows `part` to the buffer, each process its share of them."""
        self.group.wait()  # no process reads what stands there
        size = READ_ROWS * self.group.size
        for start in range(0, len(part), size):
            if self._stopped.is_set():
                break
            share = np.array_split(np.arange(start, min(start + size, len(part))), self.group.size)[self.group.rank]
            if len(share):
                filled.write(self.rows, part[share], int(share[0]))
        self.group.wait()  # all of it is there


def own_part(batch: IntArray, accumulate: int, group: Group) -> IntArray:
    """The elements of a batch that one process computes: an equal number of each part (`accumulate`)."""
    own: IntArray = batch.reshape(accumulate, group.size, -1)[:, group.rank].ravel()
    return own


def _copied(batches: Generator[Batch], device: torch.device) -> Generator[Batch]:
    """Batches gathered in pinned memory and copied to a GPU on a stream of their own."""
    stream = _stream(device)
    with closing(batches):
        for batch in batches:
            assert batch.places is not None
            gathered = tuple(
                torch.empty((len(batch.places), part.shape[1]), dtype=part.dtype, pin_memory=True)
                for part in batch.parts
            )
            for part, pinned in zip(batch.parts, gathered, strict=True):
                torch.index_select(part, 0, batch.places, out=pinned)
            with torch.cuda.stream(stream):
                parts = tuple(pinned.to(device, non_blocking=True) for pinned in gathered)
                copied = stream.record_event()
            yield Batch(batch.rows, parts, None, copied)


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@torch.no_grad()
def normalise(crosscoder: Crosscoder, scale_D: Tensor, batch: Batch, *, out: Tensor) -> None:
    """Write the normalised rows of a batch to `out` [b, D]: `Crosscoder.normalise` of float32 rows, bit for bit.

    `scale_D` is the crosscoder's `coordinate_scale`.
    """
    if batch.copied is not None:
        batch.copied.synchronize()
        for part in batch.parts:
            part.record_stream(torch.cuda.current_stream(part.device))
    size = CACHED_ROWS if out.device.type == "cpu" else len(out)
    for start in range(0, len(out), size):
        span = slice(start, start + size)
        places = None if batch.places is None else batch.places[span]
        x = tuple(part[span] if places is None else part.index_select(0, places) for part in batch.parts)
        if crosscoder.architecture.difference:
            x = (x[1].float() - x[0].float(),)
        for m, z in enumerate(crosscoder.per_model(out[span])):
            z.copy_(x[m])
        out[span].sub_(crosscoder.mean).mul_(scale_D)


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
