"""The section `means`: mean differences of activations at named places."""

from typing import Annotated

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import PositiveInt, Seed, Share


class Means(Strict):
    """Mean differences of two models' activations: at the first positions of a text, at the roles of its tokens, over
    all rows, and over the rows that moved most (METHODS 11).
    """

    positions: Annotated[int, Field(ge=1, le=32)] = 5
    """First positions of a text, each a place of its own; a site group with `rows: first` stores just these."""
    moved: Share = 0.01
    """Share of the rows that count that moved most, by their distance between the models."""
    lens: PositiveInt = 20
    """Tokens that a difference promotes, and that it suppresses, by the logit lens."""
    random: PositiveInt = 20
    """Random directions with whose tokens those of a difference are compared."""
    contexts: PositiveInt = 20
    """Stored rows of each place."""
    bootstrap: PositiveInt = 1000
    """Poisson replicates over documents for the bounds of an effect."""
    seed: Seed = 0
    """Seed of the bootstrap and of the random directions."""
