"""Speed and memory of the linear-map stage against another checkout of Diptych, in the same run.

    git worktree add /tmp/peer 5ce3c19
    OMP_NUM_THREADS=1 python benchmarks/linear_map.py --peer /tmp/peer/workflow --width 576 1152 --rows 16000

Both fit the same pair (sparse features, A and B sharing half of each) in processes of their own, by turns. Printed for
every width: processor seconds of the whole stage (accumulation, both directions of the ladder, residuals), peak memory
beyond the activations in GiB and in float64 arrays of d x d (from which that of another width follows), the median of
the rounds' ratios, whether both select the same penalties and rungs, and the largest difference of any pooled R^2.
5ce3c19 made an eigendecomposition for every pair of folds, map and direction and a singular value decomposition for
every polar factor. Without `--peer` only this checkout is measured.
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

OWN = Path(__file__).resolve().parents[1] / "workflow"
DOCUMENT_ROWS = 64
BLOCK = 2048


def synthetic(n, d, rng):
    """Activations of two models with 1.5 d features, 3 % of them active, and noise; made in blocks."""
    decoder_A = rng.normal(size=(3 * d // 2, d)).astype(np.float32)
    decoder_B = (0.7 * decoder_A + 0.7 * rng.normal(size=decoder_A.shape)).astype(np.float32)
    scale = np.logspace(0, -1.5, len(decoder_A), dtype=np.float32)
    x_A, x_B = np.empty((n, d), np.float32), np.empty((n, d), np.float32)
    for start in range(0, n, BLOCK):
        rows = slice(start, min(n, start + BLOCK))
        shape = (rows.stop - rows.start, len(scale))
        codes = scale * np.abs(rng.standard_normal(shape, dtype=np.float32)) * (rng.random(shape) < 0.03)
        for x, decoder in ((x_A, decoder_A), (x_B, decoder_B)):
            noise = rng.standard_normal((shape[0], d), dtype=np.float32)
            x[rows] = codes @ decoder + np.float32(0.05) * noise
    return x_A, x_B


def pair_of_width(n, d):
    """Rows of two models of width d."""
    from diptych.activations import rows

    return rows.in_memory(synthetic(n, d, np.random.default_rng(0)), np.arange(n) // DOCUMENT_ROWS)


def fit(pair, device, out):
    """Seconds and peak memory of the stage of the `diptych` that PYTHONPATH has."""
    from diptych.linear_map import stage

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    where = {} if device == "cpu" else {"device": device}
    start, wall = time.process_time(), time.perf_counter()
    stage.fit(pair, out / "map.h5", spec={}, table=out / "ladder.tsv", **where)
    return {
        "cpu_s": time.process_time() - start,
        "wall_s": time.perf_counter() - wall,
        "peak_gib": (peak := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20,
        "peak_arrays": peak * 2**10 / (8 * pair.sides[0].width ** 2),
    }


def measured(workflow, n, d, device):
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, "--fit", out, "--rows", str(n), "--width", str(d), "--device", device]
        environment = os.environ | {"PYTHONPATH": str(workflow)}
        done = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        with (Path(out) / "ladder.tsv").open() as file:
            ladder = list(csv.DictReader(file, delimiter="\t"))
    return json.loads(done.stdout), ladder


def compare(workflow, n, d, device, rounds):
    ours, peers = [], []
    for _ in range(rounds):
        ours.append(measured(OWN, n, d, device))
        if workflow:
            peers.append(measured(workflow, n, d, "cpu"))
    result = {"width": d, "rows": n, "ours": min((run for run, _ in ours), key=lambda run: run["cpu_s"])}
    if peers:
        result["peer"] = min((run for run, _ in peers), key=lambda run: run["cpu_s"])
        pairs = list(zip(ours, peers, strict=True))
        result["ratio"] = float(np.median([peer[0]["cpu_s"] / own[0]["cpu_s"] for own, peer in pairs]))
        result["wall_ratio"] = float(np.median([peer[0]["wall_s"] / own[0]["wall_s"] for own, peer in pairs]))
        own_ladder, peer_ladder = ours[0][1], peers[0][1]
        chosen = [[(row["alpha"], row["is_best"]) for row in ladder] for ladder in (own_ladder, peer_ladder)]
        result["same_choices"] = chosen[0] == chosen[1]
        r2 = [np.array([float(row["r2"]) for row in ladder]) for ladder in (own_ladder, peer_ladder)]
        result["largest_r2_difference"] = float(np.abs(r2[0] - r2[1]).max())
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, nargs="+", default=[576])
    parser.add_argument("--rows", type=int, default=16000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", type=Path, help="workflow directory of the other checkout")
    parser.add_argument("--device", default="cpu", help="of this checkout")
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit:
        pair = pair_of_width(arguments.rows, arguments.width[0])
        print(json.dumps(fit(pair, arguments.device, arguments.fit)))
        return
    for d in arguments.width:
        result = compare(arguments.peer, arguments.rows, d, arguments.device, arguments.rounds)
        print(json.dumps(result, indent=1), flush=True)


if __name__ == "__main__":
    main()
