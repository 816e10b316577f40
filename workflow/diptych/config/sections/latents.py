"""The section `latents`: how crosscoder latents are described."""

from typing import Annotated

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Positive


class Latents(Strict):
    """What each latent of a crosscoder is called, and how sure that is (METHODS 5)."""

    exclusive: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Relative norm below which a latent is A-only, and above one minus which it is B-only (.3 is also used)."""
    shared: Annotated[tuple[float, ...], Field(min_length=2, max_length=2)] = (0.4, 0.6)
    """Relative norms between which a latent is shared."""
    n_bootstrap: Positive = 200
    """Poisson replicates over documents for intervals."""
    min_firings: Positive = 50
    """Firings below which latent scaling is not computed."""
    top_rows: Positive = 20
    """Strongest rows kept of each latent."""
    seed: int = 0
    """Seed of the bootstrap."""
