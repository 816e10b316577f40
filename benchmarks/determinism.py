"""Findings of one study under other numbers of threads and an old processor's kernels, compared with the usual ones.

    python benchmarks/determinism.py --configfile config/config.yaml --cores 2      # or: make determinism
    python benchmarks/determinism.py --ways "old kernels" --folder FOLDER           # one way alone, kept in FOLDER
    python benchmarks/determinism.py --compare RESULTS RESULTS                      # two finished studies

Each way runs the whole study. Sums of floating-point numbers depend on how they are cut up, so bytes differ between
ways; findings, and what is said of every pair, should not. Findings of features and latents are counted apart, for they
name what training made: after other last digits it makes others, as after another seed. A finding that only one of two
studies has is printed with what the other says of the same difference; the command ends with 1 if there is one, or if
something else is said of a pair.
"""

import argparse
import csv
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from diptych.findings import stage

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
"""Threads of a job and environment variables; the first way that runs is what the others are compared with."""
KEYS = ("pair", "site", "method", "kind", "id", "side")
TRAINED = ("feature", "latent")
"""Kinds of findings that name what training made."""
SAID = ("effect", "held_out", "q", "seeds", "weakest_leg", "weakest")

Row = Mapping[str, str]


def run(results: Path, configfile: str, cores: int, threads: int, environment: dict[str, str]) -> None:
    """Run the whole study of a config into a results directory, this process's variables and `environment` set."""
    command = [sys.executable, "-m", "snakemake", "--configfile", configfile, "--config", f"results={results}"]
    command += ["--cores", str(cores), "--max-threads", str(threads), "--resources", "gpu=2", "--quiet", "all"]
    subprocess.run(command, check=True, env={**os.environ, **environment})


def reported(results: Path) -> dict[tuple[str, ...], Row]:
    """The rows of findings.tsv, of every status, by what they are about."""
    with (results / "findings.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader((line for line in file if not line.startswith("# ")), delimiter="\t"))
    by_key = {tuple(row[key] for key in KEYS): row for row in rows}
    assert len(by_key) == len(rows), f"{results}: {KEYS} do not tell the rows of findings.tsv apart"
    return by_key


def equal_bytes(a: Path, b: Path) -> tuple[int, int]:
    """How many of a's HDF5 artifacts are the same bytes in b, and their number."""
    names = [path.relative_to(a) for path in sorted(a.rglob("*.h5"))]
    equal = sum((b / name).is_file() and (a / name).read_bytes() == (b / name).read_bytes() for name in names)
    return equal, len(names)


def compare(a: Path, b: Path) -> tuple[list[str], bool]:
    """Lines that compare two studies, and whether their findings and what is said of every pair are the same."""
    rows_a, rows_b = reported(a), reported(b)
    old, new = ({key for key, row in rows.items() if row["status"] == "finding"} for rows in (rows_a, rows_b))
    made_a, made_b = ({key for key in keys if key[KEYS.index("kind")] in TRAINED} for keys in (old, new))
    same, total = equal_bytes(a, b)
    said_a, said_b = said(a), said(b)
    other = {key: (said_a.get(key), said_b.get(key)) for key in said_a | said_b if said_a.get(key) != said_b.get(key)}
    lines = [
        f"{len(said_a | said_b) - len(other)} of {len(said_a | said_b)} answers (a pair by a method) are the same; "
        f"{same} of {total} artifacts are the same bytes",
        "computed: " + _counts(old - made_a, new - made_b, rows_a, rows_b),
        "features and latents, which training makes: " + _counts(made_a, made_b, rows_a, rows_b),
        *(f"  {pair}, {method}: {first}; the other: {second}" for (pair, method), (first, second) in other.items()),
    ]
    for (pair, method), count in sorted(Counter((key[0], key[2]) for key in old | new).items()):
        both, first, second = (
            sum((key[0], key[2]) == (pair, method) for key in keys) for keys in (old & new, old - new, new - old)
        )
        lines.append(
            f"  {pair}, {method}: {both} of {count} in both, {first} only in the first, {second} in the second"
        )
    for only, rows, others in ((old - new, rows_a, rows_b), (new - old, rows_b, rows_a)):
        name = "first" if rows is rows_a else "second"
        lines += [f"  only in the {name}: {_difference(key, rows, others)}" for key in sorted(only)]
    return lines, not other and old == new


def said(results: Path) -> dict[tuple[str, str], str]:
    """What a study says of each pair by each method, by pair and method."""
    return {
        (answer["pair"], answer["method"]): answer["status"] for answer in stage.read(results / "findings.h5").answers
    }


def _counts(
    old: set[tuple[str, ...]],
    new: set[tuple[str, ...]],
    rows_a: Mapping[tuple[str, ...], Row],
    rows_b: Mapping[tuple[str, ...], Row],
) -> str:
    spread = max((_relative(rows_a[key]["effect"], rows_b[key]["effect"]) for key in old & new), default=0.0)
    return (
        f"{len(old & new)} findings in both, {len(old - new)} only in the first, {len(new - old)} only in the second; "
        f"effects differ by at most {spread:.1e}"
    )


def _difference(
    key: tuple[str, ...], rows: Mapping[tuple[str, ...], Row], others: Mapping[tuple[str, ...], Row]
) -> str:
    """A finding of one study, and what the other says of the same difference."""
    there = others.get(key)
    other = "does not report it" if there is None else f"{there['status']}, {_numbers(there)}: {there['note']}"
    return f"{' '.join(filter(None, key))}: {_numbers(rows[key])}; the other: {other}"


def _numbers(row: Row) -> str:
    return ", ".join(f"{name} {row[name]}" for name in SAID if row[name])


def _relative(a: str, b: str) -> float:
    x, y = float(a), float(b)
    return 0.0 if x == y else abs(x - y) / max(abs(x), abs(y), math.ulp(0.0))


def main() -> None:
    """Run the ways of the command line and compare them, or compare two finished studies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configfile", default="config/config.yaml")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--ways", nargs="+", default=list(WAYS), choices=WAYS, help="others are compared with the first"
    )
    parser.add_argument("--folder", type=Path, help="keeps the results, one directory a way; else they are deleted")
    parser.add_argument("--compare", nargs=2, type=Path, metavar="RESULTS", help="two finished studies; runs nothing")
    arguments = parser.parse_args()
    if arguments.compare:
        sys.exit(not show("the second", *arguments.compare))
    with nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as folder:
        places = {way: Path(folder).absolute() / way.replace(" ", "-") for way in arguments.ways}
        for way, place in places.items():
            run(place, arguments.configfile, arguments.cores, *WAYS[way])
        first, *others = arguments.ways
        same = [show(way, places[first], places[way]) for way in others]
    sys.exit(not all(same))


def show(way: str, a: Path, b: Path) -> bool:
    """Print how the findings of a way in `b` compare with those in `a`; whether they are the same."""
    lines, same = compare(a, b)
    print(f"{way}:", "\n".join(lines), flush=True)
    return same


if __name__ == "__main__":
    main()
