"""The scores of a study for the report: looked up by pair and cell, with labels, and as table cells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diptych.page.blocks import Cell, number, p_value
from diptych.similarity import score_table

Rows = list[dict[str, Any]]
MEASURE_LABELS = {
    "svcca": "SVCCA: mean canonical correlation",
    "svcca_lan2024": "SVCCA as published by lan2024: one component",
    "mean_squared_cc": "mean squared canonical correlation",
    "pwcca_a": "PWCCA, weighted by A",
    "pwcca_b": "PWCCA, weighted by B",
    "procrustes": "Procrustes: overlap after the best rotation",
    "cka": "linear CKA",
    "cka_debiased": "linear CKA, debiased",
    "rsa": "RSA: rank correlation of distances",
    "mmcs": "MMCS: mean maximum cosine, A's rows mapped",
    "mean_rho": "mean correlation of paired activations",
}
"""Label of each measure; those of nearest neighbours contain k, see `measure_label`."""


class StudyScores:
    """The score table of a study (`score_table.collect`), by cell; empty for a study without features."""

    def __init__(self, path: str | Path | None) -> None:
        table = score_table.read(path) if path else {}
        columns = [values.tolist() for values in table.values()]
        self._rows: Rows = [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]

    def rows(self, name: str, site_a: str | None = None, site_b: str | None = None) -> Rows:
        """The table rows of a pair, or of one of its cells."""
        rows = [row for row in self._rows if row["pair"] == name]
        return [row for row in rows if site_a is None or (row["site_a"], row["site_b"]) == (site_a, site_b)]

    def pairing_quality(self, name: str, site_a: str, site_b: str) -> float:
        """Mean held-out correlation of a cell's matched features; -2, below any correlation, where it has none."""
        mean_rho = [
            row["value"]
            for row in self.rows(name, site_a, site_b)
            if (row["points"], row["subspace"], row["measure"]) == ("features", "all", "mean_rho")
        ]
        return float(mean_rho[0]) if mean_rho and np.isfinite(mean_rho[0]) else -2.0


def measure_label(measure: str) -> str:
    """The label of a measure on the page."""
    if measure.startswith("knn_"):
        _, kind, k = measure.split("_")
        return f"shared neighbours among the nearest {k}, {'Jaccard' if kind == 'jaccard' else 'share'}"
    return MEASURE_LABELS[measure]


def score_cells(row: Mapping[str, Any]) -> list[Cell]:
    """Value, null mean ± sd, ratio, z, p and q of one score, as table cells."""
    null_level = f"{number(row['null_mean'])} ± {number(row['null_sd'], 4)}" if np.isfinite(row["null_mean"]) else "–"
    tone = "found" if row["q"] <= 0.05 else ""
    return [
        Cell(number(row["value"]), sort_key(row["value"]), tone, row["reason"]),
        Cell(null_level, sort_key(row["null_mean"]), "muted", row["reason"]),
        Cell(number(row["ratio"]), sort_key(row["ratio"]), "", row["reason"]),
        Cell(number(row["z"]), sort_key(row["z"]), "", row["reason"]),
        Cell(p_value(row["p"]), sort_key(row["p"]), "", row["reason"]),
        Cell(p_value(row["q"]), sort_key(row["q"]), "", row["reason"]),
    ]


def sort_key(value: float) -> float | None:
    """The number by which a table column is sorted; None for NaN and infinities."""
    return float(value) if np.isfinite(value) else None
