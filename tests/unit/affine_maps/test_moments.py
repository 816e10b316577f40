from dataclasses import replace

import numpy as np
import pytest

from diptych.activations import rows
from diptych.affine_maps import moments
from diptych.oracle import planted
from diptych.runtime.errors import DiptychError


@pytest.fixture(scope="module")
def pair():
    return planted.make_pair(3, n_documents=30, tokens_per_document=13, d_A=7, d_B=5, n_features=9).rows()


def direct(x_A, x_B):
    n = len(x_A)
    C = np.cov(np.hstack([x_A, x_B]).astype(np.float64).T, ddof=0) * n
    d = x_A.shape[1]
    return C[:d, :d], C[:d, d:], C[d:, d:]


def assert_equal(found, x_A, x_B, tolerance=2e-6):
    assert found.n == len(x_A)
    np.testing.assert_allclose(found.mean_A, x_A.mean(0, dtype=np.float64), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.mean_B, x_B.mean(0, dtype=np.float64), rtol=0, atol=1e-6)
    for got, expected in zip((found.C_AA, found.C_AB, found.C_BB), direct(x_A, x_B), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_folds_total_and_training_equal_numpy_cov(pair):
    x_A, x_B = (side.values for side in pair.sides)
    found = moments.accumulate(pair, block_rows=17)
    assert found.ids == (0, 1, 2, 3, 4)
    for fold in found.ids:
        assert_equal(found.fold(fold), x_A[pair.fold == fold], x_B[pair.fold == fold])
    assert_equal(found.total, x_A, x_B)
    left = ~np.isin(pair.fold, [1, 3])
    assert_equal(found.training(1, 3), x_A[left], x_B[left])


def test_tensors_have_the_moments_of_arrays(pair):
    of_tensors, of_arrays = (moments.accumulate(pair, block_rows=64, device=device) for device in ("cpu:0", "cpu"))
    for left, right in ((of_tensors.total, of_arrays.total), (of_tensors.fold(3), of_arrays.fold(3))):
        for name in ("mean_A", "mean_B", "C_AA", "C_AB", "C_BB"):
            found, expected = getattr(left, name).numpy(), getattr(right, name)
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    largest = np.abs(of_arrays.fold(3).C_AA).max()
    np.testing.assert_allclose(of_tensors.shuffled[2], of_arrays.shuffled[2], rtol=0, atol=2e-6 * largest)


def test_merge_and_difference_undo_each_other(pair):
    found = moments.accumulate(pair)
    back = (found.fold(0) + found.fold(1)).without(found.fold(1))
    np.testing.assert_allclose(back.C_AB, found.fold(0).C_AB, atol=1e-10)
    np.testing.assert_allclose(back.mean_A, found.fold(0).mean_A, atol=1e-13)
    with pytest.raises(DiptychError, match="leave none"):
        found.fold(0).without(found.fold(0))


def test_large_means_cost_no_digits(pair):
    # float32 holds 4096.x to 2^-11; the products must be as good as the stored values are
    shifted = tuple((side.values + np.float32(4096)) for side in pair.sides)
    found = moments.accumulate(rows.in_memory(shifted, pair.document)).total
    assert_equal(replace(found, mean_A=shifted[0].mean(0, dtype=np.float64)), *shifted, tolerance=1e-5)


def test_about_and_reversed(pair):
    x_A, x_B = (side.values.astype(np.float64) for side in pair.sides)
    found = moments.accumulate(pair)
    training, mine = found.training(0), pair.fold == 0
    scatter = found.fold(0).about(training)
    z_A, z_B = x_A[mine] - training.mean_A, x_B[mine] - training.mean_B
    np.testing.assert_allclose(scatter.AB, z_A.T @ z_B, atol=1e-5)
    np.testing.assert_allclose(scatter.AA, z_A.T @ z_A, atol=1e-5)
    back = found.reversed().fold(0).about(found.reversed().training(0))
    np.testing.assert_allclose(back.AB, scatter.AB.T)
    np.testing.assert_allclose(back.AA, scatter.BB)


def test_identical_sides_have_identical_blocks():
    pair = planted.identical_pair(1, n_documents=10).rows()
    found = moments.accumulate(pair).total
    np.testing.assert_allclose(found.C_AB, found.C_AA, atol=1e-6 * np.abs(found.C_AA).max())
    np.testing.assert_array_equal(found.mean_A, found.mean_B)


def test_shuffled_is_the_cross_moment_of_the_partners(pair):
    x_A, x_B = (side.values.astype(np.float64) for side in pair.sides)
    partner = moments.derangement(pair.document, pair.fold, pair.position)
    found = moments.accumulate(pair, block_rows=19)
    for fold, shuffled in zip(found.ids, found.shuffled, strict=True):
        mine = pair.fold == fold
        z_A, z_B = x_A[mine] - x_A[mine].mean(0), x_B[partner[mine]] - x_B[mine].mean(0)
        np.testing.assert_allclose(shuffled, z_A.T @ z_B, atol=1e-5)
    training = found.training(2, 4)
    left = ~np.isin(pair.fold, [2, 4])
    z_A, z_B = x_A[left] - x_A[left].mean(0), x_B[partner[left]] - x_B[left].mean(0)
    np.testing.assert_allclose(found.shuffled_cross(training.C_AB, [0, 1, 3]), z_A.T @ z_B, atol=1e-5)


def test_derangement_keeps_position_fold_and_changes_document():
    lengths = np.array([9, 7, 7, 5, 12, 6, 8, 3])
    document = np.repeat(np.arange(8), lengths)
    position = np.concatenate([np.arange(length) for length in lengths])
    fold = document % 2
    partner = moments.derangement(document, fold, position)
    assert sorted(partner) == list(range(len(document)))
    assert (document[partner] != document).all()
    assert (fold[partner] == fold).all()
    common = position < 6  # positions that at least two documents of a fold reach
    assert (position[partner][common] == position[common]).mean() > 0.9


def test_no_derangement_when_one_document_owns_a_fold():
    document = np.array([0, 0, 0, 1])
    assert moments.derangement(document, np.zeros(4, dtype=np.int64), np.arange(4)) is None
    pair = planted.make_pair(n_documents=1, n_features=5, d_A=3, d_B=3).rows()
    assert moments.accumulate(pair).shuffled == ()


def test_non_finite_names_the_document(pair):
    x = pair.sides[0].values.copy()
    x[40, 2] = np.nan
    with pytest.raises(DiptychError, match=f"document {pair.document[40]}"):
        moments.accumulate(rows.in_memory([x, pair.sides[1].values], pair.document))
