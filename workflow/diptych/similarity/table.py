"""The scores of all pairs and sites side by side, with the q that so many tests ask for.

    collect(cells, "results/similarity.h5", "results/similarity.tsv", spec=spec)
    read("results/similarity.h5")["q"]

Each cell (a site of A by a site of B) was scored by itself. A grid asks the same question many times, so its p-values
are a family: one pair, one kind of points, one measure, over all cells and subspaces (Benjamini-Hochberg).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.statistics.resampling import benjamini_hochberg
from diptych.storage import artifacts

CELL = ("pair", "role", "site_a", "site_b")
COLUMNS = (
    *CELL, "points", "subspace", "measure", "value", "null_mean", "null_sd", "ratio", "z",
    "above_null", "p", "q", "subset_mean", "subset_sd", "n_pairs", "circular", "compat", "reason",
)  # fmt: skip
"""Columns of the text."""
FAMILY = ("pair", "points", "measure")
Table = dict[str, npt.NDArray[Any]]


def collect(cells: Sequence[Mapping[str, Any]], out: str | Path, table: str | Path, *, spec: Mapping[str, Any]) -> None:
    """Stage `collect_similarity`: all scores with q, as text in `table` and in `out` (kind "similarity_table").

    Args:
        cells: each {name, role, site_a, site_b, files: {similarity}}: the artifact of `similarity.compare`.
        out: the artifact.
        table: the same as tab-separated text.
        spec: what it was made from.
    """
    parts = []
    for cell in cells:
        with artifacts.read(cell["files"]["similarity"], "similarity") as file:
            scores = artifacts.read_table(file, "scores")
        n = len(scores["value"])
        named = {"pair": cell["name"], **{key: cell[key] for key in CELL[1:]}}
        parts.append({key: np.full(n, value, dtype=object) for key, value in named.items()} | scores)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    columns["q"] = family_q(columns)
    artifacts.write_text(table, to_tsv(columns))
    with artifacts.create(out, "similarity_table", spec) as file:
        file.table("scores", columns, nan="see reason")


def read(path: str | Path) -> Table:
    """The table that `collect` wrote."""
    with artifacts.read(path, "similarity_table") as file:
        return artifacts.read_table(file, "scores")


def family_q(table: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """q of every row with a p, within its family; NaN without a p."""
    names = np.array(["\0".join(str(table[key][i]) for key in FAMILY) for i in range(len(table["p"]))])
    q = np.full(len(names), np.nan)
    for family in np.unique(names[np.isfinite(table["p"])]):
        mine = (names == family) & np.isfinite(table["p"])
        q[mine] = benjamini_hochberg(table["p"][mine])
    return q


def to_tsv(table: Mapping[str, npt.NDArray[Any]]) -> str:
    """Tab-separated text with a header; numbers to six digits, NaN as nothing."""
    lines = ["\t".join(COLUMNS)]
    lines += ["\t".join(_cell(table[name][i]) for name in COLUMNS) for i in range(len(table["p"]))]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{value:.6g}"
    return " ".join(str(value).split())
