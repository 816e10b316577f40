"""A plan as text: one line a stage, numbers with units and at most three digits, in aligned columns.

print(text.render(plan))
"""

from collections.abc import Sequence

from diptych.planning.machines import CORES, DISK_BANDWIDTH, SHARE, START_SECONDS
from diptych.planning.plan import Plan
from diptych.planning.quantity import quantity

HEADER = ("stage", "jobs", "tokens", "FLOPs", "GPU memory", "host memory", "disk at end", "disk at peak", "hours")


def render(plan: Plan) -> str:
    """The table of a plan with its total, and what the hours assume."""
    rows = [
        (
            stage.rule,
            str(stage.jobs),
            quantity(stage.tokens),
            quantity(stage.flops),
            quantity(stage.device_memory.size, "B"),
            quantity(stage.host_memory.size, "B"),
            quantity(stage.disk.size, "B"),
            quantity(stage.disk.size + stage.scratch, "B"),
            _hours(stage.hours),
        )
        for stage in plan.stages
    ]
    total = (
        "all",
        str(sum(stage.jobs for stage in plan.stages)),
        "",
        quantity(sum(stage.flops for stage in plan.stages)),
        quantity(max(stage.device_memory.size for stage in plan.stages), "B"),
        quantity(max(stage.host_memory.size for stage in plan.stages), "B"),
        quantity(plan.disk, "B"),
        quantity(plan.peak_disk, "B"),
        _hours(plan.hours),
    )
    return "\n".join([*_aligned([HEADER, *rows, total]), "", *_assumptions(plan)])


def _assumptions(plan: Plan) -> list[str]:
    device = plan.device
    units = f"{quantity(device.half)}FLOP/s in bfloat16, {quantity(device.single)}FLOP/s in float32"
    cores = f", what needs no GPU on {CORES} cores" if device.memory else ""
    return [
        f"Memory is that of the job that takes most; disk and hours are of all jobs, hours one job after another on "
        f"{device.name}{cores}.",
        f"They assume {SHARE:.0%} of its peak ({units}, {quantity(device.bandwidth, 'B')}/s; {device.source}), "
        f"{quantity(DISK_BANDWIDTH, 'B')}/s of disk and {START_SECONDS:g} s to start a job. Downloads are not in them.",
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows with the first column to the left and the others to the right, two spaces between them."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.rjust(width) if column else cell.ljust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]  # fmt: skip


def _hours(hours: float) -> str:
    return f"{hours:.3g}" if hours >= 0.01 else "<.01"
