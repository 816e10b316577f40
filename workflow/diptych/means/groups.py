"""Norms and distances of two models' rows, by source, role, position and token (METHODS 11).

groups.write(writer, pair, counts, text, rows)     # tables "by_source", "by_role", "by_position", "by_token"
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.activations.rows import Rows
from diptych.means.differences import RowStatistics
from diptych.means.places import BoolArray
from diptych.storage import artifacts
from diptych.text.contexts import Text

IntArray = npt.NDArray[np.int64]

POSITIONS = 32
"""First positions that are listed each; all later ones are one group."""
TOKENS = 30
"""Tokens listed: those whose rows moved most."""
TOKEN_ROWS = 5
"""Rows that a listed token has at least: a mean over fewer is an anecdote."""


def write(writer: artifacts.Writer, pair: Rows, counts: BoolArray, text: Text, rows: RowStatistics) -> None:
    """Write the statistics of every row, and their means by group.

    By position all rows are summarised, elsewhere those that count.

    Args:
        writer: of the artifact.
        pair: n rows.
        counts: bool [n], the rows that count.
        text: A's tokens.
        rows: of every row.
    """
    nan = "unequal widths: there is no distance"
    writer.array("rows/token_row", pair.token_row[0])
    writer.array("rows/norm_difference", rows.norm_B - rows.norm_A)
    writer.array("rows/distance", rows.distance, nan=nan)
    token_row = pair.token_row[0]
    everywhere = np.ones(len(pair), dtype=np.bool_)
    late = np.minimum(pair.position, POSITIONS)
    labels = [*(str(position) for position in range(POSITIONS)), f"{POSITIONS} and later"]
    for name, group, names, which in (
        ("source", pair.source, text.sources, counts),
        ("role", text.role[token_row].astype(np.int64), text.roles, counts),
        ("position", late, labels, everywhere),
    ):
        writer.table(f"by_{name}", _means(group, names, which, rows), nan=nan)
    token, number = np.unique(text.token[token_row], return_inverse=True)
    of_tokens = _means(number, text.words(_first_rows(token_row, number, len(token))), counts, rows, TOKEN_ROWS)
    moved = of_tokens["distance"] if np.isfinite(rows.distance).all() else np.abs(of_tokens["norm_difference"])
    order = np.argsort(-moved, kind="stable")[:TOKENS]
    writer.table("by_token", {name: values[order] for name, values in of_tokens.items()}, nan=nan)


def _first_rows(token_row: IntArray, number: IntArray, n_tokens: int) -> IntArray:
    """A token row of each token."""
    first = np.zeros(n_tokens, dtype=np.int64)
    first[number] = token_row
    return first


def _means(
    group: IntArray, names: Sequence[str], which: BoolArray, rows: RowStatistics, least: int = 1
) -> dict[str, npt.NDArray[Any]]:
    """Means over the rows `which` of each group with at least so many of them."""
    count = np.bincount(group[which], minlength=len(names))
    kept = np.flatnonzero(count >= least)
    labels: npt.NDArray[Any] = np.array(names, dtype=object)

    def mean(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        total = np.bincount(group[which], weights=values[which], minlength=len(names))
        return total[kept] / count[kept]

    return {
        "name": labels[kept],
        "rows": count[kept],
        "norm_a": mean(rows.norm_A),
        "norm_b": mean(rows.norm_B),
        "norm_difference": mean(rows.norm_B - rows.norm_A),
        "distance": mean(rows.distance),
    }
