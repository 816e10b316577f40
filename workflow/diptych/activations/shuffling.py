"""The order in which training reads rows, a function of seed and step only.

An epoch is a random order of blocks of neighbouring rows; consecutive blocks fill a buffer, whose rows are shuffled
and used once. What a step reads does not depend on where the run began, so a run can be resumed at any step:

    parts = shuffling.blocks(rows.position, index, 1024)
    for fill in shuffling.fills(parts, buffer_rows=65_536, batch=1024, seed=0, first=400):  # from step 400
        x = read(fill.rows)
        for start in fill.starts:
            batch = x[fill.order[start : start + 1024]]
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fill:
    """The contents of the shuffle buffer at one time.

    Attributes:
        rows: row numbers, int64 [n].
        order: random permutation of 0..n-1 in which they are used.
        starts: the index in `order` at which each remaining batch starts.
    """

    rows: IntArray
    order: IntArray
    starts: range


def blocks(position: npt.NDArray[np.integer], index: IntArray, size: int) -> list[IntArray]:
    """Split rows into blocks of about `size`, at sequence boundaries: a streamed sequence that is split is run twice.

    Args:
        position: of every row in its sequence, [rows].
        index: the rows to split, ascending.
        size: rows per block.
    """
    positions = position[index]
    starts = np.append(np.flatnonzero(positions[1:] <= positions[:-1]) + 1, len(index))
    edges = np.linspace(0, len(index), -(-len(index) // size) + 1).astype(np.int64)[1:-1]
    cuts = np.unique(starts[np.searchsorted(starts, edges)])
    return [block for block in np.split(index, cuts) if len(block)]


def fills(
    parts: Sequence[IntArray], *, buffer_rows: int, batch: int, seed: int, first: int = 0, end: int | None = None
) -> Iterator[Fill]:
    """Contents of the shuffle buffer that the steps first, ..., end - 1 read.

    An incomplete last batch of a buffer is left out of that epoch. If one buffer holds all rows, `rows` is the same
    every time, so the caller may keep them in memory.

    Args:
        parts: blocks of rows.
        buffer_rows: approximate number of rows in the buffer; at least two batches.
        batch: rows per step.
        seed: of the order.
        first: the step to begin with.
        end: the step to end before; None: endlessly.
    """
    n_fills = _count(parts, buffer_rows)
    in_order = np.arange(len(parts))
    step = 0
    for epoch in count():
        order = np.random.default_rng([seed, 0, epoch]).permutation(in_order) if n_fills > 1 else in_order
        for number, part_ids in enumerate(np.array_split(order, n_fills)):
            rows = np.concatenate([parts[i] for i in part_ids])
            n_steps = len(rows) // batch
            n_read = n_steps if end is None else min(n_steps, end - step)
            starts = range(batch * max(0, first - step), batch * n_read, batch)
            if starts:
                mixed = np.random.default_rng([seed, 1, epoch, number]).permutation(len(rows))
                yield Fill(rows, mixed, starts)
            step += n_steps
            if end is not None and step >= end:
                return


def largest(parts: Sequence[IntArray], buffer_rows: int) -> int:
    """An upper bound of the rows in one of `fills`: those of the longest blocks that may come together."""
    lengths = np.sort([len(part) for part in parts])
    return int(lengths[-math.ceil(len(parts) / _count(parts, buffer_rows)) :].sum())


def _count(parts: Sequence[IntArray], buffer_rows: int) -> int:
    """Number of fills of one epoch."""
    return min(len(parts), math.ceil(sum(len(part) for part in parts) / buffer_rows))
