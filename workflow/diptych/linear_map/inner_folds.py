"""Held-out errors of inner folds, which select penalty and rank of the map for each outer fold (METHODS 2).

Fold j is an inner fold of the outer fold k under maps trained on neither. Both orders of a pair share these maps:

    by_penalty = penalty_errors(fits, alphas)     # one eigendecomposition a pair, for all penalties and targets
    by_rank = rank_r2(fits, {outer: alpha})       # one more a pair (and penalty), for all ranks

The pairs are those of the test fold with each other fold. So the test fold, whose map and rung are selected, has all
others as inner folds, and each of the others, whose maps only enter the pooled R^2, has the test fold: decompositions
are made for K - 1 pairs, not for all K (K - 1) / 2.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.affine_maps import affine, matrices, moments
from diptych.affine_maps.matrices import DoubleArray
from diptych.affine_maps.ridge import Eigenbasis, RidgePath
from diptych.linear_map.fits import Fits, HeldOut, Hyperparameters, PenalisedName, RungName
from diptych.runtime import logs

TEST_FOLD = 0
NO_HYPERPARAMETERS = Hyperparameters(float("nan"), 0)


@dataclass(frozen=True)
class PenaltyErrors:
    """Squared errors of the inner folds, in the order of `fold_pairs`.

    Attributes:
        penalised: float64 [inner folds, penalties] of each ridge map and outer fold; `shuffled` of the first pair only.
        unpenalised: float64 [inner folds] of each rung without penalty, for the test fold as outer fold.
        total: float64 [inner folds] of each outer fold, the error of the training mean.
    """

    penalised: dict[tuple[PenalisedName, int], DoubleArray]
    unpenalised: dict[RungName, DoubleArray]
    total: dict[int, DoubleArray]


def fold_pairs(ids: Sequence[int]) -> list[HeldOut]:
    """Pairs of folds that are left out together: the test fold with each other."""
    return [(TEST_FOLD, fold) for fold in ids if fold != TEST_FOLD]


def penalty_errors(fits: Fits, alphas: Sequence[float]) -> PenaltyErrors:
    """Errors of every inner fold at every penalty, and of the rungs without one."""
    penalised: dict[tuple[PenalisedName, int], list[DoubleArray]] = {}
    unpenalised: dict[RungName, list[float]] = {name: [] for name in fits.unpenalised}
    total: dict[int, list[float]] = {outer: [] for outer in fits.folds.ids}
    for held_out in _pairs(fits, "penalties"):
        has_shuffled = bool(fits.folds.shuffled) and held_out == fold_pairs(fits.folds.ids)[0]
        for rung, error in _unpenalised_errors(fits, held_out).items():
            unpenalised[rung].append(error)
        basis = Eigenbasis(fits.training(*held_out).C_AA)
        paths = _paths(fits, held_out, basis, has_shuffled)
        for inner, outer in (held_out, held_out[::-1]):
            scatter = _scatter(fits, inner, held_out)
            total[outer].append(matrices.trace(scatter.BB))
            for name, errors in _path_errors(fits, paths, basis, scatter, inner, alphas).items():
                penalised.setdefault((name, outer), []).append(errors)
            del scatter  # before the next one is made
    return PenaltyErrors(
        {key: np.stack(errors) for key, errors in penalised.items()},
        {name: np.array(errors) for name, errors in unpenalised.items()},
        {outer: np.array(totals) for outer, totals in total.items()},
    )


def rank_r2(fits: Fits, alphas: Mapping[int, float]) -> dict[int, DoubleArray]:
    """R^2 of each rank on each inner fold, float64 [ranks, inner folds] by outer fold, at that fold's penalty."""
    r2: dict[int, list[DoubleArray]] = {outer: [] for outer in fits.folds.ids}
    for held_out in _pairs(fits, "ranks"):
        for inner, outer in (held_out, held_out[::-1]):
            scatter = _scatter(fits, inner, held_out)
            errors = fits.ridge("ridge", alphas[outer], held_out).rank_errors(scatter)
            r2[outer].append(1 - errors / matrices.trace(scatter.BB))
    return {outer: np.stack(of_folds, axis=1) for outer, of_folds in r2.items()}


def _unpenalised_errors(fits: Fits, held_out: HeldOut) -> dict[RungName, float]:
    """Error of each rung without penalty on the fold that is left out together with the test fold."""
    scatter = _scatter(fits, held_out[1], held_out)
    slopes = ((name, fits.slope(name, NO_HYPERPARAMETERS, held_out)) for name in fits.unpenalised)
    return {name: float(affine.squared_error(slope, scatter).sum()) for name, slope in slopes}


def _paths(fits: Fits, held_out: HeldOut, basis: Eigenbasis, has_shuffled: bool) -> dict[PenalisedName, RidgePath]:
    """Ridge paths that share an eigenbasis."""
    cross = basis.cross(fits.training(*held_out).C_AB)
    names: tuple[PenalisedName, ...] = ("ridge_zero",) if fits.shrink_to == "zero" else ("ridge_zero", "ridge")
    paths = {name: RidgePath(basis, cross, fits.target(name, held_out)) for name in names}
    if has_shuffled:
        paths["shuffled"] = RidgePath(basis, basis.cross(fits.shuffled_cross(held_out)), 0.0)
    return paths


def _path_errors(
    fits: Fits,
    paths: Mapping[PenalisedName, RidgePath],
    basis: Eigenbasis,
    scatter: moments.Scatter,
    inner: int,
    alphas: Sequence[float],
) -> dict[PenalisedName, DoubleArray]:
    """Errors of an inner fold along every path, float64 [penalties]."""
    rotated = basis.rotate(scatter)
    errors: dict[PenalisedName, DoubleArray] = {
        name: path.errors(alphas, scatter, rotated) for name, path in paths.items() if name != "shuffled"
    }
    if "shuffled" in paths:
        rotated = rotated._replace(AB=basis.cross(fits.folds.shuffled_cross(scatter.AB, [inner])))
        errors["shuffled"] = paths["shuffled"].errors(alphas, scatter, rotated)
    return errors


def _pairs(fits: Fits, label: str) -> Iterator[HeldOut]:
    yield from logs.progress(fold_pairs(fits.folds.ids), label, unit="pair")


def _scatter(fits: Fits, fold: int, held_out: HeldOut) -> moments.Scatter:
    """Scatter of a fold about the training means."""
    return fits.folds.fold(fold).about(fits.training(*held_out))
