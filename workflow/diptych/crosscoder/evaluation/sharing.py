"""How much of a crosscoder's decoder its models share: sharedness, alignment, cosine of shared latents (METHODS 5).

    means = bootstrap_means(codes, document, n=200, seed=0)        # [1 + 200, F]: all rows, then replicates
    sharedness(r_MF, means, norms_MF)["activation"]                # [1 + 200], 1: every latent is equally in all models
    alignment(rows_A, rows_B)["value"]                             # 1: the models' decoders span one space

Each is of live latents only: a latent that never fires has no weight, and is left out of the decoders.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse as sp

from diptych.activations.rows import IntArray
from diptych.statistics import resampling

DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

RANK_TOLERANCE = 1e-6
"""Singular values below this share of the largest are not counted in the rank."""


def sharedness(r_MF: DoubleArray, mean_BF: DoubleArray, norms_MF: DoubleArray) -> dict[str, DoubleArray]:
    """S = sum_j w_j H(r_j) / sum_j w_j, H the entropy over models in units of its largest, 1 = fully shared.

    H is the binary entropy in bits, -r log2 r - (1 - r) log2(1 - r), for two models. The source of the measure prints
    n log n of the relative norms n alone. That cannot give the source's own table: without the second term a latent
    that is equally in both models has -.5 log2 .5 = .5 and not 1, and the largest value, .53 at r = 1/e, belongs to no
    special latent, while the table has 1.00 for a model with itself. The entropy, weighted by activation, gives that.

    Args:
        r_MF: relative norms.
        mean_BF: mean activations a_j of the latents, in B samples of the rows.
        norms_MF: decoder norms.

    Returns:
        [B] under each weighting: `activation` a_j (the definition), `unweighted` over latents with a_j > 0, `energy`
        a_j^2 sum ||d_j^m||^2; NaN where no latent is active.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy_F = -np.where(r_MF > 0, r_MF * np.log(r_MF), 0.0).sum(0) / np.log(len(r_MF))
        weights = {
            "activation": mean_BF,
            "unweighted": (mean_BF > 0).astype(np.float64),
            "energy": mean_BF**2 * (norms_MF**2).sum(0),
        }
        # A latent whose rows are all 0 has no relative norm, and gives nothing.
        entropy_F = np.nan_to_num(entropy_F)
        return {name: weight @ entropy_F / weight.sum(1) for name, weight in weights.items()}


def shared_cosine(cosine_F: DoubleArray, is_shared: BoolArray, mean_BF: DoubleArray) -> DoubleArray:
    """Mean cosine of the shared latents' two decoder rows, weighted by activation, for several mean activations [B].

    Latents without a cosine (a row of length 0, or lost by the map between unequal widths) are left out; NaN if no
    shared latent is active.
    """
    weight_BF = np.where(is_shared & np.isfinite(cosine_F), mean_BF, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean: DoubleArray = weight_BF @ np.nan_to_num(cosine_F) / weight_BF.sum(1)
    return mean


def alignment(rows_A: DoubleArray, rows_B: DoubleArray) -> dict[str, float]:
    """||Q_A^T Q_B||_F^2 / min(rank), Q the left singular vectors of the column-centred live decoder rows [F_live, d].

    `null` is the value for independent rows; `value` and `above_null` are NaN if F_live < 2 (d_A + d_B), because the
    null is then too near 1; `raw` is the value in any case.
    """
    bases = []
    for decoder in (rows_A, rows_B):
        left, size, _ = np.linalg.svd(decoder - decoder.mean(0), full_matrices=False)
        bases.append(left[:, size > RANK_TOLERANCE * size[0]])
    ranks = [basis.shape[1] for basis in bases]
    raw = float(np.square(bases[0].T @ bases[1]).sum() / min(ranks))
    null = max(ranks) / (len(rows_A) - 1)
    known = len(rows_A) >= 2 * (rows_A.shape[1] + rows_B.shape[1])
    return {
        "value": raw if known else np.nan,
        "null": null,
        "above_null": (raw - null) / (1 - null) if known else np.nan,
        "raw": raw,
        "n_live": float(len(rows_A)),
    }


def bootstrap_means(codes: sp.csr_array, document: IntArray, n: int, seed: int) -> DoubleArray:
    """Mean activation of each latent: over all rows first, then in n bootstrap replicates over documents, [1 + n, F].

    Args:
        codes: CSR [rows, F].
        document: of each row.
        n: replicates; their weights are `resampling.document_weights`.
        seed: of the weights.
    """
    documents, unit, count = np.unique(document, return_inverse=True, return_counts=True)
    by_document = sp.csr_array((np.ones(len(unit)), (unit, np.arange(len(unit))))) @ codes
    drawn = resampling.document_weights(documents, n=n, seed=seed)
    weights = np.concatenate([np.ones((1, len(documents))), drawn])
    with np.errstate(divide="ignore", invalid="ignore"):
        means: DoubleArray = (weights @ by_document) / (weights @ count)[:, None]
    return means
