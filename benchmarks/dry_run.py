"""Time a dry run of a study against `snakemake --version`, in the same rounds.

    python benchmarks/dry_run.py [--study config/config.yaml] [--rounds 5]

A dry run reads the config, builds every job's spec and hashes the code behind it; what is parsed once is cached by
content (`storage.syntax`), so both the first run and a later one are timed.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow"))

from diptych.config.layout import CODE_CACHE

ROOT = Path(__file__).resolve().parents[1]


def seconds(*arguments: str) -> float:
    """Wall-clock time of one call of Snakemake."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "snakemake", *arguments], cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="config/config.yaml")
    parser.add_argument("--rounds", type=int, default=5)
    settings = parser.parse_args()
    dry_run = ("--dry-run", "--quiet", "--configfile", settings.study)
    version, first, later = [], [], []
    for _ in range(settings.rounds):
        version.append(seconds("--version"))
        (ROOT / CODE_CACHE).unlink(missing_ok=True)
        first.append(seconds(*dry_run))
        later.append(seconds(*dry_run))
    base = statistics.median(version)
    print(f"snakemake --version {base:.2f} s")
    for name, times in (("first dry run", first), ("later dry run", later)):
        ratio = statistics.median(x / y for x, y in zip(times, version, strict=True))
        print(f"{name} {statistics.median(times):.2f} s, {ratio:.2f} times as long")


if __name__ == "__main__":
    main()
