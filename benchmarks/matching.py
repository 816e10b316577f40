"""Speed of exact maximum-weight matching against scipy's dense solver, in one run.

    python benchmarks/matching.py                            # 4,096 latents per dictionary, a minute
    python benchmarks/matching.py --latents 16384 --width 576
    python benchmarks/matching.py --latents 131072 --width 4096 --device cuda --no-peer

Two dictionaries of unit decoder rows: most of B's are A's with noise, the rest are unrelated. Ours: scan for
candidate edges, sparse solve, proof of optimality from dual prices over all entries. Peers:
`scipy.optimize.linear_sum_assignment` on the full matrix of cosines (every latent is matched, as it is used in the
literature) and on max(cosine - tau, 0), which is our problem and easier for it; their product is included. Totals of
ours and of the latter are printed; they must agree.

Memory: the dense matrix is never held. At 131,072 x 131,072 latents of width 4,096 the two sides take 2 GiB each, a
block `--memory` (512 MiB) and the candidates 0.1 GiB, where the dense float32 matrix is 64 GiB; the printed peak of a
smaller run by the same code shows it.

Times are processor seconds, all threads together, so that other work on the machine does not count (wall
time on CUDA).
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from diptych.matching import rules
from diptych.matching.dense_scores import DenseScores

STEPS = ("scan", "solve and prove", "scipy, all matched", "scipy, floored")


def dictionaries(
    latents: int, width: int, noise: float, unshared: float, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows [latents, width] of A, and of B in another order."""
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize
    x = unit(torch.randn(latents, width, device=device), dim=1)
    shared = int(latents * (1 - unshared))
    y = torch.randn(latents, width, device=device)
    y[:shared] = x[:shared] + noise * y[:shared] / width**0.5
    return x, unit(y, dim=1)[torch.randperm(latents, device=device)]


def match(scores: DenseScores, tau: float, clock: Callable[[], float]) -> tuple[float, float, rules.Optimum]:
    """Seconds of the scan and of solution and proof, and the best matching."""
    start = clock()
    edges = scores.candidates(10)
    scanned = clock()
    matching = rules.optimal(scores, edges, tau)
    return scanned - start, clock() - scanned, matching


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--apart", type=float, default=0.2)
    parser.add_argument("--tau", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", type=int, default=2**29)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x, y = dictionaries(options.latents, options.width, options.noise, options.apart, options.device)
    scores = DenseScores(x, y, memory=options.memory)
    clock = time.perf_counter if options.device.startswith("cuda") else time.process_time
    times: dict[str, list[float]] = {name: [] for name in STEPS}
    for _ in range(options.repeat):
        *seconds, matching = match(scores, options.tau, clock)
        for name, part in zip(STEPS, seconds, strict=False):
            times[name].append(part)
        for name, floor in (("scipy, all matched", None), ("scipy, floored", options.tau)):
            if options.no_peer:
                break
            start = clock()
            cosine = x @ y.T
            weight = (cosine if floor is None else (cosine - floor).clamp_(min=0)).double().cpu().numpy()
            i, j = linear_sum_assignment(weight, maximize=True)
            times[name].append(clock() - start)
    print(f"{options.latents:,} x {options.latents:,} latents of width {options.width}, {options.threads} threads")
    for name, values in times.items():
        if values:
            print(f"  {name:20s} {statistics.median(values):9.2f} s (median of {options.repeat})")
    solution = f"total {matching.total:.5f}, gap {matching.gap:.1e}, {matching.rounds} round(s)"
    print(f"  {len(matching.pairs.i):,} pairs, {solution}")
    print(f"  {matching.checked / options.latents**2:.2%} of the entries scored again for the proof")
    if not options.no_peer:
        print(f"  scipy's total, floored {weight[i, j].sum():.5f}")
        ours = [scan + solve for scan, solve in zip(times["scan"], times["solve and prove"], strict=True)]
        for name in STEPS[2:]:
            ratios = [peer / our for peer, our in zip(times[name], ours, strict=True)]
            print(f"  {name} / ours: {statistics.median(ratios):.1f}x")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  peak memory {peak:.1f} GiB")


if __name__ == "__main__":
    main()
