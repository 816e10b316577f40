"""Time of a full similarity table with its nulls, and of each null against its direct computation in the same run.

    OMP_NUM_THREADS=2 python benchmarks/similarity.py            # p = 10,000, widths 512, 768: under 5 minutes
    python benchmarks/similarity.py --pairs 1500 --widths 64 96  # a quick look

The direct computation recomputes the measure with scipy and scikit-learn for every re-pairing. It is timed on one
re-pairing and scaled up to as many as the table uses.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

import numpy as np
from scipy import spatial, stats
from sklearn.neighbors import NearestNeighbors

from diptych.similarity import stage
from diptych.similarity.measures import formulas, nulls
from diptych.similarity.measures.scores import Pairs
from diptych.storage import artifacts
from diptych.text import word_lists


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def planted(p: int, d_a: int, d_b: int) -> Pairs:
    rng = np.random.default_rng(0)
    concept = rng.normal(size=(p, 64)) / np.sqrt(1 + np.arange(64))
    x = concept @ rng.normal(size=(64, d_a)) / 8 + 0.3 * rng.normal(size=(p, d_a))
    y = concept @ rng.normal(size=(64, d_b)) / 8 + 0.3 * rng.normal(size=(p, d_b))
    words = [" river", " seven", " joy", " xyz"]
    tokens = [[words[min(i % 40, 3)]] for i in range(p)]
    return Pairs(x, y, rho=rng.random(p), mapped=x @ rng.normal(size=(d_a, d_b)), tokens_a=tokens, tokens_b=tokens)


def full_table(pairs: Pairs) -> dict[str, float]:
    lists = {name: word_lists.load(name) for name in word_lists.shipped()}
    start = time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "similarity.h5"
        wall_seconds = seconds(lambda: stage.compare({"features": pairs}, out, spec={}, subspaces=lists))
        with artifacts.read(out, "similarity") as file:
            table = artifacts.read_table(file, "scores")
    n_finite = int(np.isfinite(table["value"]).sum())
    processor_seconds = time.process_time() - start  # wall time means little on a machine that others use
    return {
        "seconds": wall_seconds,
        "processor_seconds": processor_seconds,
        "scores": n_finite,
        "rows": len(table["value"]),
    }


def rsa_null(pairs: Pairs, draws: int) -> dict[str, float]:
    x, y = pairs.x[:2000], pairs.y[:2000]
    order = np.random.default_rng(0).permutation(len(x))

    def direct() -> None:
        stats.spearmanr(spatial.distance.pdist(x, "cosine"), spatial.distance.pdist(y[order], "cosine"))

    ours = seconds(
        lambda: nulls.rsa_draws(formulas.distance_ranks(x), formulas.distance_ranks(y), draws, np.random.default_rng(0))
    )
    return {"seconds": ours, "direct_seconds": draws * seconds(direct)}


def knn_null(pairs: Pairs, draws: int) -> dict[str, float]:
    order = np.random.default_rng(0).permutation(len(pairs))

    def direct() -> None:
        lists = [
            NearestNeighbors(n_neighbors=11, metric="cosine").fit(rows).kneighbors(rows)[1][:, 1:]
            for rows in (pairs.x, pairs.y[order])
        ]
        np.mean([len(set(n) & set(m)) / 10 for n, m in zip(*lists, strict=True)])

    def ours() -> None:
        neighbours = formulas.nearest(pairs.x, 10), formulas.nearest(pairs.y, 10)
        nulls.knn_draws(*neighbours, (4, 10), draws, np.random.default_rng(0))

    return {"seconds": seconds(ours), "direct_seconds": draws * seconds(direct)}


def cka_null(pairs: Pairs, draws: int) -> dict[str, float]:
    a, b = formulas.space(pairs.x), formulas.space(pairs.y)
    order = np.random.default_rng(0).permutation(len(pairs))
    direct = seconds(lambda: np.sum((a.x.T @ b.x[order]) ** 2))
    return {"seconds": seconds(lambda: nulls.cka_null(a, b)), "direct_seconds": draws * direct}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--widths", type=int, nargs=2, default=(512, 768))
    parser.add_argument("--draws", type=int, default=1000)
    arguments = parser.parse_args()
    pairs = planted(arguments.pairs, *arguments.widths)
    print(json.dumps({"pairs": arguments.pairs, "widths": arguments.widths, "table": full_table(pairs)}), flush=True)
    for name, work in (("rsa_null", rsa_null), ("knn_null", knn_null), ("cka_null", cka_null)):
        timing = work(pairs, arguments.draws)
        print(json.dumps({name: timing | {"speedup": timing["direct_seconds"] / timing["seconds"]}}), flush=True)


if __name__ == "__main__":
    main()
