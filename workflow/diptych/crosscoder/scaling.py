"""Latent scaling: whether what a latent of one model stands for is really absent from the other (METHODS 5).

A decoder row of length 0 in a model says that the crosscoder does not use the latent there, not that the model lacks
the concept: it may sit in that model's error, or be spread over other latents. So each latent's own decoder row is
fitted to the error and to the reconstruction of every model, and the coefficients are compared:

    scaling = latent_scaling(crosscoder, rows, index)
    scaling.err[j, own, other]      # 0: nothing of it in the other model's error; 1: as much as in its own
    scaling.exclusive(own)          # latents that no other model has, by both
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse as sp
from torch import Tensor

from diptych import statistics
from diptych.crosscoder import sparse
from diptych.crosscoder.architecture import Crosscoder
from diptych.crosscoder.evaluation import encoded_blocks
from diptych.rows import IntArray, Rows

DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

LATENT_BLOCK = 256
"""Latents bootstrapped together."""
EXCLUSIVE_NU = (0.2, 0.5)
"""Largest |nu_err| and |nu_rec| of an exclusive latent (METHODS 5)."""


@dataclass(frozen=True)
class Scaling:
    """Latent scaling; every array float64 [F, M, M] with axes (latent, own, other), 1 where own is other.

    Attributes:
        err, rec: nu of the error and of the reconstruction; NaN as `latent_scaling` says.
        err_lo, err_hi, rec_lo, rec_hi: 95 % intervals over documents (NaN for unequal widths).
        random: the own error's beta along a random direction over that along d_j; about 0.
        firings: int64 [F], rows on which each latent fires.
    """

    err: DoubleArray
    rec: DoubleArray
    err_lo: DoubleArray
    err_hi: DoubleArray
    rec_lo: DoubleArray
    rec_hi: DoubleArray
    random: DoubleArray
    firings: IntArray

    def exclusive(self, own: int) -> BoolArray:
        """Latents absent from every other model: |nu_err| < .2 and |nu_rec| < .5; NaN is not exclusive."""
        others = [model for model in range(self.err.shape[1]) if model != own]
        absent = [
            (np.abs(self.err[:, own, other]) < EXCLUSIVE_NU[0]) & (np.abs(self.rec[:, own, other]) < EXCLUSIVE_NU[1])
            for other in others
        ]
        kept: BoolArray = np.logical_and.reduce(absent)
        return kept


@torch.no_grad()
def latent_scaling(
    crosscoder: Crosscoder, rows: Rows, index: IntArray, *, min_firings: int = 50, n_bootstrap: int = 200, seed: int = 0
) -> Scaling:
    """beta_j^m = (d_j . sum_i f_ij y_i^m) / (sum_i f_ij^2 ||d_j||^2), nu = beta^other / beta^own (METHODS 5).

    d_j is the decoder row of `own`. y_err^m = x^m - x_hat^m + f_j d_j^m; y_rec^m = x_hat^m. NaN where a latent fires
    on fewer than `min_firings` rows or own beta's interval covers 0. Unequal widths compare lengths instead (see
    `_split_half`).
    """
    if len(set(crosscoder.architecture.widths)) > 1:
        return _split_half(crosscoder, rows, index, min_firings)
    n_models, n_latents = len(crosscoder.architecture.widths), crosscoder.architecture.n_latents
    documents, unit = np.unique(rows.document[index], return_inverse=True)
    place = np.zeros(len(rows), dtype=np.int64)
    place[index] = unit
    sums = _projections(crosscoder, rows, index, place, len(documents), seed)
    shape = (n_latents, n_models, n_models)
    out = {name: np.full(shape, np.nan) for name in ("err", "rec", "err_lo", "err_hi", "rec_lo", "rec_hi", "random")}
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
                    lo, hi = statistics.poisson_bootstrap(both, ratio_of_sums, n=n_bootstrap, seed=seed)
                    out[name][block, own, other] = np.where(known, ratio_of_totals(top, bottom), np.nan)
                    out[f"{name}_lo"][block, own, other] = np.where(known, lo, np.nan)
                    out[f"{name}_hi"][block, own, other] = np.where(known, hi, np.nan)
    firings = np.asarray(sums["firings",].sum(axis=0), dtype=np.int64)
    return Scaling(**out, firings=firings)


def ratio_of_sums(sums: DoubleArray) -> DoubleArray:
    """First over second of the last axis."""
    return sums[..., 0] / sums[..., 1]


def ratio_of_totals(top: DoubleArray, bottom: DoubleArray) -> DoubleArray:
    """Ratio of the sums over documents [n_documents, F]; NaN for 0/0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: DoubleArray = top.sum(0) / bottom.sum(0)
    return ratio


