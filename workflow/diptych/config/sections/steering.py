"""The section `steering`: steered directions, strengths and prompts."""

from typing import Annotated, ClassVar

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Alias, Count, PositiveFloat, PositiveInt, Seed


class Steering(Strict):
    """Continuations of models that are steered along candidates (METHODS 7)."""

    prose: ClassVar[frozenset[str]] = frozenset({"prompts"})

    pairs: tuple[Alias, ...] | None = None
    """Pairs that are steered; null is every compared and planted pair at sites in the residual stream."""
    top: Count = 2
    """Candidates of each method (means, linear map, pairing, crosscoder) that are steered along in a pair: its findings
    first. Each takes a continuation of every prompt, sample and strength in both models."""
    matched: Count = 1
    """Matched features steered per pair, to test whether A's, mapped into B, acts like B's."""
    features: dict[Alias, tuple[Count, ...]] = {}
    """Further features that are steered along, by dictionary: in every steered pair that reads it."""
    strengths: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    """Norm of the added vector, in median norms of the model's activations at the site."""
    positions: str = "generated"
    """generated (from the last token of the prompt on), last (that token alone), or with `chat` a named position of
    the chat template's assistant header."""
    random: Annotated[int, Field(ge=0, le=32)] = 4
    """Random directions per model, drawn from the covariance of the map's residual."""
    latents: Count = 4
    """Random live features per model, of about the density of the candidates."""
    prompts: Annotated[tuple[str, ...], Field(min_length=1)] = ("The", "I think that", "Yesterday", "In the end, we")
    """Prompts that the models continue."""
    chat: bool = False
    """Put prompts into the user turn of the model's chat template."""
    samples: PositiveInt = 4
    """Continuations per prompt, direction and strength."""
    length: PositiveInt = 24
    """Tokens per continuation."""
    batch: PositiveInt = 64
    """Continuations generated at a time; their distributions are in memory, 4 bytes per token and vocabulary entry."""
    lens: PositiveInt = 10
    """Tokens shown at either end of the logit lens."""
    explain_scales: tuple[PositiveFloat, ...] = (1.0, 2.0, 4.0)
    """Norms of the direction in the self-explanation prompt, in median norms after the first block; [] is none."""
    explain_length: PositiveInt = 16
    """Tokens per explanation."""
    seed: Seed = 0
    """Seed of the continuations and of the choice of random features."""
