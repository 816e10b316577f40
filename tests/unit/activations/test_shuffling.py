from itertools import islice

import numpy as np
import pytest

from diptych.activations import shuffling

POSITION = np.tile(np.arange(10), 60)
INDEX = np.flatnonzero(np.arange(600) % 7 != 3)


def batches(first=0, buffer_rows=200, seed=0, batch=40):
    """The rows of steps first, first + 1, ..."""
    parts = shuffling.blocks(POSITION, INDEX, 50)
    for fill in shuffling.fills(parts, buffer_rows=buffer_rows, batch=batch, seed=seed, first=first):
        for start in fill.starts:
            yield fill.rows[fill.order[start : start + batch]]


def test_blocks_hold_whole_sequences_and_every_row_once():
    parts = shuffling.blocks(POSITION, INDEX, 50)
    assert np.array_equal(np.concatenate(parts), INDEX)
    assert all(30 <= len(part) <= 70 for part in parts)
    sequences = [set(part // 10) for part in parts]
    assert sum(len(each) for each in sequences) == 60


@pytest.mark.parametrize("buffer_rows", [200, 10_000])
def test_a_step_reads_the_same_rows_wherever_a_run_begins(buffer_rows):
    whole = list(islice(batches(buffer_rows=buffer_rows), 40))
    for first in (0, 1, 5, 12, 13, 31):
        later = islice(batches(first, buffer_rows), 40 - first)
        assert all(np.array_equal(one, other) for one, other in zip(whole[first:], later, strict=True))


@pytest.mark.parametrize("buffer_rows", [200, 10_000])
def test_an_epoch_reads_a_row_at_most_once_and_leaves_less_than_a_batch_of_a_filling(buffer_rows):
    n_fills = -(-len(INDEX) // buffer_rows)
    epoch = shuffling.fills(shuffling.blocks(POSITION, INDEX, 50), buffer_rows=buffer_rows, batch=40, seed=0)
    steps = 0
    for fill in islice(epoch, n_fills):
        assert sorted(fill.order) == list(range(len(fill.rows)))
        steps += len(fill.starts)
    read = np.concatenate(list(islice(batches(buffer_rows=buffer_rows), steps)))
    assert len(np.unique(read)) == len(read) == 40 * steps
    assert len(INDEX) - len(read) < 40 * n_fills


def test_seeds_and_epochs_differ():
    one, other = (np.concatenate(list(islice(batches(seed=seed), 12))) for seed in (0, 1))
    assert not np.array_equal(one, other)
    twice = np.concatenate(list(islice(batches(buffer_rows=10_000), 24)))
    assert not np.array_equal(twice[:480], twice[480:])


@pytest.mark.parametrize("buffer_rows", [200, 10_000])
@pytest.mark.parametrize(("first", "end"), [(0, 1), (0, 11), (3, 12), (7, 31), (5, 5)])
def test_only_what_the_steps_before_the_end_read_is_filled(buffer_rows, first, end):
    parts = shuffling.blocks(POSITION, INDEX, 50)
    fills = list(shuffling.fills(parts, buffer_rows=buffer_rows, batch=40, seed=0, first=first, end=end))
    assert sum(len(fill.starts) for fill in fills) == end - first
    assert all(len(fill.starts) for fill in fills)
    read = [fill.rows[fill.order[start : start + 40]] for fill in fills for start in fill.starts]
    endless = islice(batches(first, buffer_rows), end - first)
    assert all(np.array_equal(one, other) for one, other in zip(read, endless, strict=True))


@pytest.mark.parametrize("buffer_rows", [130, 200, 10_000])
def test_no_filling_is_larger_than_the_largest(buffer_rows):
    parts = shuffling.blocks(POSITION, INDEX, 50)
    largest = shuffling.largest(parts, buffer_rows)
    fills = islice(shuffling.fills(parts, buffer_rows=buffer_rows, batch=40, seed=3), 60)
    assert 0.8 * largest < max(len(fill.rows) for fill in fills) <= largest
    assert (largest == len(INDEX)) == (buffer_rows == 10_000)
