"""The section `steering`: along what models are pushed, and how far."""

from typing import Annotated

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Alias, Positive, Rate


class Steering(Strict):
    """What models write when they are pushed along what was found (METHODS 7)."""

    pairs: tuple[Alias, ...] | None = None
    """Pairs that are steered; null is every compared and planted pair at sites in the residual stream."""
    top: Annotated[int, Field(ge=0)] = 2
    """Found directions, and unmatched features, of each pair; the best first."""
    matched: Annotated[int, Field(ge=0)] = 1
    """Matched features, to see whether A's carried into B does what B's own does."""
    strengths: Annotated[tuple[Rate, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    """Length of what is added, in median norms of the model's activations at the site."""
    positions: str = "generated"
    """generated (from the last token of the prompt on), last (that token alone), or with `chat` a named position of
    the chat template's assistant header."""
    random: Annotated[int, Field(ge=0, le=32)] = 4
    """Random directions of each model, drawn from the covariance of the map's residual."""
    latents: Annotated[int, Field(ge=0)] = 4
    """Random live features of each model, of about the density of the found ones."""
    prompts: Annotated[tuple[str, ...], Field(min_length=1)] = ("The", "I think that", "Yesterday", "In the end, we")
    """What the models go on from."""
    chat: bool = False
    """Prompts are the user's turn in the model's own chat template."""
    samples: Positive = 4
    """Texts of each prompt, direction and strength."""
    length: Positive = 24
    """Tokens of a text."""
    batch: Positive = 64
    """Texts written at a time; their distributions are held, 4 bytes for each token of text and of the vocabulary."""
    lens: Positive = 10
    """Tokens shown at either end of the logit lens."""
    explain_scales: tuple[Rate, ...] = (1.0, 2.0, 4.0)
    """Lengths of the direction in the self-explanation prompt, in median norms behind the first block; [] is none."""
    explain_length: Positive = 16
    """Tokens of an explanation."""
    seed: int = 0
    """Seed of the texts and of the choice of random features."""
