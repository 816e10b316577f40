"""Token sequences as a model reads them: padded batches of a token file's rows.

sequences = Sequences.read("results/tokens/addresses/base.h5")
batch = sequences.batch([4, 7])
batch.ids          # [2, L], the shorter one padded on the right
batch.rows         # token rows of the real tokens, in the order of batch.mask's True entries
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


BATCH_VALUES = 2**22
"""Values of the residual stream in one forward pass where no number of tokens is given: 16 MB of float32, of which a
block holds some tens of times as much at once."""
LARGEST_BATCH = 8192
"""Tokens of one forward pass of a narrow model, where the batch no longer decides the speed."""


LARGEST_PADDING = 1 / 8
"""Largest share of a batch's positions that are padding."""


def tokens_per_pass(width: int) -> int:
    """Default tokens per forward pass for a residual stream of this width; it does not depend on the free memory."""
    return min(LARGEST_BATCH, max(1, BATCH_VALUES // width))


def n_fitting(lengths: IntArray, batch_tokens: int) -> int:
    """Number of the first sequences that make one batch, at least one.

    Padded to the first of them, the longest, they have at most `batch_tokens` positions, and at most
    `LARGEST_PADDING` of these are padding.

    Args:
        lengths: int64 [k > 0] of sequences, falling.
        batch_tokens: positions of a batch.
    """
    longest = int(lengths[0])
    lengths = lengths[: max(1, batch_tokens // longest)]
    positions = longest * np.arange(1, len(lengths) + 1)
    return int(np.count_nonzero(positions - np.cumsum(lengths) <= LARGEST_PADDING * positions))


def grouped(lengths: IntArray, batch_tokens: int) -> Iterator[IntArray]:
    """Indices of sequences of these lengths [k] in batches (`n_fitting`), the longest first."""
    order, done = np.argsort(-lengths, kind="stable"), 0
    while done < len(order):
        following = order[done : done + batch_tokens]
        n = n_fitting(lengths[following], batch_tokens)
        yield following[:n]
        done += n


class Batch(NamedTuple):
    """Some sequences: ids int64 [b, L], mask bool [b, L] (True at real tokens), rows int64 [mask.sum()]."""

    ids: IntArray
    mask: BoolArray
    rows: IntArray


@dataclass(frozen=True)
class Sequences:
    """The sequences of a token file.

    Attributes:
        path: the file, for messages.
        token: int64 [n].
        start: int64 [S + 1], first token row of each sequence, and n.
        counts: bool [n], whether the row counts (METHODS 0.1).
        document: int64 [S], of each sequence.
        source: int64 [D], of each document.
        fold: int64 [D].
        text_hash: uint64 [D], of each document's text: equal texts are the same document in any corpus.
        sources: names.
    """

    path: str
    token: IntArray
    start: IntArray
    counts: BoolArray
    document: IntArray
    source: IntArray
    fold: IntArray
    text_hash: npt.NDArray[np.uint64]
    sources: tuple[str, ...]

    @classmethod
    def read(cls, path: str | Path) -> "Sequences":
        """Read a token file; its tokens are held in memory, 8 bytes each."""
        with artifacts.read(path, "tokens") as file:
            return cls(
                path=str(path),
                token=file["token"][:].astype(np.int64),
                start=file["sequences/start"][:].astype(np.int64),
                counts=file["counts"][:].astype(np.bool_),
                document=file["sequences/document"][:].astype(np.int64),
                source=file["documents/source"][:].astype(np.int64),
                fold=file["documents/fold"][:].astype(np.int64),
                text_hash=file["documents/text_hash"][:],
                sources=tuple(artifacts.read_json(file, "sources")),
            )

    def __len__(self) -> int:
        return len(self.document)

    @property
    def row_sequence(self) -> IntArray:
        """int64 [n], the sequence of each token row."""
        return np.repeat(np.arange(len(self)), np.diff(self.start))

    def batch(self, which: Sequence[int] | IntArray) -> Batch:
        """The sequences `which`, padded on the right with id 0."""
        spans = [(int(self.start[i]), int(self.start[i + 1])) for i in which]
        longest = max(end - start for start, end in spans)
        ids = np.zeros((len(spans), longest), dtype=np.int64)
        mask = np.zeros((len(spans), longest), dtype=np.bool_)
        for place, (start, end) in enumerate(spans):
            ids[place, : end - start] = self.token[start:end]
            mask[place, : end - start] = True
        return Batch(ids, mask, np.concatenate([np.arange(start, end) for start, end in spans]))

    def check_fits(self, description: Any) -> None:
        """Raise `DiptychError` unless a model of this `models.Description` can read the sequences."""
        top, longest = int(self.token.max()), int(np.diff(self.start).max())
        if top >= description["vocabulary"]:
            raise DiptychError(
                f"{self.path}: token {top} is outside the model's vocabulary of {description['vocabulary']}; "
                "these tokens were made with another tokenizer"
            )
        if longest > description["context"]:
            raise DiptychError(
                f"{self.path}: a sequence of {longest} tokens exceeds the model's context of "
                f"{description['context']}; lower the corpus' sequence_length"
            )
