"""The positive control: tokens that a copy of A says more often by a known factor.

Whether nothing was found because nothing differs depends on how many documents there are and how much they differ. So
tokens are planted in them: in every document the models' labels are exchanged at random, which leaves a comparison of
the same noise without a difference; then B's probability of the token is multiplied by `factor`,

    a_D, b_D  ->  (a_D, factor b_D)  or  (b_D, factor a_D)

as a logit raised by log(factor) does to a token of small probability. "No difference found" is concluded only if most
of the planted tokens, of all frequencies, are found in the family of all eligible tokens.
"""

from dataclasses import dataclass

import numpy as np

from diptych.outputs import shifts as token_shifts
from diptych.outputs.reading import IntArray
from diptych.outputs.shifts import Shifts
from diptych.outputs.streaming import DoubleArray, Predictions
from diptych.statistics import resampling

PLANTED = 20
"""Tokens planted, evenly spread over the eligible ones by frequency."""


@dataclass(frozen=True)
class Planted:
    """Shifts of planted tokens, [k] each: token, effect, held-out effect, p, and q among all eligible tokens."""

    token: IntArray
    effect: DoubleArray
    held_out: DoubleArray
    p: DoubleArray
    q: DoubleArray


def plant(predictions: Predictions, shifts: Shifts, *, factor: float, seed: int) -> Planted:
    """Plant a shift in some tokens, each alone, and test them.

    Args:
        predictions: of both models.
        shifts: of the eligible tokens. All but the planted ones count in the family with p = 1.
        factor: by which B says a planted token more often.
        seed: of the exchanged documents.
    """
    by_frequency = shifts.token[np.argsort(shifts.mean_a + shifts.mean_b, kind="stable")]
    spread = np.linspace(0, len(shifts) - 1, min(PLANTED, len(shifts))).round().astype(np.int64)
    token = by_frequency[spread]
    masses = predictions.masses(token)
    exchanged = np.random.default_rng(seed).random((len(masses), len(token))) < 0.5
    masses = np.where(exchanged[:, None], masses[:, ::-1], masses)
    masses[:, 1] *= factor
    effect, held_out, p = token_shifts.test_documents(masses, predictions.n_positions, predictions.fold)
    family = np.concatenate([p, np.ones(len(shifts) - len(token))])
    return Planted(token, effect, held_out, p, resampling.benjamini_hochberg(family)[: len(token)])
