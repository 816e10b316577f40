"""The table of the scores of all pairs and sites, with their q-values.

    collect(cells, "results/similarity.h5", "results/similarity.tsv", spec=spec)
    read("results/similarity.h5")["q"]

Each cell (a site of A by a site of B) is scored by itself. The p-values of one pair, one kind of points and one
measure, over all cells and subspaces, are one family of tests (Benjamini-Hochberg).
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
"""Columns of the tab-separated file, in order."""
FAMILY = ("pair", "points", "measure")
"""Columns whose values name the family of tests of a row."""
Table = dict[str, npt.NDArray[Any]]


def collect(cells: Sequence[Mapping[str, Any]], out: str | Path, table: str | Path, *, spec: Mapping[str, Any]) -> None:
    """Stage `collect_similarity`: write all scores with q to `table` as text and to `out` (kind "similarity_table").

    Args:
        cells: each {name, role, site_a, site_b, files: {similarity}}: the artifact of `similarity.stage.compare`.
        out: the artifact.
        table: the same as tab-separated text.
        spec: stored with the artifact.
    """
    parts = []
    for cell in cells:
        with artifacts.read(cell["files"]["similarity"], "similarity") as file:
            scores = artifacts.read_table(file, "scores")
        n = len(scores["value"])
        cell_columns = {"pair": cell["name"], **{key: cell[key] for key in CELL[1:]}}
        parts.append({key: np.full(n, value, dtype=object) for key, value in cell_columns.items()} | scores)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    columns["q"] = family_q(columns)
    artifacts.write_text(table, to_tsv(columns))
    with artifacts.create(out, "similarity_table", spec) as file:
        file.table("scores", columns, nan="see reason")


def read(path: str | Path) -> Table:
    """The columns of the table that `collect` wrote."""
    with artifacts.read(path, "similarity_table") as file:
        return artifacts.read_table(file, "scores")


def family_q(table: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """q-value of each row within its family, [rows]; NaN where p is NaN."""
    families = np.array(["\0".join(str(table[key][i]) for key in FAMILY) for i in range(len(table["p"]))])
    q = np.full(len(families), np.nan)
    for family in np.unique(families[np.isfinite(table["p"])]):
        in_family = (families == family) & np.isfinite(table["p"])
        q[in_family] = benjamini_hochberg(table["p"][in_family])
    return q


def to_tsv(table: Mapping[str, npt.NDArray[Any]]) -> str:
    """Tab-separated text with a header; numbers to six significant digits, NaN as an empty field."""
    lines = ["\t".join(COLUMNS)]
    lines += ["\t".join(_cell(table[name][i]) for name in COLUMNS) for i in range(len(table["p"]))]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{value:.6g}"
    return " ".join(str(value).split())