def _known(
    dense: dict[tuple[Any, ...], DoubleArray], own: int, min_firings: int, n_bootstrap: int, seed: int
) -> BoolArray:
    """Latents that fire often enough and whose own beta's interval (of the error) does not cover 0."""
    lo, hi = statistics.poisson_bootstrap(
        np.stack([dense["err", own, own], dense["square", own]], axis=2), ratio_of_sums, n=n_bootstrap, seed=seed
    )
    known: BoolArray = (dense["firings",].sum(0) >= min_firings) & ((lo > 0) | (hi < 0))
    return known


def _projections(
    crosscoder: Crosscoder, rows: Rows, index: IntArray, place: IntArray, n_documents: int, seed: int
) -> dict[tuple[Any, ...], sp.csr_array]:
    """Sums over each document's rows, CSR [n_documents, F].

    Keys: (firings,); (square, own): f^2 ||d^own||^2; (err | rec, own, model): f d^own . y^model; (random, own).
    """
    decoders = [part.contiguous() for part in crosscoder.per_model(crosscoder.W_dec)]
    norms_MF = torch.stack([rows_.square().sum(1) for rows_ in decoders])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(decoders[0].shape, generator=generator).to(decoders[0].device)
    noise = torch.nn.functional.normalize(noise, dim=1)
    shape = (n_documents, crosscoder.architecture.n_latents)
    parts: dict[tuple[Any, ...], sp.csr_array] = {}

    def add(key: tuple[Any, ...], values: Tensor, unit: IntArray, latent: IntArray) -> None:
        block = sp.coo_array((values.double().cpu().numpy(), (unit, latent)), shape=shape).tocsr()
        parts[key] = parts[key] + block if key in parts else block

    for encoded in encoded_blocks(crosscoder, rows, index):
        f, chosen = encoded.f, encoded.chosen
        unit, latent = place[encoded.row[chosen.row.cpu().numpy()]], chosen.latent.cpu().numpy()
        errors = crosscoder.per_model(encoded.z_BD - encoded.x_hat_BD)
        x_hats = crosscoder.per_model(encoded.x_hat_BD)
        add(("firings",), torch.ones_like(f), unit, latent)
        for own, d_own in enumerate(decoders):
            add(("square", own), f * f * norms_MF[own][chosen.latent], unit, latent)
            aside = noise * norms_MF[own].sqrt()[:, None]
            along = _entries(errors[own], aside, chosen) + f * (decoders[own] * aside).sum(1)[chosen.latent]
            add(("random", own), f * along, unit, latent)
            for model, d_model in enumerate(decoders):
                self_part = f * (d_own * d_model).sum(1)[chosen.latent]
                add(("err", own, model), f * (_entries(errors[model], d_own, chosen) + self_part), unit, latent)
                add(("rec", own, model), f * _entries(x_hats[model], d_own, chosen), unit, latent)
    return parts


def _entries(values_Bd: Tensor, directions_Fd: Tensor, chosen: sparse.Selection) -> Tensor:
    return sparse.entries_of_product(values_Bd.contiguous(), directions_Fd.T, chosen)


def _split_half(crosscoder: Crosscoder, rows: Rows, index: IntArray, min_firings: int) -> Scaling:
    """nu for unequal widths: lengths of v^m = sum f y^m / sum f^2, other over own.

    The squared length is v_1 . v_2 of two halves of the documents, whose noise is independent, at least 0.
    """
    n_models, n_latents = len(crosscoder.architecture.widths), crosscoder.architecture.n_latents
    half_of = np.zeros(len(rows), dtype=np.int64)
    half_of[index] = np.unique(rows.document[index], return_inverse=True)[1] % 2
    squares, firings = torch.zeros(2, n_latents), torch.zeros(n_latents, dtype=torch.int64)
    totals = {name: torch.zeros(2, n_latents, sum(crosscoder.architecture.widths)) for name in ("err", "rec")}
    for half in (0, 1):
        for block in encoded_blocks(crosscoder, rows, index[half_of[index] == half]):
            squares[half] += torch.zeros(n_latents).index_add_(0, block.chosen.latent.cpu(), block.f.square().cpu())
            firings += torch.bincount(block.chosen.latent.cpu(), minlength=n_latents)
            for name, values in (("err", block.z_BD - block.x_hat_BD), ("rec", block.x_hat_BD)):
                totals[name][half] += sparse.sum_by_latent(block.f, values, block.chosen).cpu()
    totals["err"] += squares[:, :, None] * crosscoder.W_dec.detach().cpu()
    nan = np.full((n_latents, n_models, n_models), np.nan)
    found = {}
    enough = (firings >= min_firings).numpy()
    for name, total in totals.items():
        halves = [crosscoder.per_model(total[half] / squares[half][:, None]) for half in (0, 1)]
        dots = np.stack([(a.double() * b.double()).sum(1).numpy() for a, b in zip(*halves, strict=True)])
        length = np.sqrt(np.maximum(dots, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = length.T[:, None, :] / length.T[:, :, None]
        found[name] = np.where(enough[:, None, None] & (dots.T[:, :, None] > 0), ratio, np.nan)
    return Scaling(found["err"], found["rec"], nan, nan, nan, nan, nan, firings.numpy())
