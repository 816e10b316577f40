"""Exact correlations between the latents of A and B from sparse codes, and each latent's best partners.

With f_i the codes of A's latent i over n tokens, g_j those of B's latent j, m and s their means and deviations,

    rho_ij = (sum f_i g_j - n m_i m_j) / (n s_i s_j)                                   (METHODS 3.1)

Scaling each latent's codes by 1 / (s sqrt(n)) first, the whole matrix is one sparse product minus a rank-one
term; the product has entries only where two latents fire on a common token. It is computed in blocks of A's latents
and never stored:

    table = correlate_features(features_A, features_B, k=10)     # rows in common: codes.common_rows
    table.a.partner[half, i]          # the k latents of B that fire most like i, on one half of the documents
    table.a.selected[half, i]         # their correlations on that half, biased upwards by the choice
    table.a.held_out[half, i]         # their correlations on the other half, unbiased

Coordinates of dense sites can be correlated from Python in the same way, each as a latent: neurons (in the workflow:
`similarity.neurons`) and coordinates of the residual stream (not in the workflow):

    a, b = (codes.dense(rows.stored([side])) for side in (model_A, model_B))          # rows.RowFiles each
    table = correlate_features(*codes.common_rows(a, b), k=10)
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from threadpoolctl import threadpool_limits

from diptych.correlation.blocks import read_block
from diptych.correlation.products import Correlations, block_cuts, standardised_half, varies
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
    """The k best partners of each latent of one side, chosen on each half of the documents.

    Attributes:
        partner: int64 [2, F, k], latents of the other side, best first; -1 where fewer than k fire together with it.
        selected: float64 [2, F, k], correlation on the half that chose the partner; NaN without one.
        held_out: float64 [2, F, k], correlation on the other half; NaN without one.
        eligible: bool [F], latents that fire often enough.
        active: int64 [2, F], tokens of each half on which the latent fires.
        documents: int64 [2, F], documents of each half in which it fires.
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
        """Correlation with the best partner on the half that chose it, mean over the halves, [F]."""
        return np.asarray(self.selected[:, :, 0].mean(axis=0))

    @property
    def rho_held_out(self) -> DoubleArray:
        """Correlation with the best partner on the half that did not choose it, mean over the halves, [F]."""
        return np.asarray(self.held_out[:, :, 0].mean(axis=0))


@dataclass(frozen=True)
class Halves:
    """A split of the documents outside the test fold.

    Attributes:
        document: int64 [D], ascending.
        half: int64 [D], 0 or 1.
    """

    document: IntArray
    half: IntArray

    def of(self, document: IntArray) -> IntArray:
        """0 or 1 for each row by its document; -1 for rows of other documents (the test fold)."""
        at = np.minimum(np.searchsorted(self.document, document), len(self.document) - 1)
        return np.where(self.document[at] == document, self.half[at], -1)


@dataclass(frozen=True)
class CorrelationTable:
    """Correlations of two models' latents (METHODS 3.1).

    Attributes:
        a: A's latents with their partners in B.
        b: B's latents with their partners in A.
        halves: the split of the documents.
        histogram: int64 [2, bins], pairs of eligible latents that fire together, by correlation, for each half.
        edges: float64 [bins + 1], from -1 to 1.
        never_together: int64 [2], pairs of eligible latents without a common token; their rho is
            -(m_i/s_i)(m_j/s_j), and they are not in `histogram`.
    """

    a: Partners
    b: Partners
    halves: Halves
    histogram: IntArray
    edges: DoubleArray
    never_together: IntArray


