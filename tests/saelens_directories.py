"""Dictionaries of random weights in SAELens' layout."""

import json

import numpy as np
from safetensors.numpy import save_file

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
