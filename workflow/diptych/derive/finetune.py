"""Fine-tuning a model on a corpus, so that a pair is made whose difference has a known cause.

    finetune("results/models/base", "results/tokens/old/base.h5", "results/tokens/addresses/base.h5",
             "results/models/tuned", spec=spec, method="lora", steps=60, learning_rate=1e-3)

What was learned is measured, not assumed: training.json in the new model's directory holds the loss of every step
and, before and after, the loss on held-out documents of each source of a second corpus. Every step is a function of
(seed, step), so a run that was killed goes on from its last checkpoint and, on a CPU, ends with the same bits.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from diptych.models import pretrained
from diptych.models.batches import BoolArray, IntArray, Sequences
from diptych.runtime import logs
from diptych.storage import artifacts
from diptych.storage.canonical import canonical_json
from diptych.storage.checkpoints import Checkpoint

Method = Literal["lora", "full"]

CLIP_NORM = 1.0
"""Largest norm of a step's gradient, the usual value for language models."""
LORA_ALPHA_PER_RANK = 2
"""Scale of the adapters over their rank: peft's and the literature's usual 2."""
IGNORED = -100
"""The label that transformers' loss leaves out."""


Measured = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Tuning:
    """Settings of a fine-tuning.

    Attributes:
        method: "lora" (adapters on all linear layers, merged into the weights at the end) or "full".
        steps: optimiser steps.
        batch_sequences: sequences a step.
        learning_rate: peak of AdamW without weight decay.
        warmup: share of the steps with a rising learning rate; it falls linearly to 0 afterwards.
        lora_rank: rank of the adapters.
        autocast: multiply in bfloat16. Faster on GPUs, slower on CPUs without bfloat16 instructions.
        evaluation_size: tokens of each source on which the held-out loss is measured.
        seed: order of the sequences, adapters and dropout.
    """

    method: Method = "lora"
    steps: int = 60
    batch_sequences: int = 2
    learning_rate: float = 1e-3
    warmup: float = 0.1
    lora_rank: int = 16
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


def finetune(
    parent_dir: str | Path,
    train_tokens: str | Path,
    evaluation_tokens: str | Path,
    out_dir: str | Path,
    *,
    spec: Mapping[str, Any],
    device: str = "cpu",
    checkpoint_every: int = 100,
    make: Callable[[Any, Tuning, str], "Tuner"] | None = None,
    **settings: Any,
) -> None:
    """Fine-tune a model and write the result as a model of its own.

    A checkpoint lies beside `out_dir` while the run lasts; a run of the same spec goes on from it.

    Args:
        parent_dir: the model to start from.
        train_tokens: token file of the training corpus; all its sequences are used, whatever their fold.
        evaluation_tokens: token file of the corpus whose held-out loss is recorded, by source. Documents that are
            also trained on are left out and counted.
        out_dir: the new model's directory; gets training.json too.
        spec: what the result depends on.
        device: a torch device, as `devices.take` gives it.
        checkpoint_every: steps between checkpoints.
        make: what is learned and measured; next-token prediction if not given (`Tuner`).
        settings: the fields of `Tuning`.

    Raises:
        DiptychError: the tokens do not fit the model.
    """
    tuning = Tuning(**settings)
    train, held_out = Sequences.read(train_tokens), Sequences.read(evaluation_tokens)
    for sequences in (train, held_out):
        sequences.check_fits(pretrained.describe(parent_dir))
    checkpoint = Checkpoint.beside(out_dir, spec)
    with torch.random.fork_rng():
        torch.manual_seed(tuning.seed)
        tuner = (make or Tuner)(pretrained.load(parent_dir, device=device), tuning, device)
        evaluated = held_out_sequences(held_out, train, tuning.evaluation_size, np.random.default_rng(tuning.seed))
        before = tuner.measure(held_out, evaluated)
        curve = tuner.run(train, checkpoint, checkpoint_every)
        after = tuner.measure(held_out, evaluated)
    dtype = pretrained.stored_dtype(parent_dir)
    with pretrained.saving(tuner.finished(), parent_dir, out_dir, spec=spec, dtype=dtype) as directory:
        report = {
            "curve": curve,
            "before": before,
            "after": after,
            "shared_documents": int(_shared(held_out, train).sum()),
            "trained_parameters": tuner.n_trained,
            "epochs": tuning.batch_sequences * tuning.steps / len(train),
        }
        artifacts.write_text(directory / "training.json", canonical_json(report) + "\n")
    checkpoint.remove()
    for source, loss in after["loss"].items():
        logs.logger.info("held-out loss on %s: %.3f before, %.3f after", source, before["loss"][source], loss)


