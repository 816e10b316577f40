"""Learning rates of sparse codes.

rate = peak * share_of_peak(step, steps=4000, warmup=0.05, decay=0.2)
"""


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
