"""Latent scaling: how much of a latent of one model is in the error and reconstruction of the other (METHODS 5).

A decoder row of length 0 in a model means that the crosscoder does not use the latent there, not that the model lacks
the concept: it may be in that model's error, or spread over other latents. So each latent's own decoder row is fitted
to the error and to the reconstruction of every model, and the coefficients are compared:

    scaling = latent_scaling(crosscoder, rows, index)
    scaling.err[j, own, other]      # 0: it is not in the other model's error; 1: as much as in its own
    scaling.exclusive(own)          # latents that no other model has, by both coefficients
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse as sp
from torch import Tensor

from diptych.activations.rows import IntArray, Rows
from diptych.crosscoder.evaluation.encoded import encoded_blocks
from diptych.crosscoder.limits import EXCLUSIVE_NU
from diptych.runtime import logs
from diptych.sparse_coding import sparse
from diptych.sparse_coding.architecture import Crosscoder
from diptych.statistics import resampling

DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

LATENT_BLOCK = 256
"""Latents bootstrapped together."""
GROUPS = 20
"""Groups of documents from whose sums the intervals of unequal widths are computed, an even number."""
GROUP_BYTES = 2**31
"""Largest memory for the groups' sums; if more is needed, latents are split over several passes over the rows."""


@dataclass(frozen=True)
class Scaling:
    """Latent scaling; every array float64 [F, M, M] with axes (latent, own, other), 1 where own is other.

    Attributes:
        err, rec: nu of the error and of the reconstruction; NaN as `latent_scaling` says.
        err_lo, err_hi, rec_lo, rec_hi: 95 % intervals over documents, or over groups of them for unequal widths.
        p: of the hypothesis that nu_err is `EXCLUSIVE_NU[0]` or more, by the same bootstrap; NaN for equal widths, for
            which the label swap is the stronger test.
        random: beta of the own error along a random direction over that along d_j, about 0; NaN for unequal widths.
        firings: int64 [F], rows on which each latent fires.
    """

    err: DoubleArray
    rec: DoubleArray
    err_lo: DoubleArray
    err_hi: DoubleArray
    rec_lo: DoubleArray
    rec_hi: DoubleArray
    p: DoubleArray
    random: DoubleArray
    firings: IntArray

    def exclusive(self, own: int) -> BoolArray:
        """Latents absent from every other model: |nu_err| < .2 and |nu_rec| < .5; NaN is not exclusive."""
        others = [model for model in range(self.err.shape[1]) if model != own]
        absent = [
            (np.abs(self.err[:, own, other]) < EXCLUSIVE_NU[0]) & (np.abs(self.rec[:, own, other]) < EXCLUSIVE_NU[1])
            for other in others
        ]
        exclusive: BoolArray = np.logical_and.reduce(absent)
        return exclusive


@torch.no_grad()
def latent_scaling(
    crosscoder: Crosscoder, rows: Rows, index: IntArray, *, min_firings: int = 50, n_bootstrap: int = 200, seed: int = 0
) -> Scaling:
    """beta_j^m = (d_j . sum_i f_ij y_i^m) / (sum_i f_ij^2 ||d_j||^2), nu = beta^other / beta^own (METHODS 5).

    d_j is the decoder row of `own`. y_err^m = x^m - x_hat^m + f_j d_j^m; y_rec^m = x_hat^m. NaN where a latent fires
    on fewer than `min_firings` rows or where the interval of own's beta covers 0. For unequal widths see
    `_scaling_of_unequal_widths`.
    """
    if len(set(crosscoder.architecture.widths)) > 1:
        return _scaling_of_unequal_widths(crosscoder, rows, index, min_firings, n_bootstrap, seed)
    n_models, n_latents = len(crosscoder.architecture.widths), crosscoder.architecture.n_latents
    documents, unit = np.unique(rows.document[index], return_inverse=True)
    document_of_row = np.zeros(len(rows), dtype=np.int64)
    document_of_row[index] = unit
    sums = _projections(crosscoder, rows, index, document_of_row, len(documents), seed)
    shape = (n_latents, n_models, n_models)
    names = ("err", "rec", "err_lo", "err_hi", "rec_lo", "rec_hi", "p", "random")
    out = {name: np.full(shape, np.nan) for name in names}
    for start in range(0, n_latents, LATENT_BLOCK):
        block = slice(start, min(start + LATENT_BLOCK, n_latents))
        dense = {key: value[:, block].toarray() for key, value in sums.items()}
        for own in range(n_models):
            known = _known(dense, own, min_firings, n_bootstrap, seed)
            out["random"][block, own] = np.where(
                known, ratio_of_totals(dense["random", own], dense["err", own, own]), np.nan
            )[:, None]
            for other in range(n_models):
                for name in ("err", "rec"):
                    top, bottom = dense[name, own, other], dense[name, own, own]
                    both = np.stack([top, bottom], axis=2)
                    lo, hi = resampling.poisson_bootstrap(both, ratio_of_sums, n=n_bootstrap, seed=seed)
                    out[name][block, own, other] = np.where(known, ratio_of_totals(top, bottom), np.nan)
                    out[f"{name}_lo"][block, own, other] = np.where(known, lo, np.nan)
                    out[f"{name}_hi"][block, own, other] = np.where(known, hi, np.nan)
    firings = np.asarray(sums["firings",].sum(axis=0), dtype=np.int64)
    return Scaling(**out, firings=firings)


