"""What a job took of the machine, from the operating system's own account of its process.

Snakemake's benchmark files sample the processor time of a running job and lose what lies after the last sample, up to
30 s. The process itself is told exactly, at its end:

    accounting.write_at_exit("results/logs/fit_linear_map/tuned.log", "fit_linear_map", logger)
    # results/benchmarks/fit_linear_map/tuned.process.json: {"s": 12.1, "processor_s": 20.3, ...}
"""

import atexit
import itertools
import json
import logging
import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple

BYTES_OF_MAXRSS = 1 if sys.platform == "darwin" else 1024
"""Unit of `ru_maxrss`: bytes on macOS, KiB elsewhere."""


class Usage(NamedTuple):
    """Use of the machine by this process so far and by its ended children (those that it waited for).

    Attributes:
        processor_s: seconds of processor time in user and system mode, of the process and its children.
        children_s: seconds of that which are the children's.
        peak_memory_mb: largest resident memory in MiB of the process or, if that is more, of one child.
    """

    processor_s: float
    children_s: float
    peak_memory_mb: float


def usage() -> Usage:
    """Use of the machine by the running process."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    children_s = children.ru_utime + children.ru_stime
    peak = max(own.ru_maxrss, children.ru_maxrss) * BYTES_OF_MAXRSS / 2**20
    return Usage(own.ru_utime + own.ru_stime + children_s, children_s, peak)


def file_of(log_file: str | Path, rule: str) -> Path:
    """The account of a job of `rule`: for the log `logs/{rule}/x.log`, `benchmarks/{rule}/x.process.json` beside it."""
    log = Path(log_file)
    at = list(itertools.pairwise(log.parts)).index(("logs", rule))
    return Path(*log.parts[:at], "benchmarks", *log.parts[at + 1 :]).with_suffix(".process.json")


def write_at_exit(log_file: str | Path, rule: str, logger: logging.Logger) -> None:
    """At the end of this process log what it used, and write `Usage` and `s`, seconds since this call, to `file_of`."""
    atexit.register(_write, log_file, rule, logger, time.monotonic())


def discard() -> None:
    """Write no account: the job failed, and its last word is why."""
    atexit.unregister(_write)


def _write(log_file: str | Path, rule: str, logger: logging.Logger, start: float) -> None:
    used, seconds = usage(), time.monotonic() - start
    peak = f"{used.peak_memory_mb:,.0f}"
    logger.info("%.1f s, %.1f s of processor time, peak memory %s MB", seconds, used.processor_s, peak)
    path = file_of(log_file, rule)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"s": seconds, **used._asdict()}) + "\n", encoding="utf-8")
