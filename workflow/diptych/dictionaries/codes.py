"""Sparse codes of rows, kept as CSR: what each latent of a dictionary does, read from the shards of a features stage.

    codes = read(["0.h5", "1.h5"])               # Features: codes.csr is float32 [n, F]
    codes.summary()["l0_mean"]                   # latents that fire on a token, on average
    codes.statistics().density                   # [F] share of the rows on which each latent fires

`dense` makes features of neurons and residual coordinates, one latent a coordinate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import h5py
import numpy as np
import numpy.typing as npt
from scipy import sparse

from diptych.activations.rows import Rows
from diptych.runtime.errors import DiptychError
from diptych.statistics import top_k
from diptych.storage import artifacts

if TYPE_CHECKING:
    Csr = sparse.csr_array[Any, tuple[int, int]]

BoolArray = npt.NDArray[np.bool_]
DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


UNREADABLE = "unreadable"
"""Attribute of a shard without codes: why a dictionary of one model cannot read the other's rows."""
TOP_ROWS = 20
"""Rows kept per latent in a shard's file: what a reader looks at before trusting a name for it."""


@dataclass(frozen=True)
class Reconstruction:
    """Sums from which the fraction of variance unexplained is pooled over blocks and shards (METHODS 0.5).

    Attributes:
        n: rows scored.
        mean: float64 [d], their mean.
        error: sum of ||x - xhat||^2.
        total: sum of ||x - mean||^2.
        ev_token_sum: sum over rows of 1 - ||x - xhat||^2 / ||x - mean||^2, the mean that of the row's own shard.
        ev_tokens: rows in that sum; a row on the mean itself has no ratio.
    """

    n: int
    mean: DoubleArray
    error: float
    total: float
    ev_token_sum: float
    ev_tokens: int

    @property
    def fvu(self) -> float:
        """Pooled sum ||x - xhat||^2 / sum ||x - mean||^2; NaN where the rows have no variance."""
        return self.error / self.total if self.total > 0 else float("nan")

    @property
    def ev_token_mean(self) -> float:
        """Mean of per-token explained variances, which older papers print; NaN without rows."""
        return self.ev_token_sum / self.ev_tokens if self.ev_tokens else float("nan")

    def merge(self, other: "Reconstruction") -> "Reconstruction":
        """The sums of both sets of rows, the total about their common mean (Chan's formula)."""
        n = self.n + other.n
        shift = other.mean - self.mean
        between = float(shift @ shift) * self.n * other.n / max(n, 1)
        return Reconstruction(
            n=n,
            mean=self.mean + shift * (other.n / max(n, 1)),
            error=self.error + other.error,
            total=self.total + other.total + between,
            ev_token_sum=self.ev_token_sum + other.ev_token_sum,
            ev_tokens=self.ev_tokens + other.ev_tokens,
        )


@dataclass(frozen=True)
class Statistics:
    """Each latent over a set of rows, float64 [F] each.

    Attributes:
        density: share of the rows on which it is not zero.
        mean: mean over all rows (over firing rows it is mean / density).
        std: standard deviation over all rows (divisor n).
        max: largest value.
    """

    density: DoubleArray
    mean: DoubleArray
    std: DoubleArray
    max: DoubleArray

    @property
    def dead(self) -> BoolArray:
        """[F], latents that never fire on these rows."""
        return np.asarray(self.density == 0)


