"""Sparse and dense products of codes: equal numbers, a choice from the data alone, blocks that keep it."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from diptych.correlation import blocks, products, stage, ways
from diptych.dictionaries.codes import Features

FloatArray = npt.NDArray[np.float32]
SPARSE, DENSE = ways.Cost(common=0.0, entry=0.0), ways.Cost(cell=0.0)
BOTH = ways.Cost(common=1.0, entry=0.0, cell=0.0095)
"""Dense products of the frequent latents of `zipf_codes` and sparse ones of the rare ones."""


def zipf_codes(seed: int, tokens: int = 800, latents: int = 60) -> FloatArray:
    rng = np.random.default_rng(seed)
    rate = np.minimum(0.5, np.arange(1, latents + 1) ** -0.8)
    fires = rng.random((tokens, latents)) < rate
    return np.where(fires, rng.lognormal(size=(tokens, latents)), 0.0).astype(np.float32)


def as_features(codes: FloatArray) -> Features:
    n = len(codes)
    document = np.arange(n) // 8
    return Features(sparse.csr_array(codes), np.arange(n), document, document % 5, np.zeros(n, np.int64))


def correlations() -> products.Correlations:
    a, b = (products.standardise(sparse.csr_array(zipf_codes(seed))) for seed in (0, 1))
    return products.Correlations(a, b)


@pytest.fixture
def small_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels of 10 latents of A, and 10 tokens at a time, where B has 60 latents."""
    monkeypatch.setattr(ways, "TILE", 600)


def tables(monkeypatch: pytest.MonkeyPatch, *costs: ways.Cost) -> list[stage.CorrelationTable]:
    a, b = as_features(zipf_codes(0)), as_features(zipf_codes(1))
    computed = []
    for cost in costs:
        monkeypatch.setattr(ways, "MEASURED", cost)
        computed.append(stage.correlate_features(a, b, k=5, min_active=2))
    return computed


def test_a_panel_is_dense_where_pairs_on_common_tokens_cost_more_than_all_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ways, "TILE", 20)
    monkeypatch.setattr(ways, "MEASURED", ways.Cost(common=2.0, entry=5.0, cell=0.5))
    # Panels of 2 latents with 10 of B on 40 tokens: dense 400; sparse 2 x common + 5 x min(common, 10).
    common = np.array([100, 51, 100, 49, 4, 4, 400])
    assert ways.dense_panels(common, columns=10, tokens=40).tolist() == [True, False, False, True]
    assert ways.panel_rows(0) == 20
    assert ways.dense_panels(common[:0], columns=0, tokens=40).tolist() == []


@pytest.mark.usefixtures("small_panels")
def test_products_of_either_way_are_equal_within_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    by_sparse, by_dense, by_both = tables(monkeypatch, SPARSE, DENSE, BOTH)
    for table in (by_dense, by_both):
        np.testing.assert_array_equal(table.histogram, by_sparse.histogram)
        np.testing.assert_array_equal(table.never_together, by_sparse.never_together)
        for side, expected in ((table.a, by_sparse.a), (table.b, by_sparse.b)):
            np.testing.assert_array_equal(side.partner, expected.partner)
            np.testing.assert_allclose(side.selected, expected.selected, rtol=0, atol=1e-13)
            np.testing.assert_allclose(side.held_out, expected.held_out, rtol=0, atol=1e-13)


@pytest.mark.usefixtures("small_panels")
def test_a_product_is_the_same_in_whatever_range_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "MEASURED", BOTH)
    matrix = correlations()
    assert set(matrix.is_dense.tolist()) == {False, True}
    whole = products._array(matrix.product(0, 60))
    for start, stop in ((0, 10), (3, 8), (5, 25), (0, 59), (37, 60), (20, 60)):
        np.testing.assert_array_equal(products._array(matrix.product(start, stop)), whole[start:stop])
        block = matrix.block(start, stop)
        assert block.nnz == np.count_nonzero(whole[start:stop])
    expected = np.corrcoef(zipf_codes(0).T, zipf_codes(1).T)[:60, 60:]
    fires = whole != 0
    np.testing.assert_allclose(matrix.block(0, 60).toarray()[fires], expected[fires], rtol=0, atol=1e-12)


