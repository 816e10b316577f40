"""Dense score matrices (`scores.Scores`) from vectors in one space, computed on their device.

scores = DenseScores(D_A, D_B)        # unit decoder rows: 16,384 x 16,384 cosines, none stored
scores.candidates(10)
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from diptych.correlation.products import Correlations
from diptych.matching.scores import Edges, edges_of, restricted
from diptych.runtime import logs
from diptych.statistics import top_k

DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Kind = Literal["cosine", "euclidean", "mean"]

DENSE_ENTRY_BYTES = 12
"""Peak bytes per entry of a block: the score, its copy minus the prices, the mask."""


@dataclass(frozen=True)
class DenseScores:
    """Scores of every pair of latents from vectors in one space.

    Attributes:
        x: float32 [rows, d] on the computing device; unit rows unless `kind` is euclidean.
        y: float32 [columns, d], likewise.
        kind: x . y; minus the distance ||x - y||; or the mean of x . y and the correlation.
        rho: correlations of the same latents, for `mean`.
        is_within: rows and columns are the same latents, and no latent is scored with itself.
        memory: bytes per block.
    """

    x: torch.Tensor
    y: torch.Tensor
    kind: Kind = "cosine"
    rho: Correlations | None = None
    is_within: bool = False
    memory: int = 2**29

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self.x), len(self.y)

    def at(self, i: IntArray, j: IntArray) -> DoubleArray:
        """Scores of listed pairs [p]."""
        x, y = self.x[torch.from_numpy(i)], self.y[torch.from_numpy(j)]
        if self.kind == "euclidean":
            return np.asarray(-(x - y).norm(dim=1).double().cpu().numpy())
        cosine: DoubleArray = (x * y).sum(dim=1).double().cpu().numpy()
        return cosine if self.rho is None else (cosine + self.rho.at(i, j)) / 2

    def restrict(self, rows: IntArray, columns: IntArray) -> "DenseScores":
        """The submatrix of some rows and columns; with `is_within`, of the same latents."""
        rho = None if self.rho is None else restricted(self.rho, rows, columns)
        return replace(self, x=self.x[torch.from_numpy(rows)], y=self.y[torch.from_numpy(columns)], rho=rho)

    def candidates(self, k: int) -> Edges:
        """The k best entries of each row and of each column, each entry once."""
        rows, columns = top_k.TopK(self.shape[0], k), top_k.TopK(self.shape[1], k)
        for start, block in self._blocks("scan scores"):
            i, j, score = _entries(block, block >= _row_bound(block, k)[:, None])
            rows.offer(i + start, j, score)
            floor = torch.from_numpy(columns.floor).to(block)
            i, j, score = _entries(block, block >= torch.maximum(_column_bound(block, k), floor))
            columns.offer(j, i + start, score)
        return edges_of(rows, columns)

    def above(self, u: DoubleArray, v: DoubleArray, k: int) -> Edges:
        """Entries greater than u_i + v_j, of each row the k that exceed it most."""
        best = top_k.TopK(self.shape[0], k)
        prices = torch.from_numpy(v).to(self.x)
        for start, block in self._blocks("check prices"):
            excess = block.sub_(prices)
            over = excess > torch.from_numpy(u[start : start + len(block)]).to(self.x)[:, None]
            i, j, score = _entries(excess, over)
            best.offer(i + start, j, score)
        i, rank = np.nonzero(best.partner >= 0)
        j = best.partner[i, rank]
        return Edges(i.astype(np.int64), j, self.at(i.astype(np.int64), j))

    def _blocks(self, label: str) -> Iterator[tuple[int, torch.Tensor]]:
        rows, columns = self.shape
        entry = DENSE_ENTRY_BYTES * (2 if self.kind == "euclidean" else 1)
        size = max(1, self.memory // (entry * max(columns, 1)))
        starts = range(0, rows, size)
        y = self.y.double() if self.kind == "euclidean" else self.y
        squares = y.square().sum(dim=1) if self.kind == "euclidean" else None
        for start in logs.progress(starts, label, total=len(starts), unit="block"):
            x = self.x[start : start + size]
            if squares is not None:  # float32 would lose every digit of the distance of near duplicates
                x = x.double()
                block = -(x.square().sum(dim=1)[:, None] + squares - 2 * x @ y.T).clamp_(min=0).sqrt_()
            else:
                block = x @ y.T
            if self.rho is not None:
                block = (block + self._correlations(start, start + len(x)).to(block)) / 2
            if self.is_within:
                index = torch.arange(len(x), device=x.device)
                block[index, start + index] = -torch.inf
            yield start, block

    def _correlations(self, start: int, stop: int) -> torch.Tensor:
        assert self.rho is not None
        sparse_block = self.rho.block(start, stop)
        block = -np.outer(self.rho.a.level[start:stop], self.rho.b.level)
        row = np.repeat(np.arange(stop - start), np.diff(sparse_block.indptr))
        block[row, sparse_block.indices] = sparse_block.data
        return torch.from_numpy(block)


def _row_bound(block: torch.Tensor, k: int) -> torch.Tensor:
    """[rows]: a number that at least k entries of each row reach (`top_k.lower_bound` of a dense block)."""
    rows, columns = block.shape
    groups = top_k.GROUPS_PER_K * k
    if columns < groups:
        return block.new_full((rows,), -torch.inf)
    divisible = block[:, : columns - columns % groups]
    return divisible.reshape(rows, groups, -1).amax(dim=2).topk(k, dim=1).values[:, -1]


def _column_bound(block: torch.Tensor, k: int) -> torch.Tensor:
    """[columns]: a number that at least k entries of each column reach."""
    rows, columns = block.shape
    groups = top_k.GROUPS_PER_K * k
    if rows < groups:
        return block.new_full((columns,), -torch.inf)
    divisible = block[: rows - rows % groups]
    return divisible.reshape(groups, -1, columns).amax(dim=1).topk(k, dim=0).values[-1]


def _entries(block: torch.Tensor, mask: torch.Tensor) -> tuple[IntArray, IntArray, DoubleArray]:
    """Row, column and value of the finite entries of a block that a mask selects, in order."""
    if block.device.type == "cpu":
        entry = np.flatnonzero(mask.numpy())
        value = block.numpy().ravel()[entry].astype(np.float64)
    else:
        on_device = mask.flatten().nonzero().squeeze(1)
        entry, value = on_device.cpu().numpy(), block.flatten()[on_device].double().cpu().numpy()
    entry, value = entry[np.isfinite(value)], value[np.isfinite(value)]
    return entry // block.shape[1], entry % block.shape[1], value
