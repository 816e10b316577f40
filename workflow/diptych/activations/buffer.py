"""Rows of several models in memory, in the dtype in which they are stored: bfloat16 stays two bytes a value.

    buffer = allocate(rows, 400_000, torch.device("cuda:0"))
    buffer.write(rows, index, 0)       # rows `index` to places 0, 1, ...: stored ones are read, streamed ones computed
    buffer.parts[0][: len(index)]      # those of the first model: a tensor [k, d]
    buffer.valid[: len(index)]         # which of them are valid

On a GPU stored rows arrive through pinned memory, and streamed ones never leave the GPU that computed them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.activations.rows import Rows
from diptych.activations.sides import BoolArray, IntArray, Side, StoredArray, Streamed, ascending_runs

DEVICE_SHARE = 0.25
"""Share of a GPU's free memory that buffers may take: training and the models of a stream need the rest."""

Allocate = Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]
"""Makes an array of a shape and a dtype."""


def as_tensor(values: StoredArray) -> Tensor:
    """The tensor that shares the memory of stored values; uint16 holds the bits of bfloat16."""
    return (
        torch.from_numpy(values.view(np.int16)).view(torch.bfloat16) if _is_bits(values) else torch.from_numpy(values)
    )


def as_array(values: Tensor) -> StoredArray:
    """The inverse of `as_tensor`, for a tensor on the CPU."""
    if values.dtype == torch.bfloat16:
        bits: StoredArray = values.view(torch.int16).numpy().view(np.uint16)
        return bits
    array: StoredArray = values.numpy()
    return array


def _is_bits(values: StoredArray) -> bool:
    return bool(values.dtype == np.uint16)


@dataclass(frozen=True)
class RowBuffer:
    """Places for n rows.

    Attributes:
        parts: of each model [n, d_m], on one device.
        valid: bool [n], on the CPU.
    """

    parts: tuple[Tensor, ...]
    valid: BoolArray

    def write(self, rows: Rows, index: IntArray, start: int) -> None:
        """Read rows `index`, in any order, to the places start, start + 1, ..., and whether they are valid."""
        for m, side in enumerate(rows.sides):
            _write(side, rows.token_row[m, index], self.parts[m][start : start + len(index)])
        self.valid[start : start + len(index)] = rows.valid(index)


def allocate(rows: Rows, n: int, device: torch.device, on_host: Allocate = np.empty) -> RowBuffer:
    """A buffer for `n` rows on a device; `on_host` makes the arrays of one on the CPU."""
    valid = on_host((n,), np.bool_)
    if device.type == "cpu":
        return RowBuffer(tuple(as_tensor(on_host((n, side.width), side.dtype)) for side in rows.sides), valid)
    dtypes = [as_tensor(np.empty(0, side.dtype)).dtype for side in rows.sides]
    sides = zip(rows.sides, dtypes, strict=True)
    return RowBuffer(tuple(torch.empty((n, side.width), dtype=dtype, device=device) for side, dtype in sides), valid)


def fits(rows: Rows, n: int, device: torch.device) -> bool:
    """Whether `n` rows take at most `DEVICE_SHARE` of a GPU's free memory; False for the CPU."""
    if device.type == "cpu":
        return False
    row_bytes = sum(side.width * side.dtype.itemsize for side in rows.sides)
    return n * row_bytes <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]


def _write(side: Side, token_row: IntArray, target: Tensor) -> None:
    """Copy the token rows of one side, in any order, to `target` [len(token_row), d]."""
    if isinstance(side, Streamed):
        # All at once: the sequences that a model reads together decide the last bits of their activations.
        order = np.argsort(token_row, kind="stable")
        values = side.compute(token_row[order])
        target.index_copy_(0, torch.from_numpy(order).to(target.device), values.to(target.device))
    elif target.is_cuda:
        staged = torch.empty(target.shape, dtype=target.dtype, pin_memory=True)
        _read(side, token_row, as_array(staged))
        target.copy_(staged, non_blocking=True)
    else:
        _read(side, token_row, as_array(target))


def _read(side: Side, token_row: IntArray, out: StoredArray) -> None:
    for start, end in ascending_runs(token_row):
        side.read(token_row[start:end], out[start:end])
