"""What two models predict at every position, streamed in blocks of positions over the whole vocabulary.

For each block the float32 probabilities of both models are computed from their stored states, in two arrays of
block x V that all blocks share: arrays allocated anew for each would leave the allocator's memory in pieces. What
remains is for each position its divergences and the tokens that moved most there, and for each document the mass of
every token, on disk:

    predictions = compare((side_a, side_b), reading, directory)
    predictions.kl_ab                   # float32 [n], KL(A || B) in nats after each row
    predictions.raised.token[0]         # the 50 tokens of largest p_B - p_A at the first position
    predictions.masses(tokens)          # float64 [D, 2, tokens], sums of p_A and p_B over a document's positions

With delta = log p_B - log p_A, the divergences are sums of terms that are 0 where delta is:

    KL(A || B) = sum (p_B - p_A) - p_A delta        KL(B || A) = sum p_B delta - (p_B - p_A)
    JS = 1/2 sum p_B delta - (p_A + p_B) g,         g = log((1 + p_B / p_A) / 2)

(sum p_B - p_A is 0; it removes the rounding of the normalisers), so that equal models differ by 0, exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.models.pretrained import OutOfMemoryError, is_out_of_memory
from diptych.outputs.reading import IntArray, Reading
from diptych.outputs.states import FloatArray, Side
from diptych.runtime import logs

DoubleArray = npt.NDArray[np.float64]

MOVED = 50
"""Tokens stored at every position, of largest gain and of largest loss (METHODS 10)."""
BLOCK_VALUES = 2**23
"""Entries of a block of positions x V, 32 MiB for each of two arrays."""
ROWS = 16
"""Rows compared at once: a small share of a block's memory."""
GROUP = 64
"""Columns in a group for the search of the largest entries."""
SMALLEST = 1e-38
"""Probabilities below it are taken for it, so that ratios are finite."""


