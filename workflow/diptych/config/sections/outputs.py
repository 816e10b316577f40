"""The section `outputs`: what two models predict differently, next token by next token."""

from typing import Annotated

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Count, PositiveInt, Seed, TokenCount


class Outputs(Strict):
    """Comparison of two models' next-token probabilities, without dictionaries and training (METHODS 10)."""

    tokens: TokenCount | None = 65_536
    """Tokens of the pair's corpus that both models read, spread evenly over sources and documents; null is all."""
    replies: Count = 256
    """Prompts whose first token of the reply is compared: of the pair's template diff, or of its own corpus if that
    is in a chat template; 0 is none."""
    top: PositiveInt = 100
    """Tokens that are listed and proposed as findings, of those said more and of those said less."""
    topics: PositiveInt = 5
    """Topics of what B says more, for the reader; they are not tested."""
    planted: Annotated[float, Field(gt=1)] = 2.0
    """Factor by which some tokens are said more often in the positive control."""
    bootstrap: PositiveInt = 1000
    """Poisson replicates over documents for the bounds of an effect."""
    seed: Seed = 0
    """Seed of the bootstrap, the topics and the positive control."""
