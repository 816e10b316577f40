"""Effects of steering, read from its artifact.

read("steering.h5").causal["B", "linear_map", "unexplained 1"].ratio    # 3.2: times the effect of a random direction
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

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


Key = tuple[str, str, str]
"""An item by (side, method, id)."""


class Effect(NamedTuple):
    """The causal effect of an item on its own model.

    Attributes:
        ratio: as the function `causal` gives it.
        strongest_random: the same of the random direction of the largest; NaN without random directions.
    """

    ratio: float
    strongest_random: float


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

    @cached_property
    def causal(self) -> dict[Key, Effect]:
        """Causal effect of each item."""
        strongest = {side: strongest_random(self.trials, side) for side in ("A", "B")}
        return {
            key: Effect(float(ratio), strongest[key[0]])
            for key, ratio in zip(self._keys, self.items["causal"], strict=True)
        }

    @cached_property
    def promoted(self) -> dict[Key, tuple[str, ...]]:
        """Tokens that each item's direction promotes in its own model."""
        keys, own = self._keys, self.lens["role"] == "own"
        return {
            keys[item]: tuple(json.loads(promoted))
            for item, promoted in zip(self.lens["item"][own], self.lens["promoted"][own], strict=True)
        }

    @cached_property
    def _keys(self) -> list[Key]:
        return list(zip(self.items["side"], self.items["method"], self.items["id"], strict=True))


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
    return _over_random(trials, side, (trials["role"] == "own") & (trials["item"] == item))


def strongest_random(trials: Columns, side: str) -> float:
    """The causal effect of the random direction of a model that has the largest."""
    random = trials["role"] == "random"
    of_each = [random & (trials["name"] == name) for name in np.unique(trials["name"][random])]
    effects = [_over_random(trials, side, of_one) for of_one in of_each]
    return max((effect for effect in effects if math.isfinite(effect)), default=math.nan)


def _over_random(trials: Columns, side: str, own: npt.NDArray[np.bool_]) -> float:
    """Mean KL of the trials `own` of a model over that of its random directions, geometric mean over strengths."""
    of_model = trials["model"] == side
    ratios = []
    for strength in np.unique(trials["strength"][own & of_model]):
        at = of_model & (trials["strength"] == strength)
        chance = trials["kl"][at & (trials["role"] == "random")]
        if not len(chance) or not chance.mean() > 0:
            return math.nan
        ratios.append(float(trials["kl"][own & at].mean() / chance.mean()))
    return float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-12))))) if ratios else math.nan


def to_tsv(trials: Columns) -> str:
    """The trials as tab-separated text."""
    return tsv({name: trials[name] for name in TRIAL_COLUMNS})
