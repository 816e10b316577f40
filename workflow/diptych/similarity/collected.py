"""The collected scores of a study as a page shows them: by pair and cell, named, and as cells of a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diptych.page.blocks import Cell, number, p_value
from diptych.similarity import table as similarity_table

Rows = list[dict[str, Any]]
MEASURES = {
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
"""What each measure is called; those of neighbours follow from their k."""


class Scores:
    """The collected scores of a study, by cell; empty for a study without features."""

    def __init__(self, path: str | Path | None) -> None:
        table = similarity_table.read(path) if path else {}
        columns = [values.tolist() for values in table.values()]
        self._rows: Rows = [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]

    def of(self, name: str, site_a: str | None = None, site_b: str | None = None) -> Rows:
        """The rows of a pair, or of one of its cells."""
        rows = [row for row in self._rows if row["pair"] == name]
        return [row for row in rows if site_a is None or (row["site_a"], row["site_b"]) == (site_a, site_b)]

    def pairing_quality(self, name: str, site_a: str, site_b: str) -> float:
        """Mean held-out correlation of a cell's pairs; below all others where it has none."""
        rows = [
            row["value"]
            for row in self.of(name, site_a, site_b)
            if (row["points"], row["subspace"], row["measure"]) == ("features", "all", "mean_rho")
        ]
        return float(rows[0]) if rows and np.isfinite(rows[0]) else -2.0


def called(measure: str) -> str:
    """The name of a measure for a reader."""
    if measure.startswith("knn_"):
        _, kind, k = measure.split("_")
        return f"shared neighbours among the nearest {k}, {'Jaccard' if kind == 'jaccard' else 'share'}"
    return MEASURES[measure]


def score_cells(row: Mapping[str, Any]) -> list[Cell]:
    """Value, level, ratio, z, p and q of one score."""
    level = f"{number(row['null_mean'])} ± {number(row['null_sd'], 4)}" if np.isfinite(row["null_mean"]) else "–"
    tone = "found" if row["q"] <= 0.05 else ""
    return [
        Cell(number(row["value"]), sort_key(row["value"]), tone, row["reason"]),
        Cell(level, sort_key(row["null_mean"]), "muted", row["reason"]),
        Cell(number(row["ratio"]), sort_key(row["ratio"]), "", row["reason"]),
        Cell(number(row["z"]), sort_key(row["z"]), "", row["reason"]),
        Cell(p_value(row["p"]), sort_key(row["p"]), "", row["reason"]),
        Cell(p_value(row["q"]), sort_key(row["q"]), "", row["reason"]),
    ]


def sort_key(value: float) -> float | None:
    """What a column of a table is sorted by; nothing for what is not a number."""
    return float(value) if np.isfinite(value) else None