def ratio_of_sums(sums: DoubleArray) -> DoubleArray:
    """Ratio of the first to the second entry of the last axis."""
    return sums[..., 0] / sums[..., 1]


def ratio_of_totals(top: DoubleArray, bottom: DoubleArray) -> DoubleArray:
    """Ratio of the sums over documents [n_documents, F]; NaN for 0/0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: DoubleArray = top.sum(0) / bottom.sum(0)
    return ratio


def _known(
    dense: dict[tuple[Any, ...], DoubleArray], own: int, min_firings: int, n_bootstrap: int, seed: int
) -> BoolArray:
    """Latents that fire often enough, and for which the interval of `own`'s beta (of the error) does not cover 0."""
    lo, hi = resampling.poisson_bootstrap(
        np.stack([dense["err", own, own], dense["square", own]], axis=2), ratio_of_sums, n=n_bootstrap, seed=seed
    )
    known: BoolArray = (dense["firings",].sum(0) >= min_firings) & ((lo > 0) | (hi < 0))
    return known


def _projections(
    crosscoder: Crosscoder, rows: Rows, index: IntArray, document_of_row: IntArray, n_documents: int, seed: int
) -> dict[tuple[Any, ...], sp.csr_array]:
    """Sums over each document's rows, CSR [n_documents, F].

    Keys: (firings,); (square, own): f^2 ||d^own||^2; (err | rec, own, model): f d^own . y^model; (random, own).
    """
    decoders = [part.contiguous() for part in crosscoder.per_model(crosscoder.W_dec)]
    norms_MF = torch.stack([decoder_rows.square().sum(1) for decoder_rows in decoders])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(decoders[0].shape, generator=generator).to(decoders[0].device)
    noise = torch.nn.functional.normalize(noise, dim=1)
    shape = (n_documents, crosscoder.architecture.n_latents)
    parts: dict[tuple[Any, ...], sp.csr_array] = {}

    def add(key: tuple[Any, ...], values: Tensor, unit: IntArray, latent: IntArray) -> None:
        block = sp.coo_array((values.double().cpu().numpy(), (unit, latent)), shape=shape).tocsr()
        parts[key] = parts[key] + block if key in parts else block

    for encoded in encoded_blocks(crosscoder, rows, index, label="latent scaling"):
        f, selection = encoded.f, encoded.selection
        unit, latent = document_of_row[encoded.row[selection.row.cpu().numpy()]], selection.latent.cpu().numpy()
        errors = crosscoder.per_model(encoded.z_BD - encoded.x_hat_BD)
        x_hats = crosscoder.per_model(encoded.x_hat_BD)
        add(("firings",), torch.ones_like(f), unit, latent)
        for own, d_own in enumerate(decoders):
            add(("square", own), f * f * norms_MF[own][selection.latent], unit, latent)
            random_rows = noise * norms_MF[own].sqrt()[:, None]
            along = (
                _entries(errors[own], random_rows, selection)
                + f * (decoders[own] * random_rows).sum(1)[selection.latent]
            )
            add(("random", own), f * along, unit, latent)
            for model, d_model in enumerate(decoders):
                self_part = f * (d_own * d_model).sum(1)[selection.latent]
                add(("err", own, model), f * (_entries(errors[model], d_own, selection) + self_part), unit, latent)
                add(("rec", own, model), f * _entries(x_hats[model], d_own, selection), unit, latent)
    return parts


def _entries(values_Bd: Tensor, directions_Fd: Tensor, selection: sparse.Selection) -> Tensor:
    return sparse.entries_of_product(values_Bd.contiguous(), directions_Fd.T, selection)


