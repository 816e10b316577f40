"""Training dictionaries on stored activations, with SAELens' own trainers and in its own format.

Rows are centred and scaled so that E||x - mean|| = sqrt(d), the scale for which SAELens' coefficients are quoted;
both are folded into the weights at the end, so that the saved dictionary reads raw activations and has unit decoder
rows:

    train(rows, "results/dictionaries/base", Settings("topk", n_features=1024, k=32, steps=300), spec=spec)
    dictionaries.load("results/dictionaries/base").encode(x)

Fold 0 is never trained on; how well the result does there stands in the directory's training.json. Every batch is a
function of (seed, step), so a run that was killed goes on from its last checkpoint and, on a CPU with the same number
of threads, ends with the same bits.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.activations import shuffling
from diptych.activations.rows import Rows
from diptych.dictionaries import sae as dictionaries
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.storage.canonical import canonical_json
from diptych.storage.checkpoints import Checkpoint

if TYPE_CHECKING:
    from sae_lens.training.sae_trainer import SAETrainer
    from tqdm import tqdm

Architecture = Literal["standard", "topk", "batchtopk", "jumprelu"]
FloatArray = npt.NDArray[np.float32]

READ_ROWS = 4096
BUFFER_ROWS = 262_144
"""Rows held in memory to be shuffled: whole small corpora, 0.6 GB at width 576."""
THRESHOLD_ROWS = 100_000
"""Training rows on which a batchtopk dictionary's threshold is set (METHODS 5: at least this many, or all)."""
L0_TOLERANCE = 0.1
"""Share by which the held-out L0 may miss k before a warning (METHODS 5)."""
DEAD_SHARE = 0.05
"""A feature that has not fired for this share of the run is dead and gets the auxiliary loss (METHODS 5)."""
LOSS_STEPS = 10
"""Steps between two losses on the bar: reading one makes a GPU wait."""
COUNTS = (
    "n_training_steps", "n_training_samples", "act_freq_scores", "n_forward_passes_since_fired",
    "n_frac_active_samples",
)  # fmt: skip
"""Counters of SAELens' trainer that a checkpoint stores."""


class Scale(NamedTuple):
    """Rows become (x - mean) * factor: `mean` float32 [d], `factor` so that E||x - mean|| * factor = sqrt(d)."""

    mean: FloatArray
    factor: float


