"""FVU of a dictionary at its site and at the neighbouring layers (METHODS 1, gate `site_suspect`).

Off by one is the commonest mistake with published dictionaries: `hidden_states[l + 1]` is the output of block l, and
papers count from 0 or from 1. A dictionary reconstructs the layer that it was trained on best. So its share of
variance unexplained (FVU) is taken at its site and at the same place of the two neighbouring layers, on the rows that
`activations` sampled there:

    layers = measure("activations/.../0.h5", "activations/.../gates.h5", "middle", dictionary)
    layers["blocks.15.hook_resid_post"].fvu        # .31; .47 at blocks.14, .52 at blocks.16

The first hook is the site's own. Not lowest there: the site is suspect.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from diptych.activations import rows
from diptych.activations.sides import StoredSide
from diptych.dictionaries import codes, encoding
from diptych.dictionaries.codes import Reconstruction
from diptych.dictionaries.encoding import Dictionary
from diptych.storage import artifacts

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


def measure(
    shard: str | Path, gates: str | Path, site: str, dictionary: Dictionary, device: str = "cpu"
) -> dict[str, Reconstruction]:
    """Reconstruction by hook, the site's own first, on the shard's sampled rows that count; empty without any.

    Args:
        shard: activations of the model.
        gates: which of its rows count.
        site: where the dictionary is read.
        dictionary: of the site's width.
        device: where it runs.
    """
    with artifacts.read(gates, "gates") as file:
        valid = file[f"sites/{site}/valid"][:]
    with artifacts.read(shard, "activations") as file:
        sample: IntArray = file["sample_row"][:]
        counted = valid[sample]
        if not counted.any():
            return {}
        own = StoredSide([shard], site).take(sample[counted])
        readings = {artifacts.read_json(file, "hooks")[site]: own}
        for hook in artifacts.read_json(file, "neighbours")[site]:
            values = _sampled(file, shard, hook, sample, counted)
            if values.shape[1] == own.shape[1]:
                readings[hook] = values
    return {hook: _reconstruction(values, dictionary, device) for hook, values in readings.items()}


def _sampled(
    file: h5py.File, shard: str | Path, hook: str, sample: IntArray, counted: npt.NDArray[np.bool_]
) -> FloatArray:
    """The sampled rows at a neighbouring hook; where that is a site of its own, its rows are stored there."""
    if f"sample/{hook}" not in file:
        return StoredSide([shard], hook).take(sample[counted])
    stored = file[f"sample/{hook}"]
    values: npt.NDArray[Any] = stored[:][counted]
    return artifacts.from_bfloat16(values) if stored.attrs["dtype"] == "bfloat16" else values.astype(np.float32)


def _reconstruction(values: FloatArray, dictionary: Dictionary, device: str) -> Reconstruction:
    alone = rows.in_memory([values], np.zeros(len(values), dtype=np.int64))
    sums = encoding.encode_rows(alone, dictionary, device=device).reconstruction
    assert sums is not None
    return sums


def read(paths: Sequence[str | Path]) -> dict[str, float]:
    """FVU by hook over all shards of a model's features, the site's own hook first; hooks that all of them sampled."""
    pooled: dict[str, Reconstruction] = {}
    shards: Counter[str] = Counter()
    for path in paths:
        with artifacts.read(path, "features") as file:
            for hook in artifacts.read_json(file, "layers"):
                sums = codes.read_reconstruction(file[f"layers/{hook}"])
                pooled[hook] = pooled[hook].merge(sums) if hook in pooled else sums
                shards[hook] += 1
    return {hook: sums.fvu for hook, sums in pooled.items() if shards[hook] == max(shards.values())}


def suspect(fvu: Mapping[str, float]) -> str | None:
    """The hook at which the dictionary reconstructs better than at its own, the first one; None where it does not."""
    if not fvu:
        return None
    own, best = next(iter(fvu)), min(fvu, key=lambda hook: fvu[hook])
    return best if fvu[best] < fvu[own] else None
