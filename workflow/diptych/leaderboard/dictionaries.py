"""Feature pairing on the leaderboard: two dictionaries trained, read on both models and paired by their own stages.

It lies here and not with the pairing because it also runs the linear map's stage, and methods do not import another.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diptych import methods
from diptych.activations.rows import Rows
from diptych.candidates import fitted
from diptych.correlation import stage as correlation_stage
from diptych.dictionaries import codes, encoding, sae, training
from diptych.dictionaries.settings import Settings
from diptych.linear_map import stage as linear_map_stage
from diptych.oracle import tokens
from diptych.oracle.entry import Budget, Entry, Fit, Matches
from diptych.oracle.planted import FloatArray, IntArray
from diptych.pairing import candidates, stage
from diptych.pairing.pairing import MATCHED
from diptych.storage import artifacts

ON = {"a": ("a", "a"), "b": ("b", "b"), "a_on_b": ("a", "b"), "b_on_a": ("b", "a")}
"""Names of the encoded features: the dictionary, and the model whose rows it reads."""


def fit(rows_A: FloatArray, rows_B: FloatArray, document: IntArray, seed: int, budget: Budget) -> Fit:
    """Unmatched features of either model's dictionary.

    Tokens of planted rows have no text, so pairs are not filtered by what their features fire on (`concept_filter`).
    """
    with tempfile.TemporaryDirectory() as folder:
        files = _train_and_encode(Path(folder), {"a": rows_A, "b": rows_B}, document, seed, budget)
        _pair(files, tokens.aligned((rows_A, rows_B), document), seed)
        proposed = candidates.candidates(files)
        return fitted.fit_of(proposed, methods.named("pairing"), matches=_matches(files), active=_active(files))


def _train_and_encode(
    folder: Path, x: Mapping[str, FloatArray], document: IntArray, seed: int, budget: Budget
) -> dict[str, Any]:
    """A dictionary of each model, and both models in each: paths of the files of a cell."""
    files: dict[str, Any] = {
        "tokens": str(folder / "tokens.h5"),
        "linear_map": str(folder / "linear_map.h5"),
        "correlation": str(folder / "correlation.h5"),
        "pairing": str(folder / "pairing.h5"),
    }
    tokens.write(files["tokens"], document, {})
    settings = Settings("topk", budget.n_latents, budget.k, budget.steps, budget.batch, budget.learning_rate, seed=seed)
    dictionaries = {}
    for model, values in x.items():
        training.train(tokens.aligned((values,), document), folder / model, settings, spec={})
        files[f"dictionary_{model}"] = str(folder / model / "manifest.json")
        dictionaries[model] = sae.load(folder / model)
    for name, (dictionary, model) in ON.items():
        path = str(folder / f"features_{name}.h5")
        rows = tokens.aligned((x[model],), document)
        encoding.encode(rows, dictionaries[dictionary], path, spec={}, own=dictionary == model)
        files[f"features_{name}"] = [path]
    return files


def _pair(files: Mapping[str, Any], rows: Rows, seed: int) -> None:
    """Correlate, map and pair."""
    linear_map_stage.fit(rows, files["linear_map"], spec={}, seed=seed)
    correlation_stage.correlate(files["features_a"], files["features_b"], files["correlation"], spec={}, seed=seed)
    dictionary_a, dictionary_b = (sae.load(Path(files[f"dictionary_{side}"]).parent) for side in "ab")
    stage.pair(
        files["correlation"],
        files["features_a"],
        files["features_b"],
        dictionary_a,
        dictionary_b,
        files["linear_map"],
        files["tokens"],
        files["tokens"],
        files["pairing"],
        spec={},
        features_a_on_b=files["features_a_on_b"],
        features_b_on_a=files["features_b_on_a"],
        seed=seed,
        concept_filter=False,
    )


def _matches(files: Mapping[str, Any]) -> Matches:
    """Decoder rows of the matched features, with the angle between them and the ratios of their sizes and densities."""
    with artifacts.read(files["pairing"], "pairing") as file:
        pairs = artifacts.read_table(file, "pairs")
    matched = pairs["outcome"] == MATCHED
    W_dec = {side: sae.load(Path(files[f"dictionary_{side}"]).parent).W_dec.astype(np.float64) for side in "ab"}
    return Matches(
        W_dec["a"][pairs["a"][matched]],
        W_dec["b"][pairs["b"][matched]],
        angle=np.arccos(np.clip(pairs["cosine"][matched], -1, 1)),
        scale=pairs["size_ratio"][matched],
        frequency=pairs["density_ratio"][matched],
    )


def _active(files: Mapping[str, Any]) -> float:
    """Mean L0 of the two dictionaries, each on its own model."""
    return float(np.mean([codes.read(files[f"features_{side}"]).summary()["l0_mean"] for side in "ab"]))


ENTRIES = {"pairing": Entry("pairing of two dictionaries", fit, one_basis=True, trains=True)}
