"""The section `linear_map`: maps between activation spaces."""

from typing import Annotated, Literal

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import PositiveFloat, PositiveInt, Seed


class LinearMap(Strict):
    """The ladder of maps between activation spaces, and directions that the best one leaves unexplained (METHODS 2)."""

    shrink_to: Literal["simple", "zero"] = "simple"
    """Limit of ridge as its penalty grows: identity or Procrustes, or zero (the textbook form)."""
    alphas: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = tuple(
        10.0 ** (half / 2) for half in range(-12, 5)
    )
    """Grid of ridge penalties, in units of the mean variance of A's coordinates, increasing."""
    directions: PositiveInt = 10
    """Stored directions of each kind, principal and unexplained."""
    contexts: PositiveInt = 20
    """Stored rows at either end of a direction."""
    bootstrap: PositiveInt = 1000
    """Poisson replicates over documents for the bounds of an effect."""
    seed: Seed = 0
    """Seed of the bootstrap and of the random directions that steering is compared with."""
