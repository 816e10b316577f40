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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from diptych.crosscoder.training import stage
from diptych.crosscoder.training.stage import Run, Training
from diptych.sparse_coding.architecture import Architecture, Crosscoder

SIZES = [(1024, 576, 1024, 16), (2048, 576, 8192, 32)]


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


def compare(batch: int, width: int, n_latents: int, k: int, steps: int, device: str, compute: Any) -> None:
    settings = Training(n_latents=n_latents, k=k, batch=batch, steps=10_000, learning_rate=1e-4, warmup_share=0.0,
                        compute=compute)  # fmt: skip
    crosscoder, dense_crosscoder = (
        Crosscoder(Architecture((width, width), n_latents, k=k)).to(device) for _ in range(2)
    )
    run = Run(crosscoder, torch.optim.Adam(crosscoder.parameters(), lr=1e-4, fused=True))
    run.silent_rows = torch.zeros(n_latents, device=device)
    optimizer = torch.optim.Adam(dense_crosscoder.parameters(), lr=1e-4)
    dtype = torch.bfloat16 if compute == "bfloat16" else torch.float32
    product = torch.empty(batch, n_latents, device=device, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(256, 2 * width, generator=generator)
    times: dict[str, list[float]] = {"encoder product": [], "sparse": [], "dense": []}
    loss_differences = []
    for step in range(steps + 2):
        code = torch.rand(batch, 256, generator=generator) < 0.05
        z_BD = (code.float() @ hidden / 4 + 0.1 * torch.randn(batch, 2 * width, generator=generator)).to(device)
        run.step = step
        timings = {
            "encoder product": timed(
                lambda z=z_BD: float(torch.mm(z.to(dtype), crosscoder.W_enc.detach().T.to(dtype), out=product)[0, 0])
            ),
            "sparse": timed(lambda z=z_BD: stage.take_step(run, z, settings.losses(), settings, product)),
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
        compare(*size, arguments.steps, arguments.device, arguments.compute)
