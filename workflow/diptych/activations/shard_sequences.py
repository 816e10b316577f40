"""The token sequences of one shard of activations, and the order in which a model reads them.

sequences = ShardSequences.of_shard("tokens.h5", shard=0, shards=4)
batch = sequences.batch(done=0, batch_tokens=8192)
sequences.padded(batch)         # token ids [b, longest]
sequences.rows_of(batch)        # the shard's rows that they fill
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diptych.models.batches import n_fitting
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

Int32Array = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]

PRECISION_TOKENS = 512
"""Tokens read again in float32 to measure what the compute dtype loses: enough for a median, seconds of work."""
SAMPLE_ROWS = 4096
"""Rows of all shards together for which the neighbouring layers are stored (METHODS 1)."""


@dataclass(frozen=True)
class ShardSequences:
    """The token sequences of one shard and the order in which they are read.

    Attributes:
        token: int32 [n], the shard's token rows.
        start: int64 [S + 1], first row of each of the S sequences within the shard, then n.
        first_row: row of the token file at which the shard begins.
        order: int64 [S], sequence numbers in reading order: first the sampled ones, each part by falling length.
        sampled: number of sampled sequences, for which the neighbouring layers are stored.
        path: the token file, for messages.
        others: number of rows of each other shard, by shard.
        kept: int64 [n], where the rows stand within the shard's span of the token file; None if they are all of it.
    """

    token: Int32Array
    start: IntArray
    first_row: int
    order: IntArray
    sampled: int = 0
    path: str = ""
    others: Mapping[int, int] = field(default_factory=dict)
    kept: IntArray | None = None

    @classmethod
    def of_shard(cls, tokens_path: str | Path, shard: int, shards: int, first: int | None = None) -> "ShardSequences":
        """The sequences of one of `shards` contiguous spans of the token file, or the `first` tokens of each.

        Raises:
            DiptychError: there are fewer sequences than shards.
        """
        with artifacts.read(tokens_path, "tokens") as file:
            start = file["sequences/start"][:]
            if shards > len(start) - 1:
                raise DiptychError(f"{tokens_path}: {len(start) - 1} sequences give no {shards} shards; lower `shards`")
            edges = shard_edges(start, shards)
            begin, end = edges[shard], edges[shard + 1]
            token = file["token"][start[begin] : start[end]]
        kept = None if first is None else _first_rows(start[begin : end + 1], first)
        token = token if kept is None else token[kept]
        lengths = np.diff(start) if first is None else np.minimum(np.diff(start), first)
        read = np.concatenate([[0], np.cumsum(lengths)])
        local_start = read[begin : end + 1] - read[begin]
        sample = spread_sequences(local_start, SAMPLE_ROWS // shards) if first is None else np.zeros(0, np.int64)
        longest_first = np.argsort(-np.diff(local_start), kind="stable")
        in_sample = np.isin(longest_first, sample)
        order = np.concatenate([longest_first[in_sample], longest_first[~in_sample]])
        others = {other: int(rows) for other, rows in enumerate(np.diff(read[edges])) if other != shard}
        return cls(token, local_start, int(start[begin]), order, len(sample), str(tokens_path), others, kept)

    @property
    def n_rows(self) -> int:
        """Number of token rows."""
        return len(self.token)

    def lengths(self) -> IntArray:
        """Length of each sequence."""
        lengths: IntArray = np.diff(self.start)
        return lengths

    def batch(self, done: int, batch_tokens: int) -> IntArray:
        """Sequence numbers of the next batch after the first `done` (`batches.n_fitting`); sampled ones come alone."""
        end = self.sampled if done < self.sampled else len(self.order)
        following = self.order[done : min(end, done + batch_tokens)]
        return following[: n_fitting(self.start[following + 1] - self.start[following], batch_tokens)]

    def rows_of(self, batch: IntArray) -> IntArray:
        """The token rows of a batch of sequences, one sequence after another."""
        return np.concatenate([np.arange(self.start[s], self.start[s + 1]) for s in batch] or [np.zeros(0, np.int64)])

    def token_rows(self, row: IntArray) -> IntArray:
        """Rows of the token file for rows of the shard."""
        return self.first_row + (row if self.kept is None else self.kept[row])

    def sample_rows(self) -> IntArray:
        """The rows of the sampled sequences, increasing."""
        return self.rows_of(np.sort(self.order[: self.sampled]))

    def padded(self, batch: IntArray) -> npt.NDArray[np.int64]:
        """Token ids [b, longest], padded on the right with 0."""
        lengths = self.lengths()[batch]
        ids = np.zeros((len(batch), int(lengths.max())), dtype=np.int64)
        for row, (sequence, length) in enumerate(zip(batch, lengths, strict=True)):
            ids[row, :length] = self.token[self.start[sequence] : self.start[sequence] + length]
        return ids


def _first_rows(start: IntArray, first: int) -> IntArray:
    """Rows at the `first` positions of the sequences that begin at `start` [S + 1], counted from the first start."""
    position = np.arange(start[-1] - start[0]) - np.repeat(start[:-1] - start[0], np.diff(start))
    return np.flatnonzero(position < first)


def spread_sequences(start: IntArray, rows: int) -> IntArray:
    """Numbers of evenly spread sequences with about `rows` rows in total, at least one sequence."""
    count = len(start) - 1
    n_spread = min(count, max(1, round(rows * count / int(start[-1]))))
    spread: IntArray = np.unique(np.linspace(0, count - 1, n_spread).round().astype(np.int64))
    return spread


def shard_edges(start: IntArray, shards: int) -> IntArray:
    """First sequence of each shard, and the end [shards + 1]: contiguous shards of about equal tokens, none empty."""
    targets = start[-1] * np.arange(shards + 1) / shards
    least = np.arange(shards + 1)
    edges = np.searchsorted(start, targets, side="left")
    clipped: IntArray = np.clip(edges, least, len(start) - 1 - least[::-1])
    return clipped
