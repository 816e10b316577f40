"""The section `linear_map`: maps between activation spaces."""

from typing import Annotated, Literal

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Positive, Rate


class LinearMap(Strict):
    """The ladder of maps between activation spaces, and where the best one fails (METHODS 2)."""

    shrink_to: Literal["simple", "zero"] = "simple"
    """Where ridge goes as its penalty grows: identity or Procrustes, or zero (the textbook form)."""
    alphas: Annotated[tuple[Rate, ...], Field(min_length=1)] = tuple(10.0 ** (half / 2) for half in range(-12, 5))
    """Ridge penalties that are tried, in units of the mean variance of A's coordinates, increasing."""
    directions: Positive = 10
    """Directions kept of each kind, principal and unexplained."""
    contexts: Positive = 20
    """Rows kept at either end of a direction."""
    bootstrap: Positive = 1000
    """Poisson replicates over documents for the bounds of an effect."""
    seed: int = 0
    """Seed of the bootstrap and of the random directions that steering is held against."""
