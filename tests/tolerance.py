"""Rounding error bounds of matrix products, from their dtype and number of terms."""

import numpy as np


def rounding_bound(x, W):
    """Largest difference of two computations of each entry of x @ W in the inputs' precision, of x @ W's shape.

    A sum of d products is within d eps sum |x_k W_k| of the exact sum in any order of summation (Higham, Accuracy and
    Stability of Numerical Algorithms, 3.1), with fused multiply-add or without; two computed sums within twice that.
    """
    x, W = np.asarray(x), np.asarray(W)
    eps = np.finfo(np.result_type(x, W)).eps
    return 2 * x.shape[-1] * eps * (np.abs(x).astype(np.float64) @ np.abs(W).astype(np.float64))


def assert_products(computed, x, W, exact=None):
    """Assert that `computed` is x @ W within rounding; `exact` may be a 1-Lipschitz function of x @ W (a ReLU)."""
    exact = np.asarray(x, dtype=np.float64) @ np.asarray(W, dtype=np.float64) if exact is None else exact
    excess = np.abs(np.asarray(computed, dtype=np.float64) - exact) - rounding_bound(x, W)
    assert excess.max() <= 0, f"{int((excess > 0).sum())} entries, at worst by {excess.max():.2e} more than rounding"
