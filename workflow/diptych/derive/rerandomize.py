"""The random-model control: a model's shapes and scales without anything that it learned (METHODS 6).

    rerandomize("results/models/base", "results/models/noise", spec=spec, seed=0)

Every weight tensor is redrawn from a normal distribution with that tensor's own mean and standard deviation; a method
that finds structure in the result finds structure of the architecture, not of what was learned.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.models import pretrained


def rerandomize(parent_dir: str | Path, out_dir: str | Path, *, spec: Mapping[str, Any], seed: int = 0) -> None:
    """Write a copy of a model with all weights redrawn; tied weights stay tied.

    Args:
        parent_dir: the model whose architecture, tokenizer and per-tensor mean and spread are kept.
        out_dir: the new model's directory.
        spec: what the result depends on.
        seed: a tensor's draw depends on this and on its name only.
    """
    model = pretrained.load(parent_dir)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(redrawn(weight, name, seed))
    with pretrained.saving(model, parent_dir, out_dir, spec=spec, dtype=pretrained.stored_dtype(parent_dir)):
        pass


def redrawn(weight: torch.Tensor, name: str, seed: int) -> torch.Tensor:
    """Normal values with exactly the mean and the standard deviation (divisor n) of `weight`, float32."""
    own = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    noise = np.random.default_rng([seed, own]).standard_normal(tuple(weight.shape), dtype=np.float32)
    values = torch.from_numpy(noise).double()
    centred = values - values.mean()
    spread = centred.pow(2).mean().sqrt()
    scale = weight.double().std(unbiased=False) / spread if spread > 0 else torch.zeros(())
    return (weight.double().mean() + centred * scale).float()
