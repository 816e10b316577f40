"""Batches of sequences: a bound on positions and on padding, every sequence once."""

import numpy as np
import pytest

from diptych.models.batches import LARGEST_PADDING, grouped, n_fitting


@pytest.mark.parametrize(
    ("lengths", "batch_tokens", "n"),
    [
        ([8, 8, 8, 8], 24, 3),  # the positions of a batch
        ([9, 9], 8, 1),  # one sequence is always read
        ([8, 8, 8, 4], 100, 4),  # 4 of 32 positions are padding: an eighth
        ([8, 8, 8, 3], 100, 3),
        ([8, 6, 8 - 2], 100, 2),  # 2 of 16, then 4 of 24
        ([64, 1, 1, 1], 1000, 1),
    ],
)
def test_a_batch_is_as_long_as_positions_and_padding_allow(lengths: list[int], batch_tokens: int, n: int) -> None:
    assert n_fitting(np.array(lengths), batch_tokens) == n


def test_groups_hold_every_sequence_once_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(20, 65, size=300)
    batches = list(grouped(lengths, 1000))
    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    for batch in batches:
        positions = int(lengths[batch].max()) * len(batch)
        assert positions <= 1000
        assert positions - lengths[batch].sum() <= LARGEST_PADDING * positions
    assert list(grouped(np.zeros(0, dtype=np.int64), 1000)) == []


def test_texts_of_one_length_fill_whole_batches() -> None:
    assert [len(batch) for batch in grouped(np.full(20, 128), 1024)] == [8, 8, 4]
