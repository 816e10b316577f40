"""The section `pairing`: pairing of A's and B's features."""

from typing import Annotated, Literal

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import PositiveInt, Seed, Share


class Pairing(Strict):
    """Pairing of A's and B's features, and the unmatched ones (METHODS 3.2)."""

    rule: Literal["many_to_one", "one_to_many", "one_to_one", "mutual", "hungarian"] = "one_to_one"
    """Matching: best of A for each of B, the reverse, greedy by best pair, mutual best, or maximum total score."""
    score: Literal["rho", "cosine", "euclidean", "mean"] = "rho"
    """Correlation, decoder cosine after the map, distance after the map, or the mean of the first two."""
    cut: Share = 0.05
    """Decoy q above which a pair is not a match; 1 keeps all pairs."""
    twin: Share = 0.99
    """Score within one dictionary, that of the pairing (decoder cosine for euclidean), from which two features count as
    duplicates: else they would be each other's decoys."""
    min_retention: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Minimum norm of a mapped decoder row, relative to the median, for its cosine to be used."""
    concept_filter: bool = True
    """Drop pairs whose top tokens include a stop token or have none in common."""
    rho_floor: float = 0.1
    """Drop pairs at or below this correlation."""
    bootstrap: PositiveInt = 1000
    """Poisson replicates over documents for the bounds of an effect."""
    seed: Seed = 0
    """Seed of the bootstrap."""
