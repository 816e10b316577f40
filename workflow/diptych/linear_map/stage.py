"""The linear-map stage: which map carries A's activations to B's, and where it fails, in both directions.

    fit(rows, "linear_map.h5", spec=spec)

The maps are trained on folds 1..; fold 0 tests them and everything made with them. `moments` reads the rows once for
all maps, `ladder` holds the mathematics of the maps, `residuals` reads the rows a second time for where they fail.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.activations import rows
from diptych.affine_maps import affine, moments
from diptych.affine_maps.affine import DIRECTIONS, DirectionName
from diptych.linear_map import ladder, residuals
from diptych.runtime import logs
from diptych.storage import artifacts, tables

ROWS_PER_DIMENSION = 10
"""Fewer training rows than this for each dimension of A and a map is `underdetermined`."""


@dataclass(frozen=True)
class Climb:
    """The ladder of one direction, climbed."""

    steps: ladder.Ladder
    rungs: list[ladder.Rung]
    best: ladder.Rung
    shuffled: float

    def rung(self, name: str) -> ladder.Rung:
        """The rung called `name`."""
        return next(rung for rung in self.rungs if rung.name == name)


def fit(
    pair: rows.Rows,
    out: str | Path,
    *,
    spec: dict[str, Any],
    table: str | Path | None = None,
    shrink_to: ladder.ShrinkTo = "simple",
    alphas: Sequence[float] = ladder.ALPHAS,
    directions: int = 10,
    contexts: int = 20,
    bootstrap: int = 1000,
    seed: int = 0,
    block_rows: int = moments.BLOCK_ROWS,
) -> None:
    """Fit the ladder in both directions and find where the best maps fail; write one `linear_map` artifact.

    Args:
        pair: rows of A and B, at least 3 folds, fold 0 among them.
        out: path of the artifact.
        spec: stored with it.
        table: path of the ladder as TSV.
        shrink_to: where ridge goes as its penalty grows, "simple" or "zero" (METHODS 2).
        alphas: ridge penalties, increasing.
        directions: directions kept of each kind (principal, unexplained).
        contexts: rows kept at either end of each direction.
        bootstrap: Poisson replicates over documents for the bounds.
        seed: of the bootstrap and the random directions.
        block_rows: rows read at a time; changes rounding only.

    Raises:
        DiptychError: too few folds, rows that do not vary, non-finite rows.
    """
    folds = moments.accumulate(pair, block_rows=block_rows)
    forward = climb(folds, shrink_to, alphas)
    polars = {held_out: polar.T for held_out, polar in forward.steps.polars.items()}
    climbs: dict[DirectionName, Climb] = {
        "forward": forward,
        "backward": climb(folds.reversed(), shrink_to, alphas, polars),
    }
    failures = {name: _failure(_exchanged(pair, name), climbs[name], directions, contexts, seed) for name in DIRECTIONS}
    for fold, block in _blocks(pair, folds.ids, block_rows):
        x_A, x_B = block.x
        failures["forward"].add(fold, x_A, x_B, block.row)
        failures["backward"].add(fold, x_B, x_A, block.row)
    with artifacts.create(out, "linear_map", spec) as writer:
        writer.json("verdicts", {name: verdicts(climbs[name]) for name in DIRECTIONS})
        writer.json("input", _input(pair, folds, climbs))
        _write_rows(writer, pair)
        for name in DIRECTIONS:
            failures[name].finish()
            _write_maps(writer, name, climbs[name])
            _write_failure(writer, name, pair, failures[name], bootstrap=bootstrap, seed=seed)
    if table is not None:
        artifacts.write_text(table, ladder_tsv(climbs))


def climb(
    folds: moments.FoldMoments,
    shrink_to: ladder.ShrinkTo,
    alphas: Sequence[float],
    polars: Mapping[ladder.HeldOut, npt.NDArray[np.float64]] | None = None,
) -> Climb:
    """Cross-validate the ladder of one direction and choose its best rung; `polars` as for `ladder.Ladder`."""
    steps = ladder.Ladder(folds, shrink_to=shrink_to, alphas=alphas, polars=polars)
    rungs = steps.climb()
    return Climb(steps, rungs, steps.best(rungs), steps.shuffled_r2())


def verdicts(result: Climb) -> dict[str, Any]:
    """What must be said of one direction's maps beside their numbers; `words` holds it as sentences."""
    n_train = result.steps.folds.training(ladder.TEST_FOLD).n
    d_A = result.steps.d_A
    underdetermined = n_train < ROWS_PER_DIMENSION * d_A
    equal = d_A == result.steps.d_B
    textbook = result.rung("ridge_zero").pooled
    identity_wins = equal and result.rung("identity").pooled > textbook + affine.RESOLUTION
    at_edge = [rung.name for rung in result.rungs if rung.alpha_at_edge]
    words = []
    if underdetermined:
        words.append(f"underdetermined: {n_train} training rows are fewer than 10 for each of {d_A} dimensions")
    if identity_wins:
        words.append(
            f"identity is better: the unchanged activations predict (R^2 {result.rung('identity').pooled:.4f}) better "
            f"than a ridge map shrunk to zero ({textbook:.4f})"
        )
    if at_edge:
        words.append(f"the penalty of {', '.join(at_edge)} lies at the edge of its grid: widen linear_map.alphas")
    if result.best.pooled <= max(result.shuffled, 0.0):
        words.append("no map: the best rung predicts no better than shuffled documents do")
    return {
        "best": result.best.name,
        "r2": result.best.pooled,
        "shuffled_r2": result.shuffled,
        "n_train": n_train,
        "numerical_rank": result.steps.numerical_rank(),
        "underdetermined": underdetermined,
        "identity_beats_textbook": identity_wins,
        "alpha_at_edge": at_edge,
        "words": words,
    }


