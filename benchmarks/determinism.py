"""Findings of one study under other numbers of threads and an old processor's kernels, compared with the usual ones.

    python benchmarks/determinism.py --configfile config/config.yaml --cores 2      # or: make determinism
    python benchmarks/determinism.py --ways "old kernels" --folder FOLDER           # one way alone, kept in FOLDER
    python benchmarks/determinism.py --compare RESULTS RESULTS                      # two finished studies

Each way runs the whole study. Sums of floating-point numbers depend on how they are cut up, so bytes differ between
ways; findings, and what is said of every pair, should not. Findings of features and latents are counted apart, for
training made them: after other last digits it makes others, as after another seed. So they are the same where they are
over seeds (METHODS 9): of one side, at |cos| >= .7, whatever their numbers. A finding that only one of two studies has
is printed with what the other says of the same difference; the command ends with 1 if there is one, or if something
else is said of a pair.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

import numpy as np
import numpy.typing as npt

from diptych.candidates.candidate import SAME_DIRECTION, abs_cosine
from diptych.candidates.ranking import TRAINED
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
PLACE = ("pair", "site", "method", "kind", "side")
SAID = ("effect", "held_out", "q", "seeds", "weakest_leg", "weakest")


class Reported(NamedTuple):
    """A row of the table of findings, of any status: its columns, and its direction (empty if it has none)."""

    row: dict[str, Any]
    direction: npt.NDArray[np.float64]

    @property
    def is_trained(self) -> bool:
        """Whether it names what training made."""
        return self.row["kind"] in TRAINED

    @property
    def is_finding(self) -> bool:
        """Whether it is a finding."""
        return bool(self.row["status"] == "finding")

    def is_same(self, other: "Reported") -> bool:
        """Whether two studies report the same difference."""
        if any(self.row[name] != other.row[name] for name in PLACE):
            return False
        if self.is_trained:
            return abs_cosine(self.direction, other.direction) >= SAME_DIRECTION
        return bool(self.row["id"] == other.row["id"])

    def within(self, others: "list[Reported]") -> "Reported | None":
        """The same difference among those of another study, at the largest |cos|; None if it is not there."""
        same = [other for other in others if self.is_same(other)]
        return max(same, key=lambda other: abs_cosine(self.direction, other.direction), default=None)

    def __str__(self) -> str:
        names = ("pair", "site", "method", "kind", "id", "side")
        return " ".join(str(self.row[name]) for name in names if self.row[name])

    @property
    def numbers(self) -> str:
        """What is said of it, in one line."""
        said = {name: _short(self.row[name]) for name in SAID}
        return ", ".join(f"{name} {value}" for name, value in said.items() if value not in ("", "nan"))


def run(results: Path, configfile: str, cores: int, threads: int, environment: dict[str, str]) -> None:
    """Run the whole study of a config into a results directory, this process's variables and `environment` set."""
    command = [sys.executable, "-m", "snakemake", "--configfile", configfile, "--config", f"results={results}"]
    command += ["--cores", str(cores), "--max-threads", str(threads), "--resources", "gpu=2", "--quiet", "all"]
    subprocess.run(command, check=True, env={**os.environ, **environment})


def reported(found: stage.Findings) -> list[Reported]:
    """The rows of the table of findings, of every status, in its order."""
    rows = [dict(zip(found.table, values, strict=True)) for values in zip(*found.table.values(), strict=True)]
    vectors = [found.directions.get(i, np.zeros(0, np.float32)) for i in range(len(rows))]
    without_padding = [vector[np.isfinite(vector)].astype(np.float64) for vector in vectors]
    return [Reported(row, vector) for row, vector in zip(rows, without_padding, strict=True)]


def equal_bytes(a: Path, b: Path) -> tuple[int, int]:
    """How many of a's HDF5 artifacts are the same bytes in b, and their number."""
    names = [path.relative_to(a) for path in sorted(a.rglob("*.h5"))]
    equal = sum((b / name).is_file() and (a / name).read_bytes() == (b / name).read_bytes() for name in names)
    return equal, len(names)


def compare(a: Path, b: Path) -> tuple[list[str], bool]:
    """Lines that compare two studies, and whether their findings and what is said of every pair are the same."""
    studies = [stage.read(results / "findings.h5") for results in (a, b)]
    said_a, said_b = ({(each["pair"], each["method"]): each["status"] for each in study.answers} for study in studies)
    other = {key: (said_a.get(key), said_b.get(key)) for key in said_a | said_b if said_a.get(key) != said_b.get(key)}
    all_a, all_b = (reported(study) for study in studies)
    first, second = ([each for each in rows if each.is_finding] for rows in (all_a, all_b))
    lost = [each for each in first if not each.within(second)]
    new = [each for each in second if not each.within(first)]
    same, total = equal_bytes(a, b)
    lines = [
        f"{len(said_a | said_b) - len(other)} of {len(said_a | said_b)} answers (a pair by a method) are the same; "
        f"{same} of {total} artifacts are the same bytes",
        *(f"  {pair}, {method}: {said}; the other: {says}" for (pair, method), (said, says) in other.items()),
    ]
    for title, trained in (("computed", False), ("features and latents, which training makes", True)):
        of_kind = [[each for each in rows if each.is_trained is trained] for rows in (first, second, lost, new)]
        lines.append(f"{title}: {_counts(*of_kind)}")
    for name, only, others in (("first", lost, all_b), ("second", new, all_a)):
        lines += [f"  only in the {name}: {each}: {each.numbers}; the other: {_says(each, others)}" for each in only]
    return lines, not (other or lost or new)


def _counts(first: list[Reported], second: list[Reported], lost: list[Reported], new: list[Reported]) -> str:
    in_both = [(each, there) for each in first if (there := each.within(second))]
    spread = max((_relative(each.row["effect"], there.row["effect"]) for each, there in in_both), default=0.0)
    return (
        f"{len(in_both)} findings in both, {len(lost)} only in the first, {len(new)} only in the second; "
        f"effects differ by at most {spread:.1e}"
    )


def _says(finding: Reported, others: list[Reported]) -> str:
    """What the other study says of a finding's difference."""
    there = finding.within(others)
    return "does not report it" if there is None else f"{there.row['status']}, {there.numbers}: {there.row['note']}"


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _relative(x: float, y: float) -> float:
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
