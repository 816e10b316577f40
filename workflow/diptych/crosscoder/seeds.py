"""Which latents come back when a crosscoder is trained again from another seed (METHODS 5).

recovered = recovery([crosscoder_0, crosscoder_1, crosscoder_2])
recovered[0]        # for each latent of the first run, in how many of the 3 runs it is found (itself included)
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from diptych import DiptychError
from diptych.crosscoder.architecture import Crosscoder
from diptych.crosscoder.latents import relative_norms
from diptych.rows import IntArray

DoubleArray = npt.NDArray[np.float64]

RECOVERED_COSINE = 0.7
"""A latent is recovered by one whose decoder rows have at least this cosine (METHODS 5)."""


def match(first: DoubleArray, second: DoubleArray) -> tuple[IntArray, IntArray]:
    """One-to-one pairing of rows [F, D] with the largest sum of cosines, keeping pairs above .7."""
    cosine = _unit(first) @ _unit(second).T
    i, j = linear_sum_assignment(-np.where(cosine > RECOVERED_COSINE, cosine, 0.0))
    kept = cosine[i, j] > RECOVERED_COSINE
    return i[kept], j[kept]


def recovery(crosscoders: Sequence[Crosscoder], *, exclusive: float = 0.1) -> list[IntArray]:
    """For each run and latent, in how many of the runs it is found; int64 [F] a run.

    Latents are matched by their decoder rows laid side by side; latents that one model has to itself by that model's
    rows, among the other run's latents of that model alone.

    Args:
        crosscoders: the same architecture trained from different seeds.
        exclusive: as for `latents.classify`.

    Raises:
        DiptychError: the runs differ in architecture.
    """
    if len({crosscoder.architecture for crosscoder in crosscoders}) > 1:
        raise DiptychError("crosscoder: runs of one crosscoder differ in architecture; train them again")
    found = [np.ones(crosscoder.architecture.n_latents, dtype=np.int64) for crosscoder in crosscoders]
    for a, first in enumerate(crosscoders):
        for b in range(a + 1, len(crosscoders)):
            for i, j in _matches(first, crosscoders[b], exclusive):
                found[a][i] += 1
                found[b][j] += 1
    return found


def _matches(first: Crosscoder, second: Crosscoder, exclusive: float) -> list[tuple[IntArray, IntArray]]:
    """Matched latents (indices in each run) of the common class and of each model's own."""
    r = [relative_norms(crosscoder) for crosscoder in (first, second)]
    decoders = [crosscoder.W_dec.detach().cpu() for crosscoder in (first, second)]
    own = [np.nan_to_num(shares) > 1 - exclusive for shares in r]
    pools = [[np.flatnonzero(~kept.any(0)) for kept in own]]
    parts = [decoders]
    if len(r[0]) > 1:
        for model in range(len(r[0])):
            pools.append([np.flatnonzero(kept[model]) for kept in own])
            parts.append([first.per_model(decoders[0])[model], second.per_model(decoders[1])[model]])
    matched = []
    for pool, rows in zip(pools, parts, strict=True):
        i, j = match(*(part[where].double().numpy() for part, where in zip(rows, pool, strict=True)))
        matched.append((pool[0][i], pool[1][j]))
    return matched


def _unit(rows: DoubleArray) -> DoubleArray:
    unit: DoubleArray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return unit
