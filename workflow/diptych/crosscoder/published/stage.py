"""Import of published crosscoders, whichever of the known layouts they are in, into our own weights format.

    crosscoder = load(["gemma-2-2b-L13-k100/model.safetensors", "gemma-2-2b-L13-k100/config.json"])
    import_published(files, "weights.h5", spec=spec, scales=(0.2759, 0.2442))

Mean and scale of each model, threshold and k are in the artifact, so that `encode` on raw activations gives the codes
that the crosscoder's own library gives, and every stage runs on it as on one that was trained here.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.activations.rows import IntArray, Rows
from diptych.crosscoder.published import crosscode, dictionary_learning, plain
from diptych.crosscoder.published.files import read_configs, read_tensors
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding import architecture
from diptych.sparse_coding.architecture import Crosscoder
from diptych.sparse_coding.threshold import threshold_of
from diptych.storage import artifacts

CALIBRATION_ROWS, BLOCK_ROWS = 100_000, 1024
"""Rows outside fold 0 that set a threshold at most (METHODS 5), and how many are read together."""


def load(files: Sequence[str | Path], models: Sequence[str | None] = ()) -> Crosscoder:
    """Read a published crosscoder; of a .pt file, nothing but tensors.

    Args:
        files: the one with its tensors, then the configs beside it (`files.files_of`).
        models: names of the study's models in order, None where it has none; compared with what the files say.

    Raises:
        DiptychError: a file is missing, of another kind, or in no known layout.
    """
    tensors, configs = read_tensors(files[0]), read_configs(files[1:])
    try:
        if "encoder.weight" in tensors:
            return dictionary_learning.read(tensors, configs, models)
        if crosscode.ENCODER in tensors:
            return crosscode.read(tensors, configs, models)
        if set(plain.NAMES) & set(tensors):
            return plain.read(tensors)
    except DiptychError as error:
        raise DiptychError(f"{files[0]}: {error}") from None
    raise DiptychError(
        f"{files[0]}: tensors {', '.join(sorted(tensors))} are in no known layout of a crosscoder; known: "
        f"{', '.join(plain.NAMES)}; dictionary_learning's encoder.weight, ...; crosscode's {crosscode.ENCODER}, ..."
    )


def import_published(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    spec: dict[str, Any],
    scales: Sequence[float] = (),
    models: Sequence[str | None] = (),
    calibrate: bool = False,
    rows: Rows | None = None,
) -> None:
    """Stage: write a published crosscoder as an artifact of kind "crosscoder".

    Args:
        files: see `load`.
        out: the artifact.
        spec: stored with it.
        scales: for each model the factor that its rows are multiplied by before they are encoded; 1 if not given. Only
            for weights that bring none of their own.
        models: see `load`.
        calibrate: set the threshold anew, on `rows`.
        rows: the rows of the models; those of fold 0 are not read.

    Raises:
        DiptychError: the files cannot be read, `scales` do not fit them, or there is no threshold to set, or it must
            be set and is not.
    """
    crosscoder = load(files, models)
    if models and len(models) != len(crosscoder.scale):
        raise DiptychError(
            f"{files[0]}: a crosscoder of {len(crosscoder.scale)} models, but `models` has {len(models)}"
        )
    if scales:
        _set_scales(crosscoder, scales, files[0])
    n_rows = _calibrate(crosscoder, rows, files[0]) if calibrate else 0
    if bool(crosscoder.threshold.isnan()):
        raise DiptychError(
            f"{files[0]}: a BatchTopK crosscoder without a threshold, so a row's code depends on its batch; set "
            "`calibrate: true` of the crosscoder"
        )
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with artifacts.create(out, "crosscoder", spec) as file:
        architecture.write(file, crosscoder)
        file.json("summary", {"steps": 0, "rows_train": 0, "rows_seen": 0, "rows_calibration": n_rows})


def _set_scales(crosscoder: Crosscoder, scales: Sequence[float], path: str | Path) -> None:
    if len(scales) != len(crosscoder.scale):
        raise DiptychError(
            f"{path}: a crosscoder of {len(crosscoder.scale)} models, but `scales` has {len(scales)} values"
        )
    if bool((crosscoder.scale != 1).any()) or bool((crosscoder.mean != 0).any()):
        raise DiptychError(f"{path}: brings the scales of its models; take `scales` out")
    crosscoder.scale.copy_(torch.tensor(scales))


def _calibrate(crosscoder: Crosscoder, rows: Rows | None, path: str | Path) -> int:
    """Set the threshold on rows outside fold 0, spread evenly; how many they are."""
    if crosscoder.architecture.activation != "threshold":
        raise DiptychError(f"{path}: its codes are not cut at a threshold; take `calibrate` out")
    if rows is None:
        raise DiptychError(f"{path}: `calibrate` needs the rows of the crosscoder's models")
    architecture.check_widths(crosscoder, rows.widths)
    train = np.flatnonzero(rows.fold != 0)
    sampled = train[np.unique(np.linspace(0, len(train) - 1, min(len(train), CALIBRATION_ROWS)).astype(np.int64))]
    crosscoder.threshold.fill_(threshold_of(crosscoder, _normalised(crosscoder, rows, sampled), len(sampled)))
    return len(sampled)


def _normalised(crosscoder: Crosscoder, rows: Rows, index: IntArray) -> Iterator[Tensor]:
    for start in logs.progress(range(0, len(index), BLOCK_ROWS), "threshold", unit="block"):
        x = rows.take(index[start : start + BLOCK_ROWS]).x
        yield crosscoder.normalise(architecture.crosscoder_input(x, crosscoder.architecture))
