"""The section `weights`: comparison of two models' weights."""

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import PositiveInt


class Weights(Strict):
    """What changed between the weights of two models of one architecture, tensor by tensor (METHODS 12)."""

    max_side: PositiveInt = 8192
    """Longest shorter side of a matrix whose singular values are computed; their time grows with its third power."""
    top: PositiveInt = 20
    """Most changed matrices whose singular vectors are put into words, besides the first of every kind."""
    vectors: PositiveInt = 2
    """Singular vectors of each that are put into words."""
    tokens: PositiveInt = 10
    """Tokens at either end of a singular vector."""