def block_of(vocabulary: int) -> int:
    """Positions in a block."""
    return max(1, BLOCK_VALUES // vocabulary)


class Moved(NamedTuple):
    """Tokens that moved most in one direction at each position: token int32 [n, k] (-1: padding), change [n, k]."""

    token: npt.NDArray[np.int32]
    change: FloatArray


@dataclass(frozen=True)
class Predictions:
    """Comparison of two models' predictions at the n positions of a reading with D documents.

    Attributes:
        reading: the positions.
        kl_ab, kl_ba, js: float32 [n], divergences in nats.
        agrees: bool [n], whether both models' most probable tokens are equal.
        nll_a, nll_b: float32 [n], -log p of the text's own next token; NaN where the sequence ends.
        raised, lowered: tokens of largest p_B - p_A and p_A - p_B > 0.
        mined: int64 [V], positions at which a token is among the `MOVED` largest differences of centred logits (B - A).
        totals: float64 [2, V], sums of p_A and p_B over all positions.
        documents: int64 [D], numbers of the documents.
        n_positions: int64 [D], positions of each.
        mass_path: float32 [D, 2, V] on disk, sums of p_A and p_B over each document's positions.
    """

    reading: Reading
    kl_ab: FloatArray
    kl_ba: FloatArray
    js: FloatArray
    agrees: npt.NDArray[np.bool_]
    nll_a: FloatArray
    nll_b: FloatArray
    raised: Moved
    lowered: Moved
    mined: IntArray
    totals: DoubleArray
    documents: IntArray
    n_positions: IntArray
    mass_path: Path

    @property
    def vocabulary(self) -> int:
        """Number of tokens that both models predict, V."""
        return len(self.mined)

    @property
    def fold(self) -> IntArray:
        """int64 [D], fold of each document."""
        return self.reading.sequences.fold[self.documents]

    def masses(self, tokens: IntArray) -> DoubleArray:
        """Sums of p_A and p_B of some tokens over each document's positions, float64 [D, 2, tokens]."""
        masses = np.zeros((len(self.documents), 2, len(tokens)))
        with self.mass_path.open("rb") as file:
            for document in masses:
                document[:] = np.fromfile(file, np.float32, 2 * self.vocabulary).reshape(2, -1)[:, tokens]
        return masses


def compare(
    sides: tuple[Side, Side], reading: Reading, directory: str | Path, *, block: int | None = None
) -> Predictions:
    """Compare two models' predictions at all positions of a reading.

    Args:
        sides: the models' heads and states at these positions.
        reading: the positions.
        directory: where the masses of documents are written, 8 bytes per document and token of the vocabulary.
        block: positions at a time; None: `block_of` the vocabulary. A lack of memory halves it.

    Raises:
        OutOfMemoryError: a single position does not fit the memory.
    """
    vocabulary = min(side.vocabulary for side in sides)
    collected = _Collected(reading, vocabulary, Path(directory) / "masses.f32")
    block = block or block_of(vocabulary)
    start, next_token = 0, reading.next_token
    arrays: _Arrays | None = None
    with collected.mass_path.open("wb") as file:
        while start < len(reading):
            stop = min(start + block, len(reading))
            try:
                arrays = arrays or _Arrays.empty(min(block, len(reading)), vocabulary, sides[0].device)
                compared = _compare_block(sides, start, next_token[start:stop], arrays)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if block == 1:
                    raise OutOfMemoryError(
                        f"out of memory at one position of {vocabulary:,} tokens; use a machine with more memory"
                    ) from error
                block, arrays = block // 2, None
                logs.logger.warning("out of memory: blocks of %d positions", block)
                continue
            collected.add(start, stop, compared, file)
            start = stop
        collected.finish(file)
    return collected.predictions()


class _Arrays(NamedTuple):
    """Memory that all blocks share: probabilities of A and B float32 [2, block, V], and work of rows [2, ROWS, V]."""

    p: Tensor
    work: Tensor

    @classmethod
    def empty(cls, block: int, vocabulary: int, device: torch.device) -> "_Arrays":
        """Arrays for blocks of at most `block` positions."""
        p, work = (torch.empty(2, size, vocabulary, device=device) for size in (block, ROWS))
        return cls(p, work)


class _Rows(NamedTuple):
    """Comparison of some positions: numbers [r], entries and columns of the largest changes [r, k], mined tokens."""

    numbers: dict[str, Tensor]
    raised: tuple[Tensor, Tensor]
    lowered: tuple[Tensor, Tensor]
    mined: Tensor


class _Block(NamedTuple):
    """Comparison of a block of b positions; p is float32 [2, b, V], of A and of B, on A's device."""

    p: Tensor
    rows: _Rows


@torch.inference_mode()
def _compare_block(sides: tuple[Side, Side], start: int, next_token: IntArray, arrays: _Arrays) -> _Block:
    """Divergences and largest changes at the b positions from `start`, whose next tokens [b] are given."""
    size = len(next_token)
    p = arrays.p[:, :size]
    for side, logits in zip(sides, p, strict=True):
        side.logits(start, start + size, out=logits)
    own = torch.from_numpy(next_token).to(p.device)
    pieces = []
    for first in range(0, size, ROWS):
        rows = slice(first, min(first + ROWS, size))
        pieces.append(_compare_rows(p[0, rows], p[1, rows], own[rows], arrays.work[:, : rows.stop - rows.start]))
    return _Block(p, _joined(pieces))


def _compare_rows(log_a: Tensor, log_b: Tensor, own: Tensor, work: Tensor) -> _Rows:
    """Compare logits [r, V], which become probabilities in place; `own` are next tokens [r], `work` is [2, r, V]."""
    delta, terms = work
    for logits in (log_a, log_b):
        logits.sub_(logits.amax(1, keepdim=True))
        logits.sub_(torch.exp(logits, out=terms).sum(1, keepdim=True).log_())
    vocabulary = log_a.shape[1]
    has_next = (own >= 0) & (own < vocabulary)
    column = own.clamp(0, vocabulary - 1)[:, None]
    numbers = {
        name: torch.where(has_next, -log_p.gather(1, column)[:, 0], torch.nan)
        for name, log_p in (("nll_a", log_a), ("nll_b", log_b))
    }
    k = min(MOVED, vocabulary)
    torch.sub(log_b, log_a, out=delta)
    # Centring subtracts a number from each row: the order within a position is that of delta.
    largest, tokens = _largest(delta, k)
    mined = tokens[largest[:, 0] > 0]
    p_a, p_b = log_a.exp_().clamp_min_(SMALLEST), log_b.exp_().clamp_min_(SMALLEST)
    numbers["agrees"] = p_b.gather(1, p_a.argmax(1)[:, None])[:, 0] == p_b.amax(1)
    a_delta, b_delta = (torch.mul(p, delta, out=terms).sum(1) for p in (p_a, p_b))
    g = torch.div(p_b, p_a, out=delta).add_(1).mul_(0.5).log_()
    a_g, b_g = (torch.mul(p, g, out=terms).sum(1) for p in (p_a, p_b))
    numbers["js"] = 0.5 * (b_delta - a_g - b_g)
    change = torch.sub(p_b, p_a, out=g)
    surplus = change.sum(1)
    numbers |= {"kl_ab": surplus - a_delta, "kl_ba": b_delta - surplus}
    raised = _largest(change, k)
    return _Rows(numbers, raised, _largest(change.neg_(), k), mined)


def _joined(pieces: list[_Rows]) -> _Rows:
    """The comparisons of consecutive positions as one."""
    return _Rows(
        {name: torch.cat([piece.numbers[name] for piece in pieces]) for name in pieces[0].numbers},
        (torch.cat([piece.raised[0] for piece in pieces]), torch.cat([piece.raised[1] for piece in pieces])),
        (torch.cat([piece.lowered[0] for piece in pieces]), torch.cat([piece.lowered[1] for piece in pieces])),
        torch.cat([piece.mined for piece in pieces]),
    )


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest entries of each row [r, V] and their columns, descending.

    They lie in the k groups of columns with the largest maxima: only these are sorted.
    """
    r, n = values.shape
    if n % GROUP or n < 2 * k * GROUP:
        plain = values.topk(k)
        return plain.values, plain.indices
    grouped = values.view(r, n // GROUP, GROUP)
    group = grouped.amax(2).topk(k).indices
    members = grouped.gather(1, group[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    best = members.topk(k)
    return best.values, group.gather(1, best.indices // GROUP) * GROUP + best.indices % GROUP


class _Collected:
    """Results of the blocks that have been compared."""

    def __init__(self, reading: Reading, vocabulary: int, mass_path: Path) -> None:
        n, k = len(reading), min(MOVED, vocabulary)
        self._reading, self.mass_path = reading, mass_path
        names = ("kl_ab", "kl_ba", "js", "nll_a", "nll_b")
        self._numbers: dict[str, FloatArray] = {name: np.zeros(n, dtype=np.float32) for name in names}
        self._agrees = np.zeros(n, dtype=np.bool_)
        self._moved = [Moved(np.full((n, k), -1, dtype=np.int32), np.zeros((n, k), dtype=np.float32)) for _ in range(2)]
        self._mined = np.zeros(vocabulary, dtype=np.int64)
        self._totals = np.zeros((2, vocabulary))
        self._documents, self._n_positions = np.unique(reading.document, return_counts=True)
        self._mass: Tensor | None = None
        self._document = -1

    def add(self, start: int, stop: int, block: _Block, file: BinaryIO) -> None:
        """Add the block of positions start .. stop; documents that end in it are written to `file`."""
        for name, values in self._numbers.items():
            values[start:stop] = block.rows.numbers[name].cpu().numpy()
        self._agrees[start:stop] = block.rows.numbers["agrees"].cpu().numpy()
        for moved, (changes, indices) in zip(self._moved, (block.rows.raised, block.rows.lowered), strict=True):
            change = changes.cpu().numpy()
            moved.change[start:stop] = np.maximum(change, 0.0)
            moved.token[start:stop] = np.where(change > 0, indices.cpu().numpy(), -1)
        self._mined += np.bincount(block.rows.mined.cpu().numpy().ravel(), minlength=len(self._mined))
        for first, last in _runs(self._reading.document[start:stop]):
            document = int(self._reading.document[start + first])
            if document != self._document:
                self.finish(file)
                self._document = document
                self._mass = torch.zeros(2, len(self._mined), dtype=torch.float64, device=block.p.device)
            assert self._mass is not None
            self._mass += block.p[:, first:last].sum(1)

    def finish(self, file: BinaryIO) -> None:
        """Write the masses of the document that is being read."""
        if self._mass is not None:
            mass = self._mass.cpu().numpy()
            self._totals += mass
            file.write(mass.astype(np.float32).tobytes())
            self._mass = None

    def predictions(self) -> Predictions:
        """All results."""
        return Predictions(
            reading=self._reading,
            **self._numbers,
            agrees=self._agrees,
            raised=self._moved[0],
            lowered=self._moved[1],
            mined=self._mined,
            totals=self._totals,
            documents=self._documents,
            n_positions=self._n_positions,
            mass_path=self.mass_path,
        )


def _runs(values: IntArray) -> Iterator[tuple[int, int]]:
    """(first, end) of each run of equal values."""
    edges = np.flatnonzero(np.diff(values)) + 1
    yield from zip([0, *edges.tolist()], [*edges.tolist(), len(values)], strict=True)
