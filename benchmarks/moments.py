"""Speed of streaming second moments against matrix products of the same size, in the same run.

    OMP_NUM_THREADS=1 python benchmarks/moments.py --rows 32768 --width 576

One product of the same size is Z^T Z of all n rows of both models at once, Z float32 [n, d_A + d_B], made by a general
GEMM: the second moments without anything else. Both are given in GB of activations per second. Ours also take means,
fold and document structure and float64 sums; what they save is half of the symmetric product. The shuffled cross-moment
is another matrix of its own, x_A^T x_B' of [n, d_A] and [n, d_B]; with it the fair peer is two GEMMs, Z^T Z and that
one. Both ratios are printed: `plain` (no shuffled moment, one GEMM) and `shuffled` (both, two GEMMs).
Also timed: the ridge path against refitting each penalty.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow"))

from diptych.activations import rows
from diptych.affine_maps import affine, moments, ridge
from diptych.linear_map import ladder


def best_of(repeats, *functions):
    """Least processor seconds of each function over interleaved repeats, unaffected by other work on the machine."""
    seconds = np.full(len(functions), np.inf)
    for _ in range(repeats):
        for i, function in enumerate(functions):
            start = time.process_time()
            function()
            seconds[i] = min(seconds[i], time.process_time() - start)
    return seconds


def synthetic(n, d_A, d_B, document_rows, rng):
    x = [rng.normal(size=(n, d)).astype(np.float32) + np.float32(3) for d in (d_A, d_B)]
    n_documents = -(-n // document_rows)
    pair = rows.in_memory(x, np.repeat(np.arange(n_documents), document_rows)[:n])
    position = np.tile(np.arange(document_rows), n_documents)[:n]
    return rows.Rows(pair.sides, pair.token_row, pair.document, pair.fold, pair.source, position)


def measure_moments(pair, repeats):
    z = np.hstack([side.values for side in pair.sides])
    z_copy = z.copy()  # numpy would notice z.T @ z and compute only half of the symmetric product
    d_A = pair.widths[0]
    z_shuffled_B = z[::-1, d_A:].copy()

    def two_gemms():
        return z.T @ z_copy, z[:, :d_A].T @ z_shuffled_B

    unshuffled, one_gemm, shuffled, both_gemms = best_of(
        repeats,
        lambda: moments.accumulate(pair, shuffled=False),
        lambda: z.T @ z_copy,
        lambda: moments.accumulate(pair),
        two_gemms,
    )
    return {
        name: {"gemm_gb_per_s": z.nbytes / peer / 1e9, "moments_gb_per_s": z.nbytes / ours / 1e9, "ratio": peer / ours}
        for name, ours, peer in (("plain", unshuffled, one_gemm), ("shuffled", shuffled, both_gemms))
    }


def measure_path(pair, repeats):
    folds = moments.accumulate(pair, shuffled=False)
    m, held_out = folds.training(0), folds.fold(0).about(folds.training(0))

    def path():
        basis = ridge.Eigenbasis(m.C_AA)
        zero_path = ridge.RidgePath(basis, basis.cross(m.C_AB), 0.0)
        return zero_path.errors(ladder.ALPHAS, held_out, basis.rotate(held_out))

    def refit():
        unit = np.trace(m.C_AA) / len(m.C_AA)
        slopes = (np.linalg.solve(m.C_AA + a * unit * np.eye(len(m.C_AA)), m.C_AB) for a in ladder.ALPHAS)
        return [affine.squared_error(slope, held_out).sum() for slope in slopes]

    np.testing.assert_allclose(path(), refit(), rtol=1e-6)
    path_seconds, refit_seconds = best_of(repeats, path, refit)
    return {"path_s": path_seconds, "refit_s": refit_seconds, "speedup": refit_seconds / path_seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32768)
    parser.add_argument("--width", type=int, nargs="+", default=[576], help="d_A and d_B, or one for both")
    parser.add_argument("--document-rows", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    widths = (arguments.width * 2)[:2]
    pair = synthetic(arguments.rows, *widths, arguments.document_rows, np.random.default_rng(0))
    result = {
        "rows": arguments.rows,
        "widths": widths,
        "moments": measure_moments(pair, arguments.repeats),
        "ridge_path": measure_path(pair, max(1, arguments.repeats // 2)),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
