"""Dictionaries of random weights in SAELens' layout, and what SAELens itself makes of them."""

import json

import numpy as np
import torch
from safetensors.numpy import save_file

import tolerance
from diptych.dictionaries.saelens_format import CONFIG_FILE, WEIGHTS_FILE

WIDTH, FEATURES = 16, 24


def write(place, config, weights):
    """cfg.json and sae_weights.safetensors in a new directory, which is returned."""
    place.mkdir()
    (place / CONFIG_FILE).write_text(json.dumps({"dtype": "float32", "device": "cpu"} | config))
    save_file(weights, place / WEIGHTS_FILE)
    return place


def weights(seed=0, **more):
    """Standard normal weights of a standard or topk dictionary, and [FEATURES] of a constant each for `more`."""
    generator = np.random.default_rng(seed)
    shapes = {"W_enc": (WIDTH, FEATURES), "W_dec": (FEATURES, WIDTH), "b_enc": (FEATURES,), "b_dec": (WIDTH,)}
    made = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return made | {name: np.full(FEATURES, value, dtype=np.float32) for name, value in more.items()}


def weights_of(architecture, seed=0):
    """Normal weights of any architecture, every tensor different from 0 and 1."""
    generator = np.random.default_rng(seed)
    made = weights(seed)
    if architecture == "jumprelu":
        made["threshold"] = generator.uniform(0.2, 2, FEATURES).astype(np.float32)
    if architecture == "gated":
        del made["b_enc"]
        for name in ("b_gate", "b_mag", "r_mag"):
            made[name] = generator.normal(0, 0.7, FEATURES).astype(np.float32)
    return made


def normalised(x, how):
    """Rows of float64 as SAELens normalises them, and the scale [n, 1] that it gives back to a reconstruction."""
    x = x.astype(np.float64)
    if how == "layer_norm":
        std = x.std(axis=1, ddof=1, keepdims=True)
        return (x - x.mean(axis=1, keepdims=True)) / (std + 1e-5), std
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    scale = norm / np.sqrt(WIDTH) if how == "constant_norm_rescale" else np.ones_like(norm)
    return x / scale, scale


def assert_reads_as(dictionary, codes, decoded, x):
    """Codes and reconstructions of rows x in float32 against those of float64, within rounding.

    Four times that of the products: rows are normalised, and biases and scales folded in, in float32 as well.
    """
    z, scale = normalised(x, dictionary.normalize_activations)
    bound = 4 * _rounding(np.abs(z) + np.abs(dictionary.b_in), dictionary.W_enc, dictionary.b_enc)
    ours = dictionary.encode(torch.from_numpy(x))
    error = np.abs(ours.numpy() - np.asarray(codes))
    assert (error <= bound).all(), error.max()
    limit = bound @ np.abs(dictionary.W_dec) + 4 * _rounding(ours.numpy(), dictionary.W_dec, dictionary.b_dec)
    limit = limit * scale + 8 * np.finfo(np.float32).eps * np.abs(x).max(axis=1, keepdims=True)
    error = np.abs(dictionary.decode(ours, torch.from_numpy(x)).numpy() - np.asarray(decoded))
    assert (error <= limit).all(), error.max()
    assert limit.max() < 1e-2 * np.abs(np.asarray(decoded)).max()


def _rounding(x, W, b):
    """`tolerance.rounding_bound` of x W + b in float32."""
    with_bias = np.hstack([x, np.ones((len(x), 1))]).astype(np.float32)
    return tolerance.rounding_bound(with_bias, np.vstack([W, b]))


def saelens_on(directory, x):
    """SAELens' codes and reconstructions of rows x, float64."""
    from sae_lens import SAE

    loaded = SAE.load_from_disk(directory, dtype="float64")
    with torch.no_grad():
        codes = loaded.encode(torch.from_numpy(x).double())
        return codes.numpy(), loaded.decode(codes).numpy()
