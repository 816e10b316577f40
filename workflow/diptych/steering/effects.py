"""What steering did: reading its artifact, without a model.

read("steering.h5").causal["B", "linear_map", "unexplained 1"]      # 3.2: three times a random direction's effect
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
"""One row a trial: KL(steered || unsteered) in nats a token with its standard error over texts, perplexity of the
texts under the unsteered model, share of the item's own words among the tokens, and the same without steering."""


@dataclass(frozen=True)
class Steering:
    """What `steer` wrote.

    Attributes:
        items: what was steered: method, id, side, words, density, carried, causal.
        trials: `TRIAL_COLUMNS`; A's trials first, each model's first one unsteered.
        texts: trial, prompt, sample, text.
        agreement: item, between, strength, cosine, null.
        lens: model, item, role, promoted, suppressed.
        explanations: model, item, scale, text.
        prompts: the prompts.
        settings: how texts were written.
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
        """`causal` by (side, method, id)."""
        keys = zip(self.items["side"], self.items["method"], self.items["id"], strict=True)
        return {key: float(value) for key, value in zip(keys, self.items["causal"], strict=True)}


def read(path: str | Path) -> Steering:
    """An artifact of kind "steering"."""
    with artifacts.read(path, "steering") as file:
        tables = {
            name: artifacts.read_table(file, name)
            for name in ("items", "trials", "texts", "agreement", "lens", "explanations")
        }
        return Steering(**tables, prompts=artifacts.read_strings(file, "prompts"),
                        settings=artifacts.read_json(file, "settings"))  # fmt: skip


def causal(trials: Columns, item: int, side: str) -> float:
    """KL of steering a model along its own direction over that of random directions of the same length.

    The geometric mean over strengths of the ratio to the random directions' mean; NaN without random directions.
    """
    ratios = []
    mine = trials["model"] == side
    own = mine & (trials["role"] == "own") & (trials["item"] == item)
    for strength in np.unique(trials["strength"][own]):
        at = trials["strength"] == strength
        chance = trials["kl"][mine & at & (trials["role"] == "random")]
        if not len(chance) or not chance.mean() > 0:
            return math.nan
        ratios.append(float(trials["kl"][own & at].mean() / chance.mean()))
    return float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-12))))) if ratios else math.nan


def to_tsv(trials: Columns) -> str:
    """The trials as tab-separated text."""
    return tsv({name: trials[name] for name in TRIAL_COLUMNS})
