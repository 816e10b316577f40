"""Training of standard and jumprelu dictionaries by SAELens' own trainers.

    trained = train(scaled_rows, Settings("standard"), metadata={}, device="cpu", checkpoint=checkpoint, every=1000)
    saelens_format.write(directory, trained.config, trained.weights)

Rows come in scaled to E||x|| = sqrt(d), the scale for which SAELens' coefficients are quoted; mean and scale are folded
into the weights at the end.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diptych.dictionaries.scaled_rows import Scale, ScaledRows
from diptych.dictionaries.settings import DEAD_SHARE, Settings, Trained
from diptych.runtime import logs
from diptych.storage.checkpoints import Checkpoint

if TYPE_CHECKING:
    from sae_lens.training.sae_trainer import SAETrainer
    from tqdm import tqdm

COUNTS = (
    "n_training_steps", "n_training_samples", "act_freq_scores", "n_forward_passes_since_fired",
    "n_frac_active_samples",
)  # fmt: skip
"""Counters of SAELens' trainer that a checkpoint stores."""


def train(
    rows: ScaledRows,
    settings: Settings,
    *,
    metadata: Mapping[str, Any],
    device: str,
    checkpoint: Checkpoint,
    every: int,
) -> Trained:
    """Train a standard or jumprelu dictionary; a run of the same checkpoint goes on from it.

    Args:
        rows: of one model.
        settings: of the training.
        metadata: further entries of the config's metadata.
        device: a torch device.
        checkpoint: beside the result.
        every: steps between checkpoints.

    Raises:
        DiptychError: the loss is not finite.
    """
    trainer = trainer_of(_untrained(settings, rows.width, metadata, device), settings, device)
    _restore(trainer, checkpoint, device)
    batches = rows.batches(batch=settings.batch, seed=settings.seed, first=trainer.n_training_steps)
    trainer.data_provider = _saving(batches, trainer, checkpoint, every)
    sae = trainer.fit()
    _unscale(sae, rows.scale)
    state = sae.state_dict()
    sae.process_state_dict_for_saving_inference(state)
    weights = {name: values.numpy() for name, values in state.items()}
    return Trained(sae.cfg.get_inference_sae_cfg_dict(), weights, int(trainer.dead_neurons.sum()))


def _untrained(settings: Settings, width: int, metadata: Mapping[str, Any], device: str) -> Any:
    """SAELens' SAE with random weights."""
    from sae_lens.registry import get_sae_training_class
    from sae_lens.saes.sae import SAEMetadata

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
        return sae_class(config)


def trainer_of(sae: Any, settings: Settings, device: str) -> "SAETrainer[Any, Any]":
    """SAELens' trainer of an SAE under these settings; it has no rows yet."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    training = SAETrainerConfig(
        total_training_samples=settings.steps * settings.batch,
        train_batch_size_samples=settings.batch,
        lr=settings.learning_rate,
        lr_end=settings.learning_rate / 10,  # required, and ignored by a constant schedule
        lr_warm_up_steps=int(settings.warmup * settings.steps),
        lr_decay_steps=int(settings.decay * settings.steps),
        dead_feature_window=max(1, int(DEAD_SHARE * settings.steps)),
        feature_sampling_window=settings.steps + 1,
        device=device,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(training, sae, iter(()))
    trainer._update_pbar = partial(_show, trainer, settings)
    return trainer


def _show(trainer: "SAETrainer[Any, Any]", settings: Settings, output: Any, bar: "tqdm[Any]") -> None:
    """Move SAELens' bar by one step and show the loss; its own way shows neither before a hundred steps."""
    bar.unit, bar.unit_scale, bar.mininterval = " rows", True, logs.interval()
    if settings.reads_loss(trainer.n_training_steps):
        loss = output.loss.item()
        settings.check_loss(loss, trainer.n_training_steps)
        bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
    bar.update(settings.batch)


def _of_architecture(settings: Settings) -> Mapping[str, Any]:
    """Entries of SAELens' config that only this architecture has."""
    if settings.architecture == "standard":
        return {"l1_coefficient": settings.l1_coefficient, "l1_warm_up_steps": settings.steps // 20}
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


def _unscale(sae: Any, scale: Scale) -> None:
    """Fold centring and scaling into the weights, and decoder norms into the encoder."""
    with torch.no_grad():
        sae.to("cpu")
        sae.fold_activation_norm_scaling_factor(scale.factor)
        sae.b_dec += torch.from_numpy(scale.mean)
        sae.fold_W_dec_norm()
