"""Codes of prompts at a role of a template, with a planted change."""

import numpy as np
from scipy import sparse

from diptych.template_diff.codes import Codes

N, F = 300, 40


def random_codes(rng: np.random.Generator, n: int = N, n_features: int = F, density: float = 0.2) -> np.ndarray:
    return (rng.random((n, n_features)) < density) * rng.gamma(4.0, 0.25, (n, n_features))


def codes_of(a: np.ndarray, b: np.ndarray, role: str = "newline") -> Codes:
    ids = [f"prompt-{i}" for i in range(len(a))]
    source, fold = np.arange(len(a)) % 2, np.arange(len(a)) % 5
    return Codes({role: sparse.csr_array(a)}, {role: sparse.csr_array(b)}, ids, source, fold, ("targets", "controls"))


def planted_pair(seed: int = 0) -> Codes:
    """B is A read again with noise; latents 0-3 gain, 4 loses, 5 appears from nothing, 6 fires with a new strength."""
    rng = np.random.default_rng(seed)
    a = random_codes(rng)
    b = a * rng.lognormal(0, 0.05, a.shape)
    for latent, share in enumerate((0.6, 0.45, 0.3, 0.2)):
        b[:, latent] += (rng.random(N) < share) * 1.0
    b[:, 4] *= rng.random(N) < 0.3
    a[:, 5], b[:, 5] = 0.0, (rng.random(N) < 0.65) * rng.gamma(4.0, 0.25, N)
    b[:, 6] *= 2.0
    return codes_of(a, b)
