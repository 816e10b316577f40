"""What a GPU does with Diptych, in at most 8 minutes: the tests that need one, then speed, memory and idle time.

    make gpu                                      # on a machine that has all packages
    make gpu WHEELS=folder GPU='--out folder'     # without network: installs what is missing from wheels
    python benchmarks/gpu.py --tiny               # seconds, on any machine: does the script work?

Every piece (`gpu_pieces.py`) runs in a process of its own, forked from one that has imported everything, for as long as
its budget allows; one that fails or runs over gives one line and the rest goes on. Written to `--out`: gpu.json, gpu.md
(the table that is printed) and gpu.log (what tests and pieces said).

The table's columns: rows per second (tokens; latents of one dictionary for a matching); peak memory of the GPU, as
torch allocated it, and of the process; the share of time in which training waited for rows, or a dump did something
else than forward passes; the share with no kernel on the GPU (the driver's counter); and, of a training step, the share
that the encoder's product alone would need at the speed of a square product, measured in the same process.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gpu_sizes import PIECES

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 470.0
"""Seconds that everything may take."""
TESTS_SECONDS = 150.0
GRACE = 2.0
"""Seconds that a process may take to end."""
LEAST_SECONDS = 3.0
"""A piece that has less time left is not begun."""
NEEDED = {
    "h5py": "h5py", "iniconfig": "iniconfig", "joblib": "joblib", "jinja2": "jinja2", "markupsafe": "MarkupSafe",
    "numpy": "numpy", "packaging": "packaging", "pluggy": "pluggy", "pygments": "pygments", "pytest": "pytest",
    "pytest_timeout": "pytest-timeout", "safetensors": "safetensors", "scipy": "scipy", "sklearn": "scikit-learn",
    "threadpoolctl": "threadpoolctl", "tokenizers": "tokenizers", "torch": "torch", "tqdm": "tqdm",
    "transformers": "transformers", "xxhash": "xxhash",
}  # fmt: skip
"""Distributions by the module that is imported from them."""
COLUMNS = {
    "seconds": ("s", "{:,.1f}"), "rows_per_second": ("rows/s", "{:,.0f}"), "gpu_gib": ("GPU GiB", "{:.1f}"),
    "host_gib": ("host GiB", "{:.1f}"), "waiting": ("waiting", "{:.0%}"), "gpu_idle": ("GPU idle", "{:.0%}"),
    "of_matrix_limit": ("of the matrix limit", "{:.0%}"),
}  # fmt: skip
"""Headings and formats of the table's columns."""


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="folder of wheels of what this machine lacks")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on the CPU if there is no GPU")
    parser.add_argument("--only", default="", help="part of the names of the pieces to measure, or `tests`")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds that everything may take")
    options = parser.parse_args()
    deadline = began + options.limit
    with tempfile.TemporaryDirectory() as place:
        provide(options.wheels, Path(place) / "site")
        import torch

        has_gpu = torch.cuda.is_available()
        if not has_gpu and not options.tiny:
            sys.exit("gpu: torch sees no GPU here; only the tiny form runs without one: add --tiny")
        options.out.mkdir(parents=True, exist_ok=True)
        log = options.out / "gpu.log"
        log.write_text("")
        report: dict[str, Any] = {"machine": machine(has_gpu), "tiny": options.tiny}
        seconds = min(TESTS_SECONDS, deadline - time.monotonic()) if options.only in "tests" else None
        report["tests"] = run_tests(log, seconds, options.tiny)
        pieces = {name: piece.seconds for name, piece in PIECES.items() if options.only in name}
        measure = partial(measured, tiny=options.tiny, device="cuda:0" if has_gpu else "cpu", place=Path(place))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["gpu_pieces"])
        report["pieces"] = measure_pieces(pieces, measure, log, deadline, context)
    report["seconds"] = time.monotonic() - began
    (options.out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "gpu.md").write_text(table(report))
    print(table(report), end="")
    failures = [figures for figures in report["pieces"].values() if "failed" in figures]
    sys.exit(1 if failures or report["tests"]["failed"] else 0)


def provide(wheels: Path | None, site: Path) -> None:
    """Put everything that is imported on the path of this process and its children, missing packages from wheels."""
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing and wheels is None:
        sys.exit(f"gpu: this Python lacks {', '.join(missing)}; name a folder of their wheels: --wheels FOLDER")
    if missing:
        options = ["--quiet", "--no-index", "--no-deps", "--find-links", str(wheels), "--target", str(site)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *missing], check=True)
    paths = [str(ROOT / "benchmarks"), str(ROOT / "workflow"), *([str(site)] if missing else [])]
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])


