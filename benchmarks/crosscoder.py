"""Time of a BatchTopK crosscoder step on selected entries against dense autograd of the same objective.

    python benchmarks/crosscoder.py [--threads 2] [--steps 8] [--device cuda:0] [--compute bfloat16]

Both train from the same weights on the same batches, in alternation in one process, so that a busy machine slows both;
printed are the median seconds of a step (optimiser included), also in units of one encoder product, and the largest
relative difference of the two losses. "Dense" is the direct implementation: flat top-k, masks, autograd, default Adam.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from diptych.crosscoder.training import stage
from diptych.crosscoder.training.stage import Run, Training
from diptych.sparse_coding import objectives
from diptych.sparse_coding.architecture import Crosscoder
from diptych.sparse_coding.optimisation import adam

SIZES = [
    {"batch": 1024, "width": 576, "n_latents": 1024, "k": 16},
    {"batch": 2048, "width": 576, "n_latents": 8192, "k": 32},
]


def dense_step(crosscoder: Crosscoder, optimizer: torch.optim.Optimizer, z_BD: Tensor, k: int) -> float:
    """Loss of one training step with flat top-k of dense scores, dense decode and dense autograd."""
    pre_BF = torch.relu(z_BD @ crosscoder.W_enc.T + crosscoder.b_enc)
    score_BF = pre_BF * crosscoder.decoder_norms().sum(0)
    threshold = score_BF.detach().flatten().topk(k * len(z_BD), sorted=False).values.min()
    f_BF = pre_BF * (score_BF >= threshold)
    loss = (z_BD - (f_BF @ crosscoder.W_dec + crosscoder.b_dec)).square().sum() / len(z_BD)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(crosscoder.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def timed(action: Callable[[], float]) -> tuple[float, float]:
    """Seconds and value of an action; converting the value to float waits for the GPU."""
    start = time.perf_counter()
    value = action()
    return time.perf_counter() - start, value


def batches(batch: int, width: int, device: str) -> Iterator[Tensor]:
    """Rows of two models, [batch, 2 width], which share 256 directions, 5 % of them active, and noise; without end."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(256, 2 * width, generator=generator)
    while True:
        code = torch.rand(batch, 256, generator=generator) < 0.05
        yield (code.float() @ hidden / 4 + 0.1 * torch.randn(batch, 2 * width, generator=generator)).to(device)


class Steps:
    """A crosscoder of two models of a width, its state of training, and one step of it."""

    def __init__(self, settings: Training, width: int, device: str) -> None:
        self.settings, self.objective = settings, settings.losses()
        crosscoder = Crosscoder(settings.architecture((width, width))).to(device)
        self.run = Run(crosscoder, adam(crosscoder))
        self.run.silent_rows = torch.zeros(settings.n_latents, device=device)
        self.product = objectives.product_memory(
            settings.batch, settings.n_latents, self.objective, torch.device(device)
        )

    def take(self, z_BD: Tensor) -> float:
        """Take one step; its loss."""
        loss = stage.take_step(self.run, z_BD, self.objective, self.settings, self.product)
        self.run.step += 1
        return loss

    def encoder_product(self, z_BD: Tensor) -> float:
        """Multiply by the encoder as a step does."""
        W_enc = self.run.crosscoder.W_enc.detach()
        return float(torch.mm(z_BD.to(self.product.dtype), W_enc.T.to(self.product.dtype), out=self.product)[0, 0])


def compare(batch: int, width: int, k: int, steps: int, device: str, **sizes: Any) -> None:
    settings = Training(k=k, batch=batch, steps=10_000, learning_rate=1e-4, warmup_share=0.0, **sizes)
    n_latents = settings.n_latents
    sparse = Steps(settings, width, device)
    dense_crosscoder = Crosscoder(settings.architecture((width, width))).to(device)
    optimizer = torch.optim.Adam(dense_crosscoder.parameters(), lr=1e-4)
    times: dict[str, list[float]] = {"encoder product": [], "sparse": [], "dense": []}
    loss_differences = []
    for step, z_BD in enumerate(islice(batches(batch, width, device), steps + 2)):
        timings = {
            "encoder product": timed(lambda z=z_BD: sparse.encoder_product(z)),
            "sparse": timed(lambda z=z_BD: sparse.take(z)),
            "dense": timed(lambda z=z_BD: dense_step(dense_crosscoder, optimizer, z, k)),
        }
        if step >= 2:
            for name, (seconds, _) in timings.items():
                times[name].append(seconds)
        loss_differences.append(abs(timings["sparse"][1] / timings["dense"][1] - 1))
    median = {name: statistics.median(values) for name, values in times.items()}
    # a loss that is NaN is no agreement
    largest = math.nan if any(map(math.isnan, loss_differences)) else max(loss_differences)
    print(f"\nbatch {batch}, widths 2 x {width}, {n_latents} latents, k {k}; losses differ by {largest:.1e}")
    for name, seconds in median.items():
        print(f"  {name:16s} {1e3 * seconds:8.1f} ms  {seconds / median['encoder product']:6.2f} encoder products")
    # A dense step multiplies the encoder's matrix, and the decoder's, three times: forward, and for either gradient.
    share = 6 * median["encoder product"] / median["dense"]
    print(f"  sparse is {median['dense'] / median['sparse']:.2f} times as fast as dense: "
          f"{batch / median['sparse']:,.0f} rows/s; dense spends {share:.0%} on its matrix products")  # fmt: skip
    if device.startswith("cuda"):
        print(f"  peak GPU memory of both {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--compute", default="float32", choices=["float32", "bfloat16"], help="dtype of the sparse step's products"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for size in SIZES:
        compare(**size, steps=arguments.steps, device=arguments.device, compute=arguments.compute)
