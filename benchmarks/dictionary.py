"""Time of a training step of a topk or batchtopk dictionary against SAELens' own trainer.

    python benchmarks/dictionary.py [--threads 1] [--steps 8] [--device cuda:0] [--large]

Both train from the same weights on the same batches, in alternation in one process, so that a busy machine slows both;
printed are the median seconds of a step (optimiser included), their ratio, and the largest relative difference of the
two reconstruction losses. The sizes are those of the default study; --large adds 16,384 features at width 2,304.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from diptych.dictionaries import saelens_trainer, sparse_trainer
from diptych.dictionaries.settings import Settings
from diptych.sparse_coding import objectives

DEFAULT = {"width": 576, "n_features": 1024, "k": 32, "batch": 1024}
LARGE = {"width": 2304, "n_features": 16384, "k": 64, "batch": 1024}


def compare(architecture: Any, size: dict[str, int], steps: int, device: str) -> None:
    width = size["width"]
    settings = Settings(architecture, size["n_features"], size["k"], 10_000, size["batch"], 1e-3, warmup=0.0)
    state = sparse_trainer.start(settings, width, device)
    trainer = saelens_trainer.trainer_of(saelens_sae(settings, width, device), settings, device)
    with torch.no_grad():
        trainer.sae.W_dec.copy_(state.crosscoder.W_dec)
        trainer.sae.W_enc.copy_(state.crosscoder.W_enc.T)
    objective = objectives.Objective(architecture)
    product = objectives.product_memory(settings.batch, settings.n_features, objective, torch.device(device))

    def sparse(z_BD: Tensor) -> float:
        return float(sparse_trainer.take_step(state, z_BD, objective, settings, product).reconstruction)

    def saelens(z_BD: Tensor) -> float:
        loss = trainer.step(z_BD).losses["mse_loss"].item()
        trainer.n_training_steps += 1
        return loss

    rows = planted_rows(width, device)
    times: dict[str, list[float]] = {"sparse": [], "saelens": []}
    differences = []
    for step in range(steps + 1):
        z_BD = rows(settings.batch)
        timings = {"sparse": timed(lambda z=z_BD: sparse(z)), "saelens": timed(lambda z=z_BD: saelens(z))}
        if step >= 1:
            for name, (seconds, _) in timings.items():
                times[name].append(seconds)
        differences.append(abs(timings["sparse"][1] / timings["saelens"][1] - 1))
    own, theirs = (1e3 * statistics.median(times[name]) for name in ("sparse", "saelens"))
    largest = math.nan if any(map(math.isnan, differences)) else max(differences)  # a loss that is NaN is no agreement
    print(f"{architecture}, {size}: {own:.1f} ms, SAELens {theirs:.1f} ms, ratio {theirs / own:.2f}; "
          f"losses differ by {largest:.1e}", flush=True)  # fmt: skip


def saelens_sae(settings: Settings, width: int, device: str) -> Any:
    from sae_lens.registry import get_sae_training_class

    sae_class, config_class = get_sae_training_class(settings.architecture)
    return sae_class(config_class(d_in=width, d_sae=settings.n_features, k=settings.k, device=device))


def planted_rows(width: int, device: str) -> Callable[[int], Tensor]:
    """Batches of sums of a few of 4 * width directions, of length sqrt(width) on average, with noise."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(4 * width, width, generator=generator), dim=1)

    def rows(n_rows: int) -> Tensor:
        code = (torch.rand(n_rows, 4 * width, generator=generator) < 20 / (4 * width)).float()
        noise = torch.randn(n_rows, width, generator=generator)
        return (math.sqrt(width / 20) * (code @ directions) + 0.1 * noise).to(device)

    return rows


def timed(action: Callable[[], float]) -> tuple[float, float]:
    """Seconds and value of an action; converting the value to float waits for the GPU."""
    start = time.perf_counter()
    value = action()
    return time.perf_counter() - start, value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--large", action="store_true", help="also 16,384 features at width 2,304; 5 GB")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for size in [DEFAULT, LARGE] if arguments.large else [DEFAULT]:
        for architecture in ("topk", "batchtopk"):
            compare(architecture, size, arguments.steps, arguments.device)
