"""Which latent of B fires when this latent of A fires: exact correlations from sparse codes.

With f_i the codes of A's latent i over n tokens, g_j those of B's latent j, m and s their means and deviations,

    rho_ij = (sum f_i g_j - n m_i m_j) / (n s_i s_j)                                   (METHODS 3.1)

Scaling each latent's codes by 1 / (s sqrt(n)) first, the whole matrix is one sparse product minus a rank-one
term; the product has entries only where two latents fire on a common token. It is computed in blocks of A's latents
and never stored:

    table = correlate_features(features_A, features_B, k=10)     # rows in common: features.common_rows
    table.a.partner[half, i]          # the k latents of B that fire most like i, on one half of the documents
    table.a.selected[half, i]         # their correlations on that half: too good, they were chosen for it
    table.a.held_out[half, i]         # their correlations on the other half: what to believe

Dense sites go the same way from Python: neurons (which the workflow does by itself, `similarity.neurons`) and the
coordinates of the residual stream (which it does not), each a latent:

    a, b = (features.dense(rows.stored([side])) for side in (model_A, model_B))          # rows.Model each
    table = correlate_features(*features.common_rows(a, b), k=10)
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from diptych.correlation.products import Correlations, _varies, block_cuts, standardised_half
from diptych.dictionaries import codes
from diptych.dictionaries.codes import Features
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.statistics import top_k
from diptych.storage import artifacts
from diptych.text.selection import Selection

if TYPE_CHECKING:
    Csr = sparse.csr_array[Any, tuple[int, int]]

BoolArray = npt.NDArray[np.bool_]
DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Partners:
    """The k best partners of each latent of one side, chosen on either half of the documents.

    Attributes:
        partner: int64 [2, F, k], latents of the other side, best first; -1 where fewer than k fire together with it.
        selected: float64 [2, F, k], correlation on the half that chose; NaN there.
        held_out: float64 [2, F, k], correlation on the other half; NaN there.
        eligible: bool [F].
        active: int64 [2, F], tokens on which it fires in each half.
        documents: int64 [2, F], documents in which it fires in each half.
        density: float64 [F], share of all the pair's rows (fold 0 included) on which it fires.
    """

    partner: IntArray
    selected: DoubleArray
    held_out: DoubleArray
    eligible: BoolArray
    active: IntArray
    documents: IntArray
    density: DoubleArray

    @property
    def rho_selected(self) -> DoubleArray:
        """[F], the best partner's correlation where it was chosen, the mean of both ways."""
        return np.asarray(self.selected[:, :, 0].mean(axis=0))

    @property
    def rho_held_out(self) -> DoubleArray:
        """[F], the best partner's correlation where it was not chosen, the mean of both ways."""
        return np.asarray(self.held_out[:, :, 0].mean(axis=0))


@dataclass(frozen=True)
class Halves:
    """A split of the documents outside the test fold.

    Attributes:
        document: int64 [D], increasing.
        half: int64 [D], 0 or 1.
    """

    document: IntArray
    half: IntArray

    def of(self, document: IntArray) -> IntArray:
        """0 or 1 for each row by its document; -1 for rows of other documents (the test fold)."""
        at = np.minimum(np.searchsorted(self.document, document), len(self.document) - 1)
        return np.where(self.document[at] == document, self.half[at], -1)


@dataclass(frozen=True)
class Table:
    """Correlations of two models' latents (METHODS 3.1).

    Attributes:
        a: A's latents with their partners in B.
        b: B's latents with their partners in A.
        halves: which documents chose and which judged.
        histogram: int64 [2, bins], pairs of eligible latents that fire together, by correlation, for each half.
        edges: float64 [bins + 1], from -1 to 1.
        never_together: int64 [2], pairs of eligible latents without a common token; their rho is
            -(m_i/s_i)(m_j/s_j), and they share one bin.
    """

    a: Partners
    b: Partners
    halves: Halves
    histogram: IntArray
    edges: DoubleArray
    never_together: IntArray


