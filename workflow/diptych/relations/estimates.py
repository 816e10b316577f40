"""Intervals of what several runs measure on the same documents, and of differences between two ways to make a model.

    pooled([Estimate(.81, replicates, "kl", 0), Estimate(.79, more, "kl", 1)]).value     # .80
    difference({"KL": kl, "Jacobian": jacobian}, "Jacobian", "KL")                        # value, lo, hi, p

Two sources of chance are kept apart. Documents: every run measures the same documents, so a replicate of the bootstrap
draws the same ones for all of them, and differences are taken replicate by replicate. Runs: the same training from
another seed. The unit is the model, whose crosscoders' seeds are averaged, where any relation has several models, and
the crosscoder's seed where each has one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from diptych.statistics import resampling

DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A measure of one run.

    Attributes:
        value: on all documents; NaN if it is not known.
        replicates: [B] bootstrap replicates over documents; [] of a measure that no document enters.
        model: the compared model, which repeats of a relation differ in.
        seed: of the crosscoder; 0 for measures without one.
    """

    value: float
    replicates: DoubleArray
    model: str
    seed: int = 0


class Pooled(NamedTuple):
    """Mean over runs, its 95 % interval over documents, smallest and largest run, and number of runs."""

    value: float
    lo: float
    hi: float
    least: float
    most: float
    runs: int


class Difference(NamedTuple):
    """Difference of two relations: value, 95 % interval over documents and runs, p, and whether runs were repeated."""

    value: float
    lo: float
    hi: float
    p: float
    repeated: bool


def pooled(estimates: Sequence[Estimate]) -> Pooled:
    """Mean of runs: of each model's over its seeds, then over models; all NaN if a run has no value."""
    values = [estimate.value for estimate in estimates]
    replicates = _mean_replicates(estimates)
    lo, hi = resampling.percentiles(replicates) if len(replicates) else (math.nan, math.nan)
    return Pooled(_mean(estimates), float(lo), float(hi), min(values), max(values), len(values))


def difference(groups: Mapping[str, Sequence[Estimate]], relation: str, reference: str) -> Difference:
    """Difference of a relation from a reference; its variance is that between runs and that between documents.

    The variance between runs is pooled over all `groups`, sum (u - mean)^2 / sum (n_g - 1) over their units u, and
    that between documents is the replicates'. Degrees of freedom of their sum by Satterthwaite (1946).

    Args:
        groups: the estimates of every relation that is compared in this measure.
        relation: name of the first.
        reference: name of the one that is subtracted.
    """
    first, second = groups[relation], groups[reference]
    value = _mean(first) - _mean(second)
    by_model = any(len({estimate.model for estimate in group}) > 1 for group in groups.values())
    units = {name: _units(group, by_model=by_model) for name, group in groups.items()}
    freedom = sum(len(values) - 1 for values in units.values())
    between_runs = 0.0
    if freedom:
        squares = sum(float(np.square(values - values.mean()).sum()) for values in units.values())
        between_runs = squares / freedom * (1 / len(units[relation]) + 1 / len(units[reference]))
    drawn = [_mean_replicates(group) for group in (first, second)]
    between_documents = float(np.nanvar(drawn[0] - drawn[1], ddof=1)) if min(map(len, drawn)) > 1 else 0.0
    variance = between_runs + between_documents
    if not math.isfinite(value) or (variance == 0 and not freedom):
        return Difference(value, math.nan, math.nan, math.nan, freedom > 0)
    if variance == 0:
        return Difference(value, value, value, 1.0 if value == 0 else 0.0, repeated=True)
    degrees = variance**2 / (between_runs**2 / freedom) if between_runs else math.inf
    half = float(stats.t.ppf(0.975, degrees)) * math.sqrt(variance)
    p = 2 * float(stats.t.sf(abs(value) / math.sqrt(variance), degrees))
    return Difference(value, value - half, value + half, max(p, resampling.SMALLEST_P), freedom > 0)


def _units(estimates: Sequence[Estimate], *, by_model: bool) -> DoubleArray:
    """Values of the units that chance of training is judged by: models, or runs."""
    if not by_model:
        return np.array([estimate.value for estimate in estimates])
    models = dict.fromkeys(estimate.model for estimate in estimates)
    return np.array([np.mean([e.value for e in estimates if e.model == model]) for model in models])


def _weights(estimates: Sequence[Estimate]) -> DoubleArray:
    """Weights of the runs in the mean of models' means."""
    models = [estimate.model for estimate in estimates]
    return np.array([1 / (len(set(models)) * models.count(model)) for model in models])


def _mean(estimates: Sequence[Estimate]) -> float:
    return float(_weights(estimates) @ [estimate.value for estimate in estimates])


def _mean_replicates(estimates: Sequence[Estimate]) -> DoubleArray:
    """Replicates of the mean, [B]; [] where a run has none."""
    replicates = [estimate.replicates for estimate in estimates]
    if not all(len(values) for values in replicates):
        return np.zeros(0)
    mean: DoubleArray = _weights(estimates) @ np.stack(replicates)
    return mean