def _failure(pair: rows.Rows, result: Climb, count: int, contexts: int, seed: int) -> residuals.Failure:
    maps = residuals.fold_maps(result.steps, result.best)
    directions = residuals.directions(result.steps.folds, maps, count, seed=seed)
    return residuals.Failure(pair, maps, directions, _alignment(result), contexts)


def _alignment(result: Climb) -> npt.NDArray[np.float64] | None:
    """What carries A's rows into B's coordinates for the label swap; nothing does for unequal widths."""
    if result.steps.d_A != result.steps.d_B:
        return None
    if result.best.name == "identity":
        return np.eye(result.steps.d_A)
    return residuals.alignment(result.steps.folds.training(ladder.TEST_FOLD))


def _exchanged(pair: rows.Rows, name: DirectionName) -> rows.Rows:
    return pair if name == "forward" else replace(pair, sides=pair.sides[::-1], token_row=pair.token_row[::-1])


def _blocks(pair: rows.Rows, ids: Sequence[int], block_rows: int) -> Iterator[tuple[int, rows.Block]]:
    total = sum(-(-int((pair.fold == fold).sum()) // block_rows) for fold in ids)
    blocks = ((fold, block) for fold in ids for block in pair.blocks(block_rows, select=pair.fold == fold))
    yield from logs.progress(blocks, "residuals", total=total, unit="block")


def _input(pair: rows.Rows, folds: moments.FoldMoments, climbs: dict[DirectionName, Climb]) -> dict[str, Any]:
    total = folds.total
    return {
        "rows": len(pair),
        "documents": len(np.unique(pair.document)),
        "rows_by_fold": {fold: folds.fold(fold).n for fold in folds.ids},
        "widths": pair.widths,
        "constant_coordinates": [int(np.sum(np.diag(C) <= 0)) for C in (total.C_AA, total.C_BB)],
        "numerical_rank": [climbs[name].steps.numerical_rank() for name in DIRECTIONS],
        "shuffled": "permuted documents" if folds.shuffled else "no derangement: a document owns over half of a fold",
    }


def _write_rows(out: artifacts.Writer, pair: rows.Rows) -> None:
    out.array("rows/token_row", pair.token_row)
    for name in ("document", "fold", "source", "position"):
        out.array(f"rows/{name}", getattr(pair, name).astype(np.int32))


def _write_maps(out: artifacts.Writer, name: DirectionName, result: Climb) -> None:
    training = result.steps.folds.training(ladder.TEST_FOLD)
    out.array(f"{name}/mean_in", training.mean_A)
    out.array(f"{name}/mean_out", training.mean_B)
    for which, rung in (("best", result.best), ("ridge", result.rung("ridge"))):
        linear = result.steps.map(rung.name, rung.choice, (ladder.TEST_FOLD,))
        out.array(f"{name}/{which}/slope", linear.slope.astype(np.float32), rung=rung.name)
        out.array(f"{name}/{which}/intercept", linear.intercept)
    out.table(f"{name}/ladder", _ladder_columns(result), nan="alpha: this rung has no penalty")
    out.array(f"{name}/ladder_r2_by_fold", np.stack([rung.r2 for rung in result.rungs]))


def ladder_tsv(climbs: Mapping[DirectionName, Climb]) -> str:
    """The ladders of both directions as tab-separated text."""
    columns = {name: _ladder_columns(result) for name, result in climbs.items()}
    both: dict[str, Any] = {"direction": [name for name, made in columns.items() for _ in made["rung"]]}
    for column in columns["forward"]:
        both[column] = [value for made in columns.values() for value in made[column]]
    return tables.tsv(both)


def _ladder_columns(result: Climb) -> dict[str, list[Any]]:
    eligible = [rung for rung in result.rungs if rung.name != "ridge_zero"]
    top = max(eligible, key=lambda rung: float(rung.inner_r2.mean()))
    gaps = [top.inner_r2 - rung.inner_r2 for rung in result.rungs]
    return {
        "rung": [rung.name for rung in result.rungs],
        "r2": [rung.pooled for rung in result.rungs],
        "r2_test_fold": [rung.r2[result.steps.folds.ids.index(ladder.TEST_FOLD)] for rung in result.rungs],
        "r2_median_coordinate": [rung.median_coordinate for rung in result.rungs],
        "below_top": [gap.mean() for gap in gaps],
        "below_top_error": [gap.std(ddof=1) / np.sqrt(len(gap)) for gap in gaps],
        "is_best": [rung.name == result.best.name for rung in result.rungs],
        "alpha": [rung.choice.alpha for rung in result.rungs],
        "rank": [rung.choice.rank for rung in result.rungs],
        "alpha_at_edge": [rung.alpha_at_edge for rung in result.rungs],
        "in_sample_mse": [rung.in_sample_mse for rung in result.rungs],
        "in_sample_frobenius": [rung.in_sample_frobenius for rung in result.rungs],
        "slope_frobenius": [rung.slope_frobenius for rung in result.rungs],
    }


def _write_failure(
    out: artifacts.Writer,
    name: DirectionName,
    pair: rows.Rows,
    failure: residuals.Failure,
    *,
    bootstrap: int,
    seed: int,
) -> None:
    out.array(f"{name}/energy", failure.energy)
    n_sources = int(pair.source.max()) + 1
    late = np.minimum(pair.position, residuals.POSITIONS)
    for label, key, count in (("source", pair.source, n_sources), ("position", late, residuals.POSITIONS + 1)):
        mean, rows_in = residuals.means_by(key, failure.energy, count)
        out.table(f"{name}/energy_by_{label}", {"mean": mean, "rows": rows_in}, nan="mean: no rows")
    directions, scores = failure.found, failure.scores(bootstrap=bootstrap, seed=seed)
    reported = residuals.keep(scores)
    out.array(f"{name}/spectrum/pca", directions.pca_spectrum)
    out.array(f"{name}/random", directions.random)
    out.array(f"{name}/spectrum/unexplained", directions.unexplained_spectrum)
    group = f"{name}/directions"
    out.array(f"{group}/kind", directions.kind[reported], kinds=list(residuals.KINDS))
    out.array(f"{group}/filter", directions.filters[reported])
    out.array(f"{group}/pattern", directions.patterns[reported])
    out.array(f"{group}/top_row", failure.top_rows[reported])
    out.array(f"{group}/top_score", failure.top_scores[reported])
    out.array(f"{group}/test_document", scores.document)
    unequal = "unequal widths: there is no swap of labels"
    for name_of, values in asdict(scores).items():
        if name_of != "document":
            out.array(f"{group}/{name_of}", values[reported], nan=unequal)
