"""Baselines: what a method has to beat to be worth its training. They have no test and report nothing.

shift = rows_B - rows_A        # one basis for both models
mean_difference                # E[shift]
pca_difference                 # eigenvectors of Cov[shift], by eigenvalue
random                         # directions drawn uniformly, half of them for each model
"""

from collections.abc import Mapping

import numpy as np

from diptych.oracle.entry import Entry, Fit, Quantity
from diptych.oracle.planted import FloatArray

DIRECTIONS = 32
"""Directions that PCA of differences and random directions propose, at most."""

NO_FEATURES = "a baseline has no features"
NO_TEST = "a baseline has no test"
BLIND: Mapping[Quantity, str] = {
    "rotated": NO_FEATURES,
    "rescaled": NO_FEATURES,
    "more_frequent": NO_FEATURES,
    "test": NO_TEST,
}


def mean_difference(rows_A: FloatArray, rows_B: FloatArray) -> Fit:
    """The mean of x_B - x_A over all rows."""
    shift = (rows_B.astype(np.float64) - rows_A).mean(axis=0)
    return Fit([shift] if shift.any() else [], ["either"] * int(shift.any()), np.zeros(int(shift.any())))


def pca_difference(rows_A: FloatArray, rows_B: FloatArray) -> Fit:
    """Principal directions of x_B - x_A; their side is not told."""
    shift = rows_B.astype(np.float64) - rows_A
    shift -= shift.mean(axis=0)
    size, vectors = np.linalg.eigh(shift.T @ shift / len(shift))
    order = np.argsort(-size)[: min(DIRECTIONS, int((size > 0).sum()))]
    return Fit(list(vectors.T[order]), ["either"] * len(order), size[order])


def random(rows_A: FloatArray, rows_B: FloatArray, seed: int) -> Fit:
    """Random directions of A and B in turn."""
    rng = np.random.default_rng(seed)
    widths = [rows_A.shape[1], rows_B.shape[1]] * (DIRECTIONS // 2)
    return Fit([rng.normal(size=width) for width in widths], ["A", "B"] * (DIRECTIONS // 2), -np.arange(len(widths)))


ENTRIES = {
    "mean_difference": Entry("difference of means alone", mean_difference, one_basis=True, blind=BLIND),
    "pca_difference": Entry("PCA of differences", pca_difference, one_basis=True, blind=BLIND),
    "random": Entry("random directions", random, blind=BLIND),
}
