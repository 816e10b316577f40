from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import sparse

import tolerance
from diptych.activations import rows
from diptych.dictionaries import codes, encoding, sae
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

FloatArray = npt.NDArray[np.float32]


@dataclass
class Relu:
    """f = relu(x W_enc), xhat = f W_dec."""

    normalize_activations = "none"
    W_enc: FloatArray
    W_dec: FloatArray
    as_csr: bool = False

    @property
    def width(self) -> int:
        return self.W_enc.shape[0]

    @property
    def n_features(self) -> int:
        return self.W_enc.shape[1]

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        codes = (x @ torch.from_numpy(self.W_enc)).relu()
        return codes.to_sparse_csr() if self.as_csr else codes

    def decode(self, codes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return codes @ torch.from_numpy(self.W_dec)


def some_rows(n: int = 60, d: int = 4, seed: int = 0) -> rows.Rows:
    x = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return rows.in_memory([x], np.arange(n) // 5)


def relu(d: int = 4, n_features: int = 7, seed: int = 1, as_csr: bool = False) -> Relu:
    rng = np.random.default_rng(seed)
    W_enc = rng.normal(size=(d, n_features)).astype(np.float32)
    W_enc[:, -1] = 0.0
    return Relu(W_enc, rng.normal(size=(n_features, d)).astype(np.float32), as_csr)


@pytest.mark.parametrize("as_csr", [False, True])
def test_codes_and_reconstruction_are_those_of_the_dictionary(as_csr: bool) -> None:
    data, dictionary = some_rows(), relu(as_csr=as_csr)
    found = encoding.encode_rows(data, dictionary, block_rows=13)
    x = data.take(np.arange(len(data))).x[0]
    codes = np.maximum(x @ dictionary.W_enc, 0)
    tolerance.assert_products(found.csr.toarray(), x, dictionary.W_enc, exact=codes)
    assert found.csr.nnz == np.count_nonzero(codes)
    error, centred = x - codes @ dictionary.W_dec, x - x.mean(axis=0)
    assert found.reconstruction is not None
    assert found.reconstruction.fvu == pytest.approx(np.sum(error**2) / np.sum(centred**2), rel=1e-5)
    ratios = 1 - np.sum(error**2, axis=1) / np.sum(centred**2, axis=1)
    assert found.reconstruction.ev_token_mean == pytest.approx(ratios.mean(), rel=1e-5)
    l0 = np.count_nonzero(codes, axis=1)
    summary = found.summary()
    assert summary["l0_mean"] == pytest.approx(l0.mean())
    assert summary["l0_p95"] == pytest.approx(np.percentile(l0, 95))
    assert summary["dead_share"] == pytest.approx(1 / 7)


def test_statistics_are_over_all_rows() -> None:
    found = encoding.encode_rows(some_rows(), relu())
    dense, statistics = found.csr.toarray().astype(np.float64), found.statistics()
    np.testing.assert_allclose(statistics.density, (dense > 0).mean(axis=0))
    np.testing.assert_allclose(statistics.mean, dense.mean(axis=0))
    np.testing.assert_allclose(statistics.std, dense.std(axis=0), atol=1e-12)
    np.testing.assert_allclose(statistics.max, dense.max(axis=0))
    assert statistics.dead.tolist() == [False] * 6 + [True]


def test_shards_written_and_read_are_the_whole(tmp_path: Path) -> None:
    data, dictionary = some_rows(), relu()
    whole = encoding.encode_rows(data, dictionary)
    paths = []
    for number, cut in enumerate((slice(0, 20), slice(20, 60))):
        part = rows.Rows(
            data.sides, data.token_row[:, cut], data.document[cut], data.fold[cut], data.source[cut], data.position[cut]
        )
        paths.append(tmp_path / f"{number}.h5")
        encoding.encode(part, dictionary, paths[-1], spec={"shard": number})
    found = codes.read(paths)
    np.testing.assert_array_equal(found.csr.toarray(), whole.csr.toarray())
    np.testing.assert_array_equal(found.token_row, whole.token_row)
    np.testing.assert_array_equal(found.document, whole.document)
    assert found.summary()["fvu"] == pytest.approx(whole.summary()["fvu"], rel=1e-9)
    with pytest.raises(DiptychError, match="do not increase"):
        codes.read(paths[::-1])
    again = tmp_path / "again.h5"
    encoding.write(codes.read(paths[:1]), again, {"shard": 0})
    assert again.read_bytes() == paths[0].read_bytes()


def test_a_shard_without_valid_rows_is_an_empty_file_not_an_error(tmp_path: Path) -> None:
    data = some_rows()
    none = rows.Rows(data.sides, data.token_row[:, :0], *(np.zeros(0, np.int64) for _ in range(4)))
    encoding.encode(none, relu(), tmp_path / "empty.h5", spec={})
    encoding.encode(data, relu(), tmp_path / "full.h5", spec={})
    found = codes.read([tmp_path / "empty.h5", tmp_path / "full.h5"])
    assert len(found) == 60
    assert found.summary()["fvu"] == codes.read([tmp_path / "full.h5"]).summary()["fvu"]


def test_a_dictionary_of_another_width_is_absent_on_the_other_model_and_an_error_on_its_own(tmp_path: Path) -> None:
    """The neighbouring layers are not looked at either: they have the rows' width."""
    data, narrower, path = some_rows(d=4), relu(d=3), tmp_path / "across.h5"
    encoding.encode(data, narrower, path, spec={}, own=False, layers=lambda: pytest.fail("measured"))
    assert codes.unreadable(path) == "a dictionary of width 3 cannot read rows of width 4"
    with pytest.raises(DiptychError, match=r"across\.h5: a dictionary of width 3 cannot read rows of width 4"):
        codes.read([path])
    with pytest.raises(DiptychError, match="check its site"):
        encoding.encode(data, narrower, tmp_path / "own.h5", spec={}, own=True)
    encoding.encode(data, relu(d=4), path, spec={}, own=False)
    assert codes.unreadable(path) is None


def test_top_rows_are_the_largest_values_in_token_rows() -> None:
    values = sparse.csr_array(np.array([[0, 1], [3, 0], [2, 0], [3, 0]], dtype=np.float32))
    zeros = np.zeros(4, np.int64)
    found = codes.Features(values, np.array([10, 20, 30, 40]), zeros, zeros, zeros)
    top, values = found.top_rows(3)
    assert top.tolist() == [[20, 40, 30], [10, -1, -1]]
    assert values.tolist() == [[3, 3, 2], [1, 0, 0]]
    large = encoding.encode_rows(some_rows(3000), relu())
    top, values = large.top_rows(5)
    dense = large.csr.toarray()
    np.testing.assert_allclose(values, -np.sort(-dense, axis=0)[:5].T)
    np.testing.assert_allclose(dense[top[0], 0], values[0])


def test_common_rows_pair_equal_token_rows_and_aligned_ones(tmp_path: Path) -> None:
    whole = encoding.encode_rows(some_rows(), relu())
    a, b = whole.select(np.arange(0, 60, 2)), whole.select(np.arange(0, 60, 3))
    common_a, common_b = codes.common_rows(a, b)
    assert common_a.token_row.tolist() == list(range(0, 60, 6))
    np.testing.assert_array_equal(common_a.csr.toarray(), common_b.csr.toarray())
    row_a, row_b = np.array([0, 1, 2, 4]), np.array([3, 4, 3, 5])
    common_a, common_b = codes.common_rows(a, b, (row_a[[0, 2]], np.array([0, 3])))
    assert (common_a.token_row.tolist(), common_b.token_row.tolist()) == ([0, 2], [0, 3])
    with artifacts.create(tmp_path / "alignment.h5", "alignment", {}) as out:
        out.json("identity", False)
        out.array("row_a", row_a)
        out.array("row_b", row_b)
    read = codes.read_alignment(tmp_path / "alignment.h5")
    assert read is not None
    np.testing.assert_array_equal(read[1], row_b)
    with pytest.raises(DiptychError, match="share no valid row"):
        codes.common_rows(whole.select(np.arange(3)), whole.select(np.arange(4, 9)))


def test_a_dictionary_of_another_width_is_refused() -> None:
    with pytest.raises(DiptychError, match="width 5"):
        encoding.encode_rows(some_rows(), relu(d=5))


@pytest.mark.gpu
@pytest.mark.parametrize("normalisation", ["none", "layer_norm"])
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
def test_gpu_and_cpu_give_the_same_codes(architecture: sae.Architecture, normalisation: sae.Normalisation) -> None:
    rng = np.random.default_rng(3)
    W_enc, W_dec = (rng.normal(size=shape).astype(np.float32) for shape in ((16, 40), (40, 16)))
    zeros, threshold = np.zeros(16, np.float32), np.full(40, 2.0, np.float32)
    dictionary = sae.Dictionary(
        architecture, W_enc, np.zeros(40, np.float32), W_dec, zeros, zeros, 4, threshold, {}, normalisation
    )
    data = some_rows(200, 16)
    cpu, gpu = (encoding.encode_rows(data, dictionary, block_rows=64, device=device) for device in ("cpu", "cuda:0"))
    dense = cpu.csr.toarray()
    np.testing.assert_allclose(gpu.csr.toarray(), dense, rtol=0, atol=1e-4 * dense.max())
    assert cpu.reconstruction is not None
    assert gpu.reconstruction is not None
    assert gpu.reconstruction.error == pytest.approx(cpu.reconstruction.error, rel=1e-4)
    assert gpu.reconstruction.ev_token_sum == pytest.approx(cpu.reconstruction.ev_token_sum, rel=1e-4)