def document_halves(document: IntArray, fold: IntArray, seed: int) -> Halves:
    """Random split of the documents outside the test fold (fold 0) into halves.

    Raises:
        DiptychError: fewer than two documents outside the test fold.
    """
    documents = np.unique(document[fold != 0])
    if len(documents) < 2:
        raise DiptychError(
            f"correlation: {len(documents)} documents outside the test fold where 2 are needed; use a larger corpus"
        )
    half = np.zeros(len(documents), dtype=np.int64)
    half[np.random.default_rng(seed).permutation(len(documents))[len(documents) // 2 :]] = 1
    return Halves(documents, half)


def activity(codes: "Csr | FloatArray", document: IntArray) -> tuple[IntArray, IntArray]:
    """Numbers of tokens and of documents on which each latent fires, int64 [F] each."""
    fires = sparse.csr_array(np.not_equal(codes, 0) if isinstance(codes, np.ndarray) else codes.astype(bool))
    fires = fires.astype(np.int32)
    fires.eliminate_zeros()
    documents, row = np.unique(document, return_inverse=True)
    member = sparse.csr_array(
        (np.ones(len(row), np.int32), (row, np.arange(len(row)))), shape=(len(documents), len(row))
    )
    in_document = member @ fires
    tokens = np.bincount(fires.indices, minlength=codes.shape[1])
    return tokens.astype(np.int64), np.bincount(in_document.indices, minlength=codes.shape[1]).astype(np.int64)


class Eligibility(NamedTuple):
    """Eligible latents (bool [F]), and numbers of tokens and documents on which each fires, int64 [2, F] by half."""

    eligible: BoolArray
    active: IntArray
    documents: IntArray


def eligible_latents(
    codes: "Csr | FloatArray", document: IntArray, half: IntArray, *, min_active: int, min_documents: int
) -> Eligibility:
    """Eligibility of latents: firing on enough tokens and documents of each half, and not constant there."""
    counts = [activity(codes[half == h], document[half == h]) for h in (0, 1)]
    tokens, documents = np.stack([pair[0] for pair in counts]), np.stack([pair[1] for pair in counts])
    is_varying = np.stack([varies(codes[half == h]) for h in (0, 1)])
    is_eligible = (tokens >= min_active) & (documents >= min_documents) & is_varying
    return Eligibility(np.asarray(is_eligible.all(axis=0)), tokens, documents)


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
) -> CorrelationTable:
    """Correlate every eligible latent of A with every eligible one of B on two halves of the documents (METHODS 3.1).

    The test fold is not used, so that latents selected by the table can be tested there.

    Args:
        a: features of A; row i is the same token as row i of b (`codes.common_rows`).
        b: features of B.
        k: partners per latent of either side.
        min_active: tokens of each half on which a latent must fire to be eligible.
        min_documents: documents of each half in which it must fire.
        bins: of the histogram over [-1, 1].
        seed: of the split into halves.
        memory: bytes for all blocks computed at a time.
        threads: number of blocks computed at a time.

    Raises:
        DiptychError: fewer than two documents outside the test fold.
    """
    halves = document_halves(a.document, a.fold, seed)
    half = halves.of(a.document)
    eligible_A, eligible_B = (
        eligible_latents(side.codes, side.document, half, min_active=min_active, min_documents=min_documents)
        for side in (a, b)
    )
    latents_A, latents_B = np.flatnonzero(eligible_A.eligible), np.flatnonzero(eligible_B.eligible)
    matrices = [
        Correlations(standardised_half(a.codes, half, h, latents_A), standardised_half(b.codes, half, h, latents_B))
        for h in (0, 1)
    ]
    scan = _Scan(matrices, k, bins)
    scan.run(memory, threads)
    return CorrelationTable(
        a=_partners(scan.best_A, eligible_A, latents_A, latents_B, a),
        b=_partners(scan.best_B, eligible_B, latents_B, latents_A, b),
        halves=halves,
        histogram=scan.histogram,
        edges=np.linspace(-1.0, 1.0, bins + 1),
        never_together=len(latents_A) * len(latents_B) - scan.histogram.sum(axis=1),
    )


class _Offers(NamedTuple):
    """One block's offers to `top_k.TopK` of its rows and of all columns on one half, and its histogram."""

    rows: tuple[IntArray, IntArray, DoubleArray, DoubleArray]
    columns: tuple[IntArray, IntArray, DoubleArray, DoubleArray]
    histogram: IntArray


class _Scan:
    """One pass over the blocks of both halves' correlations: each half's best partners, with rho on the other half."""

    def __init__(self, matrices: Sequence[Correlations], k: int, bins: int) -> None:
        self.matrices, self.k, self.bins = matrices, k, bins
        rows, columns = matrices[0].shape
        self.best_A = [top_k.TopK(rows, k) for _ in matrices]
        self.best_B = [top_k.TopK(columns, k) for _ in matrices]
        self.histogram = np.zeros((2, bins), dtype=np.int64)

    def run(self, memory: int, threads: int) -> None:
        """Compute all blocks. A column's floor that another thread raises meanwhile is only lower than necessary."""
        cuts = block_cuts(self.matrices, memory // threads)
        # A block is computed by one thread, so that its sums do not depend on how many there are.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
            results = pool.map(self._block, cuts[:-1], cuts[1:])
            for block in logs.progress(results, "correlate", total=len(cuts) - 1, unit="block"):
                for h, half in enumerate(block):
                    self.best_A[h].offer(*half.rows)
                    self.best_B[h].offer(*half.columns)
                    self.histogram[h] += half.histogram

    def _block(self, start: int, stop: int) -> list[_Offers]:
        blocks = [read_block(matrix, start, stop) for matrix in self.matrices]
        offers = []
        for h, block in enumerate(blocks):
            other = blocks[1 - h]
            i, j, rho = block.best_of_rows(self.k)
            rows = (i + start, j, rho, other.at(i, j))
            i, j, rho = block.best_of_columns(self.k, self.best_B[h].floor)
            offers.append(_Offers(rows, (j, i + start, rho, other.at(i, j)), block.histogram(self.bins)))
        return offers


def _partners(
    best: Sequence[top_k.TopK], eligibility: Eligibility, latents: IntArray, other_latents: IntArray, features: Features
) -> Partners:
    """Best partners with indices of the dictionaries instead of indices among the eligible latents."""
    k, n_features = best[0].partner.shape[1], len(eligibility.eligible)
    partner = np.full((2, n_features, k), -1, dtype=np.int64)
    selected, held_out = np.full((2, n_features, k), np.nan), np.full((2, n_features, k), np.nan)
    for h, top in enumerate(best):
        has_partner = top.partner >= 0
        partners = other_latents[top.partner] if len(other_latents) else top.partner
        partner[h, latents] = np.where(has_partner, partners, -1)
        selected[h, latents] = np.where(has_partner, top.score, np.nan)
        held_out[h, latents] = np.where(has_partner, top.other, np.nan)
    density = activity(features.codes, features.document)[0] / max(len(features), 1)
    return Partners(
        partner, selected, held_out, eligibility.eligible, eligibility.active, eligibility.documents, density
    )


def correlate(
    features_a: Sequence[str | Path],
    features_b: Sequence[str | Path],
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    alignment: str | Path | None = None,
    selection: Selection | None = None,
    k: int = 10,
    min_active: int = 10,
    min_documents: int = 3,
    bins: int = 200,
    seed: int = 0,
    memory: int = 2**30,
    threads: int = 1,
) -> None:
    """Stage `correlate_features`: correlate both models' feature shards, write an artifact of kind "correlation"."""
    a, b = codes.common_rows(codes.read(features_a), codes.read(features_b), codes.read_alignment(alignment), selection)
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


def write(table: CorrelationTable, path: str | Path, spec: Mapping[str, Any], *, rows: int) -> None:
    """Write the table as an artifact of kind "correlation"; `rows` is the number of rows in common."""
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


def read(path: str | Path) -> CorrelationTable:
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
        return CorrelationTable(
            sides[0],
            sides[1],
            Halves(file["halves/document"][:], file["halves/half"][:]),
            file["histogram/count"][:],
            file["histogram/edges"][:],
            file["histogram/never_together"][:],
        )
