"""Distillation: a student of a model, trained to say what its teacher says or to depend on its input as it does.

    distill("results/models/base", "results/tokens/old/base.h5", "results/tokens/addresses/base.h5",
            "results/models/student", spec=spec, layers="every 2", loss={"kl": 1.0, "jacobian": 1.0})

The loss is a weighted sum of three, each a mean over the batch that no micro-batch changes (METHODS 6):

    kl          T^2 KL(p_teacher || p_student) at temperature T, mean over positions
    jacobian    as in `jacobian_loss`, pooled over the batch: the denominator is the teacher's alone, so its products
                are taken for the whole batch before the student's, and each micro-batch is divided by the same number
    hidden      ||h_student - h_teacher||^2 / ||h_teacher||^2 behind each block and the block it stands for, mean over
                blocks and positions (each counts the same: massive activations would own a pooled ratio)

The student has no dropout: a network with units left out has another Jacobian. Gradients are added up over
micro-batches, which are halved when memory runs out. Before and after training both models are compared on held-out
documents: KL at temperature 1, the Jacobian loss, and the student's next-token loss.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.derive import jacobian_loss, losses, student, student_card, training
from diptych.derive.jacobian_loss import Reading, pullback, squared_norm
from diptych.derive.losses import Loss
from diptych.derive.training import Curves, Measured, Trainer, Training
from diptych.models.batches import IntArray, Sequences
from diptych.models.hooks import find_blocks
from diptych.models.pretrained import OutOfMemoryError, is_out_of_memory
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage.checkpoints import Checkpoint

CARD = "README.md"
"""File of a student that says how it was made, and how far it is from its teacher."""
TRAINING, EVALUATION = 3, 4
"""First numbers of the seeds of probes, behind the run's own: a step's, and a held-out sequence's."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Distillation(Training):
    """Settings of a distillation.

    Attributes:
        layers: the teacher's blocks that the student's stand for, as `student.chosen_blocks` reads it.
        init: initial weights of the student.
        loss: what is minimised.
        micro_batch: sequences that run through the models at once; halved when memory runs out.
    """

    layers: student.Layers = "every 2"
    init: student.Init = "parent"
    loss: Loss = field(default_factory=lambda: Loss(kl=1.0))
    micro_batch: int = 4


def distill(
    parent_dir: str | Path,
    train_tokens: str | Path,
    evaluation_tokens: str | Path,
    out_dir: str | Path,
    *,
    spec: Mapping[str, Any],
    loss: Mapping[str, Any],
    device: str = "cpu",
    checkpoint_every: int = 100,
    **settings: Any,
) -> None:
    """Distil a model and write the student as a model of its own, with its curves (training.json) and a card.

    Args:
        parent_dir: the teacher.
        train_tokens: token file of the training corpus.
        evaluation_tokens: token file of the corpus on whose held-out documents both models are compared.
        out_dir: the student's directory.
        spec: what the result depends on.
        loss: the fields of `Loss`.
        device: a torch device, as `devices.take` gives it.
        checkpoint_every: steps between checkpoints.
        settings: the other fields of `Distillation`.

    Raises:
        DiptychError: the tokens do not fit the teacher, or it has not the blocks that `layers` names.
        OutOfMemoryError: a single sequence does not fit the memory.
    """
    distillation = Distillation(loss=Loss(**loss), **settings)
    training.train(
        parent_dir,
        train_tokens,
        evaluation_tokens,
        out_dir,
        distillation,
        lambda model, device: Distiller(model, distillation, device),
        spec=spec,
        device=device,
        checkpoint_every=checkpoint_every,
    )


class Part(NamedTuple):
    """A micro-batch: padded ids and their mask [b, L], real tokens and seed of the probes of each sequence."""

    ids: Tensor
    mask: Tensor
    lengths: list[int]
    keys: list[list[int]]


Distances = dict[str, list[float]]
"""Of held-out sequences: their `document` and `tokens`, the sum of KL over positions (`kl`), and over probes those of
||J_S^T v - J_T^T v||^2 (`error`) and ||J_T^T v||^2 (`norm`)."""


class Target(NamedTuple):
    """One probe of a micro-batch: the teacher's J^T v [b, L, d], and v [n] if it was drawn from the teacher."""

    gradient: Tensor
    tokens: Tensor | None


