"""Places at which two models' activations are compared on average: positions, roles, and rows that moved most.

    places = of_tokens(pair, counts, text, positions=5)
    places.names                # ("position 0", ..., "role user", "token newline", "all rows")
    means = DocumentMeans(places.member, pair.document)
    means.weights(rows)         # [b, P]: sums over rows with these weights are sums of documents' means

The first positions of a text are places of their own, inserted tokens and massive activations included: a narrow
fine-tune leaves traces there even on unrelated text (arXiv 2510.13900). All other places hold rows that count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.activations.rows import Rows
from diptych.text import templates
from diptych.text.contexts import Text

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]

ALL_ROWS = "all rows"
MOVED = "rows that moved most"


@dataclass(frozen=True)
class Places:
    """Named sets of rows: `member` bool [P, n] says which rows are at each place."""

    names: tuple[str, ...]
    member: BoolArray

    def added(self, name: str, rows: BoolArray) -> "Places":
        """These places and another one."""
        return Places((*self.names, name), np.concatenate([self.member, rows[None]]))

    def only(self, keep: BoolArray) -> "Places":
        """Some of the places, by a mask [P]."""
        return Places(tuple(np.array(self.names)[keep]), self.member[keep])


def of_tokens(pair: Rows, counts: BoolArray, text: Text, positions: int) -> Places:
    """The first positions of a text, the roles of its tokens but plain text, and all rows that count.

    Args:
        pair: n rows.
        counts: bool [n], the rows that count; the others are at first positions.
        text: of the token rows.
        positions: number of first positions.
    """
    at = [(f"position {position}", pair.position == position) for position in range(positions)]
    role = text.role[pair.token_row[0]]
    n_turns = len(templates.ROLES)
    labels = [f"{'role' if code < n_turns else 'token'} {name}" for code, name in enumerate(text.roles)]
    roles = [(label, (role == code) & counts) for code, label in enumerate(labels) if code > 0]
    named = [(name, member) for name, member in [*at, *roles] if member.any()]
    named.append((ALL_ROWS, counts))
    return Places(tuple(name for name, _ in named), np.stack([member for _, member in named]))


def moved_most(distance: FloatArray, counts: BoolArray, fitted: BoolArray, share: float) -> BoolArray:
    """The rows that count whose distance ||x_B - x_A|| is among the largest, bool [n].

    The limit is a quantile of the fitted documents' rows. A distance does not know which model is which, so the rows
    stay the same when the labels of a document are exchanged, and the test of their mean stays exact.

    Args:
        distance: [n].
        counts: bool [n], rows that count.
        fitted: bool [n], rows of documents outside the test fold.
        share: of the fitted rows that count.
    """
    reference = distance[counts & fitted]
    limit = float(np.quantile(reference, 1.0 - share)) if len(reference) else np.inf
    return counts & (distance >= limit) & (distance > 0)


@dataclass(frozen=True)
class DocumentMeans:
    """Means over documents of each document's mean over its rows at a place.

    Attributes:
        member: bool [P, n].
        document: int64 [n], document of each row.
    """

    member: BoolArray
    document: IntArray

    @cached_property
    def index(self) -> IntArray:
        """Number of each row's document among those that there are, int64 [n]."""
        index: IntArray = np.unique(self.document, return_inverse=True)[1]
        return index

    @cached_property
    def rows_of_document(self) -> IntArray:
        """Rows of each document at each place, int64 [P, D]."""
        n_documents = int(self.index.max()) + 1
        return _by_row([np.bincount(self.index[at], minlength=n_documents) for at in self.member], n_documents)

    def weights(self, rows: IntArray) -> DoubleArray:
        """Weight of each of `rows` in the sum of documents' means at each place, float64 [b, P]."""
        count = np.maximum(self.rows_of_document[:, self.index[rows]], 1)
        return (self.member[:, rows] / count).T

    def of_documents(self, values: FloatArray) -> DoubleArray:
        """Each document's mean at each place of row values [P, n], float64 [P, D]; NaN for documents without a row."""
        count = self.rows_of_document
        sums = [
            np.bincount(self.index[at], weights=row[at], minlength=count.shape[1])
            for at, row in zip(self.member, values, strict=True)
        ]
        return np.where(count > 0, _by_row(sums, count.shape[1]) / np.maximum(count, 1), np.nan)


def _by_row(rows: Sequence[npt.NDArray[Any]], width: int) -> npt.NDArray[Any]:
    """Rows [P, width] as one array, also where there are none."""
    return np.stack(rows) if rows else np.zeros((0, width))
