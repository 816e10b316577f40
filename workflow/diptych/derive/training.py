"""Training a model on a corpus step by step: the loop that fine-tuning, triggers and distillation share.

    settings = Training(steps=60)
    train("results/models/base", "results/tokens/old/base.h5", "results/tokens/addresses/base.h5",
          "results/models/tuned", settings, lambda parent, device: Trainer(parent, settings, device), spec=spec)

What was learned is measured, not assumed: training.json in the new model's directory holds the loss of every step
and, before and after, the loss on held-out documents of each source of a second corpus. Every step is a function of
(seed, step), so a run that was killed goes on from its last checkpoint and, on a CPU, ends with the same bits.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from diptych.models import pretrained
from diptych.models.batches import BoolArray, IntArray, Sequences
from diptych.runtime import logs
from diptych.storage import artifacts
from diptych.storage.canonical import canonical_json
from diptych.storage.checkpoints import Checkpoint

CLIP_NORM = 1.0
"""Largest norm of a step's gradient, the usual value for language models."""
IGNORED = -100
"""The label that transformers' loss leaves out."""

Curves = dict[str, list[float]]
"""Values of every step by name; "loss" is what is minimised."""
Measured = dict[str, dict[str, float]]
"""Held-out values by what is measured, then by source."""


@dataclass(frozen=True)
class Training:
    """Settings of every training on a corpus.

    Attributes:
        steps: optimiser steps.
        batch_sequences: sequences a step.
        learning_rate: peak of AdamW without weight decay.
        warmup: share of the steps with a rising learning rate; it falls linearly to 0 afterwards.
        autocast: multiply in bfloat16. Faster on GPUs, slower on CPUs without bfloat16 instructions.
        evaluation_size: tokens of each source on which the held-out loss is measured.
        seed: order of the sequences, initial values and dropout.
    """

    steps: int = 60
    batch_sequences: int = 2
    learning_rate: float = 1e-3
    warmup: float = 0.1
    autocast: bool = False
    evaluation_size: int = 1024
    seed: int = 0


