from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from diptych.correlation import products, stage
from diptych.dictionaries import encoding
from diptych.dictionaries.codes import Features
from diptych.oracle import planted
from diptych.runtime.errors import DiptychError

FloatArray = npt.NDArray[np.float32]


def as_features(codes: FloatArray, document: npt.NDArray[np.int64], dense: bool = False) -> Features:
    n = len(codes)
    kept = codes.astype(np.float32) if dense else sparse.csr_array(codes.astype(np.float32))
    return Features(kept, np.arange(n), document, document % 5, np.zeros(n, np.int64))


def planted_features(seed: int = 0) -> tuple[Features, Features, planted.PlantedPair]:
    pair = planted.make_pair(seed, n_documents=60, n_features=40, rate=0.1)
    return as_features(pair.codes_A, pair.document), as_features(pair.codes_B, pair.document), pair


@pytest.mark.parametrize(("memory", "threads"), [(2**30, 1), (2**14, 2)])
def test_rho_is_corrcoef_on_each_half(memory: int, threads: int) -> None:
    a, b, pair = planted_features()
    table = stage.correlate_features(a, b, k=5, min_active=3, memory=memory, threads=threads)
    half = table.halves.of(pair.document)
    full = [np.corrcoef(pair.codes_A[half == h].T, pair.codes_B[half == h].T)[:40, 40:] for h in (0, 1)]
    together = [(pair.codes_A[half == h] > 0).T.astype(int) @ (pair.codes_B[half == h] > 0) > 0 for h in (0, 1)]
    for side, transpose in ((table.a, False), (table.b, True)):
        for h in (0, 1):
            rho, other, fires = (x.T if transpose else x for x in (full[h], full[1 - h], together[h]))
            for latent in np.flatnonzero(side.eligible):
                candidates = np.flatnonzero(fires[latent] & (table.b if side is table.a else table.a).eligible)
                expected = candidates[np.argsort(-rho[latent, candidates], kind="stable")][:5]
                np.testing.assert_array_equal(side.partner[h, latent, : len(expected)], expected)
                np.testing.assert_allclose(side.selected[h, latent, : len(expected)], rho[latent, expected], atol=1e-9)
                np.testing.assert_allclose(
                    side.held_out[h, latent, : len(expected)], other[latent, expected], atol=1e-9
                )


def test_every_pair_is_in_the_histogram_once() -> None:
    a, b, _ = planted_features()
    table = stage.correlate_features(a, b, min_active=3, bins=50)
    pairs = table.a.eligible.sum() * table.b.eligible.sum()
    assert (table.histogram.sum(axis=1) + table.never_together == pairs).all()
    assert table.histogram[:, -2:].sum() >= table.a.eligible.sum()


def test_halves_are_whole_documents_without_the_test_fold_and_of_one_size() -> None:
    document = np.repeat(np.arange(50), 7)
    halves = stage.document_halves(document, document % 5, seed=3)
    half = halves.of(document)
    assert (half[document % 5 == 0] == -1).all()
    assert [len(np.unique(document[half == h])) for h in (-1, 0, 1)] == [10, 20, 20]
    for name in range(50):
        assert len(np.unique(half[document == name])) == 1
    other = stage.document_halves(document, document % 5, seed=4).of(document)
    assert (other != half).any()
    with pytest.raises(DiptychError, match="2 are needed"):
        stage.document_halves(document, document * 0, seed=0)


def test_eligible_needs_tokens_documents_and_variation_in_each_half() -> None:
    document = np.repeat(np.arange(10), 10)
    half = (document >= 5).astype(np.int64)
    codes = np.zeros((100, 5))
    codes[::10, 0] = 1.0  # 5 tokens in 5 documents of each half
    codes[:30:10, 1] = 1.0  # first half only
    codes[[0, 1, 2, 3, 4, 50, 51, 52, 53, 54], 2] = 1.0  # one document in each half
    codes[:, 3] = 1.0  # fires everywhere alike
    for form in (sparse.csr_array(codes.astype(np.float32)), codes.astype(np.float32)):
        fit = stage.eligible_latents(form, document, half, min_active=5, min_documents=3)
        assert fit.eligible.tolist() == [True, False, False, False, False]
        assert fit.active[:, 0].tolist() == [5, 5]
        assert fit.documents[:, 2].tolist() == [1, 1]


