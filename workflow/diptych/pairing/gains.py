"""Test of how much more a dictionary's latents fire on its own model than on the other.

An unmatched latent of B is a candidate for "only in B". Encoding A's activations of the same tokens with B's
dictionary shows how much the latent fires in A:

    gain = activation_gain(codes_on_B, codes_on_A, latents)
    gain.held_out        # (own - other) / (own + other) on the test fold: 1 only in B, 0 equal in both
    gain.p               # labels swapped per document of the test fold

The test fold was not used to choose the latents. If nothing differs, a document's two activations are exchangeable,
which gives p by sign flips over documents. Models of equal width only (METHODS 9).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from diptych.dictionaries.codes import Features
from diptych.runtime.errors import DiptychError
from diptych.statistics import resampling

DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CHUNK = 2**22
"""Sums per document and latent in memory at a time."""


@dataclass(frozen=True)
class Gain:
    """Gain of the activation of some latents on their own model over the other, with its test; arrays [K].

    Attributes:
        latent: int64, the latents.
        fitted: (own - other) / (own + other) of the summed activations outside the test fold, in [-1, 1]; 0 for 0/0.
        held_out: the same on the test fold.
        lo, hi: 95 % Poisson-bootstrap interval of `held_out` over documents; NaN for latents that seldom fire there.
        p: two-sided, signs of the per-document differences of the test fold flipped.
        q: Benjamini-Hochberg over these latents.
        documents: int64, documents of the test fold in which the latent fires in either model.
    """

    latent: IntArray
    fitted: DoubleArray
    held_out: DoubleArray
    lo: DoubleArray
    hi: DoubleArray
    p: DoubleArray
    q: DoubleArray
    documents: IntArray


def activation_gain(own: Features, other: Features, latents: IntArray, *, bootstrap: int = 1000, seed: int = 0) -> Gain:
    """Gains of one dictionary's latents on its own model over the other, with p and intervals (METHODS 9).

    Args:
        own: the dictionary's codes on its own model.
        other: its codes on the other model; row i is the same token (`codes.common_rows`).
        latents: int64 [K], the latents to test.
        bootstrap: replicates of the interval.
        seed: of the bootstrap.

    Raises:
        DiptychError: the codes are of two dictionaries, or no document is in the test fold.
    """
    if own.n_features != other.n_features:
        raise DiptychError(
            f"activation gain: {own.n_features} and {other.n_features} latents; encode both models with one dictionary"
        )
    if not (own.fold == 0).any():
        raise DiptychError("activation gain: no document in the test fold (fold 0); raise the number of documents")
    is_test = own.fold == 0
    fitted = _contrast(*(_total(side, ~is_test, latents) for side in (own, other)))
    held_out = _contrast(*(_total(side, is_test, latents) for side in (own, other)))
    sums = tuple(document_sums(side.select(is_test), latents) for side in (own, other))
    difference = sparse.csr_array((sums[0] - sums[1]).T)
    p = resampling.sign_flip_p(difference)
    lo, hi = _interval(sums[0], sums[1], bootstrap, seed)
    total = sparse.csr_array(abs(sums[0]) + abs(sums[1]))
    total.eliminate_zeros()
    documents = np.bincount(total.indices, minlength=len(latents)).astype(np.int64)
    return Gain(latents, fitted, held_out, lo, hi, p, resampling.benjamini_hochberg(p), documents)


def document_sums(codes: Features, latents: IntArray) -> "sparse.csr_array[np.float64, tuple[int, int]]":
    """Summed activation of each latent in each document, CSR [documents, K], documents ascending."""
    documents, row = np.unique(codes.document, return_inverse=True)
    member = sparse.csr_array((np.ones(len(row)), (row, np.arange(len(row)))), shape=(len(documents), len(row)))
    return sparse.csr_array(member @ codes.csr[:, latents].astype(np.float64))


def _total(codes: Features, rows: npt.NDArray[np.bool_], latents: IntArray) -> DoubleArray:
    total = codes.select(rows).csr[:, latents].sum(axis=0, dtype=np.float64)
    return np.asarray(total, dtype=np.float64).ravel()


def _contrast(own: DoubleArray, other: DoubleArray) -> DoubleArray:
    total = own + other
    return np.divide(own - other, total, out=np.zeros_like(total), where=total > 0)


def _interval(own: sparse.csr_array, other: sparse.csr_array, n: int, seed: int) -> tuple[DoubleArray, DoubleArray]:
    documents, latents = own.shape
    lo, hi = np.full(latents, np.nan), np.full(latents, np.nan)
    step = max(1, CHUNK // max(documents, n))
    for start in range(0, latents, step):
        part = slice(start, start + step)
        sums = np.stack([own[:, part].toarray(), other[:, part].toarray()], axis=2)
        interval = resampling.poisson_bootstrap(
            sums, lambda total: (total[..., 0] - total[..., 1]) / (total[..., 0] + total[..., 1]), n=n, seed=seed
        )
        lo[part], hi[part] = interval.lo, interval.hi
    return lo, hi
