"""Tokens that one of two models says more often, tested by exchanging the models' labels inside documents (METHODS 10).

With a_D and b_D the mean probabilities of a token over the positions of a document, equal models give differences
b_D - a_D of random sign. The size of a shift is the logarithm of the ratio of what the models say in all positions,

    effect = log2((sum p_B + e) / (sum p_A + e)),      e = 1e-6 a position,

so that 1 is twice as often, and a token that neither says more than once in a million positions cannot shift much:

    shifts = test(predictions)
    shifts.token, shifts.effect, shifts.q       # one entry for each eligible token

A token is eligible if its mean probability over both models is 1e-6 or more and it is among the 50 that moved most
somewhere. Both are unchanged by exchanging the models in any document, which keeps the test exact.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from diptych.outputs.reading import IntArray
from diptych.outputs.streaming import DoubleArray, Predictions
from diptych.statistics import resampling

LEAST_MEAN = 1e-6
"""Least mean probability of an eligible token, and the e of the effect a position."""
CHUNK = 4096
"""Tokens tested at a time."""


class DocumentTest(NamedTuple):
    """Shifts of k tokens: effect outside fold 0, held-out effect on it (NaN without such documents), p; [k] each."""

    effect: DoubleArray
    held_out: DoubleArray
    p: DoubleArray


@dataclass(frozen=True)
class Shifts:
    """Shifts of the eligible tokens, ascending by token, [E] each.

    Attributes:
        token: int64.
        mean_a, mean_b: mean probability over all positions.
        effect: on documents outside fold 0.
        held_out: the same on fold 0.
        p: of the difference over all documents.
        q: Benjamini-Hochberg over the eligible tokens.
        mined: positions at which it is among the 50 largest differences of centred logits, B minus A.
    """

    token: IntArray
    mean_a: DoubleArray
    mean_b: DoubleArray
    effect: DoubleArray
    held_out: DoubleArray
    p: DoubleArray
    q: DoubleArray
    mined: IntArray

    def __len__(self) -> int:
        return len(self.token)

    def listed(self, top: int, q: float) -> IntArray:
        """Indices of the `top` largest increases and of the `top` largest decreases; those with p <= q come first."""
        order = np.lexsort((-np.abs(self.effect), self.q > q))
        return np.concatenate([order[side[order]][:top] for side in (self.effect > 0, self.effect < 0)])


def test(predictions: Predictions) -> Shifts:
    """Test every eligible token."""
    token, n = eligible(predictions), predictions.n_positions
    parts = [
        test_documents(predictions.masses(token[start : start + CHUNK]), n, predictions.fold)
        for start in range(0, len(token), CHUNK)
    ]
    effect, held_out, p = (np.concatenate([part[i] for part in parts] or [np.zeros(0)]) for i in range(3))
    mean_a, mean_b = predictions.totals[:, token] / n.sum()
    q = resampling.benjamini_hochberg(p)
    return Shifts(token, mean_a, mean_b, effect, held_out, p, q, predictions.mined[token])


def eligible(predictions: Predictions) -> IntArray:
    """Tokens of enough mean probability that are among those that moved most at some position, ascending."""
    mean = predictions.totals.sum(0) / (2 * predictions.n_positions.sum())
    moved = np.zeros(predictions.vocabulary, dtype=np.bool_)
    for side in (predictions.raised, predictions.lowered):
        moved[side.token[side.token >= 0]] = True
    return np.flatnonzero(moved & (mean >= LEAST_MEAN))


def test_documents(masses: DoubleArray, n_positions: IntArray, fold: IntArray) -> DocumentTest:
    """Effects and p of k tokens.

    Args:
        masses: float64 [D, 2, k], sums of p_A and p_B over each document's positions.
        n_positions: int64 [D].
        fold: int64 [D].
    """
    is_held_out = fold == 0
    fitted, held_out = (
        effect_of(masses[part].sum(0), int(n_positions[part].sum())) for part in (~is_held_out, is_held_out)
    )
    difference = (masses[:, 1] - masses[:, 0]) / n_positions[:, None]
    return DocumentTest(fitted, held_out, resampling.sign_flip_p(difference.T))


def effect_of(sums: DoubleArray, n: int) -> DoubleArray:
    """log2((sum p_B + e) / (sum p_A + e)) of sums [2, ...] over n positions, e = 1e-6 n; NaN if n is 0."""
    e = LEAST_MEAN * n
    if n == 0:
        return np.full(sums.shape[1:], np.nan)
    ratio: DoubleArray = np.log2((sums[1] + e) / (sums[0] + e))
    return ratio


def intervals(predictions: Predictions, token: IntArray, *, bootstrap: int, seed: int) -> resampling.Interval:
    """95 % intervals [k] of the effects of some tokens over all documents, by Poisson bootstrap."""
    if not len(token):
        return resampling.Interval(np.zeros(0), np.zeros(0))
    masses = predictions.masses(token)
    n = np.broadcast_to(predictions.n_positions[:, None, None], (len(masses), 1, len(token)))

    def effects(sums: DoubleArray) -> DoubleArray:
        e = LEAST_MEAN * sums[:, 2]
        ratio: DoubleArray = np.log2((sums[:, 1] + e) / (sums[:, 0] + e))
        return ratio

    return resampling.poisson_bootstrap(np.concatenate([masses, n], axis=1), effects, n=bootstrap, seed=seed)


def strongest(
    predictions: Predictions, token: IntArray, effect: DoubleArray, count: int
) -> tuple[IntArray, DoubleArray]:
    """Where each token moved most in the direction of its effect: token rows [k, count], and p_B - p_A there.

    -1 and 0 are padding.
    """
    rows = np.full((len(token), count), -1, dtype=np.int64)
    changes = np.zeros((len(token), count))
    for moved, sign, is_side in ((predictions.raised, 1, effect > 0), (predictions.lowered, -1, effect < 0)):
        for k in np.flatnonzero(is_side):
            position, place = np.nonzero(moved.token == token[k])
            change = moved.change[position, place]
            order = np.argsort(-change, kind="stable")[:count]
            rows[k, : len(order)] = predictions.reading.row[position[order]]
            changes[k, : len(order)] = sign * change[order]
    return rows, changes
