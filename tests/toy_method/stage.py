"""A toy method: the mean difference of two models' rows at a site."""

from pathlib import Path
from typing import Any

import numpy as np

from diptych.activations.rows import Rows
from diptych.storage import artifacts


def compare(rows: Rows, out: str | Path, *, spec: dict[str, Any]) -> None:
    """Stage: fit the mean of x_B - x_A outside fold 0, project fold 0 on it, by document (kind "toy")."""
    block = rows.take(np.arange(len(rows)))
    change = (block.x[1] - block.x[0]).astype(np.float64)
    delta = change[rows.fold != 0].mean(axis=0)
    norm = float(np.linalg.norm(delta))
    held_out = change[rows.fold == 0] @ (delta / norm if norm else delta)
    _, document = np.unique(rows.document[rows.fold == 0], return_inverse=True)
    with artifacts.create(out, "toy", spec) as file:
        file.array("delta", delta)
        file.array("held_out", np.bincount(document, held_out) / np.bincount(document))
