"""Writes tests/data/dictionary and dictionary_narrow: SAELens directories for `base` and the narrower `other`.

Both are for the first site. Feature i of both detects the same frequent token of `base`, so that the dictionaries'
features pair up although tokenizers and widths differ. Needs what the test study stored:

    snakemake --configfile config/studies/test.yaml --cores 2 results/test/pairs/across/first--first/linear_map.h5
    PYTHONPATH=workflow python tests/data/make_dictionary.py
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from diptych.activations.rows import RowFiles, stored

FEATURES = 48
RESULTS = Path("results/test")
NAMES = {"base": "dictionary", "other": "dictionary_narrow"}


def main() -> None:
    import h5py

    sides = []
    for model in NAMES:
        directory = RESULTS / "activations" / "both" / model / "main"
        tokens = RESULTS / "tokens" / "both" / f"{model}.h5"
        sides.append(RowFiles([str(directory / "0.h5")], str(directory / "gates.h5"), str(tokens), "first"))
    rows = stored(sides, str(RESULTS / "alignments" / "both" / "base--other.h5"))
    x = rows.take(np.arange(len(rows))).x
    with h5py.File(sides[0].tokens) as file:
        token = file["token"][:][rows.token_row[0]]
    names, count = np.unique(token, return_counts=True)
    frequent = names[np.argsort(-count, kind="stable")[:FEATURES]]
    for values, (model, name) in zip(x, NAMES.items(), strict=True):
        write(Path(__file__).parent / name, model, values.astype(np.float64), token[:, None] == frequent)


def write(directory: Path, model: str, x: np.ndarray, is_token: np.ndarray) -> None:
    """Write a dictionary of F tokens, from rows x [n, d]: decoder of mean rows [F, d], encoder by Fisher's LDA."""
    directory.mkdir(exist_ok=True)
    mean = x.mean(axis=0)
    rows = np.stack([x[of_token].mean(axis=0) - mean for of_token in is_token.T])
    is_frequent = is_token.any(axis=1)
    within = x[is_frequent] - mean - rows[is_token.argmax(axis=1)[is_frequent]]
    encoder = np.linalg.solve(np.cov(within.T) + 1e-6 * np.eye(x.shape[1]), rows.T)
    encoder /= np.sqrt(np.sum(rows.T * encoder, axis=0))
    weights = {
        "W_dec": np.ascontiguousarray(rows, np.float32),
        "W_enc": np.ascontiguousarray(encoder, np.float32),
        "b_enc": np.zeros(FEATURES, np.float32),
        "b_dec": mean.astype(np.float32),
    }
    (directory / "sae_weights.safetensors").write_bytes(save(weights))
    config = {
        "architecture": "topk",
        "k": 1,
        "d_in": x.shape[1],
        "d_sae": FEATURES,
        "dtype": "float32",
        "metadata": {"hook_name": "blocks.1.hook_resid_pre", "model_name": model},
    }
    (directory / "cfg.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
