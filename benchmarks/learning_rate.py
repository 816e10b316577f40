"""Default learning rate of crosscoders against fixed ones, on planted pairs over a grid of sizes and steps.

    python benchmarks/learning_rate.py [--rates 1e-4 2e-3] [--latents 64 256 1024] [--steps 100 300 1000 3000]

Both models share a space of max(64, F / 4) dimensions and F / 2 true features, of which some are in one model alone.
Printed for every size, number of steps and rate, as mean and standard deviation over seeds: the relative norm that the
latents of the planted features reach towards their own side (1: in that model alone, .5: in both alike), and the
held-out FVU.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from diptych.crosscoder.training import stage
from diptych.crosscoder.training.settings import Training
from diptych.oracle import planted
from diptych.oracle.planted import PlantedPair
from diptych.sparse_coding import architecture
from diptych.sparse_coding.architecture import Crosscoder


def planted_pair(n_latents: int, seed: int) -> PlantedPair:
    n_planted, width = min(8, n_latents // 16), max(64, n_latents // 4)
    return planted.make_pair(
        seed, n_documents=600, d_A=width, d_B=width, n_features=n_latents // 2, same_map=True,
        labels={"only_A": n_planted, "only_B": n_planted},
    )  # fmt: skip


def scores(crosscoder: Crosscoder, pair: PlantedPair) -> tuple[float, float]:
    """Mean relative norm of the planted features' latents towards their own side, and held-out FVU."""
    in_A, in_B = (part.detach().numpy() for part in crosscoder.per_model(crosscoder.W_dec))
    r_F = crosscoder.relative_norm().detach().numpy()
    own = []
    for side, rows, r in (("A", in_A, 1 - r_F), ("B", in_B, r_F)):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        own.extend(r[np.argmax(pair.truths(side) @ unit.T, axis=1)])  # type: ignore[arg-type]
    data = pair.rows()
    x_BD = architecture.crosscoder_input(data.take(np.flatnonzero(data.fold == 0)).x, crosscoder.architecture)
    with torch.no_grad():
        z_BD, z_hat_BD = crosscoder.normalise(x_BD), crosscoder.normalise(crosscoder(x_BD))
    return float(np.mean(own)), float((z_BD - z_hat_BD).square().sum() / (z_BD - z_BD.mean(0)).square().sum())


def runs(arguments: Any) -> Iterator[tuple[int, int, float | None, list[tuple[float, float]]]]:
    for n_latents in arguments.latents:
        k = round(sum(0.25 * j**-0.5 for j in range(1, n_latents // 2 + 1)))
        pairs = [planted_pair(n_latents, seed) for seed in range(arguments.seeds)]
        for steps in arguments.steps:
            for rate in arguments.rates:
                found = []
                for seed, pair in enumerate(pairs):
                    settings = Training(
                        objective=arguments.objective, n_latents=n_latents, k=k, penalty=arguments.penalty, steps=steps,
                        batch=256, learning_rate=rate, seed=seed,
                    )  # fmt: skip
                    try:
                        crosscoder, _, feed = stage.optimise(pair.rows(), settings)
                    except stage.DivergedError:
                        found.append((float("nan"), float("nan")))
                        continue
                    stage.calibrate(crosscoder, feed)
                    found.append(scores(crosscoder, pair))
                yield n_latents, steps, rate or settings.rate, found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=lambda text: None if text == "auto" else float(text), nargs="+",
                        default=[None, 1e-4, 2e-3])  # fmt: skip
    parser.add_argument("--latents", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300, 1000, 3000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--objective", default="batchtopk")
    parser.add_argument("--penalty", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("latents  steps  rate      r of planted latents  FVU")
    for n_latents, steps, rate, found in runs(arguments):
        (r, fvu), (r_sd, fvu_sd) = np.mean(found, axis=0), np.std(found, axis=0)
        print(
            f"{n_latents:7d} {steps:6d}  {rate:.1e}   {r:.3f} +- {r_sd:.3f}       {fvu:.3f} +- {fvu_sd:.3f}", flush=True
        )
