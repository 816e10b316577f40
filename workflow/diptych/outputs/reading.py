"""The text on whose next tokens two models are compared: beginnings of sequences, spread over sources and documents.

A budget of tokens is divided equally among the sources of a corpus, and among the documents of a source: many
beginnings tell more than a few whole texts, since documents are the unit of every test. Where the budget gives a
document fewer than `SHORTEST` tokens, evenly spread documents are read instead of all.

    reading = spread(Sequences.read("results/tokens/addresses/base.h5"), tokens=4096)
    reading.row          # int64 [n], the token rows after which the models' next tokens are compared

A position is compared iff its token counts (METHODS 0.1: no BOS, padding, common prefix or first `skip_first` tokens).
The rule on massive activations is not applied: the models' outputs have none.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.models.batches import BoolArray, Sequences
from diptych.runtime.errors import DiptychError

IntArray = npt.NDArray[np.int64]

SHORTEST = 32
"""Tokens that are read of a document at least, if it has them: its first positions are the least typical."""


@dataclass(frozen=True)
class Reading:
    """Beginnings of sequences, in order of their documents, and the rows after which next tokens are compared.

    Attributes:
        sequences: the token file.
        which: int64 [S], sequence numbers.
        length: int64 [S], tokens that are read of each.
        row: int64 [n], token rows, grouped by document.
        document: int64 [n], of each row, ascending.
    """

    sequences: Sequences
    which: IntArray
    length: IntArray
    row: IntArray
    document: IntArray

    def __len__(self) -> int:
        return len(self.row)

    @property
    def next_token(self) -> IntArray:
        """int64 [n], the text's own next token in the sequence of each row; -1 where the sequence ends."""
        sequences = self.sequences
        following = np.minimum(self.row + 1, len(sequences.token) - 1)
        is_last = np.isin(self.row + 1, sequences.start)
        return np.where(is_last, -1, sequences.token[following])

    @property
    def source(self) -> IntArray:
        """int64 [n], of the document of each row."""
        return self.sequences.source[self.document]


def spread(sequences: Sequences, tokens: int | None) -> Reading:
    """Beginnings of sequences with at most about `tokens` tokens in all, and all their rows that count.

    Args:
        sequences: the token file.
        tokens: budget; None: everything.

    Raises:
        DiptychError: no token that counts is read.
    """
    lengths = np.diff(sequences.start)
    if tokens is None or tokens >= lengths.sum():
        which = np.argsort(sequences.document, kind="stable")
        return _reading(sequences, which, lengths[which])
    pieces: list[tuple[int, int]] = []
    for source in range(len(sequences.sources)):
        pieces += _beginnings(sequences, source, tokens // len(sequences.sources))
    which, length = np.array(pieces, dtype=np.int64).reshape(-1, 2).T
    order = np.lexsort((which, sequences.document[which]))
    return _reading(sequences, which[order], length[order])


def first_replies(sequences: Sequences, is_named: BoolArray, prompts: int) -> Reading | None:
    """Evenly spread sequences up to the end of the last assistant's header, each with that one row.

    The model's next token there is the first one of its reply.

    Args:
        sequences: the token file of a chat corpus.
        is_named: bool [n], whether a token row is a named position of the template; the last one of a sequence ends
            the header.
        prompts: sequences at most.

    Returns:
        The reading; None if no sequence has such a position.
    """
    rows = np.flatnonzero(is_named)
    sequence, index = np.unique(sequences.row_sequence[rows][::-1], return_index=True)
    row = rows[::-1][index]
    chosen = np.unique(np.linspace(0, len(row) - 1, min(len(row), prompts)).round().astype(np.int64))
    if not len(row):
        return None
    chosen = chosen[np.argsort(sequences.document[sequence[chosen]], kind="stable")]
    which, row = sequence[chosen], row[chosen]
    return Reading(sequences, which, row + 1 - sequences.start[which], row, sequences.document[which])


def _beginnings(sequences: Sequences, source: int, budget: int) -> list[tuple[int, int]]:
    """(sequence, tokens read of it) of one source."""
    lengths = np.diff(sequences.start)
    mine = np.flatnonzero(sequences.source[sequences.document] == source)
    documents = np.unique(sequences.document[mine])
    count = min(len(documents), max(1, budget // SHORTEST))
    pieces = []
    for document in documents[np.linspace(0, len(documents) - 1, count).round().astype(np.int64)]:
        room = budget // count
        for sequence in mine[sequences.document[mine] == document]:
            if room > 0:
                pieces.append((int(sequence), min(int(lengths[sequence]), room)))
                room -= pieces[-1][1]
    return pieces


def _reading(sequences: Sequences, which: IntArray, length: IntArray) -> Reading:
    rows = [np.arange(sequences.start[s], sequences.start[s] + n) for s, n in zip(which, length, strict=True)]
    row = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    row = row[sequences.counts[row]]
    if not len(row):
        raise DiptychError(f"{sequences.path}: no token that counts is read; raise `outputs.tokens`")
    return Reading(sequences, which, length, row, sequences.document[sequences.row_sequence[row]])
