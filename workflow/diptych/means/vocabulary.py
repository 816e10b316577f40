"""Directions in words: the tokens that they promote, and how many of these are a fine-tune's own.

own = own_vocabulary("tokens/nineteenth/base.h5", "tokens/addresses/base.h5")   # `text.own_vocabulary`
lens = read_lens("models/tuned", directions, scale=210.0, count=20)
share_of(lens.promoted, own)        # [n], share of each direction's promoted tokens
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diptych.models import ends, lens
from diptych.text.tokenizer import Tokenizer

IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lens:
    """Tokens that n directions promote and suppress most, strongest first: ids int64 [n, count], and their texts."""

    promoted: IntArray
    suppressed: IntArray
    promoted_text: list[list[str]]
    suppressed_text: list[list[str]]


def read_lens(model: str | Path, directions: DoubleArray, *, scale: float, count: int) -> Lens:
    """The logit lens of directions through a model's final norm and unembedding.

    Args:
        model: its directory.
        directions: unit rows [n, d].
        scale: length of a typical residual.
        count: tokens at either end.
    """
    logits = lens.lens(ends.load(model), directions.astype(np.float32), scale)
    order = np.argsort(-logits, axis=1, kind="stable").astype(np.int64)
    tokenizer = Tokenizer(model)
    promoted, suppressed = order[:, :count], order[:, ::-1][:, :count]
    return Lens(
        promoted,
        suppressed,
        [tokenizer.texts(row.tolist()) for row in promoted],
        [tokenizer.texts(row.tolist()) for row in suppressed],
    )


def texts(model: str | Path, tokens: IntArray) -> list[str]:
    """The text of each token id."""
    return Tokenizer(model).texts(tokens.tolist())


def share_of(tokens: IntArray, own: IntArray) -> DoubleArray:
    """Share of each row of token ids [n, count] that is in the vocabulary, float64 [n]."""
    share: DoubleArray = np.isin(tokens, own).mean(axis=1)
    return share
