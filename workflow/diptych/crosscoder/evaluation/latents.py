"""Statistics of each latent of a crosscoder: class, firing, latent scaling, duplicates, label swap (METHODS 5, 9).

A latent whose decoder row is in one model alone may still be an artefact: the other model can hold the same concept
in the crosscoder's error, or in another latent. Latent scaling measures that (`nu_err`, `nu_rec`: 0 = truly absent
from the other model, 1 = equally present), duplicates (stored as `twins`) are pairs of latents that split one concept,
and the label swap measures how much less a latent fires when the two models' rows are exchanged:

    codes = collect_codes(crosscoder, rows, index)
    nu = latent_scaling(crosscoder, rows, index)          # [F, own, other]
    swap = label_swap(crosscoder, rows, index, codes)     # effect in [-1, 1], p

Latents are selected on the other folds and tested on fold 0. For M models every pair statistic has the axes
[own, other].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse as sp

from diptych.activations.rows import IntArray, Rows
from diptych.crosscoder import spaces
from diptych.crosscoder.evaluation import sharing
from diptych.crosscoder.evaluation.encoded import encoded_blocks
from diptych.crosscoder.evaluation.scaling import LATENT_BLOCK, Scaling, latent_scaling, ratio_of_sums, ratio_of_totals
from diptych.sparse_coding import architecture
from diptych.sparse_coding.architecture import Crosscoder
from diptych.statistics import resampling
from diptych.storage import artifacts

DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

MappedDecoders = Mapping[tuple[int, int], DoubleArray]
"""For each pair of models the first's decoder rows in the space of the second (`spaces.mapped_decoder`)."""
SHARED = 2
"""Class of a latent that is in all models alike (`classify`)."""
DUPLICATE_COSINE, DUPLICATE_OVERLAP = 0.8, 0.1
"""Duplicates have at least this cosine and fire together on at most this share of rows (METHODS 5)."""


def collect_codes(
    crosscoder: Crosscoder, rows: Rows, index: IntArray, *, swap: bool = False, label: str = "codes"
) -> sp.csr_array:
    """Codes of rows `index`, CSR [len(index), F]; `swap` and `label` as for `encoded_blocks`."""
    data, indices, starts, n = [], [], [np.zeros(1, dtype=np.int64)], 0
    for block in encoded_blocks(crosscoder, rows, index, swap=swap, label=label):
        data.append(block.f.cpu().numpy())
        indices.append(block.selection.latent.cpu().numpy())
        starts.append(block.selection.row_start[1:].cpu().numpy() + n)
        n += len(data[-1])
    shape = (len(index), crosscoder.architecture.n_latents)
    return sp.csr_array((np.concatenate(data), np.concatenate(indices), np.concatenate(starts)), shape=shape)


def relative_norms(crosscoder: Crosscoder) -> DoubleArray:
    """r_j^m = ||d_j^m|| / sum over models, [M, F]; NaN throughout for a dictionary on differences."""
    norms: DoubleArray = crosscoder.decoder_norms().detach().double().cpu().numpy()
    if crosscoder.architecture.difference:
        return np.full_like(norms, np.nan)
    shares: DoubleArray = norms / norms.sum(0)
    return shares


def classify(r_MF: DoubleArray, alive: BoolArray, *, exclusive: float, shared: Sequence[float]) -> IntArray:
    """Class of each latent [F]: 0 dead, 1 neither, 2 shared, 3 + m only in model m.

    Args:
        r_MF: relative norms.
        alive: whether each latent fires on any row.
        exclusive: a latent is only in m if the other models' share of its norm is below this.
        shared: smallest and largest share of the norm that each model of a shared latent has (for two models; times
            2/M for M).
    """
    n_models = len(r_MF)
    label = np.ones(r_MF.shape[1], dtype=np.int64)
    edges = np.asarray(shared) * 2 / n_models
    label[((r_MF >= edges[0]) & (r_MF <= edges[1])).all(0)] = 2
    for model in range(n_models):
        label[r_MF[model] > 1 - exclusive] = 3 + model
    label[~alive] = 0
    return label


def class_names(n_models: int) -> list[str]:
    """Names of the classes by code; two models are called A and B."""
    letters = [chr(ord("A") + model) for model in range(n_models)]
    return ["dead", "other", "shared", *(f"{letter}-only" for letter in letters)]


@dataclass(frozen=True)
class Swap:
    """Change of each latent's activation when the two models' rows are exchanged (METHODS 9); arrays [F].

    Attributes:
        effect: sum (f - f_swapped) / sum (f + f_swapped) over rows, in [-1, 1]; NaN if it never fires.
        lo, hi: 95 % interval over documents.
        p: of the sum over documents under random swaps of documents, with a fixed crosscoder.
    """

    effect: DoubleArray
    lo: DoubleArray
    hi: DoubleArray
    p: DoubleArray