def machine(has_gpu: bool) -> dict[str, Any]:
    """What the figures depend on."""
    import torch
    import transformers

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "gpu": torch.cuda.get_device_name(0) if has_gpu else None,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def run_tests(log: Path, seconds: float | None, tiny: bool) -> dict[str, Any]:
    """Names of the tests that need a GPU by what became of them, as far as they came in the time; None: no test."""
    result: dict[str, Any] = {"passed": [], "skipped": [], "failed": [], "finished": True}
    if seconds is None:
        return result
    folder = ROOT / "tests" / "unit"
    modules = [path for path in sorted(folder.rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text("utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-rP", "--tb=short", "-p", "no:cacheprovider",
               "--continue-on-collection-errors", *map(str, modules[-1:] if tiny else modules)]  # fmt: skip
    try:
        output = subprocess.run(
            command, cwd=ROOT, timeout=seconds, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        ).stdout
    except subprocess.TimeoutExpired as error:
        output, result["finished"] = error.stdout or b"", False
    text = output.decode("utf-8", "replace")
    with log.open("a") as file:
        file.write(text)
    for name, outcome in re.findall(r"^(\S+::.+?) (PASSED|SKIPPED|FAILED|ERROR)\b", text, re.MULTILINE):
        result["failed" if outcome == "ERROR" else outcome.lower()].append(name)
    result["failed"] += [f"{name} (not imported)" for name in re.findall(r"ERROR collecting (\S+)", text)]
    if not (result["passed"] or result["skipped"] or result["failed"]):
        result["failed"].append("no test was run: see gpu.log")
    return result


def measure_pieces(
    pieces: Mapping[str, float], measure: Callable[[str], dict[str, Any]], log: Path, deadline: float, context: Any
) -> dict[str, dict[str, Any]]:
    """Figures of every piece, or one line that says why there are none.

    Args:
        pieces: seconds that each may take, by name.
        measure: the figures of a piece, in a process of its own.
        log: gets what the processes print.
        deadline: of all of them, by the monotonic clock.
        context: of multiprocessing, from which processes come.
    """
    measured = {}
    for name, budget in pieces.items():
        seconds = min(budget, deadline - time.monotonic())
        if seconds < min(budget, LEAST_SECONDS):
            measured[name] = {"failed": "not begun: no time was left"}
            continue
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(name, measure, log, sender))
        process.start()
        sender.close()
        measured[name] = answer(receiver, seconds)
        process.join(GRACE)  # without an answer it is still at work
        process.kill()
        process.join()
        print(row(name, measured[name]), file=sys.stderr, flush=True)
    return measured


def measured(name: str, **options: Any) -> dict[str, Any]:
    """`gpu_pieces.measured`, imported where it is called: in a piece's process."""
    import gpu_pieces

    return gpu_pieces.measured(name, **options)


def work(name: str, measure: Callable[[str], dict[str, Any]], log: Path, answers: Connection) -> None:
    """Measure a piece, and send its figures or one line that says why there are none."""
    with log.open("a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    try:
        figures = measure(name)
    except Exception as error:
        traceback.print_exc()
        figures = {"failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
    answers.send(figures)


def answer(receiver: Any, seconds: float) -> dict[str, Any]:
    """What a piece sent within its time."""
    if not receiver.poll(seconds):
        return {"failed": f"it ran over its {seconds:.0f} s"}
    try:
        figures: dict[str, Any] = receiver.recv()
    except EOFError:
        return {"failed": "its process died"}
    return figures


def row(name: str, figures: dict[str, Any]) -> str:
    """A line of the table."""
    if "failed" in figures:
        return f"| {name} | failed: {figures['failed'].replace('|', '/')} |" + " |" * (len(COLUMNS) - 1)
    cells = ["" if figures[key] is None else form.format(figures[key]) for key, (_, form) in COLUMNS.items()]
    return " | ".join([f"| {name}", *cells]) + " |"


def table(report: dict[str, Any]) -> str:
    """All figures as Markdown."""
    about, tests = report["machine"], report["tests"]
    counts = ", ".join(f"{len(tests[name])} {name}" for name in ("passed", "failed", "skipped"))
    late = "" if tests["finished"] else ", stopped when their time was over"
    lines = [
        f"{about['gpu'] or 'CPU'}, {about['cores']} cores, {about['date']}; Python {about['python']}, "
        f"torch {about['torch']}, transformers {about['transformers']}{'; tiny sizes' if report['tiny'] else ''}. "
        f"Tests that need a GPU: {counts}{late}. All of it took {report['seconds']:.0f} s.",
        *(f"- failed: {name}" for name in tests["failed"]),
        "",
        "| piece | " + " | ".join(heading for heading, _ in COLUMNS.values()) + " |",
        "|---|" + "---|" * len(COLUMNS),
        *(row(name, figures) for name, figures in report["pieces"].items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
