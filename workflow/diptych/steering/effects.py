"""Effects of steering, read from its artifact.

read("steering.h5").causal["B", "linear_map", "unexplained 1"]      # 3.2: 3.2 times the effect of a random direction
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.storage import artifacts
from diptych.storage.tables import tsv

Columns = Mapping[str, npt.NDArray[Any]]

TRIAL_COLUMNS = (
    "model", "role", "item", "method", "name", "strength", "kl", "kl_error", "perplexity", "share", "share_unsteered",
    "tokens",
)  # fmt: skip
"""One row per trial: KL(steered || unsteered) in nats per token with its standard error over texts, perplexity of the
texts under the unsteered model, share of the item's words among the tokens, and the same share without steering."""


@dataclass(frozen=True)
class Steering:
    """The contents of an artifact of kind "steering".

    Attributes:
        items: directions that were steered along: method, id, side, words, density, carried, causal.
        trials: `TRIAL_COLUMNS`; A's trials first; the first trial of each model is unsteered.
        texts: trial, prompt, sample, text.
        agreement: item, between, strength, cosine, null.
        lens: model, item, role, promoted, suppressed.
        explanations: model, item, scale, text.
        prompts: the prompts.
        settings: settings of generation.
    """

    items: Columns
    trials: Columns
    texts: Columns
    agreement: Columns
    lens: Columns
    explanations: Columns
    prompts: Sequence[str]
    settings: Mapping[str, Any]

    @property
    def causal(self) -> dict[tuple[str, str, str], float]:
        """Causal effect of each item by (side, method, id); see the function `causal`."""
        keys = zip(self.items["side"], self.items["method"], self.items["id"], strict=True)
        return {key: float(value) for key, value in zip(keys, self.items["causal"], strict=True)}


def read(path: str | Path) -> Steering:
    """Read an artifact of kind "steering"."""
    with artifacts.read(path, "steering") as file:
        tables = {
            name: artifacts.read_table(file, name)
            for name in ("items", "trials", "texts", "agreement", "lens", "explanations")
        }
        return Steering(**tables, prompts=artifacts.read_strings(file, "prompts"),
                        settings=artifacts.read_json(file, "settings"))  # fmt: skip


def causal(trials: Columns, item: int, side: str) -> float:
    """Causal effect: KL of steering along an item's direction over that of random directions of the same length.

    The geometric mean over strengths of the ratio to the random directions' mean; NaN without random directions.
    """
    ratios = []
    of_model = trials["model"] == side
    own = of_model & (trials["role"] == "own") & (trials["item"] == item)
    for strength in np.unique(trials["strength"][own]):
        at = trials["strength"] == strength
        chance = trials["kl"][of_model & at & (trials["role"] == "random")]
        if not len(chance) or not chance.mean() > 0:
            return math.nan
        ratios.append(float(trials["kl"][own & at].mean() / chance.mean()))
    return float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-12))))) if ratios else math.nan


def to_tsv(trials: Columns) -> str:
    """The trials as tab-separated text."""
    return tsv({name: trials[name] for name in TRIAL_COLUMNS})
