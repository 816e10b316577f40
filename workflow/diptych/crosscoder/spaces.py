"""Decoder rows of one model as they look in another's space, so that the two rows of a latent can be compared.

    inside = carried(crosscoder, rows, first=0, second=1)      # [F, d_second]
    cosine(inside, decoder_rows_of_second)                     # [F]

Models of equal width share their coordinates (a fine-tune keeps them). For unequal widths a row d becomes d R, R the
Procrustes map between the models' rows (METHODS 2), which turns and scales but takes nothing away that fits.
"""

import numpy as np
import numpy.typing as npt

from diptych.activations.rows import IntArray, Rows
from diptych.affine_maps import affine, moments
from diptych.crosscoder.architecture import Crosscoder

DoubleArray = npt.NDArray[np.float64]

MAP_ROWS = 100_000
"""Rows that the map is fitted on: many times the width of any model."""
LEAST_RETENTION = 0.1
"""A row that keeps less of its length than this share of the median says nothing in the other space (METHODS 3.2)."""


def decoder(crosscoder: Crosscoder, model: int) -> DoubleArray:
    """A model's decoder rows [F, d]."""
    rows: DoubleArray = crosscoder.per_model(crosscoder.W_dec)[model].detach().double().cpu().numpy()
    return rows


def carried(crosscoder: Crosscoder, rows: Rows, first: int, second: int) -> DoubleArray:
    """The decoder rows of model `first` in the space of model `second`, [F, d_second]; NaN where too little remains."""
    own = decoder(crosscoder, first)
    if rows.widths[first] == rows.widths[second]:
        return own
    slope = affine.procrustes(_moments(rows, first, second))
    mapped: DoubleArray = own @ slope
    with np.errstate(divide="ignore", invalid="ignore"):
        retention = np.linalg.norm(mapped, axis=1) / np.linalg.norm(own, axis=1)
        lost = retention < LEAST_RETENTION * np.nanmedian(retention)
    return np.where(lost[:, None], np.nan, mapped)


def cosine(left: DoubleArray, right: DoubleArray) -> DoubleArray:
    """Cosines of the rows of two [F, d] matrices; NaN for a row of length 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: DoubleArray = (left * right).sum(1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))
    return found


def _moments(rows: Rows, first: int, second: int) -> moments.Moments:
    """Moments of two models' rows outside fold 0: all, or every so many."""
    chosen: IntArray = np.flatnonzero(rows.fold != 0)
    chosen = chosen[:: -(-len(chosen) // MAP_ROWS)]
    pair = Rows(
        (rows.sides[first], rows.sides[second]),
        rows.token_row[[first, second]][:, chosen],
        rows.document[chosen],
        rows.fold[chosen],
        rows.source[chosen],
        rows.position[chosen],
    )
    return moments.accumulate(pair, shuffled=False).total
