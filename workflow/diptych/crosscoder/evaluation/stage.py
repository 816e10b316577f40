"""Reconstruction of held-out rows by a crosscoder: FVU, L0 and density (METHODS 5, fold 0).

    scores = evaluate_rows(crosscoder, rows, np.flatnonzero(rows.fold == 0))
    scores.fvu_total, scores.fvu, scores.l0_mean

Rows are encoded and reconstructed by `encoded.encoded_blocks`, as in `latents`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.activations.rows import IntArray, Rows
from diptych.crosscoder.evaluation import splicing
from diptych.crosscoder.evaluation.encoded import encoded_blocks, training_mean
from diptych.models.placement import Devices, first
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding import architecture
from diptych.sparse_coding.architecture import Crosscoder
from diptych.storage import artifacts

DoubleArray = npt.NDArray[np.float64]

L0_TOLERANCE = 0.1
"""Largest relative deviation of held-out L0 from k without a warning (METHODS 5)."""
DENSITY_EDGES = np.arange(-6.0, 0.01, 0.25)
"""Edges of the histogram of log10 density."""


@dataclass(frozen=True)
class Scores:
    """Reconstruction scores of some rows.

    Attributes:
        n_rows: number of rows.
        l0: int64 [n], active latents of each row.
        fvu: float64 [M], sum ||x - x_hat||^2 / sum ||x - mean||^2 over the rows, of each model.
        fvu_total: the same over all models together, in normalised units.
        fvu_source: float64 [S, M], by corpus source, about that source's own mean; NaN for a source without rows.
        ev_token_mean: float64 [M], mean over rows of 1 - ||x - x_hat||^2 / ||x - mean||^2, training rows' mean;
            rows that equal it are left out.
        density: float64 [F], share of rows on which each latent fires.
        documents: columns of a table by document: document, rows, and for model m error_m = sum ||x - x_hat||^2 and
            square_m = sum ||x - mean||^2 about the training rows' mean.
    """

    n_rows: int
    l0: IntArray
    fvu: DoubleArray
    fvu_total: float
    fvu_source: DoubleArray
    ev_token_mean: DoubleArray
    density: DoubleArray
    documents: dict[str, npt.NDArray[Any]]


def evaluate_rows(crosscoder: Crosscoder, rows: Rows, index: IntArray) -> Scores:
    """Score rows `index`.

    Raises:
        DiptychError: there are fewer than two rows.
    """
    if len(index) < 2:
        raise DiptychError("crosscoder: fold 0 holds fewer than 2 rows; give the corpus more documents")
    arch = crosscoder.architecture
    n_models, n_sources = len(arch.widths), int(rows.source.max()) + 1
    error, square = np.zeros((n_sources, n_models)), np.zeros((n_sources, n_models))
    total, count = np.zeros((n_sources, sum(arch.widths))), np.zeros(n_sources)
    explained, scored, firings = np.zeros(n_models), np.zeros(n_models), np.zeros(arch.n_latents)
    l0, mean_D = [], crosscoder.normalise(training_mean(crosscoder, rows))
    by_document = _DocumentSums(rows.document[index], n_models)
    for block in encoded_blocks(crosscoder, rows, index, label="evaluate"):
        source = rows.source[block.row]
        error_BM = _squares(crosscoder, block.z_BD - block.x_hat_BD)
        square_BM = _squares(crosscoder, block.z_BD)
        np.add.at(error, source, error_BM)
        np.add.at(square, source, square_BM)
        np.add.at(total, source, block.z_BD.double().cpu().numpy())
        count += np.bincount(source, minlength=n_sources)
        from_mean_BM = _squares(crosscoder, block.z_BD - mean_D)
        by_document.add(rows.document[block.row], error_BM, from_mean_BM)
        off_mean = from_mean_BM > 0
        gain_BM = from_mean_BM - error_BM
        explained += np.divide(gain_BM, from_mean_BM, where=off_mean, out=np.zeros_like(gain_BM)).sum(0)
        scored += off_mean.sum(0)
        firings += torch.bincount(block.selection.latent, minlength=arch.n_latents).cpu().numpy()
        l0.append(torch.diff(block.selection.row_start).cpu().numpy())
    squared_total = _per_model(total**2, arch.widths)
    with np.errstate(invalid="ignore", divide="ignore"):
        fvu_source = error / (square - squared_total / count[:, None])
    variance = square.sum(0) - _per_model(total.sum(0) ** 2, arch.widths) / count.sum()
    return Scores(
        n_rows=len(index),
        l0=np.concatenate(l0),
        fvu=error.sum(0) / variance,
        fvu_total=float(error.sum() / variance.sum()),
        fvu_source=fvu_source,
        ev_token_mean=explained / scored,
        density=firings / len(index),
        documents=by_document.columns(),
    )


class _DocumentSums:
    """Rows, squared errors and squared distances from the mean of every model, summed by document."""

    def __init__(self, documents: IntArray, n_models: int) -> None:
        self._documents, self._rows = np.unique(documents, return_counts=True)
        self._sums = np.zeros((2, len(self._documents), n_models))

    def add(self, documents: IntArray, error_BM: DoubleArray, square_BM: DoubleArray) -> None:
        """Add a block of rows, each of one of the documents."""
        place = np.searchsorted(self._documents, documents)
        for sums, values in zip(self._sums, (error_BM, square_BM), strict=True):
            np.add.at(sums, place, values)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The sums as `Scores.documents`."""
        columns: dict[str, npt.NDArray[Any]] = {"document": self._documents, "rows": self._rows}
        for name, sums in zip(("error", "square"), self._sums, strict=True):
            columns |= {f"{name}_{model}": values for model, values in enumerate(sums.T)}
        return columns


