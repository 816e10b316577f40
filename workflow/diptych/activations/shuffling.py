"""The order in which training reads rows, as a function of (seed, step).

An epoch is a random order of blocks of neighbouring rows; consecutive blocks fill a buffer, whose rows are shuffled
and used once. What a step reads does not depend on where a run began, so a checkpoint needs no place in a stream:

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
    """One filling of the buffer.

    Attributes:
        rows: the rows in it, int64 [n].
        order: of them, a permutation of 0..n-1.
        starts: where in `order` each batch that is still to be taken starts.
    """

    rows: IntArray
    order: IntArray
    starts: range


def blocks(position: npt.NDArray[np.integer], index: IntArray, size: int) -> list[IntArray]:
    """Rows in blocks of about `size` that begin where a sequence does: to run a sequence twice is dear.

    Args:
        position: of every row in its sequence, [rows].
        index: the rows to cut, ascending.
        size: rows in a block.
    """
    positions = position[index]
    starts = np.append(np.flatnonzero(positions[1:] <= positions[:-1]) + 1, len(index))
    edges = np.linspace(0, len(index), -(-len(index) // size) + 1).astype(np.int64)[1:-1]
    cuts = np.unique(starts[np.searchsorted(starts, edges)])
    return [block for block in np.split(index, cuts) if len(block)]


def fills(parts: Sequence[IntArray], *, buffer_rows: int, batch: int, seed: int, first: int = 0) -> Iterator[Fill]:
    """Fillings of the buffer from the one that step `first` reads, without end.

    Rows of an epoch that make no whole batch of their filling are left out of that epoch. If one buffer holds all
    rows, every filling has the same `rows`, which the caller may keep.

    Args:
        parts: blocks of rows.
        buffer_rows: rows in a filling, about; at least two batches.
        batch: rows of a step.
        seed: of the order.
        first: the step to begin with.
    """
    n_fills = min(len(parts), math.ceil(sum(len(part) for part in parts) / buffer_rows))
    in_order = np.arange(len(parts))
    step = 0
    for epoch in count():
        order = np.random.default_rng([seed, 0, epoch]).permutation(in_order) if n_fills > 1 else in_order
        for number, chosen in enumerate(np.array_split(order, n_fills)):
            rows = np.concatenate([parts[i] for i in chosen])
            n_steps = len(rows) // batch
            if first < step + n_steps:
                mixed = np.random.default_rng([seed, 1, epoch, number]).permutation(len(rows))
                yield Fill(rows, mixed, range(batch * max(0, first - step), batch * n_steps, batch))
            step += n_steps