@dataclass(frozen=True)
class Schedule:
    """A learning rate that rises linearly over the first `warmup` of the steps and falls linearly to 0."""

    peak: float
    steps: int
    warmup: float

    def at(self, step: int) -> float:
        """Learning rate of step 0 <= step < steps."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return self.peak * (step + 1) / rising
        return self.peak * (self.steps - step) / (self.steps - rising + 1)


def train(
    parent_dir: str | Path,
    train_tokens: str | Path,
    evaluation_tokens: str | Path,
    out_dir: str | Path,
    settings: Training,
    make: Callable[[Any, str], "Trainer"],
    *,
    spec: Mapping[str, Any],
    device: str = "cpu",
    checkpoint_every: int = 100,
) -> None:
    """Train a model that is made from another one, and write the result as a model of its own.

    A checkpoint lies beside `out_dir` while the run lasts; a run of the same spec goes on from it.

    Args:
        parent_dir: the model to start from.
        train_tokens: token file of the training corpus; all its sequences are used, whatever their fold.
        evaluation_tokens: token file of the corpus whose held-out loss is recorded, by source. Documents that are
            also trained on are left out and counted.
        out_dir: the new model's directory; gets training.json too.
        settings: of the training.
        make: what is learned and measured, from the parent in float32 and the device.
        spec: what the result depends on.
        device: a torch device, as `devices.take` gives it.
        checkpoint_every: steps between checkpoints.

    Raises:
        DiptychError: the tokens do not fit the model.
    """
    sequences, held_out = Sequences.read(train_tokens), Sequences.read(evaluation_tokens)
    for tokens in (sequences, held_out):
        tokens.check_fits(pretrained.describe(parent_dir))
    checkpoint = Checkpoint.beside(out_dir, spec)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        trainer = make(pretrained.load(parent_dir, device=device), device)
        evaluated = held_out_sequences(
            held_out, sequences, settings.evaluation_size, np.random.default_rng(settings.seed)
        )
        before = trainer.measure(held_out, evaluated)
        curves = trainer.run(sequences, checkpoint, checkpoint_every)
        after = trainer.measure(held_out, evaluated)
    dtype = pretrained.stored_dtype(parent_dir)
    with pretrained.saving(trainer.finished(), parent_dir, out_dir, spec=spec, dtype=dtype) as directory:
        report = {
            **trainer.record(curves),
            "before": before,
            "after": after,
            "shared_documents": int(_shared(held_out, sequences).sum()),
            "trained_parameters": trainer.n_trained,
            "epochs": settings.batch_sequences * settings.steps / len(sequences),
        }
        artifacts.write_text(directory / "training.json", canonical_json(report) + "\n")
        for name, text in trainer.texts(report, spec.get("reads", {})).items():
            artifacts.write_text(directory / name, text)
    checkpoint.remove()
    for source, loss in after["loss"].items():
        logs.logger.info("held-out loss on %s: %.3f before, %.3f after", source, before["loss"][source], loss)


class Trainer:
    """A model that learns to predict the next token; what else it may learn is a subclass's.

    Args:
        model: its weights that require a gradient are trained.
        settings: of the training.
        device: where the model is.
    """

    dropout: ClassVar[bool] = True
    """Whether the model's dropout is active in training."""

    def __init__(self, model: Any, settings: Training, device: str) -> None:
        self.settings = settings
        self._model = model
        self._device = torch.device(device)
        self._trained = [weight for weight in model.parameters() if weight.requires_grad]

    @property
    def n_trained(self) -> int:
        """Number of weights that are trained."""
        return sum(weight.numel() for weight in self._trained)

    def run(self, sequences: Sequences, checkpoint: Checkpoint | None = None, every: int = 100) -> Curves:
        """Train, from the checkpoint if there is one; the losses of every step."""
        settings = self.settings
        schedule = Schedule(settings.learning_rate, settings.steps, settings.warmup)
        optimiser = torch.optim.AdamW(self._trained, lr=schedule.peak, weight_decay=0.0)
        curves = self._restore(optimiser, checkpoint)
        done = len(curves["loss"])
        order = batches(len(sequences), settings.batch_sequences, np.random.default_rng(settings.seed))
        self._model.train(self.dropout)
        left = islice(enumerate(order), done, settings.steps)
        for step, which in logs.progress(left, "train", total=settings.steps, done=done, unit="step"):
            for group in optimiser.param_groups:
                group["lr"] = schedule.at(step)
            # Dropout too is a function of (seed, step).
            torch.manual_seed(int(np.random.SeedSequence([settings.seed, step]).generate_state(1)[0]))
            for name, value in self._backward(sequences, which, step).items():
                curves.setdefault(name, []).append(value)
            torch.nn.utils.clip_grad_norm_(self._trained, CLIP_NORM)
            optimiser.step()
            optimiser.zero_grad()
            done = step + 1
            if checkpoint is not None and done % every == 0 and done < settings.steps:
                checkpoint.save({"curves": curves, "weights": self._trained, "optimiser": optimiser.state_dict()})
        self._model.eval()
        return curves

    def _restore(self, optimiser: torch.optim.Optimizer, checkpoint: Checkpoint | None) -> Curves:
        """Restore the checkpoint's state; returns the losses of the steps already done."""
        state = None if checkpoint is None else checkpoint.load(str(self._device))
        if checkpoint is None or state is None:
            return {"loss": []}
        with torch.no_grad():
            for weight, stored in zip(self._trained, state["weights"], strict=True):
                weight.copy_(stored)
        optimiser.load_state_dict(state["optimiser"])
        curves: Curves = state["curves"]
        logs.logger.info("going on from step %d of %s", len(curves["loss"]), checkpoint.path)
        return curves

    def measure(self, sequences: Sequences, evaluated: Mapping[str, IntArray]) -> Measured:
        """Evaluation before and after training, for training.json: the loss on held-out sequences by source."""
        return {"loss": self.losses(sequences, evaluated)}

    @torch.no_grad()
    def losses(self, sequences: Sequences, evaluated: Mapping[str, IntArray], at_once: int = 4) -> dict[str, float]:
        """Mean next-token loss (nats) over the chosen sequences of each source; NaN where there are none."""
        self._model.eval()
        means = {}
        for source, which in evaluated.items():
            total, count = 0.0, 0
            for start in range(0, len(which), at_once):
                loss, n = self._loss(sequences, which[start : start + at_once])
                total, count = total + float(loss) * n, count + n
            means[source] = total / count if count else float("nan")
        return means

    def finished(self) -> Any:
        """The trained model, as it is stored."""
        return self._model

    def record(self, curves: Curves) -> dict[str, Any]:
        """What training.json holds of the training itself."""
        return {"curve": curves["loss"]}

    def texts(self, report: Mapping[str, Any], reads: Mapping[str, Any]) -> dict[str, str]:
        """Further text files of the new model's directory, by name.

        Args:
            report: training.json.
            reads: aliases of what the model was made from, as in its spec.
        """
        return {}

    def _backward(self, sequences: Sequences, which: IntArray, step: int) -> dict[str, float]:
        """Gradients of step `step`'s loss on the trained weights; the loss, and what it consists of."""
        loss = self._training_loss(sequences, which, step)
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": float(loss.detach())}

    def _training_loss(self, sequences: Sequences, which: IntArray, step: int) -> torch.Tensor:
        """Loss of step `step`'s batch: next-token prediction of whole sequences."""
        return self._loss(sequences, which)[0]

    def _loss(self, sequences: Sequences, which: IntArray) -> tuple[torch.Tensor, int]:
        """Mean loss over the batch's predicted tokens, and how many these are."""
        batch = sequences.batch(which)
        return self._predicting(batch.ids, batch.mask, batch.mask), int(batch.mask[:, 1:].sum())

    def _predicting(self, ids: IntArray, mask: BoolArray, predicted: BoolArray) -> torch.Tensor:
        """Mean loss over the `predicted` tokens of padded sequences [b, L]; `mask` marks the real ones."""
        on_device = torch.from_numpy(ids).to(self._device)
        real = torch.from_numpy(mask).to(self._device)
        labels = on_device.masked_fill(~torch.from_numpy(predicted).to(self._device), IGNORED)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.settings.autocast):
            loss: torch.Tensor = self._model(
                input_ids=on_device, attention_mask=real.long(), labels=labels, use_cache=False
            ).loss
        return loss