@dataclass(frozen=True)
class Features:
    """Codes of n rows: one model's valid token rows, or those of them that a pair shares.

    Attributes:
        codes: float32 [n, F], CSR; a plain array for a dense site (neurons, residual coordinates).
        token_row: int64 [n], row of the token file, increasing.
        document: int64 [n], the unit of independence.
        fold: int64 [n], fold of the document; fold 0 is the test fold.
        source: int64 [n], index of the corpus source.
        reconstruction: how well the dictionary reconstructs these rows; None for dense sites and selections.
    """

    codes: "Csr | FloatArray"
    token_row: IntArray
    document: IntArray
    fold: IntArray
    source: IntArray
    reconstruction: Reconstruction | None = None

    def __len__(self) -> int:
        return len(self.token_row)

    @property
    def n_features(self) -> int:
        """F."""
        return int(self.codes.shape[1])

    @property
    def csr(self) -> "Csr":
        """The codes as CSR, whatever they are kept as."""
        return self.codes if isinstance(self.codes, sparse.csr_array) else sparse.csr_array(self.codes)

    def select(self, rows: npt.NDArray[Any]) -> "Features":
        """The given rows (a mask or increasing indices), without the reconstruction sums."""
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        if len(rows) == len(self):
            return Features(self.codes, self.token_row, self.document, self.fold, self.source)
        return Features(self.codes[rows], self.token_row[rows], self.document[rows], self.fold[rows], self.source[rows])

    def statistics(self) -> Statistics:
        """Density, mean, standard deviation and maximum of each latent; zeros where there are no rows."""
        codes, n = self.csr, max(len(self), 1)
        values, latent = codes.data.astype(np.float64), codes.indices
        total = np.bincount(latent, weights=values, minlength=self.n_features)
        squares = np.bincount(latent, weights=values * values, minlength=self.n_features)
        largest = np.zeros(self.n_features)
        if len(self):
            largest = codes.max(axis=0).toarray().ravel().astype(np.float64)
        return Statistics(
            density=np.bincount(latent[values != 0], minlength=self.n_features) / n,
            mean=total / n,
            std=np.sqrt(np.maximum(squares / n - (total / n) ** 2, 0.0)),
            max=largest,
        )

    def summary(self) -> dict[str, float]:
        """Rows, nnz, L0 (mean, 5th and 95th percentile), share of dead latents, and FVU and EV where known."""
        l0 = np.diff(self.csr.indptr) if len(self) else np.array([np.nan])
        numbers = {
            "rows": float(len(self)),
            "nnz": float(self.csr.nnz),
            "l0_mean": float(np.mean(l0)),
            "l0_p05": float(np.percentile(l0, 5)),
            "l0_p95": float(np.percentile(l0, 95)),
            "dead_share": float(self.statistics().dead.mean()),
        }
        if self.reconstruction is not None:
            numbers |= {"fvu": self.reconstruction.fvu, "ev_token_mean": self.reconstruction.ev_token_mean}
        return numbers

    def top_rows(self, k: int = TOP_ROWS) -> tuple[IntArray, FloatArray]:
        """Token rows int64 [F, k] on which each latent fires most, and the values float32 [F, k], highest first.

        -1 and 0 where a latent fires on fewer than k rows; equal values in order of the row.
        """
        columns = self.csr.tocsc()
        best = top_k.TopK(self.n_features, k)
        latent, at = top_k.survivors(columns.indptr, columns.data, k)
        best.offer(latent, columns.indices[at], columns.data[at])
        filled = best.partner >= 0
        rows = np.where(filled, self.token_row[best.partner] if len(self) else -1, -1)
        return rows, np.where(filled, best.score, 0.0).astype(np.float32)


def dense(rows: Rows) -> Features:
    """A dense site of one model (neurons, residual coordinates) as features: each coordinate is a latent.

    Holds all rows in memory, float32 [n, d].
    """
    values = np.concatenate(
        [block.x[0] for block in rows.blocks(65_536)] or [np.zeros((0, rows.widths[0]), np.float32)]
    )
    return Features(values, rows.token_row[0], rows.document, rows.fold, rows.source)


def concatenate(parts: Sequence[Features]) -> Features:
    """Shards of one model's rows as one, in their order.

    Raises:
        DiptychError: there is none, their latents differ in number, or their token rows do not increase.
    """
    if not parts:
        raise DiptychError("features: no shards to read; list the files that encode_features wrote")
    if len({part.n_features for part in parts}) > 1:
        raise DiptychError(f"features: shards have {[part.n_features for part in parts]} latents; encode them anew")
    token_row = np.concatenate([part.token_row for part in parts])
    if np.any(np.diff(token_row) <= 0):
        raise DiptychError("features: token rows do not increase over the shards; list the shards in order, each once")
    pooled = parts[0].reconstruction
    for part in parts[1:]:
        pooled = pooled.merge(part.reconstruction) if pooled and part.reconstruction else None
    return Features(
        codes=parts[0].codes if len(parts) == 1 else _stack([part.csr for part in parts]),
        token_row=token_row,
        document=np.concatenate([part.document for part in parts]),
        fold=np.concatenate([part.fold for part in parts]),
        source=np.concatenate([part.source for part in parts]),
        reconstruction=pooled,
    )


