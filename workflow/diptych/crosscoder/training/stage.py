"""Training of a crosscoder, resumable from checkpoints.

    train(rows, "weights.h5", spec=spec, seed=0, n_latents=1024, k=16, steps=4000, batch=1024, learning_rate=1e-3)

Every batch is a function of seed and step only, so a run that was killed resumes from its last checkpoint and, on a CPU
with the same number of threads, ends with the same bits. Rows of fold 0 are never read. Started by torchrun, several
processes share each batch (`parallel`).
"""

import math
import resource
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from diptych.activations.rows import Rows
from diptych.crosscoder.training.feed import READ_ROWS, Feed, set_normalisation
from diptych.crosscoder.training.parallel import ALONE, Group
from diptych.crosscoder.training.settings import Training
from diptych.crosscoder.training.tracking import Tracker
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding import architecture, objectives
from diptych.sparse_coding.architecture import Crosscoder
from diptych.sparse_coding.optimisation import (
    Optimisation,
    adam,
    backpropagate,
    count_silent,
    update,
)
from diptych.sparse_coding.threshold import threshold_of
from diptych.storage import artifacts
from diptych.storage.canonical import canonical_json
from diptych.storage.checkpoints import Checkpoint

THRESHOLD_MEMORY = 0.999
"""Decay of the running mean of the batch cut that is logged during training."""
DIVERGED = 10.0
"""A loss above this many times the first one stops the run."""
SERIES_POINTS = 200
"""Approximate number of points of the training curves."""


class DivergedError(DiptychError):
    """The loss is not finite, or far above its first value."""


@dataclass
class Run(Optimisation):
    """State of a training run; `state` is the part that a checkpoint stores."""

    first_loss: float = math.nan
    running_cut: float = 0.0
    series: dict[str, list[Any]] = field(default_factory=dict)
    group: Group = ALONE
    tracker: Tracker | None = None
    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    first_step: int = 0

    def state(self, rows_seen: np.ndarray[Any, Any]) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "crosscoder": self.crosscoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "silent_rows": self.silent_rows,
            "first_loss": self.first_loss,
            "running_cut": self.running_cut,
            "series": self.series,
            "seen": torch.from_numpy(rows_seen),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
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
    checkpoint: Checkpoint | None = None,
    checkpoint_every: int = 500,
    group: Group = ALONE,
    tracker: Tracker | None = None,
) -> tuple[Crosscoder, Run, Feed]:
    """Train on the rows outside fold 0; `calibrate` sets the threshold afterwards.

    Raises:
        DivergedError: the loss is not finite, or 10 times the first one.
    """
    crosscoder = Crosscoder(
        settings.architecture(rows.widths),
        seed=settings.seed,
        decoder_norm=settings.start_norm,
        independent=settings.independent,
    )
    feed = Feed(rows, crosscoder, settings, group)
    if group.leads:
        set_normalisation(crosscoder, rows, feed.calibration())
    crosscoder.to(device)
    for values in (crosscoder.mean, crosscoder.scale):
        group.share_(values)
    run = Run(crosscoder, adam(crosscoder), group=group, tracker=tracker)
    run.silent_rows = torch.zeros(settings.n_latents, device=device)
    if checkpoint is not None:
        _resume(run, feed, checkpoint, device)
    started = time.perf_counter()
    for step in _steps(run, feed, settings, device):
        if checkpoint is not None and group.leads and step % checkpoint_every == 0 and step < settings.steps:
            checkpoint.save(run.state(feed.seen))
    run.seconds = time.perf_counter() - started
    return crosscoder, run, feed


def _steps(run: Run, feed: Feed, settings: Training, device: str) -> Iterator[int]:
    """Take the remaining steps, with a progress bar; yields the number of steps done."""
    objective = settings.losses()
    part = settings.batch // settings.accumulate // run.group.size
    product = objectives.product_memory(part, settings.n_latents, objective, torch.device(device))
    bar = tqdm(
        total=settings.steps * settings.batch,
        initial=run.step * settings.batch,
        desc="train crosscoder",
        unit="tok",
        unit_scale=True,
        mininterval=10.0,
        disable=not run.group.leads,
    )
    batches = feed.batches(run.step, settings.steps)
    with bar, closing(batches):
        for z_BD in _timed(batches, run.waits):
            loss = take_step(run, z_BD, objective, settings, product)
            run.step += 1
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update(settings.batch)
            yield run.step


