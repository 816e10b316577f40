"""Recovery of a crosscoder's latents across training seeds (METHODS 5).

n_runs = recovery([crosscoder_0, crosscoder_1, crosscoder_2])
n_runs[0]        # for each latent of the first run, in how many of the 3 runs it is recovered (its own included)
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse as sp
from scipy.optimize import linear_sum_assignment

from diptych.activations.rows import IntArray
from diptych.crosscoder.evaluation.latents import relative_norms
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding import architecture
from diptych.sparse_coding.architecture import Crosscoder
from diptych.storage import artifacts

DoubleArray = npt.NDArray[np.float64]

BLOCK_ROWS = 2048
"""Rows of the cosine matrix computed at a time."""
RECOVERED_COSINE = 0.7
"""A latent is recovered by one whose decoder rows have at least this cosine (METHODS 5)."""


def match(first: DoubleArray, second: DoubleArray) -> tuple[IntArray, IntArray]:
    """One-to-one assignment of rows [F, D] that maximises the sum of cosines above .7; indices in each, by the first.

    Only pairs with a cosine above .7 are edges, and each connected component is solved exactly; the dense F x F matrix
    of cosines is never stored.
    """
    cosines = _close_cosines(_unit(first), _unit(second))
    upper = sp.hstack([sp.csr_array((len(first), len(first))), cosines])
    lower = sp.csr_array((len(second), len(first) + len(second)))
    n, component = sp.csgraph.connected_components(sp.vstack([upper, lower]), directed=False, return_labels=True)
    label = component.astype(np.int64)
    pairs = [_assignment(cosines, i, j) for i, j in _components(label[: len(first)], label[len(first) :], n)]
    i, j = (np.concatenate([np.zeros(0, dtype=np.int64), *(pair[side] for pair in pairs)]) for side in (0, 1))
    order = np.argsort(i)
    return i[order], j[order]


def _close_cosines(first: DoubleArray, second: DoubleArray) -> sp.csr_array:
    """The cosines above .7, CSR [F, F']."""
    blocks = []
    for start in range(0, max(1, len(first)), BLOCK_ROWS):
        cosine = first[start : start + BLOCK_ROWS] @ second.T
        blocks.append(sp.csr_array(np.where(cosine > RECOVERED_COSINE, cosine, 0.0)))
    return sp.csr_array(sp.vstack(blocks))


def _components(left: IntArray, right: IntArray, n: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Indices into either side of each connected component that has rows of both."""
    sides = []
    for label in (left, right):
        order = np.argsort(label, kind="stable")
        sides.append(np.split(order, np.searchsorted(label[order], np.arange(1, n))))
    for i, j in zip(*sides, strict=True):
        if len(i) and len(j):
            yield i, j


def _assignment(cosines: sp.csr_array, i: IntArray, j: IntArray) -> tuple[IntArray, IntArray]:
    cosine = cosines[i][:, j].toarray()
    row, column = linear_sum_assignment(cosine, maximize=True)
    is_pair = cosine[row, column] > 0
    return i[row[is_pair]], j[column[is_pair]]


def recovery(crosscoders: Sequence[Crosscoder], *, exclusive: float = 0.1) -> list[IntArray]:
    """Number of runs in which each latent is recovered, int64 [F] for each run.

    Latents are matched by their concatenated decoder rows; latents exclusive to one model by that model's rows, among
    the other run's latents exclusive to the same model.

    Args:
        crosscoders: the same architecture trained from different seeds.
        exclusive: as for `latents.classify`.

    Raises:
        DiptychError: the runs differ in architecture.
    """
    if len({crosscoder.architecture for crosscoder in crosscoders}) > 1:
        raise DiptychError("crosscoder: runs of one crosscoder differ in architecture; train them again")
    n_runs = [np.ones(crosscoder.architecture.n_latents, dtype=np.int64) for crosscoder in crosscoders]
    for a, first in enumerate(crosscoders):
        for b in range(a + 1, len(crosscoders)):
            for i, j in _matched_latents(first, crosscoders[b], exclusive):
                n_runs[a][i] += 1
                n_runs[b][j] += 1
    return n_runs


def _matched_latents(first: Crosscoder, second: Crosscoder, exclusive: float) -> list[tuple[IntArray, IntArray]]:
    """Matched latents (indices in each run): non-exclusive ones, then those exclusive to each model."""
    r = [relative_norms(crosscoder) for crosscoder in (first, second)]
    decoders = [crosscoder.W_dec.detach().cpu() for crosscoder in (first, second)]
    is_exclusive = [np.nan_to_num(shares) > 1 - exclusive for shares in r]
    pools = [[np.flatnonzero(~mask_MF.any(0)) for mask_MF in is_exclusive]]
    parts = [decoders]
    if len(r[0]) > 1:
        for model in range(len(r[0])):
            pools.append([np.flatnonzero(mask_MF[model]) for mask_MF in is_exclusive])
            parts.append([first.per_model(decoders[0])[model], second.per_model(decoders[1])[model]])
    matched = []
    for pool, rows in zip(pools, parts, strict=True):
        i, j = match(*(decoder[index].double().numpy() for decoder, index in zip(rows, pool, strict=True)))
        matched.append((pool[0][i], pool[1][j]))
    return matched


def _unit(rows: DoubleArray) -> DoubleArray:
    unit: DoubleArray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return unit


def compare(
    weights: Sequence[str | Path], out: str | Path, *, spec: dict[str, Any], seeds: Sequence[int], exclusive: float
) -> None:
    """Stage: count the runs in which each latent is recovered, and write the artifact (kind "seeds").

    Args:
        weights: artifacts of kind "crosscoder", one a seed.
        out: the artifact; `recovered/{seed}` is int64 [F], and `summary` its counts by seed.
        spec: stored with it.
        seeds: the seed of each run.
        exclusive: as for `latents.classify`.
    """
    n_runs = recovery([architecture.load(path) for path in weights], exclusive=exclusive)
    with artifacts.create(out, "seeds", spec) as file:
        for seed, count in zip(seeds, n_runs, strict=True):
            file.array(f"recovered/{seed}", count)
        counts = {
            str(seed): np.bincount(count, minlength=len(seeds) + 1)[1:].tolist()
            for seed, count in zip(seeds, n_runs, strict=True)
        }
        file.json("summary", {"runs": len(seeds), "latents_by_runs": counts})