def _scaling_of_unequal_widths(
    crosscoder: Crosscoder, rows: Rows, index: IntArray, min_firings: int, n_bootstrap: int, seed: int
) -> Scaling:
    """nu for unequal widths: lengths of v^m = sum f y^m / sum f^2, other over own.

    The squared length is v_1 . v_2 of two halves of the documents, whose noise is independent, at least 0. Documents
    are assigned to `GROUPS`, every other one to the second half; the bootstrap resamples groups.
    """
    arch = crosscoder.architecture
    group = np.unique(rows.document[index], return_inverse=True)[1] % GROUPS
    latent_bytes = 2 * 4 * GROUPS * sum(arch.widths)
    blocks = np.array_split(np.arange(arch.n_latents), -(-arch.n_latents * latent_bytes // GROUP_BYTES))
    parts: list[dict[str, npt.NDArray[Any]]] = []
    for block in blocks:
        sums, firings = _group_sums(crosscoder, rows, index, group, slice(block[0], block[-1] + 1))
        part: dict[str, npt.NDArray[Any]] = {"firings": firings}
        for name, total in sums.items():
            products = [
                torch.einsum("afd,bfd->abf", total_m[::2].double(), total_m[1::2].double()).numpy()
                for total_m in crosscoder.per_model(total)
            ]
            part |= _length_ratios(name, products, firings >= min_firings, n_bootstrap, seed)
        parts.append(part)
    out = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Scaling(**out, random=np.full(out["err"].shape, np.nan))


def _group_sums(
    crosscoder: Crosscoder, rows: Rows, index: IntArray, group: IntArray, latents: slice
) -> tuple[dict[str, Tensor], IntArray]:
    """sum f y_err and sum f y_rec [GROUPS, F', D] over each group's rows, and firings [F'], of some latents."""
    n_block = latents.stop - latents.start
    shape = (GROUPS, n_block, sum(crosscoder.architecture.widths))
    sums = {name: torch.zeros(shape) for name in ("err", "rec")}
    squares, firings = torch.zeros(GROUPS, n_block), torch.zeros(n_block, dtype=torch.int64)
    for number in logs.progress(range(GROUPS), "latent scaling", unit="group"):
        for block in encoded_blocks(crosscoder, rows, index[group == number]):
            latent = block.selection.latent
            in_block = (latent >= latents.start) & (latent < latents.stop)
            selection = sparse.Selection(
                block.selection.row[in_block], latent[in_block] - latents.start, (len(block.z_BD), n_block)
            )
            f = block.f[in_block]
            squares[number].index_add_(0, selection.latent.cpu(), f.square().cpu())
            firings += torch.bincount(selection.latent.cpu(), minlength=n_block)
            for name, values in (("err", block.z_BD - block.x_hat_BD), ("rec", block.x_hat_BD)):
                sums[name][number] += sparse.sum_by_latent(f, values, selection).cpu()
    sums["err"] += squares[:, :, None] * crosscoder.W_dec.detach().cpu()[latents]
    return sums, firings.numpy()


def _length_ratios(
    name: str, products: list[DoubleArray], fires_often: BoolArray, n_bootstrap: int, seed: int
) -> dict[str, DoubleArray]:
    """nu [F', own, other], its interval and p from v_a . v_b of the halves' groups [GROUPS / 2, GROUPS / 2, F']."""
    weights = np.random.default_rng(seed).poisson(1.0, (n_bootstrap, GROUPS)).astype(np.float64)
    weights = np.concatenate([np.ones((1, GROUPS)), weights])  # the data, then its bootstrap replicates
    squares = []
    for product in products:
        first = np.tensordot(weights[:, ::2], product, axes=1)
        squares.append(np.einsum("nb,nbf->nf", weights[:, 1::2], first))
    shape = (len(fires_often), len(products), len(products))
    out = {key: np.full(shape, np.nan) for key in (name, f"{name}_lo", f"{name}_hi", "p")}
    for own, bottom in enumerate(squares):
        for other, top in enumerate(squares):
            # NaN if the squared length of the own side is not positive.
            nu = np.sqrt(np.maximum(top, 0.0) / np.where(bottom > 0, bottom, np.nan))
            lo, hi = resampling.percentiles(nu[1:])
            p = (1 + np.sum(~(nu[1:] < EXCLUSIVE_NU[0]), axis=0)) / (1 + n_bootstrap)
            for key, values in zip(out, (nu[0], lo, hi, p), strict=True):
                out[key][:, own, other] = np.where(fires_often & np.isfinite(nu[0]), values, np.nan)
    return out if name == "err" else {key: values for key, values in out.items() if key != "p"}
