"""Findings of one study under other numbers of threads and an old processor's kernels, compared with the usual ones.

    python benchmarks/determinism.py --configfile config/config.yaml --cores 2      # or: make determinism

Each way runs the whole study. Sums of floating-point numbers depend on how they are cut up, so bytes differ between
ways; findings, and what is said of every pair, should not.
"""

import argparse
import csv
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

OLD_KERNELS = {
    "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "DNNL_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
}  # fmt: skip
WAYS: dict[str, tuple[int, dict[str, str]]] = {
    "one thread": (1, {}),
    "one thread again": (1, {}),
    "two threads": (2, {}),
    "old kernels": (1, OLD_KERNELS),
}
"""Threads of a job and environment variables; the first is what the others are compared with."""
KEYS = ("pair", "site", "method", "kind", "id", "side")


def run(results: Path, configfile: str, cores: int, threads: int, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "snakemake", "--configfile", configfile, "--config", f"results={results}"]
    command += ["--cores", str(cores), "--max-threads", str(threads), "--quiet", "all"]
    subprocess.run(command, check=True, env={**os.environ, **environment})


def findings(results: Path) -> dict[tuple[str, ...], dict[str, str]]:
    with (results / "findings.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {tuple(row[key] for key in KEYS): row for row in rows if row["status"] == "finding"}


def equal_bytes(a: Path, b: Path) -> tuple[int, int]:
    """How many of a's HDF5 artifacts are the same bytes in b, and their number."""
    names = [path.relative_to(a) for path in sorted(a.rglob("*.h5"))]
    return sum((b / name).is_file() and (a / name).read_bytes() == (b / name).read_bytes() for name in names), len(
        names
    )


def compare(a: Path, b: Path) -> str:
    old, new = findings(a), findings(b)
    both = old.keys() & new.keys()
    spread = max((_relative(old[key]["effect"], new[key]["effect"]) for key in both), default=0.0)
    same, total = equal_bytes(a, b)
    return (
        f"{len(both)} findings in both, {len(old) - len(both)} only in the first, {len(new) - len(both)} only here; "
        f"effects differ by at most {spread:.1e}; {same} of {total} artifacts are the same bytes"
    )


def _relative(a: str, b: str) -> float:
    x, y = float(a), float(b)
    return 0.0 if x == y else abs(x - y) / max(abs(x), abs(y), math.ulp(0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configfile", default="config/config.yaml")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="diptych-determinism-") as folder:
        first, *others = WAYS
        for way, (threads, environment) in WAYS.items():
            run(Path(folder) / way.replace(" ", "-"), arguments.configfile, arguments.cores, threads, environment)
        for way in others:
            print(f"{way:18s}", compare(Path(folder, first.replace(" ", "-")), Path(folder, way.replace(" ", "-"))))


if __name__ == "__main__":
    main()