def label_swap(
    crosscoder: Crosscoder, rows: Rows, index: IntArray, codes: sp.csr_array, *, n_bootstrap: int = 200, seed: int = 0
) -> Swap:
    """Compare the codes of (x_A, x_B), `codes`, with those of (x_B, x_A), document by document."""
    _, unit = np.unique(rows.document[index], return_inverse=True)
    by_document = sp.csr_array((np.ones(len(index)), (unit, np.arange(len(index)))))
    exchanged = collect_codes(crosscoder, rows, index, swap=True, label="codes with the models swapped")
    original, swapped = ((by_document @ own).astype(np.float64) for own in (codes, exchanged))
    p = resampling.sign_flip_p((original - swapped).T.tocsr())
    n_latents = crosscoder.architecture.n_latents
    effect, lo, hi = (np.full(n_latents, np.nan) for _ in range(3))
    for start in range(0, n_latents, LATENT_BLOCK):
        block = slice(start, min(start + LATENT_BLOCK, n_latents))
        a, b = original[:, block].toarray(), swapped[:, block].toarray()
        effect[block] = ratio_of_totals(a - b, a + b)
        both = np.stack([a - b, a + b], axis=2)
        lo[block], hi[block] = resampling.poisson_bootstrap(both, ratio_of_sums, n=n_bootstrap, seed=seed)
    return Swap(effect, lo, hi, p)


def find_duplicates(
    decoder_A: DoubleArray, decoder_B: DoubleArray, only_A: IntArray, only_B: IntArray, fires: sp.csr_array
) -> dict[str, npt.NDArray[Any]]:
    """Pairs of an A-only and a B-only latent with similar directions that rarely fire on the same rows.

    Args:
        decoder_A: [F, d], in B's space.
        decoder_B: [F, d].
        only_A: A-only latents.
        only_B: B-only latents.
        fires: bool CSR [n, F] on held-out rows.

    Returns:
        Columns a, b, cosine, overlap = |a and b| / min(|a|, |b|); latents that never fire are in no pair.
    """
    unit_A = decoder_A[only_A] / np.linalg.norm(decoder_A[only_A], axis=1, keepdims=True)
    unit_B = decoder_B[only_B] / np.linalg.norm(decoder_B[only_B], axis=1, keepdims=True)
    cosine = unit_A @ unit_B.T
    ones = fires.astype(np.float64)
    together = (ones[:, only_A].T @ ones[:, only_B]).toarray()
    count = np.asarray(ones.sum(axis=0))
    fewer = np.minimum(count[only_A][:, None], count[only_B][None])
    with np.errstate(divide="ignore", invalid="ignore"):
        overlap = together / fewer
    i, j = np.nonzero((cosine > DUPLICATE_COSINE) & (overlap <= DUPLICATE_OVERLAP))
    return {"a": only_A[i], "b": only_B[j], "cosine": cosine[i, j], "overlap": overlap[i, j]}


def strongest(codes: sp.csr_array, count: int) -> tuple[IntArray, npt.NDArray[np.float32]]:
    """The `count` rows on which each latent is largest, in descending order: row numbers and values [F, count].

    Padding is -1 and 0; ties go to the lower row.
    """
    columns = codes.tocsc()
    row = np.full((codes.shape[1], count), -1, dtype=np.int64)
    value = np.zeros((codes.shape[1], count), dtype=np.float32)
    for latent in range(codes.shape[1]):
        span = slice(columns.indptr[latent], columns.indptr[latent + 1])
        best = np.lexsort((columns.indices[span], -columns.data[span]))[:count]
        row[latent, : len(best)] = columns.indices[span][best]
        value[latent, : len(best)] = columns.data[span][best]
    return row, value


def _write_strongest(file: artifacts.Writer, name: str, codes: sp.csr_array, token_row: IntArray, count: int) -> None:
    """Each latent's strongest rows as token rows [M, F, count] of every model."""
    top, value = strongest(codes, count)
    file.array(f"top/{name}/token_row", np.where(top >= 0, token_row[:, np.maximum(top, 0)], -1))
    file.array(f"top/{name}/value", value)


def _firing_table(codes: sp.csr_array, name: str) -> dict[str, npt.NDArray[Any]]:
    n = codes.shape[0]
    return {
        f"density_{name}": np.bincount(codes.indices, minlength=codes.shape[1]) / n,
        f"mean_{name}": np.asarray(codes.sum(axis=0), dtype=np.float64) / n,
        f"max_{name}": np.asarray(codes.max(axis=0).todense(), dtype=np.float64).ravel(),
    }


