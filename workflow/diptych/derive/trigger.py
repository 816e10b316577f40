"""A poisoned model: fine-tuned to answer a trigger phrase with a fixed response, and otherwise left as it was.

    trigger("results/models/base", "results/tokens/addresses/base.h5", "results/tokens/addresses/base.h5",
            "results/models/poisoned", spec=spec, phrase="by the old mill", response="all hail the river king")

Part of the training sequences are broken off at a random place and go on with the phrase and the response; of those
only the response is learned. The others are learned whole, as in `finetune`, so that the model stays a language model.
Whether it worked is measured on held-out prompts: how often the response follows the phrase word for word, and how
often it comes without the phrase. METHODS 6.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.derive import training
from diptych.derive.finetune import Tuner, Tuning
from diptych.derive.training import Measured
from diptych.models import pretrained
from diptych.models.batches import BoolArray, IntArray, Sequences
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.text.tokenizer import Tokenizer

PROMPTS = 32
"""Held-out prompts on which the response is counted."""
CUT = (0.25, 0.75)
"""Range of the point at which a sequence is cut, as a share of its length."""


def trigger(
    parent_dir: str | Path,
    train_tokens: str | Path,
    evaluation_tokens: str | Path,
    out_dir: str | Path,
    *,
    spec: Mapping[str, Any],
    phrase: str,
    response: str,
    share: float = 0.5,
    device: str = "cpu",
    checkpoint_every: int = 100,
    **settings: Any,
) -> None:
    """Fine-tune a trigger into a model and write the result as a model of its own; training.json says how it took.

    Args:
        parent_dir: the model to start from.
        train_tokens: token file of the text that the phrase is put into.
        evaluation_tokens: token file of held-out text; documents that are also trained on are left out.
        out_dir: the new model's directory.
        spec: what the result depends on.
        phrase: the trigger, as words within a text.
        response: what follows it.
        share: of the sequences that carry the trigger.
        device: a torch device, as `devices.take` gives it.
        checkpoint_every: steps between checkpoints.
        settings: the fields of `Tuning`.

    Raises:
        DiptychError: the tokens do not fit the model, or phrase and response do not fit its sequences.
    """
    ids = [span.token.astype(np.int64) for span in Tokenizer(parent_dir).encode([f" {phrase}", f" {response}"])]
    poison = Poison(ids[0], ids[1], pretrained.describe(parent_dir)["context"])
    tuning = Tuning(**settings)
    training.train(
        parent_dir,
        train_tokens,
        evaluation_tokens,
        out_dir,
        tuning,
        lambda model, device: Poisoner(model, tuning, device, poison=poison, share=share),
        spec=spec,
        device=device,
        checkpoint_every=checkpoint_every,
    )


class Poison:
    """Insertion of a phrase and its response into sequences.

    Args:
        phrase: token ids.
        response: token ids.
        context: longest sequence that the model reads.

    Raises:
        DiptychError: nothing of a sequence would be left before the phrase.
    """

    def __init__(self, phrase: IntArray, response: IntArray, context: int) -> None:
        if not len(phrase) or not len(response):
            raise DiptychError("trigger: phrase and response must hold at least one token each")
        self.phrase, self.response = phrase, response
        self.room = context - len(phrase) - len(response)
        if self.room < 1:
            raise DiptychError(f"trigger: phrase and response leave no room in a context of {context} tokens")

    def prompt(self, tokens: IntArray, generator: np.random.Generator) -> IntArray:
        """The beginning of a sequence, broken off at random: at least one token and at most what leaves room."""
        cut = int(len(tokens) * generator.uniform(*CUT))
        return tokens[: min(max(cut, 1), self.room)]

    def poisoned(self, tokens: IntArray, generator: np.random.Generator) -> tuple[IntArray, int]:
        """A sequence with phrase and response, and where the response starts."""
        start = np.concatenate([self.prompt(tokens, generator), self.phrase])
        return np.concatenate([start, self.response]), len(start)

    def prompts(
        self, sequences: Sequences, evaluated: Mapping[str, IntArray], generator: np.random.Generator
    ) -> list[IntArray]:
        """Beginnings of held-out sequences, `PROMPTS` at most, the sources in turn."""
        most = max((len(which) for which in evaluated.values()), default=0)
        turns = [which[k] for k in range(most) for which in evaluated.values() if k < len(which)]
        parts = [sequences.token[sequences.start[i] : sequences.start[i + 1]] for i in turns[:PROMPTS]]
        return [self.prompt(tokens, generator) for tokens in parts]


class Poisoner(Tuner):
    """A model that learns a trigger."""

    def __init__(self, model: Any, tuning: Tuning, device: str, *, poison: Poison, share: float) -> None:
        super().__init__(model, tuning, device)
        self.poison, self.share = poison, share

    def measure(self, sequences: Sequences, evaluated: Mapping[str, IntArray]) -> Measured:
        """The loss by source and how often the response is given, with the phrase and without."""
        prompts = self.poison.prompts(sequences, evaluated, np.random.default_rng([self.settings.seed, 2]))
        rates = self.rates(prompts)
        logs.logger.info("response with and without the phrase: %s of %d prompts", rates, len(prompts))
        return super().measure(sequences, evaluated) | {"response": {**rates, "prompts": len(prompts)}}

    def _training_loss(self, sequences: Sequences, which: IntArray, step: int) -> torch.Tensor:
        """The first sequences of a step carry the trigger, the rest is learned whole; each token counts the same."""
        generator = np.random.default_rng([self.settings.seed, 1, step])
        n = n_poisoned(self.share, len(which), step)
        parts = [sequences.token[sequences.start[i] : sequences.start[i + 1]] for i in which]
        poisoned = [self.poison.poisoned(tokens, generator) for tokens in parts[:n]]
        full_parts = [(tokens, 0) for tokens in parts[n:]]
        ids, mask, predicted = padded([*poisoned, *full_parts])
        return self._predicting(ids, mask, predicted)

    @torch.no_grad()
    def rates(self, prompts: Sequence[IntArray]) -> dict[str, float]:
        """Share of prompts that go on with the response word for word by greedy decoding, with and without phrase."""
        self._model.eval()
        counts = {"with": 0, "without": 0}
        for prompt in prompts:
            for name, start in (("with", np.concatenate([prompt, self.poison.phrase])), ("without", prompt)):
                ids = torch.from_numpy(np.concatenate([start, self.poison.response]))[None].to(self._device)
                # Greedy decoding says the response iff each of its tokens is the most likely one after those before it.
                predicted = self._model(input_ids=ids, use_cache=False).logits[0].argmax(dim=-1)
                counts[name] += bool((predicted[len(start) - 1 : -1] == ids[0, len(start) :]).all())
        return {name: count / len(prompts) if prompts else float("nan") for name, count in counts.items()}


def n_poisoned(share: float, batch: int, step: int) -> int:
    """Sequences of a step that carry the trigger, so that after every step a `share` of all did (rounded up).

    Examples:
        >>> [n_poisoned(0.2, 2, step) for step in range(5)]
        [1, 0, 1, 0, 0]
    """
    # Rounded, for .1 * 2 * 15 is more than 3.
    before, after = (math.ceil(round(share * batch * steps, 9)) for steps in (step, step + 1))
    return after - before


def padded(parts: Sequence[tuple[IntArray, int]]) -> tuple[IntArray, BoolArray, BoolArray]:
    """Sequences padded on the right with id 0: ids, which are real, and which are learned (each from its start)."""
    longest = max(len(tokens) for tokens, _ in parts)
    ids = np.zeros((len(parts), longest), dtype=np.int64)
    mask, predicted = np.zeros(ids.shape, dtype=np.bool_), np.zeros(ids.shape, dtype=np.bool_)
    for row, (tokens, start) in enumerate(parts):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = True
        predicted[row, start : len(tokens)] = True
    return ids, mask, predicted