def test_identical_codes_are_their_own_partners() -> None:
    a, _, _ = planted_features()
    table = stage.correlate_features(a, a, min_active=3)
    chosen = np.flatnonzero(table.a.eligible)
    assert len(chosen) > 30
    for side in (table.a, table.b):
        for h in (0, 1):
            np.testing.assert_array_equal(side.partner[h, chosen, 0], chosen)
        np.testing.assert_allclose(side.rho_selected[chosen], 1.0, atol=1e-9)
        np.testing.assert_allclose(side.rho_held_out[chosen], 1.0, atol=1e-9)


def test_held_out_correlation_of_independent_codes_is_nought_where_the_selected_is_not() -> None:
    rng = np.random.default_rng(0)
    document = np.arange(4000) // 20
    draw = [np.where(rng.random((4000, 60)) < 0.05, rng.lognormal(size=(4000, 60)), 0.0) for _ in range(2)]
    table = stage.correlate_features(as_features(draw[0], document), as_features(draw[1], document))
    assert table.a.rho_selected.mean() > 0.04
    assert abs(table.a.rho_held_out.mean()) < 0.01


def test_dense_sites_have_the_same_face() -> None:
    rng = np.random.default_rng(0)
    document = np.arange(500) // 10
    x = rng.normal(size=(500, 12)).astype(np.float32) + 5.0
    y = (x[:, ::-1] + 0.1 * rng.normal(size=(500, 12))).astype(np.float32)
    codes = np.where(rng.random((500, 6)) < 0.3, 1.0 + x[:, :6], 0.0)
    a, b, c = as_features(x, document, dense=True), as_features(y, document, dense=True), as_features(codes, document)
    table = stage.correlate_features(a, b, k=3)
    assert table.a.partner[0, :, 0].tolist() == list(range(12))[::-1]
    half = table.halves.of(document)
    expected = np.corrcoef(x[half == 1].T, y[half == 1].T)[:12, 12:]
    np.testing.assert_allclose(table.a.selected[1, :, 0], expected.max(axis=1), atol=1e-6)
    assert table.never_together.tolist() == [0, 0]
    mixed = stage.correlate_features(a, c, k=3)
    full = np.corrcoef(x[half == 0].T, codes[half == 0].T)[:12, 12:]
    np.testing.assert_allclose(mixed.a.selected[0, :, 0], full.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(mixed.b.selected[0, :, 0], full.max(axis=0), atol=1e-6)


def test_listed_pairs_that_never_fire_together_have_the_closed_form() -> None:
    a, b, pair = planted_features()
    matrix = products.Correlations(products.standardise(a.codes), products.standardise(b.codes))
    i, j = (index.ravel() for index in np.meshgrid(np.arange(40), np.arange(40)))
    expected = np.corrcoef(pair.codes_A.T, pair.codes_B.T)[i, 40 + j]
    np.testing.assert_allclose(matrix.at(i, j), expected, atol=1e-9)


def test_stage_writes_what_it_reads(tmp_path: Path) -> None:
    a, b, _ = planted_features()
    for name, side in (("a", a), ("b", b)):
        encoding.write(side, tmp_path / f"{name}.h5", {})
    arguments = {"spec": {}, "k": 4, "min_active": 3}
    stage.correlate([tmp_path / "a.h5"], [tmp_path / "b.h5"], tmp_path / "c.h5", **arguments)
    stage.correlate([tmp_path / "a.h5"], [tmp_path / "b.h5"], tmp_path / "d.h5", threads=2, memory=2**15, **arguments)
    assert (tmp_path / "c.h5").read_bytes() == (tmp_path / "d.h5").read_bytes()
    read, table = stage.read(tmp_path / "c.h5"), stage.correlate_features(a, b, k=4, min_active=3)
    np.testing.assert_array_equal(read.a.partner, table.a.partner)
    np.testing.assert_allclose(read.b.held_out, table.b.held_out, rtol=1e-6)
    np.testing.assert_array_equal(read.halves.half, table.halves.half)
    np.testing.assert_array_equal(read.histogram, table.histogram)
