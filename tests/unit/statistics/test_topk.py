import numpy as np
import pytest
from scipy import sparse

from diptych.statistics import top_k


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("cut", [7, 50, 400])
def test_best_of_rows_and_columns_is_the_sorted_matrix_however_it_is_cut(k: int, cut: int) -> None:
    rng = np.random.default_rng(k)
    dense = np.where(rng.random((400, 150)) < 0.4, np.round(rng.normal(size=(400, 150)), 2), 0.0)
    matrix = sparse.csr_array(dense)
    rows, columns = top_k.TopK(400, k), top_k.TopK(150, k)
    for start in range(0, 400, cut):
        block = matrix[start : start + cut]
        i, at = top_k.survivors(block.indptr, block.data, k)
        rows.offer(i + start, block.indices[at], block.data[at], -block.data[at])
        flipped = block.tocsc()
        j, at = top_k.survivors(flipped.indptr, flipped.data, k, columns.floor)
        columns.offer(j, flipped.indices[at] + start, flipped.data[at])
    for best, values in ((rows, dense), (columns, dense.T)):
        expected = np.where(values == 0, -np.inf, values)
        order = np.lexsort((np.broadcast_to(np.arange(values.shape[1]), values.shape), -expected), axis=1)[:, :k]
        score = np.take_along_axis(expected, order, axis=1)
        np.testing.assert_array_equal(best.score, score)
        np.testing.assert_array_equal(best.partner, np.where(np.isfinite(score), order, -1))
    there = np.isfinite(rows.score)
    np.testing.assert_array_equal(rows.other[there], -rows.score[there])


def test_a_row_with_fewer_entries_than_k_says_so() -> None:
    best = top_k.TopK(2, 3)
    best.offer([1], [4], [0.5])
    assert best.partner.tolist() == [[-1, -1, -1], [4, -1, -1]]
    assert np.isneginf(best.score[0]).all()
    assert np.isnan(best.other).all()


@pytest.mark.parametrize("shape", [(3, 500), (500, 3), (100, 200), (45, 41)])
def test_the_bound_of_a_matrix_excludes_most_entries_and_none_of_the_k_largest(shape):
    x = np.random.default_rng(0).normal(size=shape)
    for axis, rows in ((1, x), (0, x.T)):
        for k in (1, 5, 10):
            bound = top_k.lower_bound_dense(x, k, axis)
            reached = (rows >= bound[:, None]).sum(axis=1)
            assert (reached >= min(k, rows.shape[1])).all()
            if rows.shape[1] >= 4 * k:
                assert reached.mean() < 2 * k + 1
            else:
                assert (bound == -np.inf).all()
