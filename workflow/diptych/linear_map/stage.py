"""The linear-map stage: affine maps between A's and B's activations in both directions, and their residuals.

    fit(rows, "linear_map.h5", spec=spec)

Maps are trained on folds 1..; fold 0 tests them and all that is derived from them. `affine_maps.moments` reads the rows
once for all maps, `ladder` cross-validates the maps, and `residuals` reads the rows again for the residuals.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.activations import rows
from diptych.affine_maps import affine, matrices, moments
from diptych.affine_maps.affine import DIRECTIONS, DirectionName
from diptych.affine_maps.matrices import DoubleArray, Matrix
from diptych.linear_map import residuals
from diptych.linear_map.fits import HeldOut, ShrinkTo
from diptych.linear_map.inner_folds import TEST_FOLD
from diptych.linear_map.ladder import ALPHAS, Ladder, Rung
from diptych.runtime import logs
from diptych.storage import artifacts, tables

ROWS_PER_DIMENSION = 10
"""With fewer training rows per dimension of A, a map is `underdetermined`."""
ONE_BASIS = 0.5
"""Share of the best map's R^2 that x_B = s x_A has at least if both models are in one basis; in bases of their own it
has about 0."""


@dataclass(frozen=True)
class DirectionResult:
    """Cross-validated maps of one direction: every rung, the best one, and the R^2 of shuffled documents."""

    ladder: Ladder
    rungs: list[Rung]
    best: Rung
    shuffled_r2: float

    def rung(self, name: str) -> Rung:
        """The rung called `name`."""
        return next(rung for rung in self.rungs if rung.name == name)


def fit(
    pair: rows.Rows,
    out: str | Path,
    *,
    spec: dict[str, Any],
    table: str | Path | None = None,
    shrink_to: ShrinkTo = "simple",
    alphas: Sequence[float] = ALPHAS,
    directions: int = 10,
    contexts: int = 20,
    bootstrap: int = 1000,
    seed: int = 0,
    block_rows: int = moments.BLOCK_ROWS,
    device: str = "cpu",
) -> None:
    """Cross-validate the maps in both directions, analyse the residuals of the best; write a `linear_map` artifact.

    Args:
        pair: rows of A and B, at least 3 folds, fold 0 among them.
        out: path of the artifact.
        spec: stored with it.
        table: path of the cross-validation results as TSV.
        shrink_to: slope that ridge shrinks towards, "simple" or "zero" (METHODS 2).
        alphas: ridge penalties, increasing.
        directions: number of directions of each kind (principal, unexplained).
        contexts: rows stored at either end of each direction.
        bootstrap: Poisson replicates over documents for the bounds.
        seed: of the bootstrap and the random directions.
        block_rows: rows read at a time; changes rounding only.
        device: `cpu` or `cuda[:i]`, where moments, maps and residuals are computed.

    Raises:
        DiptychError: too few folds, rows that do not vary, non-finite rows.
    """
    folds = moments.accumulate(pair, block_rows=block_rows, device=device)
    results = _both_directions(folds, shrink_to, alphas)
    rotations = _rotations(results)
    accumulators = {
        name: _accumulator(_exchanged(pair, name), results[name], rotations[name], directions, contexts, seed, device)
        for name in DIRECTIONS
    }
    for fold, block in _blocks(pair, folds.ids, block_rows):
        x_A, x_B = block.x
        accumulators["forward"].add(fold, x_A, x_B, block.row)
        accumulators["backward"].add(fold, x_B, x_A, block.row)
    with artifacts.create(out, "linear_map", spec) as writer:
        writer.json("verdicts", {name: summary(results[name]) for name in DIRECTIONS})
        writer.json("input", _input(pair, folds, results))
        _write_rows(writer, pair)
        for name in DIRECTIONS:
            accumulators[name].finish()
            _write_maps(writer, name, results[name], accumulators[name].test_map)
            _write_residuals(writer, name, pair, accumulators[name], bootstrap=bootstrap, seed=seed)
    if table is not None:
        artifacts.write_text(table, ladder_tsv(results))


def _both_directions(
    folds: moments.FoldMoments, shrink_to: ShrinkTo, alphas: Sequence[float]
) -> dict[DirectionName, DirectionResult]:
    forward = cross_validate(folds, shrink_to, alphas)
    polars = {held_out: polar.T for held_out, polar in forward.ladder.fits.polars.items()}
    forward.ladder.fits.release()
    backward = cross_validate(folds.reversed(), shrink_to, alphas, polars)
    backward.ladder.fits.release()
    return {"forward": forward, "backward": backward}


def cross_validate(
    folds: moments.FoldMoments,
    shrink_to: ShrinkTo,
    alphas: Sequence[float],
    polars: Mapping[HeldOut, Matrix] | None = None,
) -> DirectionResult:
    """Cross-validate the maps of one direction and select the best rung; arguments as for `Ladder`."""
    ladder = Ladder(folds, shrink_to=shrink_to, alphas=alphas, polars=polars)
    rungs = ladder.cross_validate()
    return DirectionResult(ladder, rungs, ladder.best(rungs), ladder.shuffled_r2())


def summary(result: DirectionResult) -> dict[str, Any]:
    """Best map and R^2 of one direction, with warnings as flags and, under `words`, as sentences."""
    n_train = result.ladder.folds.total.n - result.ladder.folds.fold(TEST_FOLD).n
    d_A = result.ladder.d_A
    underdetermined = n_train < ROWS_PER_DIMENSION * d_A
    equal = d_A == result.ladder.d_B
    textbook = result.rung("ridge_zero").pooled
    identity_wins = equal and result.rung("identity").pooled > textbook + affine.RESOLUTION
    at_edge = [rung.name for rung in result.rungs if rung.alpha_at_edge]
    warnings = []
    if underdetermined:
        warnings.append(f"underdetermined: {n_train} training rows are fewer than 10 for each of {d_A} dimensions")
    if identity_wins:
        warnings.append(
            f"identity is better: the unchanged activations predict (R^2 {result.rung('identity').pooled:.4f}) better "
            f"than a ridge map shrunk to zero ({textbook:.4f})"
        )
    if at_edge:
        warnings.append(f"the penalty of {', '.join(at_edge)} lies at the edge of its grid: widen linear_map.alphas")
    if result.best.pooled <= max(result.shuffled_r2, 0.0):
        warnings.append("no map: the best rung predicts no better than shuffled documents do")
    return {
        "best": result.best.name,
        "r2": result.best.pooled,
        "shuffled_r2": result.shuffled_r2,
        "n_train": n_train,
        "numerical_rank": result.ladder.numerical_rank,
        "underdetermined": underdetermined,
        "identity_beats_textbook": identity_wins,
        "alpha_at_edge": at_edge,
        "words": warnings,
    }


def _accumulator(
    pair: rows.Rows,
    result: DirectionResult,
    rotation: DoubleArray | None,
    count: int,
    contexts: int,
    seed: int,
    device: str,
) -> residuals.ResidualAccumulator:
    maps = residuals.fold_maps(result.ladder, result.best)
    result.ladder.fits.release()
    directions = residuals.select_directions(result.ladder.folds, maps, count, seed=seed)
    return residuals.ResidualAccumulator(pair, maps, directions, rotation, contexts, device)


def _rotations(results: Mapping[DirectionName, DirectionResult]) -> dict[DirectionName, DoubleArray | None]:
    """Scaled rotation from A's to B's coordinates and back, for the label swap; None for unequal widths."""
    ladder = results["forward"].ladder
    if ladder.d_A != ladder.d_B:
        return dict.fromkeys(DIRECTIONS)
    identity = np.eye(ladder.d_A)
    if all(result.best.name == "identity" for result in results.values()):
        return dict.fromkeys(DIRECTIONS, identity)
    one_basis = all(shares_basis(result) for result in results.values())
    there = residuals.scaled_rotation(ladder.fits.training(TEST_FOLD), one_basis=one_basis)
    rotations = {"forward": there, "backward": residuals.inverse_rotation(there)}
    return {name: identity if results[name].best.name == "identity" else rotations[name] for name in DIRECTIONS}


def shares_basis(result: DirectionResult) -> bool:
    """Whether both models are in one basis: a multiple of the identity explains half of what the best map does."""
    r2 = result.rung("scale").pooled
    return r2 > 0 and r2 >= ONE_BASIS * result.best.pooled


def _exchanged(pair: rows.Rows, name: DirectionName) -> rows.Rows:
    return pair if name == "forward" else replace(pair, sides=pair.sides[::-1], token_row=pair.token_row[::-1])


def _blocks(pair: rows.Rows, ids: Sequence[int], block_rows: int) -> Iterator[tuple[int, rows.Block]]:
    total = sum(-(-int((pair.fold == fold).sum()) // block_rows) for fold in ids)
    blocks = ((fold, block) for fold in ids for block in pair.blocks(block_rows, select=pair.fold == fold))
    yield from logs.progress(blocks, "residuals", total=total, unit="block")


def _input(
    pair: rows.Rows, folds: moments.FoldMoments, results: dict[DirectionName, DirectionResult]
) -> dict[str, Any]:
    total = folds.total
    variances = [matrices.to_numpy(C.diagonal()) for C in (total.C_AA, total.C_BB)]
    return {
        "rows": len(pair),
        "documents": len(np.unique(pair.document)),
        "rows_by_fold": {fold: folds.fold(fold).n for fold in folds.ids},
        "widths": pair.widths,
        "constant_coordinates": [int(np.sum(variance <= 0)) for variance in variances],
        "numerical_rank": [results[name].ladder.numerical_rank for name in DIRECTIONS],
        "shuffled": "permuted documents" if folds.shuffled else "no derangement: a document owns over half of a fold",
    }


def _write_rows(out: artifacts.Writer, pair: rows.Rows) -> None:
    out.array("rows/token_row", pair.token_row)
    for name in ("document", "fold", "source", "position"):
        out.array(f"rows/{name}", getattr(pair, name).astype(np.int32))


def _write_maps(out: artifacts.Writer, name: DirectionName, result: DirectionResult, best: affine.LinearMap) -> None:
    """Write the best map and the ridge map for the test fold, and the ladder."""
    out.array(f"{name}/mean_in", best.mean_A)
    out.array(f"{name}/mean_out", best.mean_B)
    ridge = result.rung("ridge")
    is_ridge = result.best.name == "ridge"
    ridge_map = best if is_ridge else result.ladder.map("ridge", ridge.hyperparameters, (TEST_FOLD,))
    for map_name, linear, rung in (("best", best, result.best), ("ridge", ridge_map, ridge)):
        out.array(f"{name}/{map_name}/slope", linear.slope.astype(np.float32), rung=rung.name)
        out.array(f"{name}/{map_name}/intercept", linear.intercept)
    result.ladder.fits.release()
    out.table(f"{name}/ladder", _ladder_columns(result), nan="alpha: this rung has no penalty")
    out.array(f"{name}/ladder_r2_by_fold", np.stack([rung.r2 for rung in result.rungs]))


def ladder_tsv(results: Mapping[DirectionName, DirectionResult]) -> str:
    """Cross-validation results of both directions as tab-separated text."""
    columns = {name: _ladder_columns(result) for name, result in results.items()}
    table: dict[str, Any] = {"direction": [name for name, of_name in columns.items() for _ in of_name["rung"]]}
    for column in columns["forward"]:
        table[column] = [value for of_name in columns.values() for value in of_name[column]]
    return tables.tsv(table)


def _ladder_columns(result: DirectionResult) -> dict[str, list[Any]]:
    eligible = [rung for rung in result.rungs if rung.name != "ridge_zero"]
    top = max(eligible, key=lambda rung: float(rung.inner_r2.mean()))
    gaps = [top.inner_r2 - rung.inner_r2 for rung in result.rungs]
    return {
        "rung": [rung.name for rung in result.rungs],
        "r2": [rung.pooled for rung in result.rungs],
        "r2_test_fold": [rung.r2[result.ladder.folds.ids.index(TEST_FOLD)] for rung in result.rungs],
        "r2_median_coordinate": [rung.median_coordinate for rung in result.rungs],
        "below_top": [gap.mean() for gap in gaps],
        "below_top_error": [gap.std(ddof=1) / np.sqrt(len(gap)) for gap in gaps],
        "is_best": [rung.name == result.best.name for rung in result.rungs],
        "alpha": [rung.hyperparameters.alpha for rung in result.rungs],
        "rank": [rung.hyperparameters.rank for rung in result.rungs],
        "alpha_at_edge": [rung.alpha_at_edge for rung in result.rungs],
        "in_sample_mse": [rung.in_sample_mse for rung in result.rungs],
        "in_sample_frobenius": [rung.in_sample_frobenius for rung in result.rungs],
        "slope_frobenius": [rung.slope_frobenius for rung in result.rungs],
    }


def _write_residuals(
    out: artifacts.Writer,
    name: DirectionName,
    pair: rows.Rows,
    accumulator: residuals.ResidualAccumulator,
    *,
    bootstrap: int,
    seed: int,
) -> None:
    out.array(f"{name}/energy", accumulator.energy)
    n_sources = int(pair.source.max()) + 1
    late = np.minimum(pair.position, residuals.N_POSITIONS)
    for label, key, count in (("source", pair.source, n_sources), ("position", late, residuals.N_POSITIONS + 1)):
        mean, count_by_group = residuals.means_by(key, accumulator.energy, count)
        out.table(f"{name}/energy_by_{label}", {"mean": mean, "rows": count_by_group}, nan="mean: no rows")
    directions, scores = accumulator.directions, accumulator.scores(bootstrap=bootstrap, seed=seed)
    reported = residuals.is_resolved(scores)
    out.array(f"{name}/spectrum/pca", directions.pca_spectrum)
    out.array(f"{name}/random", directions.random)
    out.array(f"{name}/spectrum/unexplained", directions.unexplained_spectrum)
    group = f"{name}/directions"
    out.array(f"{group}/kind", directions.kind[reported], kinds=list(residuals.KINDS))
    out.array(f"{group}/filter", directions.filters[reported])
    out.array(f"{group}/pattern", directions.patterns[reported])
    out.array(f"{group}/top_row", accumulator.top_rows[reported])
    out.array(f"{group}/top_score", accumulator.top_scores[reported])
    out.array(f"{group}/test_document", scores.document)
    unequal = "unequal widths: there is no swap of labels"
    for score_name, values in asdict(scores).items():
        if score_name != "document":
            out.array(f"{group}/{score_name}", values[reported], nan=unequal)
