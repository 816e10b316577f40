"""The sections `activations` and `alignment`: rows of activations that count, and how they are stored."""

from typing import Annotated, Literal

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import PositiveInt, Share


class Activations(Strict):
    """Storing activations."""

    store: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Precision on disk; float16 is refused where values exceed its range."""
    shards: PositiveInt = 1
    """Files (and jobs) per model, corpus and site group."""
    batch_tokens: PositiveInt | None = None
    """Tokens per forward pass; null follows from the model's width (7,281 at 576, 1,820 at 2,304)."""
    outlier_norm: Annotated[float, Field(gt=1)] = 4.0
    """Rows with a norm above this multiple of the model's median do not count (massive activations)."""


class Alignment(Strict):
    """Rows of models with different tokenizers."""

    min_coverage: Share = 0.5
    """Minimum share, in every source, of counted tokens that end where a token of the other tokenizer ends."""
