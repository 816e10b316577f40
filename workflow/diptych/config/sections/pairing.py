"""The section `pairing`: which feature of A belongs to which feature of B."""

from typing import Annotated, Literal

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Positive, Share


class Pairing(Strict):
    """Pairing of features, and what stays unmatched (METHODS 3.2)."""

    rule: Literal["many_to_one", "one_to_many", "one_to_one", "mutual", "hungarian"] = "one_to_one"
    """Who may take whom: best of A for each of B, the reverse, best pair first, mutual best, or largest total."""
    score: Literal["rho", "cosine", "euclidean", "mean"] = "rho"
    """Correlation, decoder cosine after the map, distance after the map, or the mean of the first two."""
    cut: Share = 0.05
    """q of the decoys above which a match is none; 1 keeps all pairs."""
    twin: Share = 0.99
    """Score inside one dictionary, in the pairing's own (decoder cosine for euclidean), from which two features count
    as one: else they would be each other's decoys."""
    min_retention: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Least length of a mapped decoder row, relative to the median, for its cosine to mean anything."""
    concept_filter: bool = True
    """Drop pairs whose top tokens hold a stop token or have none in common."""
    rho_floor: float = 0.1
    """Drop pairs at or below this correlation."""
    bootstrap: Positive = 1000
    """Poisson replicates over documents for the bounds of an effect."""
    seed: int = 0
    """Seed of the bootstrap."""
