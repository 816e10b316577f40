"""Score matrices of one dictionary's latents against another's, computed in blocks and never stored.

A score matrix [rows, columns] has four operations:

    scores = cosine(D_A, D_B)             # unit decoder rows: 16,384 x 16,384 entries, none stored
    edges = scores.candidates(10)         # the 10 best entries of every row and of every column
    scores.above(u, v)                    # entries above u_i + v_j: none, if prices u, v prove a matching optimal
    scores.at(i, j)                       # the entries of listed pairs

`SparseScores` has entries only for latents that fire on a common token, `dense_scores.DenseScores` one for every pair
(cosine, distance, or the mean of cosine and correlation). METHODS 3.2.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from diptych.correlation.products import Correlations, Standardised, block_cuts
from diptych.runtime import logs
from diptych.statistics import top_k

DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Edges(NamedTuple):
    """Entries of a score matrix, each once: row i, column j, int64 [e]; score float64 [e], finite."""

    i: IntArray
    j: IntArray
    score: DoubleArray

    def join(self, other: "Edges") -> "Edges":
        """The entries of both, each once, in order of (i, j)."""
        i, j = np.concatenate([self.i, other.i]), np.concatenate([self.j, other.j])
        score = np.concatenate([self.score, other.score])
        width = 1 + int(j.max(initial=0))
        _, first = np.unique(i * width + j, return_index=True)
        return Edges(i[first], j[first], score[first])

    def take(self, index: npt.NDArray[Any]) -> "Edges":
        """The entries selected by a mask or an index."""
        return Edges(self.i[index], self.j[index], self.score[index])


def no_edges() -> Edges:
    """No entries."""
    return Edges(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


class Scores(Protocol):
    """A score matrix; higher is more similar."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""

    def at(self, i: IntArray, j: IntArray) -> DoubleArray:
        """Scores of listed pairs [p]."""

    def candidates(self, k: int) -> Edges:
        """The k best entries of each row and of each column, each entry once."""

    def above(self, u: DoubleArray, v: DoubleArray, k: int) -> Edges:
        """Entries greater than u_i + v_j, of each row the k that exceed it most."""

    def restrict(self, rows: IntArray, columns: IntArray) -> "Scores":
        """The submatrix of some rows and columns, renumbered from 0."""


@dataclass(frozen=True)
class SparseScores:
    """Correlations as scores: only latents that fire on a common token are candidates.

    Attributes:
        rho: the correlations.
        is_within: rows and columns are the same latents, and no latent is scored with itself.
        memory: bytes per block.
    """

    rho: Correlations
    is_within: bool = False
    memory: int = 2**29

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.rho.shape

    def at(self, i: IntArray, j: IntArray) -> DoubleArray:
        """Scores of listed pairs [p]."""
        return self.rho.at(i, j)

    def restrict(self, rows: IntArray, columns: IntArray) -> "SparseScores":
        """The submatrix of some rows and columns; with `is_within`, of the same latents."""
        return replace(self, rho=restricted(self.rho, rows, columns))

    def candidates(self, k: int) -> Edges:
        """The k best entries of each row and of each column, each entry once."""
        rows, columns = top_k.TopK(self.shape[0], k), top_k.TopK(self.shape[1], k)
        for start, block in self._blocks("scan correlations"):
            i, entry = top_k.survivors(block.indptr, block.data, k)
            rows.offer(i + start, block.indices[entry], block.data[entry])
            transposed = block.tocsc()
            j, entry = top_k.survivors(transposed.indptr, transposed.data, k, columns.floor)
            columns.offer(j, transposed.indices[entry] + start, transposed.data[entry])
        return edges_of(rows, columns)

    def above(self, u: DoubleArray, v: DoubleArray, k: int) -> Edges:
        """Entries greater than u_i + v_j, of each row the k that exceed it most."""
        best = top_k.TopK(self.shape[0], k)
        for start, block in self._blocks("check prices"):
            row = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr)) + start
            over = np.flatnonzero(block.data > u[row] + v[block.indices])
            i, j = row[over], block.indices[over].astype(np.int64)
            best.offer(i, j, block.data[over] - u[i] - v[j])
        i, rank = np.nonzero(best.partner >= 0)
        j = best.partner[i, rank]
        return Edges(i.astype(np.int64), j, self.at(i.astype(np.int64), j))

    def _blocks(self, label: str) -> Iterator[tuple[int, Any]]:
        cuts = block_cuts([self.rho], self.memory)
        for start, stop in logs.progress(itertools.pairwise(cuts), label, total=len(cuts) - 1, unit="block"):
            block = self.rho.block(start, stop)
            if self.is_within:
                is_diagonal = block.indices == np.repeat(np.arange(start, stop), np.diff(block.indptr))
                block.data[is_diagonal] = -np.inf
            yield start, block


def restricted(rho: Correlations, rows: IntArray, columns: IntArray) -> Correlations:
    """The correlations of some latents of A with some of B."""
    a, b = rho.a, rho.b
    return Correlations(Standardised(a.z[:, rows], a.level[rows]), Standardised(b.z[:, columns], b.level[columns]))


def edges_of(rows: top_k.TopK, columns: top_k.TopK) -> Edges:
    """The entries that are among the k best of their row or of their column."""
    i, rank = np.nonzero(np.isfinite(rows.score))
    by_row = Edges(i.astype(np.int64), rows.partner[i, rank], rows.score[i, rank])
    j, rank = np.nonzero(np.isfinite(columns.score))
    return by_row.join(Edges(columns.partner[j, rank], j.astype(np.int64), columns.score[j, rank]))