@dataclass(frozen=True)
class Settings:
    """Settings of the training of a dictionary.

    Attributes:
        architecture: SAELens' trainer; a batchtopk dictionary is saved as jumprelu with one threshold.
        n_features: F.
        k: features active on a row: exactly (topk), on average (batchtopk), or aimed at (jumprelu).
        steps: optimiser steps.
        batch: rows a step.
        learning_rate: peak, Adam.
        warmup: share of the steps with a rising learning rate.
        decay: share of the steps, at the end, over which it falls to a tenth.
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


def train(
    rows: Rows,
    out_dir: str | Path,
    settings: Settings,
    *,
    spec: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    device: str = "cpu",
    checkpoint_every: int = 1000,
) -> None:
    """Train a dictionary on the rows of one model and write it as a SAELens directory.

    A checkpoint lies beside `out_dir` while the run lasts; a run of the same spec goes on from it.

    Args:
        rows: of one model; rows of fold 0 are only scored.
        out_dir: gets cfg.json, sae_weights.safetensors and training.json.
        settings: of the training.
        spec: what the result depends on.
        metadata: further entries of cfg.json's metadata, such as model_name and hook_name.
        device: a torch device, as `devices.take` gives it.
        checkpoint_every: steps between checkpoints.

    Raises:
        DiptychError: fewer training rows than one batch, or k exceeds n_features.
    """
    index = np.flatnonzero(rows.fold != 0)
    _check(rows, len(index), settings)
    checkpoint = Checkpoint.beside(out_dir, spec)
    scale = _scale(rows, index)
    trainer = _trainer(settings, rows.widths[0], metadata or {}, device)
    _restore(trainer, checkpoint, device)
    batches = _batches(rows, index, scale, settings, trainer.n_training_steps)
    trainer.data_provider = _saving(batches, trainer, checkpoint, checkpoint_every)
    sae = trainer.fit()
    _unscale(sae, scale)
    if settings.architecture == "batchtopk":
        sae.topk_threshold.fill_(_threshold(sae, rows, index, settings))
    with artifacts.create_directory(out_dir, "dictionary", spec) as directory:
        _save(sae, directory)
        test = _score(directory, rows, np.flatnonzero(rows.fold == 0), device)
        report = {
            "rows": len(index),
            "epochs": settings.steps * settings.batch / len(index),
            "dead_at_end": int(trainer.dead_neurons.sum()),
            "train": _score(directory, rows, index, device),
            "test": test,
        }
        artifacts.write_text(directory / "training.json", canonical_json(report) + "\n")
    checkpoint.remove()
    logs.logger.info("dictionary: on the test fold FVU %.3f, L0 %.1f", test["fvu"], test["l0"])
    if settings.architecture != "standard" and abs(test["l0"] - settings.k) > L0_TOLERANCE * settings.k:
        hint = "train for more steps or use topk"
        logs.logger.warning("dictionary: L0 %.1f where %d was asked; %s", test["l0"], settings.k, hint)


def _check(rows: Rows, n_train: int, settings: Settings) -> None:
    if len(rows.sides) != 1:
        raise ValueError(f"a dictionary reads one model, not {len(rows.sides)}")
    if n_train < settings.batch:
        raise DiptychError(
            f"dictionary: {n_train} training rows are less than one batch of {settings.batch}; lower `batch` or raise "
            "the tokens"
        )
    if settings.architecture != "standard" and settings.k > settings.n_features:
        raise DiptychError(f"dictionary: k {settings.k} exceeds n_features {settings.n_features}; lower `k`")


def _trainer(settings: Settings, width: int, metadata: Mapping[str, Any], device: str) -> "SAETrainer[Any, Any]":
    """SAELens' trainer of an untrained SAE; it has no rows yet."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.training.sae_trainer import SAETrainer

    sae_class, config_class = get_sae_training_class(settings.architecture)
    config = config_class(
        d_in=width,
        d_sae=settings.n_features,
        device=device,
        metadata=SAEMetadata(**metadata),
        **_of_architecture(settings),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        sae = sae_class(config)
    training = SAETrainerConfig(
        total_training_samples=settings.steps * settings.batch,
        train_batch_size_samples=settings.batch,
        lr=settings.learning_rate,
        lr_end=settings.learning_rate / 10,
        lr_warm_up_steps=int(settings.warmup * settings.steps),
        lr_decay_steps=int(settings.decay * settings.steps),
        dead_feature_window=max(1, int(DEAD_SHARE * settings.steps)),
        feature_sampling_window=settings.steps + 1,
        device=device,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(training, sae, iter(()))
    trainer._update_pbar = partial(_show, trainer)
    return trainer


def _show(trainer: "SAETrainer[Any, Any]", output: Any, bar: "tqdm[Any]") -> None:
    """Move SAELens' bar by one step and show the loss; its own way shows neither before a hundred steps."""
    bar.unit, bar.unit_scale, bar.mininterval = " rows", True, logs.interval()
    if trainer.n_training_steps % LOSS_STEPS == 0:
        bar.set_postfix(loss=f"{output.loss.item():.4g}", refresh=False)
    bar.update(trainer.cfg.train_batch_size_samples)


def _of_architecture(settings: Settings) -> Mapping[str, Any]:
    """Entries of SAELens' config that only this architecture has."""
    match settings.architecture:
        case "standard":
            return {"l1_coefficient": settings.l1_coefficient, "l1_warm_up_steps": settings.steps // 20}
        case "topk":
            return {"k": settings.k}
        case "batchtopk":
            return {"k": float(settings.k)}
        case "jumprelu":
            return {
                "jumprelu_sparsity_loss_mode": "quadratic",
                "target_l0": float(settings.k),
                "l0_warm_up_steps": settings.steps // 4,
                "jumprelu_ste_to_input": True,
                "jumprelu_bandwidth": 2.0,
                "jumprelu_init_threshold": 0.1,
            }


def _saving(batches: Iterator[Tensor], trainer: "SAETrainer[Any, Any]", at: Checkpoint, every: int) -> Iterator[Tensor]:
    """Pass batches through; the trainer asks for one between two steps, where its state can be saved."""
    first = trainer.n_training_steps
    for batch in batches:
        step = trainer.n_training_steps
        if step > first and step % every == 0:
            at.save(
                {
                    "sae": trainer.sae.state_dict(),
                    "optimizer": trainer.optimizer.state_dict(),
                    "lr_scheduler": trainer.lr_scheduler.state_dict(),
                    "coefficients": {name: each.state_dict() for name, each in trainer.coefficient_schedulers.items()},
                    "counts": {name: getattr(trainer, name) for name in COUNTS},
                }
            )
        yield batch


def _restore(trainer: "SAETrainer[Any, Any]", checkpoint: Checkpoint, device: str) -> None:
    """Take up the state of the checkpoint, if there is one."""
    state = checkpoint.load(device)
    if state is None:
        return
    trainer.sae.load_state_dict(state["sae"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.lr_scheduler.load_state_dict(state["lr_scheduler"])
    for name, each in trainer.coefficient_schedulers.items():
        each.load_state_dict(state["coefficients"][name])
    for name in COUNTS:
        setattr(trainer, name, state["counts"][name])
    logs.logger.info("going on from step %d of %s", trainer.n_training_steps, checkpoint.path)


def _scale(rows: Rows, index: npt.NDArray[np.int64]) -> Scale:
    """Mean and scale of the training rows, from two passes in float64."""
    total = np.zeros(rows.widths[0])
    for x in _blocks(rows, index, "mean of the rows"):
        total += x.sum(axis=0, dtype=np.float64)
    mean = (total / len(index)).astype(np.float32)
    blocks = _blocks(rows, index, "scale of the rows")
    norm = sum(float(np.linalg.norm(x - mean, axis=1).sum(dtype=np.float64)) for x in blocks)
    if norm == 0:
        raise DiptychError("dictionary: all training rows are equal; nothing to learn")
    return Scale(mean, float(np.sqrt(rows.widths[0]) * len(index) / norm))


def _blocks(rows: Rows, index: npt.NDArray[np.int64], label: str) -> Iterator[FloatArray]:
    """The rows in turn, with a bar called `label`."""
    for start in logs.progress(range(0, len(index), READ_ROWS), label, unit="block"):
        yield rows.take(index[start : start + READ_ROWS]).x[0]


def _batches(
    rows: Rows, index: npt.NDArray[np.int64], scale: Scale, settings: Settings, first: int
) -> Iterator[Tensor]:
    """Scaled batches of steps first, first + 1, ..., without end."""
    buffer: FloatArray | None = None
    for fill in shuffling.fills(
        shuffling.blocks(rows.position, index, READ_ROWS),
        buffer_rows=max(BUFFER_ROWS, 2 * settings.batch),
        batch=settings.batch,
        seed=settings.seed,
        first=first,
    ):
        if buffer is None or len(fill.rows) < len(index):
            buffer = rows.take(fill.rows).x[0]
            buffer -= scale.mean
            buffer *= np.float32(scale.factor)
        for start in fill.starts:
            yield torch.from_numpy(buffer[fill.order[start : start + settings.batch]])


def _unscale(sae: Any, scale: Scale) -> None:
    """Fold centring and scaling into the weights, and decoder norms into the encoder."""
    with torch.no_grad():
        sae.to("cpu")
        sae.fold_activation_norm_scaling_factor(scale.factor)
        sae.b_dec += torch.from_numpy(scale.mean)
        if not getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
            sae.fold_W_dec_norm()


def _threshold(sae: Any, rows: Rows, index: npt.NDArray[np.int64], settings: Settings) -> float:
    """The score above which, on training rows, k features a row are active on average (METHODS 5)."""
    sample = index
    if len(index) > THRESHOLD_ROWS:
        sample = np.sort(np.random.default_rng([settings.seed, 2]).choice(index, THRESHOLD_ROWS, replace=False))
    n_active = settings.k * len(sample)
    largest = np.empty(0, dtype=np.float32)
    with torch.no_grad():
        for x in _blocks(rows, sample, "threshold"):
            score = sae.encode_with_hidden_pre(torch.from_numpy(x))[1].numpy().ravel()
            floor = largest.min() if len(largest) == n_active else 0.0
            largest = np.concatenate([largest, score[score > floor]])
            if len(largest) > n_active:
                largest = np.partition(largest, len(largest) - n_active)[-n_active:]
    return float(np.nextafter(largest.min(), np.float32(0)))


def _save(sae: Any, directory: Path) -> None:
    """SAELens' files, with the keys of cfg.json sorted: it writes them in the order of a set, which varies."""
    _, config_path = sae.save_inference_model(directory)
    config = json.loads(Path(config_path).read_text(encoding="utf-8"))
    Path(config_path).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in directory.iterdir():
        file.chmod(0o644)


def _score(directory: Path, rows: Rows, index: npt.NDArray[np.int64], device: str) -> dict[str, float]:
    """Pooled FVU (METHODS 0.5), mean L0 and share of features that never fire, of the saved dictionary."""
    dictionary = dictionaries.load(directory)
    if len(index) == 0:
        return {"rows": 0, "fvu": float("nan"), "l0": float("nan"), "dead_share": float("nan")}
    mean = sum(x.sum(axis=0, dtype=np.float64) for x in _blocks(rows, index, "mean to score by")) / len(index)
    error = total = active = 0.0
    fired = torch.zeros(dictionary.n_features, dtype=torch.bool, device=device)
    with torch.no_grad():
        for x in _blocks(rows, index, "score"):
            codes = dictionary.encode(torch.from_numpy(x).to(device))
            rest = x - dictionary.decode(codes).cpu().numpy()
            error += float(np.square(rest, dtype=np.float64).sum())
            total += float(np.square(x - mean).sum())
            active += float((codes > 0).sum())
            fired |= (codes > 0).any(dim=0)
    return {
        "rows": len(index),
        "fvu": error / total,
        "l0": active / len(index),
        "dead_share": 1 - float(fired.float().mean()),
    }
