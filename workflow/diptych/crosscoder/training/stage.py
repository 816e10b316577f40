"""Training a crosscoder: the feed of rows, the schedule, the steps, and a run that survives being killed.

    train(rows, "weights.h5", spec=spec, seed=0, n_latents=1024, k=16, steps=4000, batch=1024, learning_rate=1e-3)

Every batch is a pure function of (seed, step), so a checkpoint needs no place in a stream: a run that was killed
goes on from its last checkpoint and, on a CPU with the same number of threads, ends with the same bits. Rows of fold
0 are never read. Started by torchrun, several processes share each batch (`parallel`).
"""

import math
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from diptych.activations import shuffling
from diptych.activations.rows import FloatArray, IntArray, Rows
from diptych.crosscoder import architecture, sparse
from diptych.crosscoder.architecture import Architecture, Crosscoder
from diptych.crosscoder.training import objectives
from diptych.crosscoder.training.parallel import ALONE, Group
from diptych.crosscoder.training.settings import Training
from diptych.crosscoder.training.tracking import Tracker
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.storage.checkpoints import Checkpoint

CALIBRATION_ROWS = 100_000
"""Training rows that set means and scales, and rows that set the threshold; all of them if there are fewer."""
CALIBRATION_DOCUMENTS = 8
"""Least documents that set the threshold: measured on 19th-century addresses, their mean L0 is then within 3 %."""
READ_ROWS = 1024
"""Rows read together: a shuffled buffer is filled with blocks of this many rows from all over the corpus."""
THRESHOLD_MEMORY = 0.999
"""Decay of the running mean of the batch cut that is logged during training."""
DIVERGED = 10.0
"""A loss above this many times the first one stops the run."""
SERIES_POINTS = 200
"""About how many points of the loss curve are stored."""


class DivergedError(DiptychError):
    """The loss left the region of numbers, or grew far above where it began."""


