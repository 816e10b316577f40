"""Settings of the training of a dictionary, for either trainer.

settings = Settings("topk", n_features=1024, k=32, steps=300)
settings.dead_after                            # rows without firing after which a feature is dead
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from diptych.dictionaries.saelens_format import Weights
from diptych.runtime.errors import DiptychError

Architecture = Literal["standard", "topk", "batchtopk", "jumprelu"]

DEAD_SHARE = 0.05
"""A feature that has not fired for this share of the run is dead and gets the auxiliary loss (METHODS 5)."""
LOSS_STEPS = 10
"""Steps between two losses on the bar: reading one makes a GPU wait."""


@dataclass(frozen=True)
class Settings:
    """Settings of the training of a dictionary.

    Attributes:
        architecture: a batchtopk dictionary is saved as jumprelu with one threshold.
        n_features: F.
        k: features active on a row: exactly (topk), on average (batchtopk), or aimed at (jumprelu).
        steps: optimiser steps.
        batch: rows a step.
        learning_rate: peak, Adam.
        warmup: share of the steps with a rising learning rate.
        decay: share of the steps, at the end, over which it falls to 0.
        l1_coefficient: weight of the sparsity penalty (standard), on the scaled rows.
        seed: of the weights and the order of the rows.
    """

    architecture: Architecture = "topk"
    n_features: int = 1024
    k: int = 32
    steps: int = 300
    batch: int = 1024
    learning_rate: float = 3e-3
    warmup: float = 0.05
    decay: float = 0.2
    l1_coefficient: float = 5.0
    seed: int = 0

    @property
    def dead_after(self) -> float:
        """Rows without firing after which a feature is dead."""
        return DEAD_SHARE * self.steps * self.batch

    def reads_loss(self, step: int) -> bool:
        """Whether the loss is read once `step` steps are done."""
        return step % LOSS_STEPS == 0 or step == self.steps

    def check_loss(self, loss: float, step: int) -> None:
        """Raise `DiptychError` unless the loss is finite."""
        if not math.isfinite(loss):
            raise DiptychError(
                f"dictionary: the loss is {loss} at step {step}; lower `learning_rate` (now {self.learning_rate:g})"
            )


class Trained(NamedTuple):
    """A trained dictionary that reads raw rows and has unit decoder rows.

    Attributes:
        config: of SAELens, as `saelens_format.write` takes it.
        weights: float32, by SAELens' names.
        n_dead: features that had not fired for `DEAD_SHARE` of the run at its end.
    """

    config: dict[str, object]
    weights: Weights
    n_dead: int