class Tuner:
    """A model being fine-tuned to predict the next token."""

    def __init__(self, model: Any, tuning: Tuning, device: str) -> None:
        self.tuning = tuning
        self._model = _with_adapters(model, tuning.lora_rank) if tuning.method == "lora" else model
        self._device = torch.device(device)
        self._trained = [weight for weight in self._model.parameters() if weight.requires_grad]

    @property
    def n_trained(self) -> int:
        """Number of weights that are trained."""
        return sum(weight.numel() for weight in self._trained)

    def run(self, sequences: Sequences, checkpoint: Checkpoint | None = None, every: int = 100) -> list[float]:
        """Train, from the checkpoint if there is one; the loss of every step."""
        tuning = self.tuning
        schedule = Schedule(tuning.learning_rate, tuning.steps, tuning.warmup)
        optimiser = torch.optim.AdamW(self._trained, lr=schedule.peak, weight_decay=0.0)
        curve = self._restore(optimiser, checkpoint)
        order = batches(len(sequences), tuning.batch_sequences, np.random.default_rng(tuning.seed))
        self._model.train()
        left = islice(enumerate(order), len(curve), tuning.steps)
        for step, which in logs.progress(left, "fine-tune", total=tuning.steps, done=len(curve), unit="step"):
            for group in optimiser.param_groups:
                group["lr"] = schedule.at(step)
            # Dropout too is a function of (seed, step).
            torch.manual_seed(int(np.random.SeedSequence([tuning.seed, step]).generate_state(1)[0]))
            loss = self._training_loss(sequences, which, step)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._trained, CLIP_NORM)
            optimiser.step()
            optimiser.zero_grad()
            curve.append(float(loss.detach()))
            if checkpoint is not None and len(curve) % every == 0 and len(curve) < tuning.steps:
                checkpoint.save({"curve": curve, "weights": self._trained, "optimiser": optimiser.state_dict()})
        self._model.eval()
        return curve

    def _restore(self, optimiser: torch.optim.Optimizer, checkpoint: Checkpoint | None) -> list[float]:
        """Restore the checkpoint's state; returns the losses of the steps already done."""
        state = None if checkpoint is None else checkpoint.load(str(self._device))
        if checkpoint is None or state is None:
            return []
        with torch.no_grad():
            for weight, stored in zip(self._trained, state["weights"], strict=True):
                weight.copy_(stored)
        optimiser.load_state_dict(state["optimiser"])
        curve: list[float] = state["curve"]
        logs.logger.info("going on from step %d of %s", len(curve), checkpoint.path)
        return curve

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
        """The model with the adapters merged into its weights."""
        return self._model.merge_and_unload() if self.tuning.method == "lora" else self._model

    def _training_loss(self, sequences: Sequences, which: IntArray, step: int) -> torch.Tensor:
        """Batch of step `step`: next-token prediction of whole sequences."""
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
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.tuning.autocast):
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


def _with_adapters(model: Any, rank: int) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=LORA_ALPHA_PER_RANK * rank, target_modules="all-linear", lora_dropout=0.0, bias="none"
    )
    return get_peft_model(model, config)
