"""Topics of what one model says more: tokens that rise at the same positions, by a non-negative factorisation.

The positions-by-tokens matrix of positive shifts p_B - p_A, of which the 50 largest at each position are known, is
written as a product of two non-negative matrices (scikit-learn's NMF):

    topics = factorise(predictions, number=5, seed=0)
    topics.token[0], topics.weight[0]       # the tokens of the first topic, by weight
    topics.row[0]                           # the rows at which it is strongest

For the reader only: the factors are neither unique nor tested.
"""

import numpy as np
from scipy import sparse

from diptych.outputs.record import DoubleArray, IntArray, Topics
from diptych.outputs.streaming import Predictions

POSITIONS = 20_000
"""Positions factorised at most, evenly spread: some seconds of work."""
TOKENS = 10
"""Tokens and rows given for a topic."""
ITERATIONS = 200


def factorise(predictions: Predictions, *, number: int, seed: int) -> Topics:
    """Topics of the positive shifts; fewer than `number` if fewer positions or tokens moved, none if nothing did."""
    from sklearn.decomposition import NMF  # 1 s to import

    raised = predictions.raised
    n = len(raised.token)
    chosen = np.unique(np.linspace(0, n - 1, min(n, POSITIONS)).round().astype(np.int64))
    chosen = chosen[(raised.token[chosen] >= 0).any(1)]
    tokens = raised.token[chosen]
    known = tokens >= 0
    vocabulary, column = np.unique(tokens[known], return_inverse=True)
    k = min(number, len(chosen), len(vocabulary))
    if k == 0:
        none = np.zeros((0, TOKENS), dtype=np.int64)
        return Topics(none, np.zeros((0, TOKENS)), none, np.zeros(0))
    position = np.repeat(np.arange(len(chosen)), known.sum(1))
    values = raised.change[chosen][known].astype(np.float64)
    matrix = sparse.csr_array((values, (position, column)), shape=(len(chosen), len(vocabulary)))
    model = NMF(k, init="nndsvd", random_state=seed, max_iter=ITERATIONS, tol=1e-3)
    strength = model.fit_transform(matrix)
    weight = model.components_
    mass = strength.sum(0) * weight.sum(1)
    order = np.argsort(-mass, kind="stable")
    ids, weights = _largest(weight[order])
    positions, _ = _largest(strength[:, order].T)
    total = weight[order].sum(1, keepdims=True)
    return Topics(
        np.where(ids >= 0, vocabulary[ids], -1),
        np.divide(weights, total, out=np.zeros_like(weights), where=total > 0),
        np.where(positions >= 0, predictions.reading.row[chosen[positions]], -1),
        mass[order] / max(mass.sum(), np.finfo(float).tiny),
    )


def _largest(values: DoubleArray) -> tuple[IntArray, DoubleArray]:
    """Columns and values of the `TOKENS` largest positive entries of each row; -1 and 0 are padding."""
    columns = np.full((len(values), TOKENS), -1, dtype=np.int64)
    largest = np.zeros((len(values), TOKENS))
    order = np.argsort(-values, axis=1, kind="stable")[:, :TOKENS]
    entries = np.take_along_axis(values, order, axis=1)
    width = order.shape[1]
    columns[:, :width] = np.where(entries > 0, order, -1)
    largest[:, :width] = np.maximum(entries, 0.0)
    return columns, largest
