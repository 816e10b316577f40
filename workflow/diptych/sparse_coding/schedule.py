"""Learning rates of sparse codes.

peak = scaled_rate(1e-4, n_latents=1024, steps=1000)             # 2e-3
rate = peak * share_of_peak(step, steps=1000, warmup=0.05, decay=0.2)
"""

import math

PUBLISHED_LATENTS = 2**14
"""Dictionary size for which crosscoders' learning rates are published (METHODS 5)."""
PUBLISHED_STEPS = 24_000
"""Steps of 4,096 rows for which they are published: 10^8 tokens."""


def scaled_rate(published: float, *, n_latents: int, steps: int) -> float:
    """Peak learning rate of F latents and T steps: published * sqrt(16,384 / F) * sqrt(max(1, 24,000 / T)).

    The best rate falls with 1 / sqrt(F) (Gao et al. 2024, arXiv 2406.04093, figure 3). It falls with 1 / sqrt(T) for a
    schedule that decays linearly to 0 (Defazio et al. 2023, arXiv 2310.07831): Adam moves a weight by no more than the
    rate a step, and a short run must still turn decoder rows of norm 1. Longer runs than published keep their rate.

    Args:
        published: the rate for 16,384 latents and 24,000 steps.
        n_latents: F.
        steps: T.
    """
    of_size = math.sqrt(PUBLISHED_LATENTS / n_latents)
    of_length = math.sqrt(max(1.0, PUBLISHED_STEPS / steps))
    return published * of_size * of_length


def share_of_peak(step: int, *, steps: int, warmup: float, decay: float) -> float:
    """Learning rate at a step over its peak: linear warm-up from 0, constant, linear decay to 0 (METHODS 5).

    Args:
        step: 0 .. steps - 1.
        steps: length of the run.
        warmup: share of the run over which the rate rises.
        decay: share of the run, at its end, over which it falls.
    """
    warm = (step + 1) / max(1.0, warmup * steps)
    cool = (steps - step) / max(1.0, decay * steps)
    return min(1.0, warm, cool)
