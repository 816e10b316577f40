"""Speed of exact feature correlation against the dense blocked computation, at equal threads, in one run.

    python benchmarks/correlation.py                                  # a minute; one dense block is timed and scaled up
    python benchmarks/correlation.py --latents 16384 --tokens 20000   # the published size
    python benchmarks/correlation.py --latents 16384 --tokens 1000000 --no-peer
    python benchmarks/correlation.py --latents 4096 --ways            # sparse, dense, and the choice between them

Peer: PyTorch, dense standardised codes, blocks of A's latents times all of B's, `topk` both ways and a histogram, on
both halves. Each repetition times one such block and the whole of ours, and the printed ratio is the median over
repetitions of (peer's block x number of blocks) / ours. The peer's blocks cost the same each.

`--ways` takes panels of A's latents, spread over all of them, and multiplies and reads each by sparse and by dense
products, in turns, at shares of the latents that fire on a token from .1 % to 20 %. Printed are the sums of either way
and of the choice between them (`diptych.correlation.ways`), which takes a way for each panel.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from diptych.correlation import blocks, products, stage
from diptych.dictionaries.codes import Features


def synthetic(tokens: int, latents: int, l0: int, seed: int) -> Features:
    """Codes whose latents have Zipf-like frequencies, `l0` of them on each token."""
    rng = np.random.default_rng(seed)
    rate = np.arange(1, latents + 1) ** -0.5
    edges = np.cumsum(rate / rate.sum())
    index = np.minimum(np.searchsorted(edges, rng.random((tokens, l0))), latents - 1)
    value = rng.lognormal(0.0, 0.4, (tokens, l0)).astype(np.float32)
    codes = sparse.csr_array((value.ravel(), index.ravel(), np.arange(tokens + 1) * l0), shape=(tokens, latents))
    codes.sum_duplicates()
    document = np.arange(tokens) // 100
    return Features(codes, np.arange(tokens), document, 1 + document % 4, np.zeros(tokens, np.int64))


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def sparse_product(z_A: sparse.csr_array, z_B: sparse.csr_array) -> None:
    """The product of one half alone, without the statistics on it."""
    z_A.T.tocsr() @ z_B


class DensePeer:
    """The dense blocked computation on both halves."""

    def __init__(self, a: Features, b: Features, k: int, block: int) -> None:
        half = stage.document_halves(a.document, a.fold, 0).of(a.document)
        self.z = [[self._standardise(side.csr[half == h].toarray()) for side in (a, b)] for h in (0, 1)]
        self.k, self.size, self.blocks = k, block, -(-a.n_features // block)

    @staticmethod
    def _standardise(codes: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(codes)
        x -= x.mean(dim=0)
        return x.div_(x.norm(dim=0).clamp_(min=1e-12))

    def product(self) -> None:
        """One block's products."""
        for z_A, z_B in self.z:
            z_A[:, : self.size].T @ z_B

    def block(self) -> None:
        """One block's products, top k in both directions, held-out values and histogram."""
        rho = [z_A[:, : self.size].T @ z_B for z_A, z_B in self.z]
        for h, block in enumerate(rho):
            for dim in (0, 1):
                best = block.topk(self.k, dim=dim)
                rho[1 - h].gather(dim, best.indices)
            torch.histc(block, 200, -1.0, 1.0)


SHARES = (0.001, 0.003, 0.01, 0.03, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25)
"""Shares of the latents drawn for a token; those that fire are fewer, because a latent may be drawn twice."""


def compare_ways(options: argparse.Namespace) -> None:
    """Print processor seconds of all panels by either way and by the choice between them, from some of the panels."""
    print(f"{options.latents:,} latents, {options.tokens:,} rows, medians of {options.repeat} rounds")
    print(f"{'firing':>7s} {'sparse':>8s} {'dense':>8s} {'choice':>8s}   dense panels   choice / better way")
    for share in options.shares:
        a, b = (synthetic(options.tokens, options.latents, max(1, round(share * options.latents)), s) for s in (1, 2))
        matrix = products.Correlations(products.standardise(a.csr), products.standardise(b.csr))
        n_panels, n = len(matrix.is_dense), min(options.panels, len(matrix.is_dense))
        panels = ((np.arange(n) + 0.5) * n_panels / n).astype(int)
        is_dense = matrix.is_dense[panels]
        rounds = [[panel_seconds(matrix, panel, dense=dense) for panel in panels for dense in (False, True)]
                  for _ in range(options.repeat)]  # fmt: skip
        by_sparse, by_dense = np.median(rounds, axis=0).reshape(-1, 2).T * n_panels / n
        sums = by_sparse.sum(), by_dense.sum(), np.where(is_dense, by_dense, by_sparse).sum()
        print(f"{a.csr.nnz / options.tokens / options.latents:7.1%} " + " ".join(f"{total:8.2f}" for total in sums)
              + f"   {is_dense.mean():12.0%}   {sums[2] / min(sums[:2]):.2f}", flush=True)  # fmt: skip


def panel_seconds(matrix: products.Correlations, panel: int, *, dense: bool) -> float:
    """Processor seconds of the product of a panel's latents by a way and of reading what the stage reads from it."""
    start, stop = panel * matrix.panel, min((panel + 1) * matrix.panel, matrix.shape[0])
    matrix.is_dense[:] = dense
    began = time.process_time()
    block = blocks.read_block(matrix, start, stop)
    block.best_of_rows(10)
    block.best_of_columns(10, np.full(matrix.shape[1], -np.inf))
    block.histogram(200)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", type=int, default=2**30)
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--ways", action="store_true")
    parser.add_argument("--panels", type=int, default=8)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the latents, drawn for a token")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = {"min_active": 1, "min_documents": 1, "threads": options.threads, "memory": options.memory}
    if options.ways:
        with threadpool_limits(options.threads):
            compare_ways(options)
        return
    a, b = (synthetic(options.tokens, options.latents, options.l0, seed) for seed in (1, 2))
    peer = None if options.no_peer else DensePeer(a, b, 10, options.block)
    half = stage.document_halves(a.document, a.fold, 0).of(a.document)
    all_latents = np.arange(options.latents)
    times: dict[str, list[float]] = {"stage": [], "product": [], "peer stage": [], "peer product": []}
    with threadpool_limits(options.threads):
        for _ in range(options.repeat):
            times["stage"].append(seconds(lambda: stage.correlate_features(a, b, **settings)))
            if peer is None:
                continue
            z = [[products.standardised_half(s.codes, half, h, all_latents).z for s in (a, b)] for h in (0, 1)]
            times["product"].append(sum(seconds(partial(sparse_product, z[h][0], z[h][1])) for h in (0, 1)))
            times["peer stage"].append(seconds(peer.block) * peer.blocks)
            times["peer product"].append(seconds(peer.product) * peer.blocks)
    size = f"{options.latents:,} x {options.latents:,} latents, {options.tokens:,} tokens, L0 {options.l0}"
    print(f"{size}, {options.threads} threads; medians of {options.repeat}")
    for name, values in times.items():
        if values:
            print(f"  {name:13s} {statistics.median(values):9.2f} s")
    if peer is not None:
        for ours, peers, note in (("stage", "peer stage", ""), ("product", "peer product", " (ours on one thread)")):
            ratios = [t / o for t, o in zip(times[peers], times[ours], strict=True)]
            print(f"  {peers} / {ours}: {statistics.median(ratios):.0f}x{note}")


if __name__ == "__main__":
    main()
