"""Training dictionaries on stored activations, in SAELens' own format.

Rows are centred and scaled so that E||x - mean|| = sqrt(d); both are folded into the weights at the end, so that the
saved dictionary reads raw activations and has unit decoder rows:

    train(rows, "results/dictionaries/base", Settings("topk", n_features=1024, k=32, steps=300), spec=spec)
    dictionaries.load("results/dictionaries/base").encode(x)

topk and batchtopk dictionaries train as crosscoders of one model (`sparse_trainer`), standard and jumprelu ones with
SAELens' trainers (`saelens_trainer`). Fold 0 is never trained on; how well the result does there stands in the
directory's training.json. Every batch is a function of (seed, step), so a run that was killed goes on from its last
checkpoint and, on a CPU with the same number of threads, ends with the same bits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.activations.rows import Rows
from diptych.dictionaries import sae as dictionaries
from diptych.dictionaries import saelens_format, saelens_trainer, sparse_trainer
from diptych.dictionaries.scaled_rows import IntArray, raw_blocks, scale_rows
from diptych.dictionaries.settings import Settings
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.storage.canonical import canonical_json
from diptych.storage.checkpoints import Checkpoint

L0_TOLERANCE = 0.1
"""Share by which the held-out L0 may miss k before a warning (METHODS 5)."""


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
        DiptychError: fewer training rows than one batch, or k exceeds n_features, or the loss is not finite.
    """
    index = np.flatnonzero(rows.fold != 0)
    _check(rows, len(index), settings)
    checkpoint = Checkpoint.beside(out_dir, spec)
    trainer = sparse_trainer if settings.architecture in ("topk", "batchtopk") else saelens_trainer
    trained = trainer.train(
        scale_rows(rows, index),
        settings,
        metadata=metadata or {},
        device=device,
        checkpoint=checkpoint,
        every=checkpoint_every,
    )
    with artifacts.create_directory(out_dir, "dictionary", spec) as directory:
        saelens_format.write(directory, trained.config, trained.weights)
        test = _score(directory, rows, np.flatnonzero(rows.fold == 0), device)
        report = {
            "rows": len(index),
            "epochs": settings.steps * settings.batch / len(index),
            "dead_at_end": trained.n_dead,
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


def _score(directory: Path, rows: Rows, index: IntArray, device: str) -> dict[str, float]:
    """Pooled FVU (METHODS 0.5), mean L0 and share of features that never fire, of the saved dictionary."""
    dictionary = dictionaries.load(directory)
    if len(index) == 0:
        return {"rows": 0, "fvu": float("nan"), "l0": float("nan"), "dead_share": float("nan")}
    mean = sum(x.sum(axis=0, dtype=np.float64) for x in raw_blocks(rows, index, "mean to score by")) / len(index)
    error = total = active = 0.0
    fired = torch.zeros(dictionary.n_features, dtype=torch.bool, device=device)
    with torch.no_grad():
        for x in raw_blocks(rows, index, "score"):
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