@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize("cost", [SPARSE, DENSE, BOTH])
def test_neither_memory_nor_threads_change_a_byte(
    cost: ways.Cost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ways, "MEASURED", cost)
    a, b = as_features(zipf_codes(0)), as_features(zipf_codes(1))
    for name, memory, threads in (("whole", 2**30, 1), ("cut", 2**14, 1), ("shared", 2**15, 3)):
        table = stage.correlate_features(a, b, k=5, min_active=2, memory=memory, threads=threads)
        stage.write(table, tmp_path / name, {}, rows=len(a))
    whole = (tmp_path / "whole").read_bytes()
    assert (tmp_path / "cut").read_bytes() == whole
    assert (tmp_path / "shared").read_bytes() == whole


@pytest.mark.parametrize("codes", ["different", "identical"])
def test_a_block_says_the_same_dense_and_as_entries(codes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "MEASURED", SPARSE)
    a, b = (products.standardise(sparse.csr_array(zipf_codes(seed))) for seed in (0, 0 if codes == "identical" else 1))
    matrix = products.Correlations(a, b)
    row, column = (index.ravel() for index in np.indices((50, 60)))
    kept = []
    for fill in (0.0, 1.0):
        monkeypatch.setattr(blocks, "DENSE_FILL", fill)
        kept.append(blocks.read_block(matrix, 10, 60))
    dense, entries = kept
    assert isinstance(dense, blocks.DenseBlock)
    assert isinstance(entries, blocks.SparseBlock)
    np.testing.assert_array_equal(dense.at(row, column), entries.at(row, column))
    np.testing.assert_array_equal(dense.histogram(30), entries.histogram(30))
    for k in (1, 20):  # more than 4 k entries in a row, and fewer
        for best in kept:
            listed = best.best_of_rows(k)
            reached = {(int(i), int(j)) for i, j in zip(listed.row, listed.column, strict=True)}
            rho = np.where(matrix.product(10, 60).toarray() != 0, dense.at(row, column).reshape(50, 60), -np.inf)
            for i, j in itertools.product(range(50), range(60)):
                if np.isfinite(rho[i, j]) and (rho[i] > rho[i, j]).sum() < k:
                    assert (i, j) in reached
            for columns in (best.best_of_columns(k, np.full(60, 0.1)), best.best_of_columns(k, np.full(60, -np.inf))):
                np.testing.assert_array_equal(columns.rho, rho[columns.row, columns.column])
                assert np.isfinite(columns.rho).all()
            assert (best.best_of_columns(k, np.full(60, 0.1)).rho >= 0.1).all()


@pytest.mark.usefixtures("small_panels")
def test_blocks_end_where_the_way_changes_and_nowhere_in_a_dense_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "MEASURED", BOTH)
    matrix = correlations()
    assert matrix.is_dense.tolist() == [True, True, False, False, False, False]
    assert products.block_cuts([matrix], 2**30) == [0, 20, 60]
    assert products.block_cuts([matrix], 1) == [0, 10, *range(20, 61)]
    entries = matrix.row_entries()
    assert (entries[:20] == 60).all()
    cuts = products.block_cuts([matrix], 300 * products.ENTRY_BYTES)
    assert cuts[:3] == [0, 10, 20]
    assert all(entries[i:j].sum() <= 300 for i, j in itertools.pairwise(cuts[2:]))
    swapped = dataclasses.replace(matrix.a, z=matrix.a.z[:, ::-1])
    other = products.Correlations(swapped, matrix.b)
    assert products.block_cuts([matrix, other], 2**30) == [0, 20, 40, 60]
