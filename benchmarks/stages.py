"""Seconds, processor seconds and peak memory of each rule of a finished study, most processor time first.

    python benchmarks/stages.py results

They come from the jobs' own accounts (`diptych.runtime.accounting`), not from Snakemake's samples.
"""

import argparse
import json
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    folder = parser.parse_args().results / "benchmarks"
    accounts: dict[str, list[dict[str, float]]] = {}
    for path in sorted(folder.rglob("*.process.json")):
        accounts.setdefault(path.relative_to(folder).parts[0], []).append(json.loads(path.read_bytes()))
    total = sum(job["processor_s"] for jobs in accounts.values() for job in jobs)
    print(f"{'rule':24s} {'jobs':>5s} {'s':>9s} {'processor s':>12s} {'share':>6s} {'peak MB':>9s}")
    for rule, jobs in sorted(accounts.items(), key=lambda item: -sum(job["processor_s"] for job in item[1])):
        seconds, processor = (sum(job[name] for job in jobs) for name in ("s", "processor_s"))
        peak = max(job["peak_memory_mb"] for job in jobs)
        print(f"{rule:24s} {len(jobs):5d} {seconds:9.1f} {processor:12.1f} {processor / total:6.1%} {peak:9,.0f}")
    print(f"{'all':24s} {sum(map(len, accounts.values())):5d} {'':9s} {total:12.1f}")


if __name__ == "__main__":
    main()
