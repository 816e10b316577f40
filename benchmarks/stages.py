"""Seconds, processor seconds and peak memory of each rule of a finished study, most processor time first.

    python benchmarks/stages.py results

They come from the jobs' own accounts (`diptych.runtime.accounting`), not from Snakemake's samples; the report's page of
costs shows the same.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from diptych.report import costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    stages = costs.read(parser.parse_args().results / "benchmarks")
    total = sum(stage.processor_s for stage in stages)
    print(f"{'rule':24s} {'jobs':>5s} {'s':>9s} {'processor s':>12s} {'share':>6s} {'peak MB':>9s}")
    for rule, jobs, seconds, processor, peak in stages:
        print(f"{rule:24s} {jobs:5d} {seconds:9.1f} {processor:12.1f} {processor / total:6.1%} {peak:9,.0f}")
    print(f"{'all':24s} {sum(stage.jobs for stage in stages):5d} {'':9s} {total:12.1f}")


if __name__ == "__main__":
    main()