class Distiller(Trainer):
    """A student that learns from its teacher.

    Args:
        teacher: a transformers model, whose weights are frozen.
        settings: of the distillation.
        device: where the teacher is.

    Attributes:
        distances: held-out sequences by source, as last measured.
    """

    dropout: ClassVar[bool] = False

    def __init__(self, teacher: Any, settings: Distillation, device: str) -> None:
        n_layers = teacher.config.get_text_config().num_hidden_layers
        self.layers = student.chosen_blocks(settings.layers, n_layers)
        self.loss, self.micro_batch = settings.loss, min(settings.micro_batch, settings.batch_sequences)
        self.distillation = settings
        super().__init__(student.student_of(teacher, self.layers, settings.init), settings, device)
        self._teacher = teacher.requires_grad_(False)
        self.distances: dict[str, Distances] = {}
        if self.loss.jacobian:
            for model in (self._teacher, self._model):
                # Fused attention has no double backward.
                model.set_attn_implementation("eager")
        if self.loss.hidden:
            blocks = find_blocks(teacher, n_layers)
            self._teacher_states = losses.block_outputs([blocks[layer] for layer in self.layers])
            self._student_states = losses.block_outputs(find_blocks(self._model, len(self.layers)))

    def record(self, curves: Curves) -> dict[str, Any]:
        """The student's blocks, the curve of each loss beside that of their sum, and the last held-out distances."""
        terms = {name: values for name, values in curves.items() if name in self._weights}
        return {**super().record(curves), "terms": terms, "layers": list(self.layers), "sequences": self.distances}

    def texts(self, report: Mapping[str, Any], reads: Mapping[str, Any]) -> dict[str, str]:
        """The student's card."""
        return {CARD: student_card.text(asdict(self.distillation), report, reads, tied=_is_tied(self._model))}

    @property
    def _weights(self) -> dict[str, float]:
        """Weights of the losses that are not left out."""
        weights = {"kl": self.loss.kl, "jacobian": self.loss.jacobian, "hidden": self.loss.hidden}
        return {name: weight for name, weight in weights.items() if weight}

    # --- a step -----------------------------------------------------------------------------------------------

    def _restore(self, optimiser: torch.optim.Optimizer, checkpoint: Checkpoint | None) -> Curves:
        """As every training's; and the micro-batch that the memory held."""
        curves = super()._restore(optimiser, checkpoint)
        if curves["loss"]:
            self.micro_batch = int(curves["micro_batch"][-1])
        return curves

    def _backward(self, sequences: Sequences, which: IntArray, step: int) -> dict[str, float]:
        """Gradients of the batch's loss; the loss, its terms and the size of the micro-batches."""
        values = self._in_memory(lambda: self._accumulate(sequences, which, step))
        loss = sum(weight * values[name] for name, weight in self._weights.items())
        return {"loss": loss, **values, "micro_batch": self.micro_batch}

    def _accumulate(self, sequences: Sequences, which: IntArray, step: int) -> dict[str, float]:
        """Add up the gradients over micro-batches; the losses by name.

        A mean over positions is divided by the batch's positions, and the Jacobian's squared error by the teacher's
        squared norm over the batch, so that how the batch is divided changes the gradients in rounding only.
        """
        self._model.zero_grad(set_to_none=True)
        keys = [[self.settings.seed, TRAINING, step, place] for place in range(len(which))]
        parts = list(self._parts(sequences, which, keys))
        n = sum(sum(part.lengths) for part in parts)
        targets = [self._targets(part) if self.loss.jacobian else [] for part in parts]
        norm = _total_norm(target.gradient for part_targets in targets for target in part_targets)
        values: dict[str, float] = defaultdict(float)
        for part, part_targets in zip(parts, targets, strict=True):
            reading = self._read(self._model, part, differentiable=bool(part_targets))
            loss = self._weighted(self._to_teacher(reading, part), n, values)
            for probe, target in enumerate(part_targets):
                if probe:
                    # One probe's second derivatives are in memory at a time.
                    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
                    loss = torch.zeros_like(loss)
                v = self._vectors(part, probe, reading.log_p) if target.tokens is None else target.tokens
                # Not named: a name would keep the graph of one probe while that of the next is made.
                loss = loss + self._weighted({"jacobian": _squared_error(reading, v, target)}, norm, values)
            loss.backward()  # type: ignore[no-untyped-call]
        return dict(values)

    def _weighted(self, sums: Mapping[str, Tensor], divisor: float, values: dict[str, float]) -> Tensor:
        """Weighted sum of a micro-batch's shares of the losses, each sum / divisor; adds them to `values` by name."""
        loss = torch.zeros((), dtype=torch.float64, device=self._device)
        for name, value in sums.items():
            values[name] += float(value.detach()) / divisor
            loss = loss + self._weights[name] * value / divisor
        return loss

    def _targets(self, part: Part) -> list[Target]:
        """The teacher's products J^T v with the probes of a step."""
        reading = self._read(self._teacher, part, differentiable=True)
        targets = []
        for probe in range(self.loss.probes):
            v = self._vectors(part, probe, reading.log_p)
            # Unit vectors are as large as all logits, and are drawn again.
            targets.append(Target(pullback(reading, v), v if self.loss.probe == "token" else None))
        return targets

    def _to_teacher(self, reading: Reading, part: Part) -> dict[str, Tensor]:
        """Sums over positions of the losses that compare what both models compute, by name."""
        names = self._weights.keys() - {"jacobian"}
        if not names:
            return {}
        with torch.no_grad():
            teacher = self._read(self._teacher, part, differentiable=False)
        sums = {}
        if "kl" in names:
            sums["kl"] = losses.divergence(teacher.log_p, reading.log_p, self.loss.temperature)
        if "hidden" in names:
            sums["hidden"] = losses.state_distance(self._teacher_states, self._student_states, part.mask)
        return sums

    # --- held-out documents -----------------------------------------------------------------------------------

    def measure(self, sequences: Sequences, evaluated: Mapping[str, IntArray]) -> Measured:
        """Next-token loss, KL to the teacher and Jacobian loss on held-out sequences by source."""
        self._model.eval()
        self.distances = {
            source: self._in_memory(partial(self._distances, sequences, which)) for source, which in evaluated.items()
        }
        measured: Measured = {"loss": self.losses(sequences, evaluated, self.micro_batch)}
        for name, (top, bottom) in {"kl": ("kl", "tokens"), "jacobian": ("error", "norm")}.items():
            measured[name] = {source: _ratio(of[top], of[bottom]) for source, of in self.distances.items()}
        return measured

    def _distances(self, sequences: Sequences, which: IntArray) -> Distances:
        """Distances to the teacher of some sequences: KL at temperature 1 (nats), products with the probes."""
        keys = [[self.settings.seed, EVALUATION, int(sequence)] for sequence in which]
        distances: Distances = {name: [] for name in ("tokens", "kl", "error", "norm")}
        for part in self._parts(sequences, which, keys):
            teacher, own = (self._read(model, part, differentiable=True) for model in (self._teacher, self._model))
            distances["tokens"] += part.lengths
            log_p, log_q = (reading.log_p.detach().split(part.lengths) for reading in (teacher, own))  # type: ignore[no-untyped-call]
            distances["kl"] += [float(losses.divergence(p, q, 1.0)) for p, q in zip(log_p, log_q, strict=True)]
            error, norm = np.zeros(len(part.lengths)), np.zeros(len(part.lengths))
            for probe in range(self.loss.probes):
                v = self._vectors(part, probe, teacher.log_p)
                target = pullback(teacher, v)
                error += _squared_norms(pullback(own, v) - target)
                norm += _squared_norms(target)
            distances["error"] += error.tolist()
            distances["norm"] += norm.tolist()
        return {"document": sequences.document[which].tolist(), **distances}

    # --- micro-batches ----------------------------------------------------------------------------------------

    def _parts(self, sequences: Sequences, which: IntArray, keys: Sequence[list[int]]) -> Iterator[Part]:
        """Micro-batches of the sequences `which`, with the seeds of their probes."""
        for start in range(0, len(which), self.micro_batch):
            some = slice(start, start + self.micro_batch)
            batch = sequences.batch(which[some])
            ids, mask = (torch.from_numpy(array).to(self._device) for array in (batch.ids, batch.mask))
            yield Part(ids, mask, batch.mask.sum(axis=1).tolist(), list(keys[some]))

    def _read(self, model: Any, part: Part, *, differentiable: bool) -> Reading:
        return jacobian_loss.read(
            model, part.ids, part.mask, differentiable=differentiable, autocast=self.settings.autocast
        )

    def _vectors(self, part: Part, probe: int, log_p: Tensor) -> Tensor:
        """Vectors of a micro-batch's probe; `log_p` is the teacher's."""
        return jacobian_loss.draw(self.loss.probe, [[*key, probe] for key in part.keys], part.lengths, log_p)

    def _in_memory(self, compute: Callable[[], Result]) -> Result:
        """The result of a computation, which begins again with half the micro-batch each time that memory runs out.

        Raises:
            OutOfMemoryError: a single sequence does not fit.
        """
        while True:
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.micro_batch == 1:
                    raise OutOfMemoryError(
                        "distill: out of memory with a single sequence; lower the corpus' `sequence_length`"
                    ) from error
            torch.cuda.empty_cache()
            self.micro_batch //= 2
            logs.logger.warning("out of memory: continuing with micro-batches of %d sequences", self.micro_batch)