def _squares(crosscoder: Crosscoder, values_BD: Tensor) -> DoubleArray:
    parts = [part.double().square().sum(1) for part in crosscoder.per_model(values_BD)]
    squares: DoubleArray = torch.stack(parts, dim=1).cpu().numpy()
    return squares


def _per_model(values: DoubleArray, widths: tuple[int, ...]) -> DoubleArray:
    """Sums of [..., D] over each model's coordinates, [..., M]."""
    return np.stack([part.sum(-1) for part in np.split(values, np.cumsum(widths)[:-1], axis=-1)], axis=-1)


def evaluate(
    weights: str | Path,
    rows: Rows,
    out: str | Path,
    *,
    spec: dict[str, Any],
    splice: Sequence[Mapping[str, str | Path]] = (),
    splice_tokens: int = 0,
    site: str = "",
    device: Devices = "cpu",
) -> None:
    """Stage: score a crosscoder on fold 0 and write the artifact (kind "evaluation").

    Args:
        weights: artifact of kind "crosscoder".
        rows: the rows of its models.
        out: the artifact.
        spec: stored with it.
        splice: for each model its `directory`, `tokens` and `shard`, one of its activation files.
        splice_tokens: number of held-out tokens on which the models' losses with spliced reconstructions are measured.
        site: the site that is replaced.
        device: a torch device, or those that each spliced model is spread over; the crosscoder is on the first.
    """
    crosscoder = architecture.load(weights)
    architecture.check_widths(crosscoder, rows.widths)
    scores = evaluate_rows(crosscoder.to(first(device)), rows, np.flatnonzero(rows.fold == 0))
    k, l0 = crosscoder.architecture.k, float(scores.l0.mean())
    l0_off = bool(k and abs(l0 / k - 1) > L0_TOLERANCE)
    if l0_off:
        logs.logger.warning("crosscoder: held-out L0 is %.2f where k is %d; train on more tokens", l0, k)
    losses = []
    if splice and splice_tokens and not crosscoder.architecture.difference:
        losses = splicing.measure(crosscoder, rows, splice, site, n_tokens=splice_tokens, device=device)
    firing = scores.density[scores.density > 0]
    with artifacts.create(out, "evaluation", spec) as file:
        file.array("fvu", scores.fvu)
        file.array("fvu_source", scores.fvu_source, nan="no held-out rows of this source")
        file.array("ev_token_mean", scores.ev_token_mean)
        file.array("density", scores.density)
        file.array("density_histogram/edges", DENSITY_EDGES)
        file.array("density_histogram/count", np.histogram(np.log10(firing), DENSITY_EDGES)[0])
        file.table("documents", scores.documents)
        file.json("splicing", losses)
        file.json(
            "summary",
            {
                "n_rows": scores.n_rows,
                "n_documents": len(np.unique(rows.document[rows.fold == 0])),
                "k": k,
                "l0_mean": l0,
                "l0_p05": float(np.percentile(scores.l0, 5)),
                "l0_p95": float(np.percentile(scores.l0, 95)),
                "l0_off": l0_off,
                "fvu": scores.fvu.tolist(),
                "fvu_total": scores.fvu_total,
                "dead_share": float((scores.density == 0).mean()),
            },
        )
