"""Training a crosscoder: the feed of rows, the schedule, the steps, and a run that survives being killed.

    train(rows, "weights.h5", spec=spec, seed=0, n_latents=1024, k=16, steps=4000, batch=1024, learning_rate=1e-3)

Every batch is a pure function of (seed, step), so a checkpoint needs no place in a stream: a run that was killed
goes on from its last checkpoint and, on a CPU with the same number of threads, ends with the same bits. Rows of fold
0 are never read.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from diptych import DiptychError, artifacts, logs
from diptych.crosscoder import architecture, objectives, sparse
from diptych.crosscoder.architecture import Architecture, Crosscoder
from diptych.rows import FloatArray, IntArray, Rows

CALIBRATION_ROWS = 100_000
"""Training rows that set means, scales and the final threshold (METHODS 5); all of them if there are fewer."""
READ_ROWS = 1024
"""Rows read together: a shuffled buffer is filled with blocks of this many rows from all over the corpus."""
PENALTY_WIDTH = 2304
"""The width for which published penalties are quoted; they scale with the root of dbar over it."""
THRESHOLD_MEMORY = 0.999
"""Decay of the running mean of the batch cut that is logged during training."""
DIVERGED = 10.0
"""A loss above this many times the first one stops the run."""
SERIES_POINTS = 200
"""About how many points of the loss curve are stored."""


class DivergedError(DiptychError):
    """The loss left the region of numbers, or grew far above where it began."""


@dataclass(frozen=True)
class Training:
    """Settings of one run; every one is a config key.

    Attributes:
        objective: batchtopk | topk | l1 | jumprelu | diff (batchtopk on x_B - x_A, equal widths).
        n_latents: F.
        k: mean active latents a row (batchtopk, topk, diff).
        penalty: lambda of l1 (quoted for width 2,304) and jumprelu.
        steps: optimiser steps.
        batch: rows a step.
        learning_rate: Adam's; None is 5e-5 for l1 and 1e-4 otherwise.
        warmup_share: share of the run in which learning rate and penalty rise from 0.
        decay_share: share of the run at its end in which the learning rate falls to 0.
        clip: largest norm of the gradient.
        decoder_norm: norm of a decoder row in each model at the start; None is .08 for l1 and 1 otherwise.
        auxiliary: weight of the loss that revives dead latents.
        dead_share: a latent is dead after this share of the run's rows without firing.
        shared: share of latents with one decoder row for all models (equal widths).
        shared_penalty: factor on the penalty of those (l1, jumprelu).
        dedicated: for each model the share of latents that read and write it alone.
        matryoshka: shares of the latents, each a prefix that must reconstruct on its own.
        k_initial: k at the start, falling to k over `anneal_share` of the run; 0 is no annealing.
        anneal_share: see k_initial.
        accumulate: parts that a batch is computed in, to save memory; each part selects its own batchtopk entries.
        buffer_rows: rows held in memory; if the training rows are no more, they are read once.
        seed: of initialisation and order.
    """

    objective: Literal["batchtopk", "topk", "l1", "jumprelu", "diff"] = "batchtopk"
    n_latents: int = 16384
    k: int = 100
    penalty: float = 2.0
    steps: int = 24_000
    batch: int = 4096
    learning_rate: float | None = None
    warmup_share: float = 0.05
    decay_share: float = 0.2
    clip: float = 1.0
    decoder_norm: float | None = None
    auxiliary: float = 1 / 32
    dead_share: float = 0.05
    shared: float = 0.0
    shared_penalty: float = 0.1
    dedicated: tuple[float, ...] = ()
    matryoshka: tuple[float, ...] = ()
    k_initial: int = 0
    anneal_share: float = 0.25
    accumulate: int = 1
    buffer_rows: int = 400_000
    seed: int = 0

    @property
    def rate(self) -> float:
        """The peak learning rate."""
        return self.learning_rate or (5e-5 if self.objective == "l1" else 1e-4)

    def rate_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, constant, linear decay to 0."""
        warm = (step + 1) / max(1.0, self.warmup_share * self.steps)
        cool = (self.steps - step) / max(1.0, self.decay_share * self.steps)
        return self.rate * min(1.0, warm, cool)

    def penalty_at(self, step: int, mean_width: float) -> float:
        """lambda of a step, warmed from 0."""
        warm = min(1.0, step / max(1.0, self.warmup_share * self.steps))
        return self.penalty * warm * math.sqrt(mean_width / PENALTY_WIDTH)

    def k_at(self, step: int) -> int:
        """k of a step, annealed."""
        if not self.k_initial:
            return self.k
        done = min(1.0, step / max(1.0, self.anneal_share * self.steps))
        return round(self.k_initial + done * (self.k - self.k_initial))

    def architecture(self, widths: tuple[int, ...]) -> Architecture:
        """The crosscoder that these settings train on models of these widths."""
        if (self.objective == "diff" or self.shared) and len(set(widths)) > 1:
            raise DiptychError(f"crosscoder: `diff` and `shared` need models of equal width, these have {widths}")
        if self.dedicated and len(self.dedicated) != len(widths):
            raise DiptychError(f"crosscoder: `dedicated` has {len(self.dedicated)} shares for {len(widths)} models")
        activation: dict[str, architecture.Activation] = {"l1": "relu", "topk": "topk", "jumprelu": "jumprelu"}
        return Architecture(
            widths=widths[:1] if self.objective == "diff" else widths,
            n_latents=self.n_latents,
            activation=activation.get(self.objective, "threshold"),
            k=self.k if self.objective in ("batchtopk", "topk", "diff") else 0,
            difference=self.objective == "diff",
            n_shared=round(self.shared * self.n_latents),
            n_dedicated=tuple(round(share * self.n_latents) for share in self.dedicated),
        )

    def losses(self) -> objectives.Objective:
        """The objective that these settings minimise."""
        prefixes = tuple(sorted({*(max(1, round(share * self.n_latents)) for share in self.matryoshka)}))
        if prefixes and prefixes[-1] != self.n_latents:
            prefixes = (*prefixes, self.n_latents)
        name = "batchtopk" if self.objective == "diff" else self.objective
        return objectives.Objective(name, self.shared_penalty, prefixes, self.auxiliary)


