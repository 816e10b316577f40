"""Rows of several models read as those of one."""

import numpy as np
import pytest

from diptych.activations import pooled, rows
from diptych.runtime.errors import DiptychError


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((10, 3)).astype(np.float32) for _ in range(2)]
    document = np.arange(10) // 2
    return x, rows.in_memory(x, document)


def test_pooled_rows_are_those_of_each_model_in_turn(pair):
    x, both = pair
    pool = pooled.pool(both)
    assert len(pool) == 20
    assert pool.widths == (3,)
    np.testing.assert_array_equal(pool.take(np.arange(20)).x[0], np.concatenate(x))
    index = np.array([19, 0, 10, 9, 3])
    np.testing.assert_array_equal(pool.take(index).x[0], np.concatenate(x)[index])
    out = np.zeros((3, 3), dtype=pool.sides[0].dtype)
    pool.sides[0].read(np.array([2, 9, 10]), out)
    np.testing.assert_array_equal(out, np.concatenate(x)[[2, 9, 10]])


def test_a_document_is_in_one_fold_for_all_models(pair):
    _, both = pair
    pool = pooled.pool(both)
    for name in ("document", "fold", "source", "position"):
        halves = np.split(getattr(pool, name), 2)
        np.testing.assert_array_equal(halves[0], halves[1])
        np.testing.assert_array_equal(halves[0], getattr(both, name))


def test_the_rows_of_one_model_are_left_as_they_are(pair):
    one = rows.in_memory(pair[0][:1], np.arange(10))
    assert pooled.pool(one) is one


def test_unequal_widths_are_refused():
    both = rows.in_memory([np.zeros((4, 2)), np.zeros((4, 3))], np.arange(4))
    with pytest.raises(DiptychError, match="rows of widths 2, 3"):
        pooled.pool(both)
