"""The section `latents`: classification of crosscoder latents."""

from typing import Annotated

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import PositiveInt, Seed


class Latents(Strict):
    """Classification of crosscoder latents, with the uncertainty of their statistics (METHODS 5)."""

    exclusive: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Relative norm below which a latent is A-only, and above one minus which it is B-only (.3 is also used)."""
    shared: Annotated[tuple[float, ...], Field(min_length=2, max_length=2)] = (0.4, 0.6)
    """Relative norms between which a latent is shared."""
    n_bootstrap: PositiveInt = 200
    """Poisson replicates over documents for intervals."""
    min_firings: PositiveInt = 50
    """Firings below which latent scaling is not computed."""
    top_rows: PositiveInt = 20
    """Most activating rows stored for each latent."""
    seed: Seed = 0
    """Seed of the bootstrap."""
