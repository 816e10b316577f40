"""Training dictionaries on stored activations, with SAELens' own trainers and in its own format.

Rows are centred and scaled so that E||x - mean|| = sqrt(d), the scale for which SAELens' coefficients are quoted;
both are folded into the weights at the end, so that the saved dictionary reads raw activations and has unit decoder
rows:

    train(rows, "results/dictionaries/base", spec=spec, architecture="topk", n_features=1024, k=32, steps=300,
          batch=1024, learning_rate=3e-3, seed=0)
    dictionaries.load("results/dictionaries/base").encode(x)

Fold 0 is never trained on; how well the result does there stands in the directory's training.json.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych import DiptychError, artifacts, dictionaries, logs
from diptych.rows import Rows

if TYPE_CHECKING:
    import torch

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


class Scale(NamedTuple):
    """Rows become (x - mean) * factor: `mean` float32 [d], `factor` so that E||x - mean|| * factor = sqrt(d)."""

    mean: FloatArray
    factor: float


def train(
    rows: Rows,
    out_dir: str | Path,
    *,
    spec: Mapping[str, Any],
    architecture: Architecture = "topk",
    n_features: int = 1024,
    k: int = 32,
    steps: int = 300,
    batch: int = 1024,
    learning_rate: float = 3e-3,
    warmup: float = 0.05,
    decay: float = 0.2,
    l1_coefficient: float = 5.0,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> None:
    """Train a dictionary on the rows of one model and write it as a SAELens directory.

    Args:
        rows: of one model; rows of fold 0 are only scored.
        out_dir: gets cfg.json, sae_weights.safetensors and training.json.
        spec: what the result depends on.
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
        metadata: further entries of cfg.json's metadata, such as model_name and hook_name.
        device: a torch device, as `devices.take` gives it.

    Raises:
        DiptychError: fewer training rows than one batch, or k exceeds n_features.
    """
    import torch
    from sae_lens.training.sae_trainer import SAETrainer

    chosen = np.flatnonzero(rows.fold != 0)
    _check(rows, len(chosen), n_features, k, batch)
    scale = _scale(rows, chosen)
    generator = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sae = _new(architecture, rows.widths[0], n_features, k, steps, l1_coefficient, metadata or {}, device)
        trainer = SAETrainer(
            _trainer_config(steps, batch, learning_rate, warmup, decay, device),
            sae,
            _batches(rows, chosen, batch, scale, generator),
        )
        trainer.fit()
    _unscale(sae, scale)
    if architecture == "batchtopk":
        sae.topk_threshold.fill_(_threshold(sae, rows, chosen, k, generator))
    dead = int(trainer.dead_neurons.sum())
    with artifacts.create_directory(out_dir, "dictionary", spec) as directory:
        _save(sae, directory)
        test = _score(directory, rows, np.flatnonzero(rows.fold == 0), device)
        report = {
            "rows": len(chosen),
            "epochs": steps * batch / len(chosen),
            "dead_at_end": dead,
            "train": _score(directory, rows, chosen, device),
            "test": test,
        }
        artifacts.write_text(directory / "training.json", artifacts.canonical_json(report) + "\n")
    logs.logger.info("dictionary: on the test fold FVU %.3f, L0 %.1f", test["fvu"], test["l0"])
    if architecture != "standard" and abs(test["l0"] - k) > L0_TOLERANCE * k:
        logs.logger.warning("dictionary: L0 %.1f where %d was asked; train for more steps or use topk", test["l0"], k)


def _check(rows: Rows, n_train: int, n_features: int, k: int, batch: int) -> None:
    if len(rows.sides) != 1:
        raise ValueError(f"a dictionary reads one model, not {len(rows.sides)}")
    if n_train < batch:
        raise DiptychError(
            f"dictionary: {n_train} training rows are less than one batch of {batch}; lower `batch` or raise the tokens"
        )
    if k > n_features:
        raise DiptychError(f"dictionary: k {k} exceeds n_features {n_features}; lower `k`")


def _new(
    architecture: Architecture,
    width: int,
    n_features: int,
    k: int,
    steps: int,
    l1_coefficient: float,
    metadata: Mapping[str, Any],
    device: str,
) -> Any:
    """An untrained SAELens training SAE with this architecture's settings."""
    from sae_lens.registry import get_sae_training_class
    from sae_lens.saes.sae import SAEMetadata

    settings: Mapping[Architecture, Mapping[str, Any]] = {
        "standard": {"l1_coefficient": l1_coefficient, "l1_warm_up_steps": steps // 20},
        "topk": {"k": k},
        "batchtopk": {"k": float(k)},
        "jumprelu": {
            "jumprelu_sparsity_loss_mode": "quadratic",
            "target_l0": float(k),
            "l0_warm_up_steps": steps // 4,
            "jumprelu_ste_to_input": True,
            "jumprelu_bandwidth": 2.0,
            "jumprelu_init_threshold": 0.1,
        },
    }
    sae_class, config_class = get_sae_training_class(architecture)
    config = config_class(
        d_in=width, d_sae=n_features, device=device, metadata=SAEMetadata(**metadata), **settings[architecture]
    )
    return sae_class(config)


def _trainer_config(steps: int, batch: int, learning_rate: float, warmup: float, decay: float, device: str) -> Any:
    from sae_lens.config import LoggingConfig, SAETrainerConfig

    return SAETrainerConfig(
        total_training_samples=steps * batch,
        train_batch_size_samples=batch,
        lr=learning_rate,
        lr_end=learning_rate / 10,
        lr_warm_up_steps=int(warmup * steps),
        lr_decay_steps=int(decay * steps),
        dead_feature_window=max(1, int(DEAD_SHARE * steps)),
        feature_sampling_window=steps + 1,
        device=device,
        logger=LoggingConfig(log_to_wandb=False),
    )


def _scale(rows: Rows, chosen: npt.NDArray[np.int64]) -> Scale:
    """Mean and scale of the training rows, from two passes in float64."""
    total = np.zeros(rows.widths[0])
    for x in _blocks(rows, chosen):
        total += x.sum(axis=0, dtype=np.float64)
    mean = (total / len(chosen)).astype(np.float32)
    norm = sum(float(np.linalg.norm(x - mean, axis=1).sum(dtype=np.float64)) for x in _blocks(rows, chosen))
    if norm == 0:
        raise DiptychError("dictionary: all training rows are equal; nothing to learn")
    return Scale(mean, float(np.sqrt(rows.widths[0]) * len(chosen) / norm))


def _blocks(rows: Rows, chosen: npt.NDArray[np.int64]) -> Iterator[FloatArray]:
    for start in range(0, len(chosen), READ_ROWS):
        yield rows.take(chosen[start : start + READ_ROWS]).x[0]


def _batches(
    rows: Rows, chosen: npt.NDArray[np.int64], batch: int, scale: Scale, generator: np.random.Generator
) -> "Iterator[torch.Tensor]":
    """Endless batches of scaled rows: blocks in random order fill a buffer, which is shuffled in memory."""
    import torch

    left = np.empty((0, rows.widths[0]), dtype=np.float32)
    while True:
        for buffer in _buffers(rows, chosen, generator):
            mixed = np.concatenate([left, buffer])[generator.permutation(len(left) + len(buffer))]
            whole = len(mixed) // batch * batch
            for start in range(0, whole, batch):
                yield torch.from_numpy((mixed[start : start + batch] - scale.mean) * np.float32(scale.factor))
            left = mixed[whole:]


def _buffers(rows: Rows, chosen: npt.NDArray[np.int64], generator: np.random.Generator) -> Iterator[FloatArray]:
    """One pass over the rows in random order of blocks, in pieces of at most BUFFER_ROWS."""
    select = np.zeros(len(rows), dtype=np.bool_)
    select[chosen] = True
    held: list[FloatArray] = []
    for block in rows.blocks(READ_ROWS, select=select, shuffle=generator):
        held.append(block.x[0])
        if sum(len(x) for x in held) + READ_ROWS > BUFFER_ROWS:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def _unscale(sae: Any, scale: Scale) -> None:
    """Fold centring and scaling into the weights, and decoder norms into the encoder."""
    import torch

    with torch.no_grad():
        sae.to("cpu")
        sae.fold_activation_norm_scaling_factor(scale.factor)
        sae.b_dec += torch.from_numpy(scale.mean)
        if not getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
            sae.fold_W_dec_norm()


def _threshold(sae: Any, rows: Rows, chosen: npt.NDArray[np.int64], k: int, generator: np.random.Generator) -> float:
    """The score above which, on training rows, k features a row are active on average (METHODS 5)."""
    import torch

    sample = chosen
    if len(chosen) > THRESHOLD_ROWS:
        sample = np.sort(generator.choice(chosen, THRESHOLD_ROWS, replace=False))
    wanted = k * len(sample)
    kept = np.empty(0, dtype=np.float32)
    with torch.no_grad():
        for x in _blocks(rows, sample):
            score = sae.encode_with_hidden_pre(torch.from_numpy(x))[1].numpy().ravel()
            floor = kept.min() if len(kept) == wanted else 0.0
            kept = np.concatenate([kept, score[score > floor]])
            if len(kept) > wanted:
                kept = np.partition(kept, len(kept) - wanted)[-wanted:]
    return float(np.nextafter(kept.min(), np.float32(0)))


def _save(sae: Any, directory: Path) -> None:
    """SAELens' files, with the keys of cfg.json sorted: it writes them in the order of a set, which varies."""
    _, config_path = sae.save_inference_model(directory)
    config = json.loads(Path(config_path).read_text(encoding="utf-8"))
    Path(config_path).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in directory.iterdir():
        file.chmod(0o644)


def _score(directory: Path, rows: Rows, chosen: npt.NDArray[np.int64], device: str) -> dict[str, float]:
    """Pooled FVU (METHODS 0.5), mean L0 and share of features that never fire, of the saved dictionary."""
    import torch

    dictionary = dictionaries.load(directory)
    if len(chosen) == 0:
        return {"rows": 0, "fvu": float("nan"), "l0": float("nan"), "dead_share": float("nan")}
    mean = sum(x.sum(axis=0, dtype=np.float64) for x in _blocks(rows, chosen)) / len(chosen)
    error = total = active = 0.0
    fired = torch.zeros(dictionary.n_features, dtype=torch.bool, device=device)
    with torch.no_grad():
        for x in _blocks(rows, chosen):
            codes = dictionary.encode(torch.from_numpy(x).to(device))
            rest = x - dictionary.decode(codes).cpu().numpy()
            error += float(np.square(rest, dtype=np.float64).sum())
            total += float(np.square(x - mean).sum())
            active += float((codes > 0).sum())
            fired |= (codes > 0).any(dim=0)
    return {
        "rows": len(chosen),
        "fvu": error / total,
        "l0": active / len(chosen),
        "dead_share": 1 - float(fired.float().mean()),
    }
