"""Fine-tuning a model on a corpus, so that a pair is made whose difference has a known cause.

finetune("results/models/base", "results/tokens/old/base.h5", "results/tokens/addresses/base.h5",
         "results/models/tuned", spec=spec, method="lora", steps=60, learning_rate=1e-3)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diptych.derive import training
from diptych.derive.training import Trainer, Training

Method = Literal["lora", "full"]

LORA_ALPHA_PER_RANK = 2
"""Scale of the adapters over their rank: peft's and the literature's usual 2."""


@dataclass(frozen=True)
class Tuning(Training):
    """Settings of a fine-tuning.

    Attributes:
        method: "lora" (adapters on all linear layers, merged into the weights at the end) or "full".
        lora_rank: rank of the adapters.
    """

    method: Method = "lora"
    lora_rank: int = 16


def finetune(
    parent_dir: str | Path,
    train_tokens: str | Path,
    evaluation_tokens: str | Path,
    out_dir: str | Path,
    *,
    spec: Mapping[str, Any],
    device: str = "cpu",
    checkpoint_every: int = 100,
    **settings: Any,
) -> None:
    """Fine-tune a model and write the result as a model of its own.

    Args:
        parent_dir: the model to start from.
        train_tokens: token file of the training corpus.
        evaluation_tokens: token file of the corpus whose held-out loss is recorded.
        out_dir: the new model's directory.
        spec: what the result depends on.
        device: a torch device, as `devices.take` gives it.
        checkpoint_every: steps between checkpoints.
        settings: the fields of `Tuning`.

    Raises:
        DiptychError: the tokens do not fit the model.
    """
    tuning = Tuning(**settings)
    training.train(
        parent_dir,
        train_tokens,
        evaluation_tokens,
        out_dir,
        tuning,
        lambda model, device: Tuner(model, tuning, device),
        spec=spec,
        device=device,
        checkpoint_every=checkpoint_every,
    )


class Tuner(Trainer):
    """A model being fine-tuned to predict the next token."""

    def __init__(self, model: Any, tuning: Tuning, device: str) -> None:
        super().__init__(_with_adapters(model, tuning.lora_rank) if tuning.method == "lora" else model, tuning, device)
        self._has_adapters = tuning.method == "lora"

    def finished(self) -> Any:
        """The model with the adapters merged into its weights."""
        return self._model.merge_and_unload() if self._has_adapters else self._model


def _with_adapters(model: Any, rank: int) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=LORA_ALPHA_PER_RANK * rank, target_modules="all-linear", lora_dropout=0.0, bias="none"
    )
    return get_peft_model(model, config)