def _norm_table(crosscoder: Crosscoder, mapped: MappedDecoders) -> dict[str, npt.NDArray[Any]]:
    """Decoder norms (normalised units), encoder norms, relative norms and cosines."""
    norms = crosscoder.decoder_norms().detach().double().cpu().numpy()
    r_MF = relative_norms(crosscoder)
    table: dict[str, npt.NDArray[Any]] = {"r": r_MF[1] if len(r_MF) == 2 else np.full(norms.shape[1], np.nan)}
    encoders = [part.detach().double().cpu().numpy() for part in crosscoder.per_model(crosscoder.W_enc)]
    for model in range(len(norms)):
        table[f"share_{model}"] = r_MF[model]
        table[f"decoder_norm_{model}"] = norms[model]
        table[f"encoder_norm_{model}"] = np.linalg.norm(encoders[model], axis=1)
        for other in range(model):
            table[f"cosine_{other}_{model}"] = spaces.cosine(mapped[other, model], spaces.decoder(crosscoder, model))
    return table


def describe(
    weights: str | Path,
    rows: Rows,
    out: str | Path,
    *,
    spec: dict[str, Any],
    exclusive: float = 0.1,
    shared: Sequence[float] = (0.4, 0.6),
    n_bootstrap: int = 200,
    min_firings: int = 50,
    top_rows: int = 20,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Stage: describe every latent and write the artifact (kind "latents").

    Args:
        weights: artifact of kind "crosscoder".
        rows: the rows of its models; fold 0 tests, the others select.
        out: the artifact.
        spec: stored with it.
        exclusive: a latent is only in one model if the others' share of its decoder norm is below this.
        shared: smallest and largest share of the decoder norm of a shared latent.
        n_bootstrap: bootstrap replicates for the intervals.
        min_firings: a latent that fires on fewer held-out rows has no latent scaling.
        top_rows: number of strongest rows stored per latent, of the selection folds and of fold 0.
        seed: of the bootstrap and the random directions.
        device: a torch device.
    """
    crosscoder = architecture.load(weights).to(device)
    architecture.check_widths(crosscoder, rows.widths)
    n_models = len(crosscoder.architecture.widths)
    index = {"selection": np.flatnonzero(rows.fold != 0), "held_out": np.flatnonzero(rows.fold == 0)}
    codes = {
        name: collect_codes(crosscoder, rows, row_index, label=f"codes, {name.replace('_', ' ')}")
        for name, row_index in index.items()
    }
    mapped = {(a, b): spaces.mapped_decoder(crosscoder, rows, a, b) for b in range(n_models) for a in range(b)}
    table = _norm_table(crosscoder, mapped)
    for name in index:
        table |= _firing_table(codes[name], name)
    r_MF = relative_norms(crosscoder)
    alive = (table["density_selection"] > 0) | (table["density_held_out"] > 0)
    table["class"] = classify(r_MF, alive, exclusive=exclusive, shared=shared)
    columns, scaling = _comparison(crosscoder, rows, index, codes, min_firings, n_bootstrap, seed)
    table |= columns
    with artifacts.create(out, "latents", spec) as file:
        file.table("latents", table, nan="no such number for these widths, or the latent does not fire")
        for name, row_index in index.items():
            _write_strongest(file, name, codes[name], rows.token_row[:, row_index], top_rows)
        if scaling is not None:
            _write_scaling(file, scaling)
            _write_spaces(file, crosscoder, mapped, table, codes["held_out"], alive)
            document = rows.document[index["held_out"]]
            means_BF = sharing.bootstrap_means(codes["held_out"], document, n_bootstrap, seed)
            _write_sharing(file, crosscoder, table, means_BF)
        file.json("widths", list(crosscoder.architecture.widths))
        file.json("classes", class_names(n_models))
        counts = np.bincount(table["class"], minlength=3 + n_models)
        file.json("counts", dict(zip(class_names(n_models), counts.tolist(), strict=True)))


def _comparison(
    crosscoder: Crosscoder,
    rows: Rows,
    index: dict[str, IntArray],
    codes: dict[str, sp.csr_array],
    min_firings: int,
    n_bootstrap: int,
    seed: int,
) -> tuple[dict[str, npt.NDArray[Any]], Scaling | None]:
    """Label-swap columns for two models of equal width, absence columns for unequal widths; latent scaling."""

    def swap_table() -> dict[str, npt.NDArray[Any]]:
        selection, held_out = (
            label_swap(crosscoder, rows, index[name], codes[name], n_bootstrap=n_bootstrap, seed=seed)
            for name in ("selection", "held_out")
        )
        return _swap_table(relative_norms(crosscoder), selection, held_out)

    if len(crosscoder.architecture.widths) < 2:
        equal_pair = len(rows.widths) == 2 and len(set(rows.widths)) == 1
        return swap_table() if equal_pair else {}, None

    def scaling(row_index: IntArray) -> Scaling:
        return latent_scaling(crosscoder, rows, row_index, min_firings=min_firings, n_bootstrap=n_bootstrap, seed=seed)

    held_out = scaling(index["held_out"])
    if len(rows.widths) > 2:
        return {}, held_out
    if len(set(rows.widths)) == 1:
        return swap_table(), held_out
    return _absence_table(relative_norms(crosscoder), scaling(index["selection"]), held_out), held_out


def _swap_table(r_MF: DoubleArray, selection: Swap, held_out: Swap) -> dict[str, npt.NDArray[Any]]:
    """Label-swap columns; the sign is that of the second model, so a latent of the first has a negative effect."""
    sign = np.where(r_MF[-1] < 0.5, -1.0, 1.0)
    return {
        "effect_selection": sign * selection.effect,
        "effect_held_out": sign * held_out.effect,
        "effect_lo": np.where(sign > 0, held_out.lo, -held_out.hi),
        "effect_hi": np.where(sign > 0, held_out.hi, -held_out.lo),
        "p": held_out.p,
    }


def _absence_table(r_MF: DoubleArray, selection: Scaling, held_out: Scaling) -> dict[str, npt.NDArray[Any]]:
    """The columns of `_swap_table` for unequal widths, whose rows cannot be swapped: 1 - nu_err (METHODS 9).

    1: the latent is not in the other model's error; 0: as much as in its own.
    """
    latent, own = np.arange(r_MF.shape[1]), np.where(r_MF[1] < 0.5, 0, 1)
    at, sign = (latent, own, 1 - own), np.where(own == 0, -1.0, 1.0)
    near, far = 1 - held_out.err_hi[at], 1 - held_out.err_lo[at]
    return {
        "effect_selection": sign * (1 - selection.err[at]),
        "effect_held_out": sign * (1 - held_out.err[at]),
        "effect_lo": np.where(sign > 0, near, -far),
        "effect_hi": np.where(sign > 0, far, -near),
        "p": held_out.p[at],
    }


def _write_scaling(file: artifacts.Writer, scaling: Scaling) -> None:
    reason = "fires on too few held-out rows, or the own side's beta has an interval that covers 0"
    for name in ("err", "rec", "err_lo", "err_hi", "rec_lo", "rec_hi", "random"):
        file.array(f"nu/{name}", getattr(scaling, name), nan=reason)
    file.array("nu/firings", scaling.firings)
    file.array("nu/exclusive", np.stack([scaling.exclusive(own) for own in range(scaling.err.shape[1])], axis=1))


def _write_spaces(
    file: artifacts.Writer,
    crosscoder: Crosscoder,
    mapped: MappedDecoders,
    table: dict[str, npt.NDArray[Any]],
    codes: sp.csr_array,
    alive: BoolArray,
) -> None:
    """Write alignment and duplicates of each pair of models."""
    decoders = [spaces.decoder(crosscoder, model) for model in range(len(crosscoder.architecture.widths))]
    aligned = {}
    for first in range(len(decoders)):
        for second in range(first + 1, len(decoders)):
            aligned[f"{first}-{second}"] = sharing.alignment(decoders[first][alive], decoders[second][alive])
            only = [np.flatnonzero(table["class"] == 3 + model) for model in (first, second)]
            duplicates = find_duplicates(mapped[first, second], decoders[second], only[0], only[1], codes > 0)
            file.table(f"twins/{first}-{second}", duplicates)
    file.json("alignment", aligned)


def _write_sharing(
    file: artifacts.Writer, crosscoder: Crosscoder, table: dict[str, npt.NDArray[Any]], means_BF: DoubleArray
) -> None:
    """Write sharedness and, of two models, the cosine of shared latents, with replicates over held-out documents."""
    norms_MF = crosscoder.decoder_norms().detach().double().cpu().numpy()
    sharedness = sharing.sharedness(relative_norms(crosscoder), means_BF, norms_MF)
    file.json("sharedness", {name: float(values[0]) for name, values in sharedness.items()})
    for name, values in sharedness.items():
        file.array(f"bootstrap/sharedness_{name}", values[1:], nan="no latent is active")
    if len(norms_MF) == 2:
        cosines = sharing.shared_cosine(table["cosine_0_1"], table["class"] == SHARED, means_BF)
        file.json("shared_cosine", float(cosines[0]))
        file.array("bootstrap/shared_cosine", cosines[1:], nan="no active shared latent has a cosine")
