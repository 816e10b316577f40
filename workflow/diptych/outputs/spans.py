"""The text's own log-probability under two models with different tokenizers, span by span.

Two vocabularies have no common outcome, but the text does: between two places at which tokens of both end, both models
give the same characters a probability, the product over their own tokens.

    A:  |Fellow| Citi|zens| of|      log p_A(" Citizens") = log p(" Citi") + log p("zens")
    B:  |Fellow| Citizens| of|       log p_B(" Citizens")

    spans = compare(nll_a, nll_b, readings, alignment)
    spans.nll_b - spans.nll_a           # nats, of each span

A span is scored if both models read all of it in one sequence of theirs, after a position that counts in both.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import torch

from diptych.models.pretrained import is_out_of_memory
from diptych.outputs.reading import IntArray, Reading
from diptych.outputs.states import Side
from diptych.outputs.streaming import block_of
from diptych.runtime import logs
from diptych.storage import artifacts

DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spans:
    """Spans of the text that both models scored, [n] each.

    Attributes:
        row_a, row_b: int64, the tokens after which a span begins.
        nll_a, nll_b: float64, -log p of the span's text in nats.
    """

    row_a: IntArray
    row_b: IntArray
    nll_a: DoubleArray
    nll_b: DoubleArray


def own_losses(side: Side, reading: Reading) -> DoubleArray:
    """-log p of the next token after each token row of the file, float64; NaN where it is not read or there is none."""
    losses = np.full(len(reading.sequences.token), np.nan)
    next_token, start = reading.next_token, 0
    block = block_of(side.vocabulary)
    while start < len(reading):
        stop = min(start + block, len(reading))
        try:
            values = _losses(side, start, stop, next_token[start:stop])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or block == 1:
                raise
            block //= 2
            logs.logger.warning("out of memory: blocks of %d positions", block)
            continue
        losses[reading.row[start:stop]] = values
        start = stop
    return losses


@torch.inference_mode()
def _losses(side: Side, start: int, stop: int, next_token: IntArray) -> DoubleArray:
    logits = side.logits(start, stop)
    own = torch.from_numpy(next_token).to(logits.device)
    nll = logits.logsumexp(1) - logits.gather(1, own.clamp(min=0)[:, None])[:, 0]
    values: DoubleArray = torch.where(own >= 0, nll, torch.nan).cpu().numpy().astype(np.float64)
    return values


def compare(losses: tuple[DoubleArray, DoubleArray], readings: tuple[Reading, Reading], alignment: str | Path) -> Spans:
    """Losses of all spans between neighbouring aligned rows.

    Args:
        losses: of each model, by token row (`own_losses`).
        readings: what each model read.
        alignment: of the token files, kind "alignment".
    """
    with artifacts.read(alignment, "alignment") as file:
        rows = _aligned_rows(file)
    starts, ends = [row[:-1] for row in rows], [row[1:] for row in rows]
    known = np.ones(len(starts[0]), dtype=np.bool_)
    nll = []
    for loss, reading, start, end in zip(losses, readings, starts, ends, strict=True):
        sequence = reading.sequences.row_sequence
        total = np.append(0.0, np.cumsum(np.nan_to_num(loss)))
        missing = np.append(0, np.cumsum(np.isnan(loss)))
        known &= (sequence[start] == sequence[end]) & (end > start) & (missing[end] == missing[start])
        nll.append(total[end] - total[start])
    return Spans(starts[0][known], starts[1][known], nll[0][known], nll[1][known])


def _aligned_rows(file: h5py.File) -> tuple[IntArray, IntArray]:
    return file["row_a"][:].astype(np.int64), file["row_b"][:].astype(np.int64)