class Feed:
    """Normalised training batches, in the order of `shuffling`; if one buffer holds all rows, it is read once."""

    def __init__(self, rows: Rows, crosscoder: Crosscoder, settings: Training, group: Group = ALONE) -> None:
        self.rows, self.crosscoder, self.settings, self.group = rows, crosscoder, settings, group
        aside = kept_aside(rows, settings)
        self.index = np.flatnonzero((rows.fold != 0) & ~aside)
        self.aside = np.flatnonzero(aside)
        self.seen = np.zeros(len(rows), dtype=np.bool_)
        self._counts = np.ones(len(rows), dtype=np.bool_)
        self._all: FloatArray | None = None
        if len(self.index) < settings.batch or settings.buffer_rows < 2 * settings.batch:
            raise DiptychError(
                f"crosscoder: `batch` {settings.batch} needs as many training rows (there are {len(self.index)}) "
                f"and half of `buffer_rows` ({settings.buffer_rows}); lower `batch`"
            )
        if settings.batch % (settings.accumulate * group.size):
            raise DiptychError(
                f"crosscoder: `batch` {settings.batch} cannot be cut into {settings.accumulate} parts (`accumulate`) "
                f"for each of {group.size} processes; choose a multiple of {settings.accumulate * group.size}"
            )

    def calibration(self, *, aside: bool = False) -> IntArray:
        """Rows for means and scales, or (`aside`) for the threshold: all, or blocks spread evenly."""
        chosen = self.aside if aside and len(self.aside) else self.index
        if len(chosen) > CALIBRATION_ROWS:
            blocks = shuffling.blocks(self.rows.position, chosen, READ_ROWS)
            wanted = min(len(blocks), -(-CALIBRATION_ROWS * len(blocks) // len(chosen)))
            chosen = np.concatenate([blocks[i] for i in np.linspace(0, len(blocks) - 1, wanted).astype(int)])
        return chosen[self.rows.counting(chosen)]

    def batches(self, first: int) -> Iterator[Tensor]:
        """Batches of steps first, first + 1, ..., without end: of each this process's rows [batch / processes, D]."""
        for fill in shuffling.fills(
            shuffling.blocks(self.rows.position, self.index, min(READ_ROWS, self.settings.buffer_rows // 2)),
            buffer_rows=self.settings.buffer_rows,
            batch=self.settings.batch,
            seed=self.settings.seed,
            first=first,
        ):
            values = self._load(fill.rows)
            order = fill.order[self._counts[fill.rows][fill.order]]
            for start in fill.starts:
                # Streamed rows that turned out not to count may leave the last batch short: it begins anew.
                chosen = order.take(np.arange(start, start + self.settings.batch), mode="wrap")
                self.seen[fill.rows[chosen]] = True
                yield torch.from_numpy(values[self._own(chosen)])

    def _own(self, chosen: IntArray) -> IntArray:
        """Rows of a batch that are this process's: of each part (`accumulate`) as many as any other's."""
        own: IntArray = chosen.reshape(self.settings.accumulate, self.group.size, -1)[:, self.group.rank].ravel()
        return own

    def _load(self, part: IntArray) -> FloatArray:
        if self._all is not None:
            return self._all
        values = np.empty((len(part), sum(self.crosscoder.architecture.widths)), dtype=np.float32)
        size = READ_ROWS * self.group.size
        for start in range(0, len(part), size):
            chunk = part[start : start + size]
            values[start : start + size], self._counts[chunk] = self._read(chunk)
        if len(part) == len(self.index):
            self._all = values
        return values

    def _read(self, chunk: IntArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Normalised rows and which of them count; streamed ones, which are dear, each process runs its share of."""
        if not self.rows.streamed or self.group.size == 1:
            return self.normalised(chunk), self.rows.counting(chunk)
        own = np.array_split(chunk, self.group.size)[self.group.rank]
        values, counts = torch.from_numpy(self.normalised(own)), torch.from_numpy(self.rows.counting(own))
        return self.group.gather(values).numpy(), self.group.gather(counts.byte()).bool().numpy()

    def normalised(self, index: IntArray) -> FloatArray:
        """Normalised rows [len(index), D]."""
        crosscoder = self.crosscoder
        x_BD = architecture.side_by_side(self.rows.take(index).x, crosscoder.architecture)
        coordinate_scale, mean = crosscoder.coordinate_scale.cpu(), crosscoder.mean.cpu()
        normalised: FloatArray = ((x_BD - mean) * coordinate_scale).numpy()
        return normalised


def kept_aside(rows: Rows, settings: Training) -> npt.NDArray[np.bool_]:
    """Rows [n] of the training documents that only set the threshold.

    Documents in random order until they hold `calibration_share` of the training rows or `CALIBRATION_ROWS`, but at
    least `CALIBRATION_DOCUMENTS` of them, and never more than a fifth of all.
    """
    train = rows.fold != 0
    activation = settings.architecture(rows.widths).activation
    documents, count = np.unique(rows.document[train], return_counts=True)
    if activation != "threshold" or not settings.calibration_share or len(documents) < 2:
        return np.zeros(len(rows), dtype=np.bool_)
    order = np.random.default_rng([settings.seed, 2]).permutation(len(documents))
    enough = min(settings.calibration_share * train.sum(), CALIBRATION_ROWS)
    n = int(np.searchsorted(np.cumsum(count[order]), enough)) + 1
    n = max(1, min(max(n, CALIBRATION_DOCUMENTS), len(documents) // 5))
    aside: npt.NDArray[np.bool_] = train & np.isin(rows.document, documents[order[:n]])
    return aside


@dataclass
class Run:
    """What a run carries from step to step; `state` is what its checkpoint holds."""

    crosscoder: Crosscoder
    optimizer: torch.optim.Adam
    step: int = 0
    silent_rows: Tensor = field(default_factory=lambda: torch.zeros(0))
    first_loss: float = math.nan
    running_cut: float = 0.0
    floor: float = 0.0
    series: dict[str, list[Any]] = field(default_factory=dict)
    group: Group = ALONE
    tracker: Tracker | None = None
    seconds: float = 0.0
    first_step: int = 0

    def state(self, seen: np.ndarray[Any, Any]) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
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
    checkpoint: Checkpoint | None = None,
    checkpoint_every: int = 500,
    group: Group = ALONE,
    tracker: Tracker | None = None,
) -> tuple[Crosscoder, Run, Feed]:
    """Train on the rows outside fold 0; the threshold is left for `calibrate`.

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
    optimizer = torch.optim.Adam(crosscoder.parameters(), lr=settings.rate, fused=True)
    run = Run(crosscoder, optimizer, group=group, tracker=tracker)
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
    """Take the steps that are left, showing rows/s, loss and time left; yields how many are done."""
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
    with bar:
        for z_BD in islice(feed.batches(run.step), settings.steps - run.step):
            loss = take_step(run, z_BD.to(device), objective, settings, product)
            run.step += 1
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update(settings.batch)
            yield run.step


def take_step(
    run: Run, z_BD: Tensor, objective: objectives.Objective, settings: Training, product: Tensor | None = None
) -> float:
    """One optimiser step on this process's normalised rows; returns the loss of the whole batch."""
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
            cut=run.group.cut,
            product=product if product is not None and len(product) == len(part_BD) else None,
        )
        terms = objectives.evaluate_terms(crosscoder, part_BD, objective, step)
        torch.autograd.backward(terms.loss * (len(part_BD) / len(z_BD)))
        run.floor = objectives.FLOOR_MARGIN * terms.cut
        parts.append(terms)
    loss = float(run.group.sum_(torch.stack([terms.loss.detach() for terms in parts]).mean())) / run.group.size
    _check(loss, run, settings)
    run.group.average_gradients(crosscoder.parameters())
    _apply(run, settings)
    firings = run.group.sum_(torch.stack([terms.firings for terms in parts]).sum(0))
    run.silent_rows.add_(len(z_BD) * run.group.size).mul_(firings == 0)
    run.running_cut += (1 - THRESHOLD_MEMORY) * (parts[-1].cut - run.running_cut)
    if run.step % max(1, settings.steps // SERIES_POINTS) == 0 or run.step == settings.steps - 1:
        x_hat_BD = torch.cat([terms.x_hat_BD for terms in parts])
        _log(run, settings, loss, z_BD, x_hat_BD, float(firings.sum()) / (len(z_BD) * run.group.size), len(dead))
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
    """Set the threshold so that the mean L0 over the rows kept aside is k, with the weights as they are now."""
    if crosscoder.architecture.activation != "threshold":
        return
    index, k = feed.calibration(aside=True), crosscoder.architecture.k
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
    group: Group = ALONE,
    tracker: Tracker | None = None,
    throughput: str | Path | None = None,
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
        group: the processes that share the batches; the first one writes.
        tracker: gets the points of the series as they come.
        throughput: where rows a second and peak memory go, as JSON.
        settings: the fields of `Training`.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint.beside(out, spec)
    chosen = Training(**settings)
    crosscoder, run, feed = optimise(
        rows,
        chosen,
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
    _report_throughput(run, chosen, device, throughput)
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
                "rows_train": len(feed.index),
                "rows_seen": int(feed.seen.sum()),
                "rows_calibration": len(feed.calibration(aside=True)),
                "loss": run.series["loss"][-1],
                "threshold": float(crosscoder.threshold),
                "running_threshold": run.series["running_threshold"][-1],
            },
        )


def _report_throughput(run: Run, settings: Training, device: str, path: str | Path | None) -> None:
    """Log rows a second and peak memory of this process, and write them as JSON."""
    rows = (run.step - run.first_step) * settings.batch
    megabytes = {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if device.startswith("cuda"):
        megabytes["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    rate = rows / max(run.seconds, 1e-9)
    said = ", ".join(
        f"{name.removesuffix('_mb').replace('_', ' ')} {value:,.0f} MB" for name, value in megabytes.items()
    )
    logs.logger.info("%s rows in %.1f s: %s rows/s, %s", f"{rows:,}", run.seconds, f"{rate:,.0f}", said)
    if path is not None:
        numbers = {"rows": rows, "seconds": run.seconds, "rows_per_second": rate, "processes": run.group.size}
        artifacts.write_text(path, artifacts.canonical_json(numbers | megabytes) + "\n")


def _resume(run: Run, feed: Feed, checkpoint: Checkpoint, device: str) -> None:
    state = checkpoint.load(device)
    if state is None:
        return
    run.restore(state)
    run.first_step = run.step
    feed.seen[:] = state["seen"].cpu().numpy()
    logs.logger.info("going on from step %d of %s", run.step, checkpoint.path)