def document_halves(document: IntArray, fold: IntArray, seed: int) -> Halves:
    """Split the documents outside the test fold (fold 0) in two at random.

    Raises:
        DiptychError: fewer than two documents outside the test fold.
    """
    names = np.unique(document[fold != 0])
    if len(names) < 2:
        raise DiptychError(
            f"correlation: {len(names)} documents outside the test fold where 2 are needed; use a larger corpus"
        )
    half = np.zeros(len(names), dtype=np.int64)
    half[np.random.default_rng(seed).permutation(len(names))[len(names) // 2 :]] = 1
    return Halves(names, half)


def activity(codes: "Csr | FloatArray", document: IntArray) -> tuple[IntArray, IntArray]:
    """Tokens and documents on which each latent fires, int64 [F] each."""
    fires = sparse.csr_array(np.not_equal(codes, 0) if isinstance(codes, np.ndarray) else codes.astype(bool))
    fires = fires.astype(np.int32)
    fires.eliminate_zeros()
    names, row = np.unique(document, return_inverse=True)
    member = sparse.csr_array((np.ones(len(row), np.int32), (row, np.arange(len(row)))), shape=(len(names), len(row)))
    in_document = member @ fires
    tokens = np.bincount(fires.indices, minlength=codes.shape[1])
    return tokens.astype(np.int64), np.bincount(in_document.indices, minlength=codes.shape[1]).astype(np.int64)


class Eligibility(NamedTuple):
    """Which latents take part: `eligible` bool [F]; tokens and documents on which each fires, int64 [2, F] by half."""

    eligible: BoolArray
    active: IntArray
    documents: IntArray


def eligible_latents(
    codes: "Csr | FloatArray", document: IntArray, half: IntArray, *, min_active: int, min_documents: int
) -> Eligibility:
    """Latents that fire on enough tokens in enough documents of each half, and are not constant there."""
    counts = [activity(codes[half == h], document[half == h]) for h in (0, 1)]
    tokens, documents = np.stack([pair[0] for pair in counts]), np.stack([pair[1] for pair in counts])
    varies = np.stack([_varies(codes[half == h]) for h in (0, 1)])
    fires_enough = (tokens >= min_active) & (documents >= min_documents) & varies
    return Eligibility(np.asarray(fires_enough.all(axis=0)), tokens, documents)


def correlate_features(
    a: Features,
    b: Features,
    *,
    k: int = 10,
    min_active: int = 10,
    min_documents: int = 3,
    bins: int = 200,
    seed: int = 0,
    memory: int = 2**30,
    threads: int = 1,
) -> Table:
    """Correlate every eligible latent of A with every one of B on two halves of the documents (METHODS 3.1).

    The test fold takes no part, so that what is chosen here can be tested there.

    Args:
        a: features of A; row i is the same token as row i of b (`features.common_rows`).
        b: features of B.
        k: partners kept per latent of either side.
        min_active: tokens on which a latent must fire in each half to take part.
        min_documents: documents in which it must fire in each half.
        bins: of the histogram over [-1, 1].
        seed: of the split into halves.
        memory: bytes that the blocks in work may take together.
        threads: blocks in work at a time.

    Raises:
        DiptychError: fewer than two documents outside the test fold.
    """
    halves = document_halves(a.document, a.fold, seed)
    half = halves.of(a.document)
    fit_A, fit_B = (
        eligible_latents(side.codes, side.document, half, min_active=min_active, min_documents=min_documents)
        for side in (a, b)
    )
    latents_A, latents_B = np.flatnonzero(fit_A.eligible), np.flatnonzero(fit_B.eligible)
    matrices = [
        Correlations(standardised_half(a.codes, half, h, latents_A), standardised_half(b.codes, half, h, latents_B))
        for h in (0, 1)
    ]
    scan = _Scan(matrices, k, bins)
    scan.run(memory, threads)
    return Table(
        a=_partners(scan.best_A, fit_A, latents_A, latents_B, a),
        b=_partners(scan.best_B, fit_B, latents_B, latents_A, b),
        halves=halves,
        histogram=scan.histogram,
        edges=np.linspace(-1.0, 1.0, bins + 1),
        never_together=len(latents_A) * len(latents_B) - scan.histogram.sum(axis=1),
    )


class _Offers(NamedTuple):
    """What one block has for one half: offers to `topk.Best` for its rows and for all columns, and its histogram."""

    rows: tuple[IntArray, IntArray, DoubleArray, DoubleArray]
    columns: tuple[IntArray, IntArray, DoubleArray, DoubleArray]
    histogram: IntArray


class _Scan:
    """One pass over the blocks of both halves' correlations, each half choosing and judged by the other."""

    def __init__(self, matrices: Sequence[Correlations], k: int, bins: int) -> None:
        self.matrices, self.k, self.bins = matrices, k, bins
        rows, columns = matrices[0].shape
        self.best_A = [top_k.TopK(rows, k) for _ in matrices]
        self.best_B = [top_k.TopK(columns, k) for _ in matrices]
        self.histogram = np.zeros((2, bins), dtype=np.int64)

    def run(self, memory: int, threads: int) -> None:
        """Work through the blocks; a column's floor read while another block raises it is low, never wrong."""
        entries = np.maximum(*(matrix.row_entries() for matrix in self.matrices))
        cuts = block_cuts(entries, memory // threads)
        with ThreadPoolExecutor(threads) as pool:
            results = pool.map(self._block, cuts[:-1], cuts[1:])
            for block in logs.progress(results, "correlate", total=len(cuts) - 1, unit="block"):
                for h, half in enumerate(block):
                    self.best_A[h].offer(*half.rows)
                    self.best_B[h].offer(*half.columns)
                    self.histogram[h] += half.histogram

    def _block(self, start: int, stop: int) -> list[_Offers]:
        blocks = [matrix.block(start, stop) for matrix in self.matrices]
        flipped = [block.tocsc() for block in blocks]
        lookups = [_Lookup(columns, matrix, start) for columns, matrix in zip(flipped, self.matrices, strict=True)]
        offers = []
        for h, (block, columns) in enumerate(zip(blocks, flipped, strict=True)):
            other = lookups[1 - h]
            i, at = top_k.survivors(block.indptr, block.data, self.k)
            j = block.indices[at].astype(np.int64)
            rows = (i + start, j, block.data[at], other.at(i, j))
            j, at = top_k.survivors(columns.indptr, columns.data, self.k, self.best_B[h].floor)
            i = columns.indices[at].astype(np.int64)
            offers.append(_Offers(rows, (j, i + start, columns.data[at], other.at(i, j)), self._count(block.data)))
        return offers

    def _count(self, rho: DoubleArray) -> IntArray:
        into = ((rho + 1.0) * (self.bins / 2)).astype(np.int32)
        return np.bincount(np.minimum(into, self.bins - 1), minlength=self.bins)


class _Lookup:
    """Entries of one block of correlations by their place."""

    def __init__(self, columns: Any, matrix: Correlations, start: int) -> None:
        self._rows, self._values = columns.shape[0], columns.data
        counts = np.diff(columns.indptr)
        self._keys = np.repeat(np.arange(len(counts)) * self._rows, counts) + columns.indices
        self._level_A, self._level_B = matrix.a.level[start : start + self._rows], matrix.b.level

    def at(self, i: IntArray, j: IntArray) -> DoubleArray:
        """Correlations of the block's rows i with columns j; the closed form where they never fire together."""
        rho = -self._level_A[i] * self._level_B[j]
        if len(self._keys):
            key = j * self._rows + i
            order = np.argsort(key)  # a search in order stays in the cache
            at = np.empty_like(key)
            at[order] = np.minimum(np.searchsorted(self._keys, key[order]), len(self._keys) - 1)
            rho = np.where(self._keys[at] == key, self._values[at], rho)
        return rho


def _partners(
    best: Sequence[top_k.TopK], fit: Eligibility, own: IntArray, others: IntArray, features_: Features
) -> Partners:
    """From indices among the eligible latents back to indices of the dictionaries."""
    k, n_features = best[0].partner.shape[1], len(fit.eligible)
    partner = np.full((2, n_features, k), -1, dtype=np.int64)
    selected, held_out = np.full((2, n_features, k), np.nan), np.full((2, n_features, k), np.nan)
    for h, top in enumerate(best):
        there = top.partner >= 0
        names = others[top.partner] if len(others) else top.partner
        partner[h, own] = np.where(there, names, -1)
        selected[h, own] = np.where(there, top.score, np.nan)
        held_out[h, own] = np.where(there, top.other, np.nan)
    density = activity(features_.codes, features_.document)[0] / max(len(features_), 1)
    return Partners(partner, selected, held_out, fit.eligible, fit.active, fit.documents, density)


def correlate(
    features_a: Sequence[str | Path],
    features_b: Sequence[str | Path],
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    alignment: str | Path | None = None,
    chosen: Selection | None = None,
    k: int = 10,
    min_active: int = 10,
    min_documents: int = 3,
    bins: int = 200,
    seed: int = 0,
    memory: int = 2**30,
    threads: int = 1,
) -> None:
    """Stage `correlate_features`: both models' feature shards, or their `chosen` rows, to a "correlation" artifact."""
    a, b = codes.common_rows(codes.read(features_a), codes.read(features_b), codes.read_alignment(alignment), chosen)
    table = correlate_features(
        a,
        b,
        k=k,
        min_active=min_active,
        min_documents=min_documents,
        bins=bins,
        seed=seed,
        memory=memory,
        threads=threads,
    )
    write(table, out, spec, rows=len(a))


def write(table: Table, path: str | Path, spec: Mapping[str, Any], *, rows: int) -> None:
    """Write the table as an artifact of kind "correlation"; `rows` is the number of rows the pair shares."""
    summary = {"rows": rows, "documents": [int((table.halves.half == h).sum()) for h in (0, 1)]}
    with artifacts.create(path, "correlation", spec) as out:
        for name, side in (("a", table.a), ("b", table.b)):
            reason = "fewer than k partners fire together with this latent, or it is not eligible"
            out.array(f"{name}/partner", side.partner.astype(np.int32))
            out.array(f"{name}/selected", side.selected.astype(np.float32), nan=reason)
            out.array(f"{name}/held_out", side.held_out.astype(np.float32), nan=reason)
            out.array(f"{name}/rho_selected", side.rho_selected.astype(np.float32), nan=reason)
            out.array(f"{name}/rho_held_out", side.rho_held_out.astype(np.float32), nan=reason)
            out.array(f"{name}/eligible", side.eligible)
            out.array(f"{name}/active", side.active)
            out.array(f"{name}/documents", side.documents)
            out.array(f"{name}/density", side.density)
            summary |= {f"eligible_{name}": int(side.eligible.sum()), f"dead_{name}": int((side.density == 0).sum())}
        out.array("halves/document", table.halves.document)
        out.array("halves/half", table.halves.half)
        out.array("histogram/count", table.histogram)
        out.array("histogram/edges", table.edges)
        out.array("histogram/never_together", table.never_together)
        out.json("summary", summary)


def read(path: str | Path) -> Table:
    """The table of an artifact of kind "correlation"."""
    with artifacts.read(path, "correlation") as file:
        sides = [
            Partners(
                file[f"{name}/partner"][:].astype(np.int64),
                file[f"{name}/selected"][:].astype(np.float64),
                file[f"{name}/held_out"][:].astype(np.float64),
                file[f"{name}/eligible"][:],
                file[f"{name}/active"][:],
                file[f"{name}/documents"][:],
                file[f"{name}/density"][:],
            )
            for name in ("a", "b")
        ]
        return Table(
            sides[0],
            sides[1],
            Halves(file["halves/document"][:], file["halves/half"][:]),
            file["histogram/count"][:],
            file["histogram/edges"][:],
            file["histogram/never_together"][:],
        )
