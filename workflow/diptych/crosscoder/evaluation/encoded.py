"""Blockwise encoding and reconstruction of a crosscoder's rows."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diptych.activations.rows import IntArray, Rows
from diptych.runtime import logs
from diptych.sparse_coding import architecture, sparse
from diptych.sparse_coding.architecture import Crosscoder

CODE_BYTES = 2**27
"""Memory of one block's dense code; sets how many rows are read together."""
MEAN_ROWS, MEAN_BLOCK = 100_000, 8192
"""Largest number of rows that a mean is taken over, and rows per read."""


class Encoded(NamedTuple):
    """A block of rows with its sparse code and reconstruction.

    Attributes:
        row: int64 [b], row numbers in the `Rows`.
        z_BD: normalised input.
        x_hat_BD: its reconstruction.
        selection: positions of the non-zero entries of the code.
        f: their values [nnz].
    """

    row: IntArray
    z_BD: Tensor
    x_hat_BD: Tensor
    selection: sparse.Selection
    f: Tensor


@torch.no_grad()
def encoded_blocks(
    crosscoder: Crosscoder, rows: Rows, index: IntArray, *, swap: bool = False, label: str = ""
) -> Iterator[Encoded]:
    """Encode and decode rows `index` in blocks, with a progress bar called `label` if given.

    With `swap`, the first two models' rows are exchanged.
    """
    arch, device = crosscoder.architecture, crosscoder.mean.device
    size = max(1, CODE_BYTES // (4 * arch.n_latents))
    starts = range(0, len(index), size)
    for start in logs.progress(starts, label, unit="block") if label else starts:
        block = rows.take(index[start : start + size])
        x = (block.x[1], block.x[0], *block.x[2:]) if swap else block.x
        z_BD = crosscoder.normalise(architecture.crosscoder_input(x, arch).to(device))
        f_BF = crosscoder.activate(crosscoder.pre_activations(z_BD))
        flat = sparse.positions(f_BF != 0)
        selection = sparse.selection_from_flat(flat, (len(z_BD), arch.n_latents))
        f = f_BF.view(-1)[flat]
        x_hat_BD = sparse.decode(f, crosscoder.W_dec, selection) + crosscoder.b_dec
        yield Encoded(block.row, z_BD, x_hat_BD, selection, f)


def training_mean(crosscoder: Crosscoder, rows: Rows) -> Tensor:
    """Mean of the rows outside fold 0 in raw units, or of `MEAN_ROWS` spread over them: [D] on the crosscoder's device.

    The buffer `mean` of an imported crosscoder need not be that mean; it may be 0.
    """
    train = np.flatnonzero(rows.fold != 0)
    sampled = train[np.unique(np.linspace(0, len(train) - 1, min(len(train), MEAN_ROWS)).astype(np.int64))]
    total = torch.zeros(sum(crosscoder.architecture.widths), dtype=torch.float64)
    for start in logs.progress(range(0, len(sampled), MEAN_BLOCK), "mean of the rows", unit="block"):
        x = rows.take(sampled[start : start + MEAN_BLOCK]).x
        total += architecture.crosscoder_input(x, crosscoder.architecture).sum(0, dtype=torch.float64)
    return (total / len(sampled)).float().to(crosscoder.mean.device)
