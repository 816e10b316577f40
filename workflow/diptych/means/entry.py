"""Differences of means on the leaderboard: their stage on two matrices of rows, their candidates as the ranking."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diptych import methods
from diptych.candidates import fitted
from diptych.means import candidates, stage
from diptych.oracle import tokens
from diptych.oracle.entry import Entry, Fit, Quantity
from diptych.oracle.planted import FloatArray, IntArray
from diptych.text.contexts import Text

NO_FEATURES = "a mean difference is one direction, not a feature of either model"


def fit(rows_A: FloatArray, rows_B: FloatArray, document: IntArray, seed: int) -> Fit:
    """Mean differences at first positions, over all rows and over the rows that moved most.

    They point from A to B, whichever model has the feature that moves, so their side is not told.
    """
    with tempfile.TemporaryDirectory() as folder:
        text, path = Path(folder) / "tokens.h5", str(Path(folder) / "means.h5")
        tokens.write(text, document, {})
        pair, counts = tokens.aligned((rows_A, rows_B), document), np.ones(len(document), dtype=np.bool_)
        stage.compare(pair, counts, Text(text), path, spec={}, seed=seed)
        proposed = candidates.candidates({"means": path})
    return fitted.fit_of(proposed, methods.named("means"), side="either")


BLIND: Mapping[Quantity, str] = dict.fromkeys(("rotated", "rescaled", "more_frequent"), NO_FEATURES)
ENTRIES = {"means": Entry("difference of means, with its test", fit, one_basis=True, blind=BLIND)}
