"""Decoder rows of one model mapped into another's space, where the two rows of a latent can be compared.

    mapped = mapped_decoder(crosscoder, rows, first=0, second=1)      # [F, d_second]
    cosine(mapped, decoder(crosscoder, 1))                            # [F]

Models of equal width share their coordinates (a fine-tune keeps them). For unequal widths a row d becomes d R, R the
Procrustes map between the models' rows (METHODS 2): a rotation and one scale, which shrinks no direction by itself.
"""

import numpy as np
import numpy.typing as npt

from diptych.activations.rows import IntArray, Rows
from diptych.affine_maps import moments
from diptych.affine_maps.procrustes import procrustes
from diptych.sparse_coding.architecture import Crosscoder

DoubleArray = npt.NDArray[np.float64]

MAP_ROWS = 100_000
"""Rows that the map is fitted on: many times the width of any model."""
LEAST_RETENTION = 0.1
"""A row that retains less of its length than this share of the median is not compared (METHODS 3.2)."""


def decoder(crosscoder: Crosscoder, model: int) -> DoubleArray:
    """A model's decoder rows, float64 [F, d]."""
    rows: DoubleArray = crosscoder.per_model(crosscoder.W_dec)[model].detach().double().cpu().numpy()
    return rows


def mapped_decoder(crosscoder: Crosscoder, rows: Rows, first: int, second: int) -> DoubleArray:
    """Decoder rows of model `first` in the space of `second`, [F, d_second]; NaN below `LEAST_RETENTION`."""
    decoder_rows = decoder(crosscoder, first)
    if rows.widths[first] == rows.widths[second]:
        return decoder_rows
    slope = procrustes(_moments(rows, first, second))
    mapped: DoubleArray = decoder_rows @ slope
    with np.errstate(divide="ignore", invalid="ignore"):
        retention = np.linalg.norm(mapped, axis=1) / np.linalg.norm(decoder_rows, axis=1)
        vanishes = retention < LEAST_RETENTION * np.nanmedian(retention)
    return np.where(vanishes[:, None], np.nan, mapped)


def cosine(left: DoubleArray, right: DoubleArray) -> DoubleArray:
    """Cosines of the rows of two [F, d] matrices; NaN for a row of length 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines: DoubleArray = (left * right).sum(1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))
    return cosines


def _moments(rows: Rows, first: int, second: int) -> moments.Moments:
    """Moments of two models' rows outside fold 0, evenly thinned to `MAP_ROWS`."""
    index: IntArray = np.flatnonzero(rows.fold != 0)
    index = index[:: -(-len(index) // MAP_ROWS)]
    two_models = Rows(
        (rows.sides[first], rows.sides[second]),
        rows.token_row[[first, second]][:, index],
        rows.document[index],
        rows.fold[index],
        rows.source[index],
        rows.position[index],
    )
    return moments.accumulate(two_models, shuffled=False).total
