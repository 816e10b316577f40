"""Neurons as feature spaces: W_out of each architecture, mutual best partners, and the identical pair."""

import numpy as np
import pytest
import torch

from diptych.activations import rows
from diptych.derive import plant
from diptych.linear_map import stage
from diptych.models import pretrained
from diptych.models.sites import neurons_of, resolve_site
from diptych.runtime.errors import DiptychError
from diptych.similarity import neurons
from diptych.similarity.measures.scores import Settings, score
from diptych.storage import artifacts
from small_study import write_tokens
from tiny_models import make_model


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox", "gemma2"])
def test_rows_are_what_each_neuron_writes(architecture, tmp_path):
    """W_out times a one-hot inner activation is the neuron's row."""
    directory = make_model(tmp_path / "m", architecture)
    W_out = neurons.output_matrix(directory, "last.mlp.hook_post")
    model = pretrained.load(directory)
    layer = pretrained.describe(directory)["n_layers"] - 1
    block = plant.blocks(model)[layer]
    matrix = next(found for path in plant.OUTPUT_MATRICES if (found := plant._find(block, path)) is not None)
    inner = torch.eye(len(W_out))
    bias = getattr(matrix, "bias", None)
    with torch.no_grad():
        expected = matrix(inner) - (0 if bias is None else bias)
    np.testing.assert_allclose(W_out, expected.numpy(), atol=1e-6)
    assert W_out.shape[1] == pretrained.describe(directory)["width"]


def test_sites_of_neurons():
    assert neurons_of("middle") == "middle.mlp.hook_post"
    assert neurons_of("blocks.4.hook_resid_post") == "blocks.4.mlp.hook_post"
    assert neurons_of("blocks.4.hook_resid_pre") == "blocks.3.mlp.hook_post"
    assert neurons_of("blocks.4.hook_mlp_out") == "blocks.4.mlp.hook_post"
    assert neurons_of("blocks.0.hook_resid_pre") is None
    assert neurons_of("0.25") is None
    assert resolve_site("middle.mlp.hook_post", 30) == "blocks.15.mlp.hook_post"
    assert resolve_site("last.hook_resid_pre", 30) == "blocks.29.hook_resid_pre"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Neurons of B are those of A in another order, with noise; the first five of A have no counterpart."""
    place = tmp_path_factory.mktemp("neurons")
    rng = np.random.default_rng(0)
    n, d, width = 1200, 24, 6
    document = np.arange(n) // 30
    x_a = rng.normal(size=(n, d)).astype(np.float32)
    order = rng.permutation(d)
    x_b = (x_a + 0.3 * rng.normal(size=(n, d)))[:, order].astype(np.float32)
    x_b[:, np.isin(order, np.arange(5))] = rng.normal(size=(n, 5))
    W_a = rng.normal(size=(d, width)).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0].astype(np.float32)
    W_b = (W_a @ turn)[order]
    write_tokens(place / "tokens.h5", document)
    stream = rng.normal(size=(n, width)).astype(np.float32)
    residual = rows.in_memory([stream, stream @ turn], document, fold=document % 5)
    stage.fit(residual, place / "map.h5", spec={}, bootstrap=10, directions=2, contexts=2)
    return place, rows.in_memory([x_a, x_b], document, fold=document % 5), (W_a, W_b), order


def test_planted_neurons_come_back_with_their_rows(made):
    place, pair, W, order = made
    tokens = (place / "tokens.h5",) * 2
    found = neurons.paired_neurons(pair, W, tokens, place / "map.h5", max_rows=900)
    a = [int(np.flatnonzero((W[0] == row).all(axis=1))[0]) for row in found.x.astype(np.float32)]
    b = [int(np.flatnonzero((W[1] == row).all(axis=1))[0]) for row in found.y.astype(np.float32)]
    true = {(int(order[j]), j) for j in range(24) if order[j] >= 5}
    assert true <= set(zip(a, b, strict=True))
    is_true = np.array([pair in true for pair in zip(a, b, strict=True)])
    assert found.rho[is_true].min() > 0.8
    assert np.abs(found.rho[~is_true]).max(initial=0) < 0.3
    np.testing.assert_allclose(found.mapped[is_true], found.y[is_true], atol=0.02)
    assert all(len(words) == 5 for words in found.tokens_a)
    again = neurons.paired_neurons(pair, W, tokens, place / "map.h5", max_rows=900, memory=2**12)
    np.testing.assert_array_equal(again.x, found.x)


def test_their_correlation_has_a_level(made):
    """On the documents that judged: pairs re-paired at random, hence about 0, and far below what they score."""
    place, pair, W, _ = made
    found = neurons.paired_neurons(pair, W, (place / "tokens.h5",) * 2, place / "map.h5")
    codes_a, codes_b = found.codes
    assert len(codes_a) == len(codes_b) < len(pair) / 2 + 60
    again = [np.corrcoef(codes_a[:, k], codes_b[:, k])[0, 1] for k in range(len(found))]
    np.testing.assert_allclose(again, found.rho, atol=1e-6)
    cell = score(found, Settings(measures=("rho",)), np.random.default_rng(0))[0]
    r = np.corrcoef(codes_a.T, codes_b.T)[: len(found), len(found) :]
    assert cell.null.mean == pytest.approx(r.mean(), abs=1e-9)
    assert cell.null.mean + 5 * cell.null.sd < cell.value


def test_a_model_with_itself(made):
    place, pair, W, _ = made
    same = rows.in_memory([pair.take(np.arange(len(pair))).x[0]] * 2, pair.document, fold=pair.fold)
    found = neurons.paired_neurons(same, (W[0], W[0]), (place / "tokens.h5",) * 2, place / "map.h5")
    np.testing.assert_array_equal(found.x, found.y)
    assert len(found) == 24
    np.testing.assert_allclose(found.rho, 1.0)
    cells = score(found, Settings(measures=("rsa",), repairings=19), np.random.default_rng(0))
    assert cells[0].value == pytest.approx(1.0)


def test_whole_documents_are_taken(made):
    _, pair, _, _ = made
    index = neurons.sample_documents(pair, 100, 3)
    assert len(index) == 90
    assert len(np.unique(pair.document[index])) == 3
    assert (np.diff(index) > 0).all()


def test_a_matrix_of_another_block_is_refused(made):
    place, pair, W, _ = made
    with pytest.raises(DiptychError, match="24 at the site, but W_out has 10 rows"):
        neurons.paired_neurons(pair, (W[0], W[1][:10]), (place / "tokens.h5",) * 2, place / "map.h5")
    assert artifacts.read(place / "map.h5", "linear_map")