def _timed(batches: Iterator[Tensor], waits: list[float]) -> Iterator[Tensor]:
    """The batches; the seconds that each was waited for are appended to `waits`."""
    started = time.perf_counter()
    for z_BD in batches:
        waits.append(time.perf_counter() - started)
        yield z_BD
        started = time.perf_counter()


def take_step(
    run: Run, z_BD: Tensor, objective: objectives.Objective, settings: Training, product: Tensor | None = None
) -> float:
    """One optimiser step on this process's normalised rows; returns the loss of the whole batch."""
    parts = backpropagate(
        run,
        z_BD,
        objective,
        k=settings.k_at(run.step),
        dead_after=settings.dead_after,
        penalty=settings.penalty_at(run.step, run.crosscoder.architecture.mean_width),
        parts=settings.accumulate,
        cut=run.group.cut,
        product=product,
    )
    loss = float(run.group.sum_(torch.stack([terms.loss.detach() for terms in parts]).mean())) / run.group.size
    _check(loss, run, settings)
    run.group.average_gradients(run.crosscoder.parameters())
    tie_shared(run.crosscoder)
    update(run, rate=settings.rate_at(run.step), clip=settings.clip)
    firings = run.group.sum_(torch.stack([terms.firings for terms in parts]).sum(0))
    count_silent(run, firings, len(z_BD) * run.group.size)
    run.running_cut += (1 - THRESHOLD_MEMORY) * (parts[-1].cut - run.running_cut)
    if run.step % max(1, settings.steps // SERIES_POINTS) == 0 or run.step == settings.steps - 1:
        x_hat_BD = torch.cat([terms.x_hat_BD for terms in parts])
        _log(run, settings, loss, z_BD, x_hat_BD, float(firings.sum()) / (len(z_BD) * run.group.size), parts[0].n_dead)
    return loss


def _check(loss: float, run: Run, settings: Training) -> None:
    if run.step == 0:
        run.first_loss = loss
    if not math.isfinite(loss) or loss > DIVERGED * run.first_loss:
        raise DivergedError(
            f"crosscoder: the loss went from {run.first_loss:.4g} to {loss:.4g} at step {run.step}; "
            f"lower `learning_rate` (now {settings.rate:g})"
        )


def tie_shared(crosscoder: Crosscoder) -> None:
    """Sum the gradients of a shared decoder row over the models, whose copies must stay equal."""
    n_shared = crosscoder.architecture.n_shared
    if n_shared and crosscoder.W_dec.grad is not None:
        parts = crosscoder.per_model(crosscoder.W_dec.grad[:n_shared])
        crosscoder.W_dec.grad[:n_shared] = torch.stack(parts).sum(0).repeat(1, len(parts))


def _log(run: Run, settings: Training, loss: float, z_BD: Tensor, x_hat_BD: Tensor, l0: float, n_dead: int) -> None:
    point = {
        "step": run.step,
        "loss": loss,
        "l0": l0,
        "fvu": _batch_fvu(run, z_BD, x_hat_BD),
        "dead_share": n_dead / settings.n_latents,
        "learning_rate": settings.rate_at(run.step),
        "running_threshold": run.running_cut / (1 - THRESHOLD_MEMORY ** (run.step + 1)),
    }
    for name, value in point.items():
        run.series.setdefault(name, []).append(value)
    if run.tracker is not None:
        run.tracker.log(point)


def _batch_fvu(run: Run, z_BD: Tensor, x_hat_BD: Tensor) -> list[float]:
    """FVU of each model on the whole batch."""
    group, fvu = run.group, []
    parts = zip(run.crosscoder.per_model(z_BD), run.crosscoder.per_model(x_hat_BD), strict=True)
    for x, x_hat in parts:
        mean = group.sum_(x.mean(0)) / group.size
        sums = group.sum_(torch.stack([(x - x_hat).square().sum(), (x - mean).square().sum()]))
        fvu.append(float(sums[0] / sums[1]))
    return fvu


@torch.no_grad()
def calibrate(crosscoder: Crosscoder, feed: Feed) -> None:
    """Set the threshold so that the mean L0 over the calibration rows is k."""
    if crosscoder.architecture.activation != "threshold":
        return
    index = feed.calibration(aside=True)
    blocks = (index[start : start + READ_ROWS] for start in range(0, len(index), READ_ROWS))
    inputs = (architecture.crosscoder_input(feed.rows.take(block).x, crosscoder.architecture) for block in blocks)
    normalised = (crosscoder.normalise(x_BD.to(feed.device)) for x_BD in inputs)
    crosscoder.threshold.fill_(threshold_of(crosscoder, normalised, len(index)))


def train(
    rows: Rows,
    out: str | Path,
    *,
    spec: dict[str, Any],
    device: str = "cpu",
    checkpoint_every: int = 500,
    group: Group = ALONE,
    tracker: Tracker | None = None,
    throughput: str | Path | None = None,
    **settings: Any,
) -> None:
    """Stage: train a crosscoder and write its weights (kind "crosscoder").

    A checkpoint is kept beside `out` during the run; a run of the same spec resumes from it.

    Args:
        rows: the models' rows; those of fold 0 are not read.
        out: the artifact.
        spec: everything the result depends on.
        device: a torch device, cpu or cuda:0.
        checkpoint_every: steps between checkpoints.
        group: the processes that share the batches; the first one writes.
        tracker: logs the points of the training curves as they are computed.
        throughput: path of a JSON file for rows per second, the share of time spent waiting, and peak memory.
        settings: the fields of `Training`.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint.beside(out, spec)
    training = Training(**settings)
    crosscoder, run, feed = optimise(
        rows,
        training,
        device=device,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        group=group,
        tracker=tracker,
    )
    if not group.leads:
        return
    calibrate(crosscoder, feed)
    _write(out, spec, crosscoder, run, feed)
    _report_throughput(run, training, device, throughput)
    checkpoint.remove()


def _write(out: Path, spec: dict[str, Any], crosscoder: Crosscoder, run: Run, feed: Feed) -> None:
    with artifacts.create(out, "crosscoder", spec) as file:
        architecture.write(file, crosscoder)
        for name, values in run.series.items():
            file.array(f"series/{name}", np.array(values))
        file.json(
            "summary",
            {
                "steps": run.step,
                "learning_rate": feed.settings.rate,
                "rows_train": len(feed.index),
                "rows_seen": int(feed.seen.sum()),
                "rows_calibration": len(feed.calibration(aside=True)),
                "loss": run.series["loss"][-1],
                "threshold": float(crosscoder.threshold),
                "running_threshold": run.series["running_threshold"][-1],
            },
        )


def _report_throughput(run: Run, settings: Training, device: str, path: str | Path | None) -> None:
    """Log rows per second, the share of time spent waiting for rows and peak memory, and write them as JSON."""
    rows = (run.step - run.first_step) * settings.batch
    megabytes = {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if device.startswith("cuda"):
        megabytes["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    rate = rows / max(run.seconds, 1e-9)
    text = ", ".join(
        f"{name.removesuffix('_mb').replace('_', ' ')} {value:,.0f} MB" for name, value in megabytes.items()
    )
    waiting, first_wait = sum(run.waits), sum(run.waits[:1])
    logs.logger.info(
        "%s rows in %.1f s: %s rows/s, %.1f %% of the time waiting for rows (%.1f s for the first), %s",
        f"{rows:,}", run.seconds, f"{rate:,.0f}", 100 * waiting / max(run.seconds, 1e-9), first_wait, text,
    )  # fmt: skip
    if path is not None:
        numbers = {
            "rows": rows,
            "seconds": run.seconds,
            "rows_per_second": rate,
            "waiting_share": waiting / max(run.seconds, 1e-9),
            "first_wait_seconds": first_wait,
            "processes": run.group.size,
        }
        artifacts.write_text(path, canonical_json(numbers | megabytes) + "\n")


def _resume(run: Run, feed: Feed, checkpoint: Checkpoint, device: str) -> None:
    state = checkpoint.load(device)
    if state is None:
        return
    run.restore(state)
    run.first_step = run.step
    feed.seen[:] = state["seen"].cpu().numpy()
    logs.logger.info("going on from step %d of %s", run.step, checkpoint.path)
