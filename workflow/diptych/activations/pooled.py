"""Rows of several models as those of one, on which a dictionary of all of them is trained.

pool(rows.stored([base, tuned]))        # twice as many rows, of one side: base's, then tuned's
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.activations.rows import Rows
from diptych.activations.sides import Side, StoredArray
from diptych.runtime.errors import DiptychError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PooledSide:
    """The rows of M models one after another: row m n + i is row i of model m."""

    rows: Rows

    @property
    def width(self) -> int:
        """Width of a row, d."""
        return self.rows.widths[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a stored value, the same for all models."""
        return self.rows.sides[0].dtype

    def take(self, rows: IntArray) -> npt.NDArray[np.float32]:
        """The float32 activations [len(rows), width] of sorted rows."""
        return np.concatenate([side.take(token_row) for side, token_row, _ in self._by_model(rows)])

    def read(self, rows: IntArray, out: StoredArray) -> None:
        """Copy sorted rows to `out` [len(rows), width] as they are stored."""
        for side, token_row, span in self._by_model(rows):
            side.read(token_row, out[span])

    def _by_model(self, rows: IntArray) -> Iterator[tuple[Side, IntArray, slice]]:
        """Each model's side, its token rows among the sorted `rows`, and where these stand among them."""
        n = len(self.rows)
        edges = np.searchsorted(rows, n * np.arange(len(self.rows.sides) + 1))
        for m, side in enumerate(self.rows.sides):
            span = slice(int(edges[m]), int(edges[m + 1]))
            yield side, self.rows.token_row[m, rows[span] - m * n], span


def pool(rows: Rows) -> Rows:
    """The rows of M models [M, n] as M n rows of one; a document's rows are in one fold for all models.

    Raises:
        DiptychError: the models' widths differ.
    """
    n_models = len(rows.sides)
    if n_models == 1:
        return rows
    if len(set(rows.widths)) > 1:
        widths = ", ".join(map(str, rows.widths))
        raise DiptychError(f"dictionary: its models have rows of widths {widths}, and it reads one; train one for each")
    return Rows(
        sides=(PooledSide(rows),),
        token_row=np.arange(n_models * len(rows))[None],
        document=np.tile(rows.document, n_models),
        fold=np.tile(rows.fold, n_models),
        source=np.tile(rows.source, n_models),
        position=np.tile(rows.position, n_models),
    )
