"""Kinds of cases of the leaderboard, and what each means; known without importing what makes them."""

from collections.abc import Mapping
from typing import Literal

Kind = Literal["planted", "limit", "identical", "noise", "halves", "swap"]
PLANTED: tuple[Kind, ...] = ("planted", "limit")
NULLS: tuple[Kind, ...] = ("identical", "noise", "halves", "swap")
MEANINGS: Mapping[Kind, str] = {
    "planted": "features that differ as labelled",
    "limit": "the same of a stated size and number of documents",
    "identical": "a model with itself: a check of bookkeeping",
    "noise": "all features shared, noise of each model's own",
    "halves": "a model with itself, each copy in bfloat16 on one half of the documents",
    "swap": "the planted pair with each document's models exchanged with probability 1/2",
}
