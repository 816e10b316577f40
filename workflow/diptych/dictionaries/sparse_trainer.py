"""Training of topk and batchtopk dictionaries: crosscoders of one model, by the crosscoders' own steps.

    trained = train(scaled_rows, Settings("topk", k=32), metadata={}, device="cpu", checkpoint=checkpoint, every=1000)
    saelens_format.write(directory, trained.config, trained.weights)

The crosscoder reads rows z = (x - mean) s, ranks its latents by f_j ||d_j|| and writes sum_j f_j d_j. In SAELens'
terms, with n_j = ||d_j||, decoder rows d_j / n_j and code f_j n_j / s,

    W_enc[:, j] = w_j n_j     b_enc[j] = (b_j + w_j . b_dec) n_j / s     b_dec = b_dec / s + mean

reads x - b_dec and gives x_hat. A batchtopk threshold t on scores is t / s on that code, for every feature.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from diptych.dictionaries import saelens_format
from diptych.dictionaries.saelens_format import Weights
from diptych.dictionaries.scaled_rows import ScaledRows
from diptych.dictionaries.settings import Settings, Trained
from diptych.runtime import logs
from diptych.sparse_coding import objectives
from diptych.sparse_coding.architecture import Activation, Architecture, Crosscoder
from diptych.sparse_coding.objectives import Objective, Terms
from diptych.sparse_coding.optimisation import (
    Optimisation,
    adam,
    backpropagate,
    count_silent,
    dead_latents,
    update,
)
from diptych.sparse_coding.schedule import share_of_peak
from diptych.sparse_coding.threshold import threshold_of
from diptych.storage.checkpoints import Checkpoint

INITIAL_NORM = 0.1
"""Norm of the decoder rows at the start, as in SAELens' trainers."""
CLIP = 1.0
"""Norm to which larger gradients are clipped (METHODS 5)."""
THRESHOLD_ROWS = 100_000
"""Training rows on which a batchtopk dictionary's threshold is set (METHODS 5: at least this many, or all)."""
SMALLEST_NORM = 1e-8
"""Decoder rows are divided by no smaller norm."""


def train(
    rows: ScaledRows,
    settings: Settings,
    *,
    metadata: Mapping[str, Any],
    device: str,
    checkpoint: Checkpoint,
    every: int,
) -> Trained:
    """Train a topk or batchtopk dictionary; a run of the same checkpoint goes on from it.

    Args:
        rows: of one model.
        settings: of the training.
        metadata: of the config.
        device: a torch device.
        checkpoint: beside the result.
        every: steps between checkpoints.

    Raises:
        DiptychError: the loss is not finite.
    """
    state = start(settings, rows.width, device)
    _restore(state, checkpoint, device)
    optimise(state, rows, settings, checkpoint, every)
    crosscoder = state.crosscoder
    if settings.architecture == "batchtopk":
        sample = rows.sample(THRESHOLD_ROWS, settings.seed)
        blocks = (torch.from_numpy(block).to(device) for block in rows.blocks(sample, "threshold"))
        crosscoder.threshold.fill_(threshold_of(crosscoder, blocks, len(sample)))
    crosscoder.mean.copy_(torch.from_numpy(rows.scale.mean))
    crosscoder.scale.fill_(rows.scale.factor)
    weights = saelens_weights(crosscoder)
    if settings.architecture == "batchtopk":
        config = saelens_format.config_of("jumprelu", weights, metadata)
    else:
        config = saelens_format.config_of("topk", weights, metadata, k=settings.k, rescale_acts_by_decoder_norm=False)
    return Trained(config, weights, len(dead_latents(state, settings.dead_after)))


