"""Another tool on the leaderboard: crosscoders trained by science-of-finetuning's dictionary_learning.

Beside this file lie its weights for every pair, as its trainer saves them: `weights/{case}-{seed}/model.safetensors`
(or ae.pt) and config.json. They are read here; what is ranked are latents by how much of their decoder is in one model.
"""

from pathlib import Path

import numpy as np

from diptych.crosscoder.published.files import files_of
from diptych.crosscoder.published.stage import load

TITLE = "dictionary_learning's crosscoder"
EXCLUSIVE = 0.1
"""Largest share of a latent's decoder norm in the other model."""


def fit(rows_A, rows_B, *, case, seed):
    """Directions of the exclusive latents, the model of each, and how exclusive it is."""
    crosscoder = load(files_of(Path(__file__).parent / "weights" / f"{case}-{seed}"))
    decoders = [rows.detach().numpy() for rows in crosscoder.per_model(crosscoder.W_dec)]
    r = crosscoder.relative_norm().detach().numpy()
    exclusive = np.flatnonzero(np.minimum(r, 1 - r) < EXCLUSIVE)
    in_B = r[exclusive] > 0.5
    directions = [decoders[int(is_B)][latent] for latent, is_B in zip(exclusive, in_B, strict=True)]
    return directions, np.where(in_B, "B", "A").tolist(), np.abs(r[exclusive] - 0.5)
