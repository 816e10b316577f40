"""The layout of the published Gemma-2-2B base/IT crosscoder: an L1 crosscoder on rows that are scaled beforehand.

    f = relu(sum_m s^m x^m W_enc[m] + b_enc),  x_hat^m = (f W_dec[:, m] + b_dec[m]) / s^m

The file has no scales s; they are a setting of the import (`scales`), 1 if not given.
"""

from diptych.crosscoder.published.layout import Tensors, build, require, require_shape
from diptych.sparse_coding.architecture import Architecture, Crosscoder

LAYOUT = "published crosscoder"
NAMES = ("W_enc", "W_dec", "b_enc", "b_dec")


def read(tensors: Tensors) -> Crosscoder:
    """Build a crosscoder from W_enc [M, d, F], W_dec [F, M, d], b_enc [F], b_dec [M, d].

    Raises:
        DiptychError: a tensor is missing or has another shape.
    """
    require(LAYOUT, tensors, NAMES)
    n_models, width, n_latents = tensors["W_enc"].shape
    require_shape(LAYOUT, tensors, "W_dec", (n_latents, n_models, width), "W_enc")
    return build(
        Architecture((width,) * n_models, n_latents, activation="relu"),
        W_enc=tensors["W_enc"],
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"].permute(1, 0, 2),
        b_dec=tensors["b_dec"],
    )
