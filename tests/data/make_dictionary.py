"""Writes tests/data/dictionary: random directions in SAELens' format, for the first site of the test study's base."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

FEATURES, WIDTH = 48, 32


def main() -> None:
    place = Path(__file__).parent / "dictionary"
    place.mkdir(exist_ok=True)
    rows = np.random.default_rng(0).normal(size=(FEATURES, WIDTH)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    weights = {
        "W_dec": rows,
        "W_enc": np.ascontiguousarray(rows.T),
        "b_enc": np.zeros(FEATURES, np.float32),
        "b_dec": np.zeros(WIDTH, np.float32),
    }
    save_file(weights, place / "sae_weights.safetensors")
    config = {
        "architecture": "topk",
        "k": 4,
        "d_in": WIDTH,
        "d_sae": FEATURES,
        "dtype": "float32",
        "metadata": {"hook_name": "blocks.1.hook_resid_pre", "model_name": "base"},
    }
    (place / "cfg.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