def held_out_sequences(
    sequences: Sequences, train: Sequences, size: int, generator: np.random.Generator
) -> dict[str, IntArray]:
    """For each source, sequences with about `size` tokens from as many documents as possible, none of them trained on.

    Returns:
        Sequence numbers by source name, in the order of the sources.
    """
    usable = ~_shared(sequences, train)[sequences.document]
    sequences_of = {}
    for number, name in enumerate(sequences.sources):
        mine = np.flatnonzero(usable & (sequences.source[sequences.document] == number))
        mine = _spread(mine, sequences.document[mine], generator)
        lengths = np.diff(sequences.start)[mine]
        sequences_of[name] = mine[: int(np.searchsorted(np.cumsum(lengths), size)) + 1]
    return sequences_of


def _spread(which: IntArray, document: IntArray, generator: np.random.Generator) -> IntArray:
    """The sequences in random order, but every document's first before any document's second."""
    shuffled = generator.permutation(len(which))
    count: dict[int, int] = {}
    turn = np.zeros(len(which), dtype=np.int64)
    for position, index in enumerate(shuffled):
        turn[position] = count.get(int(document[index]), 0)
        count[int(document[index])] = int(turn[position]) + 1
    return which[shuffled[np.argsort(turn, kind="stable")]]


def _shared(sequences: Sequences, train: Sequences) -> BoolArray:
    """bool [D], documents of `sequences` whose text is also trained on."""
    return np.isin(sequences.text_hash, train.text_hash)


def batches(n: int, batch: int, generator: np.random.Generator) -> Iterator[IntArray]:
    """Endless batches of sequence numbers: one permutation after another."""
    waiting = np.empty(0, dtype=np.int64)
    while True:
        while len(waiting) < batch:
            waiting = np.concatenate([waiting, generator.permutation(n)])
        yield waiting[:batch]
        waiting = waiting[batch:]