def start(settings: Settings, width: int, device: str) -> Optimisation:
    """An untrained crosscoder of one model with random decoder rows of norm `INITIAL_NORM`, and its optimiser."""
    activation: Activation = "topk" if settings.architecture == "topk" else "threshold"
    architecture = Architecture((width,), settings.n_features, activation, settings.k)
    crosscoder = Crosscoder(architecture, seed=settings.seed, decoder_norm=INITIAL_NORM).to(device)
    return Optimisation(crosscoder, adam(crosscoder), silent_rows=torch.zeros(settings.n_features, device=device))


def optimise(state: Optimisation, rows: ScaledRows, settings: Settings, checkpoint: Checkpoint, every: int) -> None:
    """Take the remaining steps, with a progress bar and checkpoints."""
    device = state.silent_rows.device
    objective = Objective("topk" if settings.architecture == "topk" else "batchtopk")
    product = objectives.product_memory(settings.batch, settings.n_features, objective, device)
    bar = tqdm(
        total=settings.steps * settings.batch,
        initial=state.step * settings.batch,
        desc="train dictionary",
        unit=" rows",
        unit_scale=True,
        mininterval=logs.interval(),
    )
    batches = rows.batches(batch=settings.batch, seed=settings.seed, first=state.step)
    with bar:
        for z_BD in islice(batches, settings.steps - state.step):
            terms = take_step(state, z_BD.to(device), objective, settings, product)
            if settings.reads_loss(state.step):
                loss = terms.loss.item()
                settings.check_loss(loss, state.step)
                bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update(settings.batch)
            if state.step % every == 0 and state.step < settings.steps:
                checkpoint.save(_stored(state))


def take_step(
    state: Optimisation, z_BD: torch.Tensor, objective: Objective, settings: Settings, product: torch.Tensor
) -> Terms:
    """One optimiser step on scaled rows z [B, d]; returns its loss and the terms of it."""
    (terms,) = backpropagate(state, z_BD, objective, k=settings.k, dead_after=settings.dead_after, product=product)
    share = share_of_peak(state.step, steps=settings.steps, warmup=settings.warmup, decay=settings.decay)
    update(state, rate=settings.learning_rate * share, clip=CLIP)
    count_silent(state, terms.firings, len(z_BD))
    state.step += 1
    return terms


@torch.no_grad()
def saelens_weights(crosscoder: Crosscoder) -> Weights:
    """Weights of a crosscoder of one model by SAELens' names, for raw rows, with unit decoder rows (see the module)."""
    norm_F = crosscoder.decoder_norms().sum(0).clamp_min(SMALLEST_NORM)
    tensors = {
        "W_enc": (crosscoder.W_enc * norm_F[:, None]).T,
        "b_enc": (crosscoder.b_enc + crosscoder.W_enc @ crosscoder.b_dec) * norm_F / crosscoder.scale,
        "W_dec": crosscoder.W_dec / norm_F[:, None],
        "b_dec": crosscoder.b_dec / crosscoder.scale + crosscoder.mean,
    }
    weights = {name: values.cpu().numpy() for name, values in tensors.items()}
    if crosscoder.architecture.activation == "threshold":
        # SAELens keeps what is above the threshold, a crosscoder what is at least the threshold.
        threshold = (crosscoder.threshold / crosscoder.scale).cpu().numpy()
        below = np.nextafter(threshold, np.float32(0))
        weights["threshold"] = np.full(crosscoder.architecture.n_latents, below, dtype=np.float32)
    return weights


def _stored(state: Optimisation) -> dict[str, Any]:
    return {
        "crosscoder": state.crosscoder.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "silent_rows": state.silent_rows,
    }


def _restore(state: Optimisation, checkpoint: Checkpoint, device: str) -> None:
    """Take up the state of the checkpoint, if there is one."""
    stored = checkpoint.load(device)
    if stored is None:
        return
    state.crosscoder.load_state_dict(stored["crosscoder"])
    state.optimizer.load_state_dict(stored["optimizer"])
    state.step = stored["step"]
    state.silent_rows.copy_(stored["silent_rows"])
    logs.logger.info("going on from step %d of %s", state.step, checkpoint.path)