def _stack(parts: "Sequence[Csr]") -> "Csr":
    stacked: Any = sparse.vstack(parts, format="csr")
    return cast("Csr", stacked)


def common_rows(
    a: Features,
    b: Features,
    aligned: tuple[IntArray, IntArray] | None = None,
    chosen: Callable[[IntArray], BoolArray] | None = None,
) -> tuple[Features, Features]:
    """The rows that both have, row i of one beside row i of the other.

    Args:
        a: features on A's valid rows.
        b: features on B's valid rows.
        aligned: token rows (row_a, row_b), int64 [p] each, for two tokenizers; equal token rows pair without it.
        chosen: which token rows of A are compared (`selection.Selection`); all if not given.

    Raises:
        DiptychError: no row is valid in both, or paired rows are of different documents.
    """
    if aligned is None:
        _, at_a, at_b = np.intersect1d(a.token_row, b.token_row, assume_unique=True, return_indices=True)
    else:
        in_both = np.isin(aligned[0], a.token_row) & np.isin(aligned[1], b.token_row)
        at_a = np.searchsorted(a.token_row, aligned[0][in_both])
        at_b = np.searchsorted(b.token_row, aligned[1][in_both])
    if not len(at_a):
        raise DiptychError("features: the two models share no valid row; check the corpus and the gates of both")
    if chosen is not None:
        selected = chosen(a.token_row[at_a])
        at_a, at_b = at_a[selected], at_b[selected]
    a, b = a.select(at_a), b.select(at_b)
    if not np.array_equal(a.document, b.document) or not np.array_equal(a.fold, b.fold):
        raise DiptychError("features: paired rows lie in different documents; encode both from the same corpus")
    return a, b


def read_alignment(path: str | Path | None) -> tuple[IntArray, IntArray] | None:
    """Aligned token rows (row_a, row_b) of an artifact of kind "alignment"; None for equal tokenizers or no file."""
    if path is None:
        return None
    with artifacts.read(path, "alignment") as file:
        return None if artifacts.read_json(file, "identity") else (file["row_a"][:], file["row_b"][:])


def open_shard(path: str | Path) -> h5py.File:
    """Open one shard.

    Raises:
        DiptychError: it holds no codes (`unreadable`), or is no whole artifact.
    """
    file = artifacts.read(path, "features")
    if UNREADABLE in file.attrs:
        reason = artifacts.read_json(file, UNREADABLE)
        file.close()
        raise DiptychError(f"{path}: {reason}; take a dictionary of the rows' width")
    return file


def unreadable(path: str | Path) -> str | None:
    """Why a shard holds no codes: its dictionary, of another model, cannot read these rows; None if it does."""
    with artifacts.read(path, "features") as file:
        return str(artifacts.read_json(file, UNREADABLE)) if UNREADABLE in file.attrs else None


def read(paths: Sequence[str | Path]) -> Features:
    """The features of a model's shards, in the order of their token rows, as one."""
    return concatenate([_read_shard(path) for path in paths])


def read_summary(paths: Sequence[str | Path]) -> dict[str, float]:
    """`Features.summary` over all shards."""
    return read(paths).summary()


def _read_shard(path: str | Path) -> Features:
    with open_shard(path) as file:
        codes = sparse.csr_array(
            (file["data"][:], file["indices"][:], file["indptr"][:]),
            shape=(len(file["token_row"]), artifacts.read_json(file, "n_features")),
        )
        return Features(
            codes,
            file["token_row"][:],
            file["document"][:],
            file["fold"][:],
            file["source"][:],
            read_reconstruction(file["reconstruction"]) if "reconstruction" in file else None,
        )


def read_reconstruction(group: h5py.Group) -> Reconstruction:
    """Sums as `write_reconstruction` wrote them."""
    error, total, ev_token_sum = (float(value) for value in group["sums"][:])
    n, ev_tokens = (int(value) for value in group["counts"][:])
    return Reconstruction(n, group["mean"][:], error, total, ev_token_sum, ev_tokens)
