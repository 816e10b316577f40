"""The linear map on the leaderboard: its stage on two matrices of rows, its candidates as the ranking."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from diptych import methods
from diptych.candidates import fitted
from diptych.linear_map import candidates, stage
from diptych.oracle import tokens
from diptych.oracle.entry import Entry, Fit, Quantity
from diptych.oracle.planted import FloatArray, IntArray

NO_FEATURES = "a linear map relates spaces, not features"


def fit(rows_A: FloatArray, rows_B: FloatArray, document: IntArray, seed: int) -> Fit:
    """Unexplained and principal directions of the best map's residual, both ways."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "linear_map.h5")
        stage.fit(tokens.aligned((rows_A, rows_B), document), path, spec={}, seed=seed)
        proposed = candidates.candidates({"linear_map": path})
    return fitted.fit_of(proposed, methods.named("linear_map"))


BLIND: Mapping[Quantity, str] = dict.fromkeys(("rotated", "rescaled", "more_frequent"), NO_FEATURES)
ENTRIES = {"linear_map": Entry("linear map", fit, blind=BLIND)}