class Feed:
    """Normalised training batches, each a function of (seed, step).

    An epoch is a random order of blocks of `READ_ROWS` rows; consecutive blocks fill a buffer of at most
    `buffer_rows`, whose rows are shuffled and used once. If one buffer holds all training rows it is read once.
    """

    def __init__(self, rows: Rows, crosscoder: Crosscoder, settings: Training) -> None:
        self.rows, self.crosscoder, self.settings = rows, crosscoder, settings
        self.index = np.flatnonzero(rows.fold != 0)
        self.seen = np.zeros(len(rows), dtype=np.bool_)
        self._all: FloatArray | None = None
        if len(self.index) < settings.batch or settings.buffer_rows < 2 * settings.batch:
            raise DiptychError(
                f"crosscoder: `batch` {settings.batch} needs as many training rows (there are {len(self.index)}) "
                f"and half of `buffer_rows` ({settings.buffer_rows}); lower `batch`"
            )

    def calibration(self) -> IntArray:
        """Training rows for means, scales and the threshold: all, or blocks spread evenly."""
        if len(self.index) <= CALIBRATION_ROWS:
            return self.index
        blocks = np.array_split(self.index, -(-len(self.index) // READ_ROWS))
        wanted = -(-CALIBRATION_ROWS // min(map(len, blocks)))
        return np.concatenate([blocks[i] for i in np.linspace(0, len(blocks) - 1, wanted).astype(int)])

    def batches(self, first: int) -> Iterator[Tensor]:
        """Batches [batch, D] of steps first, first + 1, ..., without end."""
        step, batch = 0, self.settings.batch
        for epoch in count():
            for number, part in enumerate(self._fills(epoch)):
                n_steps = len(part) // batch
                if first < step + n_steps:
                    values = self._load(part)
                    order = np.random.default_rng([self.settings.seed, 1, epoch, number]).permutation(len(part))
                    for start in range(batch * max(0, first - step), batch * n_steps, batch):
                        chosen = order[start : start + batch]
                        self.seen[part[chosen]] = True
                        yield torch.from_numpy(values[chosen])
                step += n_steps

    def _fills(self, epoch: int) -> list[IntArray]:
        n_fills = -(-len(self.index) // self.settings.buffer_rows)
        if n_fills == 1:
            return [self.index]
        block_rows = min(READ_ROWS, self.settings.buffer_rows // 2)
        blocks = np.array_split(self.index, -(-len(self.index) // block_rows))
        order = np.random.default_rng([self.settings.seed, 0, epoch]).permutation(len(blocks))
        return [np.concatenate([blocks[i] for i in part]) for part in np.array_split(order, n_fills)]

    def _load(self, part: IntArray) -> FloatArray:
        if self._all is not None:
            return self._all
        values = np.empty((len(part), sum(self.crosscoder.architecture.widths)), dtype=np.float32)
        for start in range(0, len(part), READ_ROWS):
            values[start : start + READ_ROWS] = self.normalised(part[start : start + READ_ROWS])
        if len(part) == len(self.index):
            self._all = values
        return values

    def normalised(self, index: IntArray) -> FloatArray:
        """Normalised rows [len(index), D]."""
        crosscoder = self.crosscoder
        x_BD = architecture.side_by_side(self.rows.take(index).x, crosscoder.architecture)
        coordinate_scale, mean = crosscoder.coordinate_scale.cpu(), crosscoder.mean.cpu()
        normalised: FloatArray = ((x_BD - mean) * coordinate_scale).numpy()
        return normalised


@dataclass
class Run:
    """What a run carries from step to step, and what its checkpoint holds."""

    crosscoder: Crosscoder
    optimizer: torch.optim.Adam
    step: int = 0
    silent_rows: Tensor = field(default_factory=lambda: torch.zeros(0))
    first_loss: float = math.nan
    running_cut: float = 0.0
    floor: float = 0.0
    series: dict[str, list[Any]] = field(default_factory=dict)

    def state(self, key: str, seen: np.ndarray[Any, Any]) -> dict[str, Any]:
        """Everything that the next step depends on, stamped with `key`."""
        return {
            "key": key,
            "crosscoder": self.crosscoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "silent_rows": self.silent_rows,
            "first_loss": self.first_loss,
            "running_cut": self.running_cut,
            "series": self.series,
            "seen": torch.from_numpy(seen),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.crosscoder.load_state_dict(state["crosscoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.first_loss, self.running_cut = state["step"], state["first_loss"], state["running_cut"]
        self.silent_rows.copy_(state["silent_rows"])
        self.series = state["series"]


def optimise(
    rows: Rows,
    settings: Training,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    key: str = "",
    checkpoint_every: int = 500,
) -> tuple[Crosscoder, Run, Feed]:
    """Train on the rows outside fold 0; the threshold is left for `calibrate`.

    Raises:
        DivergedError: the loss is not finite, or 10 times the first one.
    """
    norm = settings.decoder_norm or (0.08 if settings.objective == "l1" else 1.0)
    crosscoder = Crosscoder(settings.architecture(rows.widths), seed=settings.seed, decoder_norm=norm)
    feed = Feed(rows, crosscoder, settings)
    set_normalisation(crosscoder, rows, feed.calibration())
    crosscoder.to(device)
    run = Run(crosscoder, torch.optim.Adam(crosscoder.parameters(), lr=settings.rate, fused=True))
    run.silent_rows = torch.zeros(settings.n_latents, device=device)
    if checkpoint is not None:
        _resume(run, feed, checkpoint, key, device)
    objective = settings.losses()
    product = torch.empty(settings.batch // settings.accumulate, settings.n_latents, device=device)
    bar = tqdm(
        total=settings.steps * settings.batch,
        initial=run.step * settings.batch,
        desc="train crosscoder",
        unit="tok",
        unit_scale=True,
        mininterval=10.0,
    )
    with bar:
        for z_BD in feed.batches(run.step):
            if run.step == settings.steps:
                break
            loss = take_step(run, z_BD.to(device), objective, settings, product)
            run.step += 1
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update(settings.batch)
            if checkpoint is not None and run.step % checkpoint_every == 0 and run.step < settings.steps:
                _save(run.state(key, feed.seen), checkpoint)
    return crosscoder, run, feed


def take_step(
    run: Run, z_BD: Tensor, objective: objectives.Objective, settings: Training, product: Tensor | None = None
) -> float:
    """One optimiser step on normalised rows; returns the loss."""
    crosscoder = run.crosscoder
    dead = (run.silent_rows >= settings.dead_share * settings.steps * settings.batch).nonzero()[:, 0]
    run.optimizer.zero_grad(set_to_none=True)
    parts = []
    for part_BD in torch.split(z_BD, len(z_BD) // settings.accumulate):
        step = objectives.Step(
            k=settings.k_at(run.step),
            penalty=settings.penalty_at(run.step, crosscoder.architecture.mean_width),
            dead=dead,
            floor=run.floor,
            product=product if product is not None and len(product) == len(part_BD) else None,
        )
        terms = objectives.evaluate_terms(crosscoder, part_BD, objective, step)
        torch.autograd.backward(terms.loss * (len(part_BD) / len(z_BD)))
        run.floor = objectives.FLOOR_MARGIN * terms.cut
        parts.append(terms)
    loss = sum(float(terms.loss.detach()) for terms in parts) / len(parts)
    _check(loss, run, settings)
    _apply(run, settings)
    firings = torch.stack([terms.firings for terms in parts]).sum(0)
    run.silent_rows.add_(len(z_BD)).mul_(firings == 0)
    run.running_cut += (1 - THRESHOLD_MEMORY) * (parts[-1].cut - run.running_cut)
    if run.step % max(1, settings.steps // SERIES_POINTS) == 0 or run.step == settings.steps - 1:
        x_hat_BD = torch.cat([terms.x_hat_BD for terms in parts])
        _log(run, settings, loss, z_BD, x_hat_BD, float(firings.sum()) / len(z_BD), len(dead))
    return loss


def _check(loss: float, run: Run, settings: Training) -> None:
    if run.step == 0:
        run.first_loss = loss
    if not math.isfinite(loss) or loss > DIVERGED * run.first_loss:
        raise DivergedError(
            f"crosscoder: the loss went from {run.first_loss:.4g} to {loss:.4g} at step {run.step}; "
            f"lower `learning_rate` (now {settings.rate:g})"
        )


def _apply(run: Run, settings: Training) -> None:
    """Clip, tie shared decoder rows, step, and re-apply the masks of dedicated latents."""
    crosscoder = run.crosscoder
    tie_shared(crosscoder)
    torch.nn.utils.clip_grad_norm_(crosscoder.parameters(), settings.clip)
    for group in run.optimizer.param_groups:
        group["lr"] = settings.rate_at(run.step)
    run.optimizer.step()
    crosscoder.apply_masks()


def tie_shared(crosscoder: Crosscoder) -> None:
    """Give each model's copy of a shared decoder row the gradient of the row that they all are: the copies' sum."""
    n_shared = crosscoder.architecture.n_shared
    if n_shared and crosscoder.W_dec.grad is not None:
        parts = crosscoder.per_model(crosscoder.W_dec.grad[:n_shared])
        crosscoder.W_dec.grad[:n_shared] = torch.stack(parts).sum(0).repeat(1, len(parts))


def _log(run: Run, settings: Training, loss: float, z_BD: Tensor, x_hat_BD: Tensor, l0: float, n_dead: int) -> None:
    parts = zip(run.crosscoder.per_model(z_BD), run.crosscoder.per_model(x_hat_BD), strict=True)
    fvu = [float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum()) for x, x_hat in parts]
    point = {
        "step": run.step,
        "loss": loss,
        "l0": l0,
        "fvu": fvu,
        "dead_share": n_dead / settings.n_latents,
        "learning_rate": settings.rate_at(run.step),
        "running_threshold": run.running_cut / (1 - THRESHOLD_MEMORY ** (run.step + 1)),
    }
    for name, value in point.items():
        run.series.setdefault(name, []).append(value)


def set_normalisation(crosscoder: Crosscoder, rows: Rows, index: IntArray) -> None:
    """Per model, the mean of rows `index` and the scale that makes their mean distance from it sqrt(dbar)."""
    plan = crosscoder.architecture
    totals = [np.zeros(width) for width in plan.widths]
    lengths = np.zeros(len(plan.widths))
    blocks = [index[start : start + READ_ROWS] for start in range(0, len(index), READ_ROWS)]
    for block in blocks:
        for model, x in enumerate(_inputs(rows, block, plan)):
            totals[model] += x.sum(axis=0, dtype=np.float64)
    means = [total / len(index) for total in totals]
    for block in blocks:
        for model, x in enumerate(_inputs(rows, block, plan)):
            lengths[model] += np.linalg.norm(x - means[model], axis=1).sum()
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise DiptychError("crosscoder: a model's rows are all equal or not finite; check its activations")
    crosscoder.mean.copy_(torch.from_numpy(np.concatenate(means)))
    crosscoder.scale.copy_(torch.from_numpy(math.sqrt(plan.mean_width) * len(index) / lengths))


def _inputs(rows: Rows, index: IntArray, plan: Architecture) -> list[FloatArray]:
    x = rows.take(index).x
    return [x[1] - x[0]] if plan.difference else list(x)


@torch.no_grad()
def calibrate(crosscoder: Crosscoder, feed: Feed) -> None:
    """Set the threshold so that the mean L0 over the calibration rows is k, with the weights as they are now."""
    if crosscoder.architecture.activation != "threshold":
        return
    index, k = feed.calibration(), crosscoder.architecture.k
    norm_F = crosscoder.decoder_norms().sum(0)
    kept = torch.zeros(0, device=norm_F.device)
    lowest = 0.0
    for start in range(0, len(index), READ_ROWS):
        z_BD = torch.from_numpy(feed.normalised(index[start : start + READ_ROWS])).to(norm_F.device)
        score_BF = crosscoder.pre_activations(z_BD).relu() * norm_F
        kept = torch.cat([kept, score_BF.view(-1)[sparse.positions(score_BF > lowest)]])
        if len(kept) > len(index) * k:
            kept = kept.topk(len(index) * k, sorted=False).values
            lowest = float(kept.min())
    crosscoder.threshold.fill_(lowest)


def train(
    rows: Rows,
    out: str | Path,
    *,
    spec: dict[str, Any],
    device: str = "cpu",
    checkpoint_every: int = 500,
    **settings: Any,
) -> None:
    """Stage: train a crosscoder and write its weights (kind "crosscoder").

    A checkpoint lies beside `out` while the run lasts; a run of the same spec goes on from it.

    Args:
        rows: the models' rows; those of fold 0 are not read.
        out: the artifact.
        spec: everything the result depends on.
        device: a torch device, cpu or cuda:0.
        checkpoint_every: steps between checkpoints.
        settings: the fields of `Training`.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(artifacts.canonical_json(spec).encode()).hexdigest()
    checkpoint = out.with_name(f".{out.name}.checkpoint")
    chosen = Training(**settings)
    crosscoder, run, feed = optimise(
        rows, chosen, device=device, checkpoint=checkpoint, key=key, checkpoint_every=checkpoint_every
    )
    calibrate(crosscoder, feed)
    with artifacts.create(out, "crosscoder", spec) as file:
        architecture.write(file, crosscoder)
        for name, values in run.series.items():
            file.array(f"series/{name}", np.array(values))
        file.json(
            "summary",
            {
                "steps": run.step,
                "rows_train": len(feed.index),
                "rows_seen": int(feed.seen.sum()),
                "rows_calibration": len(feed.calibration()),
                "loss": run.series["loss"][-1],
                "threshold": float(crosscoder.threshold),
                "running_threshold": run.series["running_threshold"][-1],
            },
        )
    checkpoint.unlink(missing_ok=True)


def _save(state: dict[str, Any], path: Path) -> None:
    temporary = path.with_name(path.name + ".part")
    torch.save(state, temporary)
    temporary.replace(path)


def _resume(run: Run, feed: Feed, path: Path, key: str, device: str) -> None:
    if not path.is_file():
        return
    state = torch.load(path, map_location=device, weights_only=True)
    if state["key"] != key:
        logs.logger.info("%s is of another spec; starting afresh", path)
        return
    run.restore(state)
    feed.seen[:] = state["seen"].cpu().numpy()
    logs.logger.info("going on from step %d of %s", run.step, path)
