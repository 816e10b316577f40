"""Crosscoders of every objective on the leaderboard: trained, described and ranked by their own stages.

Objectives without k reach the budget's L0 by their penalty: it is bisected, on a logarithmic scale, over runs of the
same length, and the run nearest to k is the method's.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diptych import methods
from diptych.activations.rows import Rows
from diptych.candidates import fitted
from diptych.crosscoder import candidates, spaces
from diptych.crosscoder.evaluation import latents
from diptych.crosscoder.training import stage
from diptych.oracle import tokens
from diptych.oracle.entry import Budget, Entry, Fit, Matches, Quantity
from diptych.oracle.planted import DoubleArray, FloatArray, IntArray
from diptych.sparse_coding import architecture
from diptych.storage import artifacts

PENALTIES = (0.5, 500.0)
"""Range of the penalties of l1 and jumprelu that are tried (quoted for width 2,304)."""
RUNS = 4
"""Runs of a bisection, at most: 1,000-fold in 2^4 parts are steps of a half."""
L0_TOLERANCE = 0.1
"""Largest relative deviation of the mean L0 from k (METHODS 5)."""


@dataclass(frozen=True)
class Trained:
    """A crosscoder's weights and described latents, and its mean L0 on held-out rows."""

    weights: str
    latents: str
    active: float


def fit(
    rows_A: FloatArray,
    rows_B: FloatArray,
    document: IntArray,
    seed: int,
    budget: Budget,
    *,
    training: Mapping[str, Any],
    penalised: bool = False,
) -> Fit:
    """Exclusive latents of a crosscoder; all live latents of a dictionary on x_B - x_A.

    Args:
        rows_A: float32 [n, d_A].
        rows_B: float32 [n, d_B].
        document: [n].
        seed: of the training.
        budget: latents, k, steps, batch and learning rate.
        training: further settings of the training.
        penalised: whether a penalty, not k, sets the number of active latents.
    """
    if training.get("objective") == "diff" and np.array_equal(rows_A, rows_B):
        return Fit([], [], [], p=[])  # no difference to train on
    rows = tokens.aligned((rows_A, rows_B), document)
    settings = {**budget._asdict(), **training, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        train = partial(_train, rows, Path(folder), settings)
        trained = _nearest(train, budget.k) if penalised else train(0, {})
        if training.get("objective") == "diff":
            return _of_differences(trained)
        run = {"weights": trained.weights, "latents": trained.latents}
        proposed = candidates.candidates({"crosscoders": [run]})
        matches = _matches(trained, rows)
    return fitted.fit_of(proposed, methods.named("crosscoder"), matches=matches, active=trained.active)


def _train(rows: Rows, folder: Path, settings: Mapping[str, Any], number: int, more: Mapping[str, Any]) -> Trained:
    """Run number `number` with `more` settings."""
    weights, described = str(folder / f"weights-{number}.h5"), str(folder / f"latents-{number}.h5")
    stage.train(rows, weights, spec={}, **{**settings, **more})
    latents.describe(weights, rows, described, spec={}, seed=settings["seed"])
    with artifacts.read(described, "latents") as file:
        active = float(file["latents/density_held_out"][:].sum())
    return Trained(weights, described, active)


def _nearest(train: Any, k: int) -> Trained:
    """The run whose L0 is nearest to k."""
    runs: list[Trained] = []
    for run in _bisection(train, k):
        runs.append(run)
    return min(runs, key=lambda run: abs(math.log(max(run.active, 1e-3) / k)))


def _bisection(train: Any, k: int) -> Iterator[Trained]:
    low, high = map(math.log, PENALTIES)
    for number in range(RUNS):
        middle = (low + high) / 2
        run = train(number, {"penalty": math.exp(middle)})
        yield run
        if abs(run.active / k - 1) <= L0_TOLERANCE:
            return
        low, high = (middle, high) if run.active > k else (low, middle)


def _of_differences(trained: Trained) -> Fit:
    """Decoder rows of a dictionary on x_B - x_A by how much of the difference each writes; its test is the swap.

    A latent fires on a change along its direction whichever model has it, so its side is not told.
    """
    with artifacts.read(trained.latents, "latents") as file:
        columns = artifacts.read_table(file, "latents")
    W_dec = spaces.decoder(architecture.load(trained.weights), 0)
    live = np.flatnonzero(columns["density_selection"] * columns["density_held_out"] > 0)
    written = columns["mean_selection"][live] * columns["decoder_norm_0"][live]
    return Fit(
        directions=list(W_dec[live]),
        side=["either"] * len(live),
        score=written,
        p=columns["p"][live],
        active=trained.active,
    )


def _matches(trained: Trained, rows: Rows) -> Matches:
    """Latents that fire and are exclusive to neither model, with the angle and the ratio of their decoder rows."""
    with artifacts.read(trained.latents, "latents") as file:
        columns = artifacts.read_table(file, "latents")
        classes = artifacts.read_json(file, "classes")
    crosscoder = architecture.load(trained.weights)
    in_A, in_B = (spaces.decoder(crosscoder, model) for model in (0, 1))
    exclusive = [classes.index(f"{side}-only") for side in "AB"]
    both = np.flatnonzero((columns["density_selection"] > 0) & ~np.isin(columns["class"], exclusive))
    angle: DoubleArray = np.arccos(np.clip(columns["cosine_0_1"][both], -1, 1))
    scale = columns["decoder_norm_1"][both] / np.maximum(columns["decoder_norm_0"][both], 1e-300)
    return Matches(in_A[both], in_B[both], angle=angle, scale=scale)


BLIND: Mapping[Quantity, str] = {"more_frequent": "a crosscoder has one code for both models"}
ONE_DECODER: Mapping[Quantity, str] = dict.fromkeys(
    ("rotated", "rescaled", "more_frequent"), "a dictionary on differences has no features of either model"
)


def _entry(title: str, *, one_basis: bool = False, penalised: bool = False, **training: Any) -> Entry:
    blind = ONE_DECODER if training.get("objective") == "diff" else BLIND
    return Entry(title, partial(fit, training=training, penalised=penalised), one_basis, blind, trains=True)


ENTRIES = {
    "crosscoder_batchtopk": _entry("BatchTopK crosscoder", objective="batchtopk"),
    "crosscoder_topk": _entry("TopK crosscoder", objective="topk"),
    "crosscoder_l1": _entry("L1 crosscoder", objective="l1", penalised=True),
    "crosscoder_jumprelu": _entry("JumpReLU crosscoder", objective="jumprelu", penalised=True),
    "crosscoder_shared": _entry("crosscoder with shared latents", objective="batchtopk", shared=0.5, one_basis=True),
    "crosscoder_dedicated": _entry("crosscoder with dedicated latents", objective="batchtopk", dedicated=(0.1, 0.1)),
    "crosscoder_matryoshka": _entry("Matryoshka crosscoder", objective="batchtopk", matryoshka=(0.25, 0.5)),
    "crosscoder_diff": _entry("dictionary on differences", objective="diff", one_basis=True),
}