def _ratio(top: Sequence[float], bottom: Sequence[float]) -> float:
    """Ratio of two sums; NaN for 0 / 0."""
    return sum(top) / sum(bottom) if sum(bottom) else float("nan")


def _squared_norms(gradient: Tensor) -> npt.NDArray[np.float64]:
    """||g||^2 of each sequence of a micro-batch, summed in float64."""
    squares: npt.NDArray[np.float64] = gradient.square().sum((1, 2), dtype=torch.float64).cpu().numpy()
    return squares


def _squared_error(reading: Reading, v: Tensor, target: Target) -> Tensor:
    """||J_S^T v - J_T^T v||^2 of a micro-batch, to be differentiated by the student's weights."""
    return squared_norm(pullback(reading, v, create_graph=True) - target.gradient)


def _total_norm(gradients: Iterable[Tensor]) -> float:
    """Squared norm of the teacher's products over a batch; 1 if there are none.

    Raises:
        DiptychError: it is 0 or not finite.
    """
    norms = [float(squared_norm(gradient)) for gradient in gradients]
    total = sum(norms) if norms else 1.0
    if not 0 < total < math.inf:
        raise DiptychError(
            f"distill: the parent's products with the probes have squared norm {total}, and the Jacobian loss is "
            "relative to it; check the parent's weights"
        )
    return total


def _is_tied(model: Any) -> bool:
    unembedding = model.get_output_embeddings()
    return unembedding is not None and unembedding.weight is model.get_input_embeddings().weight
