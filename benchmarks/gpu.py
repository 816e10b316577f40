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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
        report["tests"] = run_tests(log, min(TESTS_SECONDS, deadline - time.monotonic()), options.tiny)
        report["pieces"] = measure_pieces(options.tiny, "cuda:0" if has_gpu else "cpu", Path(place), log, deadline)
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


def run_tests(log: Path, seconds: float, tiny: bool) -> dict[str, Any]:
    """Names of the tests that need a GPU by what became of them, as far as they came in the time."""
    folder = ROOT / "tests" / "unit"
    modules = [path for path in sorted(folder.rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text("utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-rN", "--tb=short", "-p", "no:cacheprovider",
               "--continue-on-collection-errors", *map(str, modules[-1:] if tiny else modules)]  # fmt: skip
    finished = True
    try:
        output = subprocess.run(
            command, cwd=ROOT, timeout=seconds, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        ).stdout
    except subprocess.TimeoutExpired as error:
        output, finished = error.stdout or b"", False
    text = output.decode("utf-8", "replace")
    with log.open("a") as file:
        file.write(text)
    result: dict[str, Any] = {name.lower(): [] for name in ("PASSED", "SKIPPED", "FAILED")}
    for name, outcome in re.findall(r"^(\S+::.+?) (PASSED|SKIPPED|FAILED|ERROR)\b", text, re.MULTILINE):
        result["failed" if outcome == "ERROR" else outcome.lower()].append(name)
    result["failed"] += [f"{name} (not imported)" for name in re.findall(r"ERROR collecting (\S+)", text)]
    if not any(result.values()):
        result["failed"].append("no test was run: see gpu.log")
    return result | {"finished": finished}


def measure_pieces(tiny: bool, device: str, place: Path, log: Path, deadline: float) -> dict[str, dict[str, Any]]:
    """Figures of every piece, or one line that says why there are none."""
    from gpu_pieces import PIECES, work

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gpu_pieces"])
    measured = {}
    for name, piece in PIECES.items():
        seconds = min(piece.seconds, deadline - time.monotonic())
        if seconds < LEAST_SECONDS:
            measured[name] = {"failed": "not begun: no time was left"}
            continue
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(name, tiny, device, place, log, sender))
        process.start()
        sender.close()
        figures = answer(receiver, seconds)
        process.join(GRACE)  # without an answer it is still at work
        process.kill()
        process.join()
        if "rows" in figures:
            figures["rows_per_second"] = figures["rows"] / figures["seconds"]
        measured[name] = figures
        print(row(name, figures), file=sys.stderr, flush=True)
    return measured


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
