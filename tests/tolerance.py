"""How far a product in floating point may be from another one of the same numbers: by its dtype and number of terms."""

import numpy as np


def product(x, W):
    """Largest |computed - exact| of each entry of x @ W in the inputs' own precision, twice: two kernels may differ.

    A sum of d products is within d eps sum |x_k W_k| of the exact one in whatever order it is taken (Higham, Accuracy
    and Stability of Numerical Algorithms, 3.1); fused or not, at any width of a vector unit.
    """
    x, W = np.asarray(x), np.asarray(W)
    eps = np.finfo(np.result_type(x, W)).eps
    return 2 * x.shape[-1] * eps * (np.abs(x).astype(np.float64) @ np.abs(W).astype(np.float64))


def assert_products(found, x, W, exact=None):
    """Whether `found` is x @ W, or a function of it that moves no number away from another (a ReLU), to rounding."""
    exact = np.asarray(x, dtype=np.float64) @ np.asarray(W, dtype=np.float64) if exact is None else exact
    excess = np.abs(np.asarray(found, dtype=np.float64) - exact) - product(x, W)
    assert excess.max() <= 0, f"{int((excess > 0).sum())} entries, at worst by {excess.max():.2e} more than rounding"
