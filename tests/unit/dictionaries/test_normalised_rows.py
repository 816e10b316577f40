"""Dictionaries that normalise each row: what reads them is in the units of the model's activations."""

import numpy as np
import pytest
import torch
from scipy import sparse

from diptych.activations import rows
from diptych.dictionaries import encoding, sae, saelens_format
from saelens_directories import FEATURES, WIDTH, weights_of, write

N = 90


@pytest.fixture
def x():
    """Rows of very different norms around a common mean."""
    generator = np.random.default_rng(2)
    return (generator.lognormal(0, 1, (N, 1)) * (generator.standard_normal((N, WIDTH)) + 1)).astype(np.float32)


def dictionary(tmp_path, normalise, architecture="standard"):
    metadata = {"sae_lens_version": saelens_format.VERSION}
    config = {"architecture": architecture, "d_in": WIDTH, "d_sae": FEATURES, "metadata": metadata,
              "normalize_activations": normalise, "k": 5}  # fmt: skip
    return sae.load(write(tmp_path / f"{normalise}-{architecture}", config, weights_of(architecture)))


def saelens_reconstruction(tmp_path, x, normalise):
    from sae_lens import SAE

    loaded = SAE.load_from_disk(tmp_path / f"{normalise}-standard", dtype="float64")
    with torch.no_grad():
        return loaded.forward(torch.from_numpy(x).double()).numpy()


@pytest.mark.parametrize("normalise", ["none", "layer_norm", "constant_norm_rescale"])
def test_fvu_is_in_raw_units(tmp_path, x, normalise):
    """sum ||x - xhat||^2 / sum ||x - mean||^2 with SAELens' own xhat, over blocks."""
    data = rows.in_memory([x], np.arange(N) // 5)
    features = encoding.encode_rows(data, dictionary(tmp_path, normalise), block_rows=17)
    error = np.square(x - saelens_reconstruction(tmp_path, x, normalise)).sum()
    total = np.square(x - x.mean(axis=0, dtype=np.float64)).sum()
    assert features.reconstruction.fvu == pytest.approx(error / total, rel=1e-5)


def test_a_dictionary_that_writes_every_row_back_has_no_error_in_raw_units(tmp_path, x):
    """f = (relu(z), relu(-z)) and W_dec = (1, -1): z comes back whole, and mean and scale with it.

    SAELens divides by the standard deviation plus 1e-5, and multiplies by the standard deviation alone.
    """
    mean, std = x.mean(axis=1, keepdims=True, dtype=np.float64), x.std(axis=1, ddof=1, keepdims=True, dtype=np.float64)
    expected = dict.fromkeys(saelens_format.NORMALISATIONS, x) | {"layer_norm": mean + (x - mean) * std / (std + 1e-5)}
    eye = np.eye(WIDTH, dtype=np.float32)
    weights = {"W_enc": np.hstack([eye, -eye]), "W_dec": np.vstack([eye, -eye]),
               "b_enc": np.zeros(2 * WIDTH, np.float32), "b_dec": np.zeros(WIDTH, np.float32)}  # fmt: skip
    for normalise in saelens_format.NORMALISATIONS:
        config = {"architecture": "standard", "normalize_activations": normalise, "metadata": {}}
        whole = sae.load(write(tmp_path / normalise, config, weights))
        x_hat = whole.decode(whole.encode(torch.from_numpy(x)), torch.from_numpy(x)).numpy()
        largest = np.abs(x).max(axis=1, keepdims=True)
        assert (np.abs(x_hat - expected[normalise]) <= 8 * np.finfo(np.float32).eps * largest).all(), normalise


@pytest.mark.parametrize("normalise", ["none", "layer_norm", "constant_norm_rescale"])
def test_the_change_that_codes_describe_is_in_raw_units(tmp_path, x, normalise):
    reading = dictionary(tmp_path, normalise)
    after = x + np.random.default_rng(4).standard_normal(x.shape).astype(np.float32)
    sides = [(sparse.csr_array(reading.encode(torch.from_numpy(values)).numpy()), values) for values in (x, after)]
    before, moved = (saelens_reconstruction(tmp_path, values, normalise) for values in (x, after))
    described = encoding.described_change(reading, *sides)
    np.testing.assert_allclose(described, moved - before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


def test_an_encoder_column_says_nothing_of_the_mean_that_is_taken_off(tmp_path, x):
    """Layer norm removes each row's mean: what pairing compares are columns of mean 0, with the same codes."""
    reading = dictionary(tmp_path, "layer_norm")
    np.testing.assert_allclose(reading.W_enc.mean(axis=0), 0, atol=1e-6)
    shifted = reading.encode(torch.from_numpy(x + 3))
    np.testing.assert_allclose(shifted.numpy(), reading.encode(torch.from_numpy(x)).numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("normalise", ["layer_norm", "constant_norm_rescale"])
def test_codes_do_not_grow_with_the_row(tmp_path, x, normalise):
    reading = dictionary(tmp_path, normalise, "topk")
    codes, larger = (reading.encode(torch.from_numpy(factor * x)) for factor in (1, 8))
    np.testing.assert_allclose(larger.numpy(), codes.numpy(), rtol=1e-3, atol=1e-3)
    decoded = reading.decode(larger, torch.from_numpy(8 * x)).numpy()
    np.testing.assert_allclose(decoded, 8 * reading.decode(codes, torch.from_numpy(x)).numpy(), rtol=1e-3, atol=1e-2)


def test_a_gated_dictionary_is_open_where_its_gate_is(tmp_path, x):
    """Where x W_enc + b_gate > 0 and nowhere else, in the words of the published architecture."""
    reading = dictionary(tmp_path, "none", "gated")
    stored = {name: values.astype(np.float64) for name, values in weights_of("gated").items()}
    encoded = (x - stored["b_dec"]) @ stored["W_enc"]
    magnitude = encoded * np.exp(stored["r_mag"]) + stored["b_mag"]
    expected = (encoded + stored["b_gate"] > 0) & (magnitude > 0)
    clear = np.minimum(np.abs(encoded + stored["b_gate"]), np.abs(magnitude)) > 1e-4 * np.abs(encoded).max()
    fires = reading.encode(torch.from_numpy(x)).numpy() > 0
    assert np.array_equal(fires[clear], expected[clear])
    assert clear.mean() > 0.99
    assert (fires != (magnitude > 0)).any()  # the gate shuts some that would fire
