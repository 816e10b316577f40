"""What every stage of a study took, as a page beside the report: measurements differ between runs, a report does not.

costs.write("results/benchmarks", "results/benchmarks/index.html", report="../report")
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from diptych.page import document
from diptych.page.blocks import Cell, Section, Table, counted, number_cell, percent
from diptych.page.document import Frame
from diptych.report.addresses import INDEX, PLOTLY
from diptych.storage import artifacts


class StageCost(NamedTuple):
    """Sums over the jobs of a rule: number, seconds, processor seconds; and the largest peak memory of a job in MiB."""

    rule: str
    jobs: int
    s: float
    processor_s: float
    peak_memory_mb: float


def read(benchmarks: str | Path) -> list[StageCost]:
    """Costs by rule, most processor time first, from the jobs' own accounts (`runtime.accounting`)."""
    accounts: dict[str, list[dict[str, float]]] = {}
    for path in sorted(Path(benchmarks).rglob("*.process.json")):
        accounts.setdefault(path.relative_to(benchmarks).parts[0], []).append(json.loads(path.read_bytes()))
    stages = [
        StageCost(
            rule,
            len(jobs),
            sum(job["s"] for job in jobs),
            sum(job["processor_s"] for job in jobs),
            max(job["peak_memory_mb"] for job in jobs),
        )
        for rule, jobs in accounts.items()
    ]
    return sorted(stages, key=lambda stage: -stage.processor_s)


def write(benchmarks: str | Path, out: str | Path, *, report: str) -> None:
    """Write the page; `report` is the address of the report's directory from it."""
    stages = read(benchmarks)
    frame = Frame("page-costs", f"{report}/{PLOTLY}", "The report", f"{report}/{INDEX}")
    sections = [Section("costs", "Every stage", [_table(stages)])]
    artifacts.write_text(out, document.render("What the study took", None, _answer(stages), sections, frame))


def _answer(stages: Sequence[StageCost]) -> str:
    if not stages:
        return "No job of this study has left an account."
    jobs, total = sum(stage.jobs for stage in stages), sum(stage.processor_s for stage in stages)
    peak = max(stage.peak_memory_mb for stage in stages)
    return (
        f"{counted(jobs, 'job')} took {total / 60:,.1f} minutes of processor time, most of it {stages[0].rule} "
        f"({percent(stages[0].processor_s / total)}), and at most {peak / 1024:,.1f} GiB of memory in one job."
    )


def _table(stages: Sequence[StageCost]) -> Table:
    total = sum(stage.processor_s for stage in stages)
    rows: list[list[str | Cell]] = [
        [
            stage.rule,
            number_cell(stage.jobs),
            number_cell(stage.s),
            number_cell(stage.processor_s),
            Cell(percent(stage.processor_s / total), order=stage.processor_s),
            number_cell(round(stage.peak_memory_mb)),
        ]
        for stage in stages
    ]
    caption = (
        "The last run of every job that had ended when the report was written, on the machine where it ran. Each job's "
        "own figures lie in the directory of this page."
    )
    columns = ["stage", "jobs", "seconds", "processor seconds", "share", "peak memory (MiB)"]
    return Table(columns, rows, caption=caption, interactive=True)
