"""The plan of a study: what each of its stages takes, and whether a machine can hold it.

plan = make(study, machines.named("h100"))
plan.stages[0].hours, plan.disk, plan.shortages(Machine(memory=64e9, disk=1e12))
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from diptych.config.layout import Layout
from diptych.config.study import Study
from diptych.planning import graph
from diptych.planning.baselines import baseline
from diptych.planning.cost import Cost
from diptych.planning.machines import (
    CORE_BANDWIDTH,
    CORE_FLOPS,
    CORES,
    DISK_BANDWIDTH,
    SHARE,
    START_SECONDS,
    Device,
)
from diptych.planning.quantity import quantity
from diptych.planning.sizes import Sizes
from diptych.planning.stages.table import COSTS

CONTEXT = 6e8
"""Bytes that CUDA and its libraries take of a GPU before a tensor is on it."""


class Machine(NamedTuple):
    """Memory and free disk of a machine, bytes."""

    memory: float
    disk: float


class Need(NamedTuple):
    """The most that a job of a stage takes of something, bytes, and the key of the config by which that shrinks."""

    size: float
    key: str


@dataclass(frozen=True)
class Stage:
    """What all jobs of a rule take.

    Attributes:
        rule: name of the rule.
        jobs: how many there are.
        tokens: token rows that they read, in all.
        flops: floating-point operations, in all.
        device_memory: of the GPU, the most that one job takes; 0 where none is used.
        host_memory: of the host, the most that one job takes.
        pages: bytes of mapped files that it may show besides, while there is room for them.
        disk: bytes of all outputs.
        scratch: bytes beside these while a job runs, the most that one takes.
        hours: of all jobs, one after another.
    """

    rule: str
    jobs: int
    tokens: float
    flops: float
    device_memory: Need
    host_memory: Need
    pages: float
    disk: Need
    scratch: float
    hours: float


@dataclass(frozen=True)
class Plan:
    """The plan of a study on a device."""

    device: Device
    stages: tuple[Stage, ...]

    @property
    def disk(self) -> float:
        """Bytes of a finished study."""
        return sum(stage.disk.size for stage in self.stages)

    @property
    def peak_disk(self) -> float:
        """Bytes at the most: all outputs, and what one job has beside them while it runs."""
        return self.disk + max(stage.scratch for stage in self.stages)

    @property
    def hours(self) -> float:
        """Hours of all jobs, one after another."""
        return sum(stage.hours for stage in self.stages)

    def shortages(self, machine: Machine) -> list[str]:
        """One line for each stage that the device or the machine cannot hold, and for the disk, with what to change."""
        lines = []
        for stage in self.stages:
            for need, most, where in (
                (stage.device_memory, self.device.memory, f"the memory of one {self.device.name}"),
                (stage.host_memory, machine.memory, "the memory of this machine"),
            ):
                if need.size > most:
                    lines.append(
                        f"{stage.rule} needs {quantity(need.size, 'B')} and {where} is {quantity(most, 'B')}"
                        + (f"; change {need.key}" if need.key else "")
                    )
        if self.peak_disk > machine.disk:
            largest = max(self.stages, key=lambda stage: stage.disk.size)
            lines.append(
                f"disk: {quantity(self.peak_disk, 'B')} are needed, most of them for {largest.rule}, and "
                f"{quantity(machine.disk, 'B')} are free; change {largest.disk.key or 'results, to a larger disk'}"
            )
        return lines


def make(study: Study, device: Device, files: Sequence[Path] = ()) -> Plan:
    """The plan of a study on a device, with that of other files that its rules make.

    Raises:
        DiptychError: the shape of a model, or the size of a dictionary, is unknown.
    """
    sizes = Sizes(study)
    by_rule: dict[str, list[Cost]] = {}
    for job in graph.jobs(study, files):
        by_rule.setdefault(job.rule, []).append(COSTS[job.rule](sizes, **job.wildcards))
    return Plan(device, tuple(_stage(rule, by_rule[rule], device) for rule in COSTS if rule in by_rule))


def this_machine(study: Study) -> Machine:
    """Memory of this machine, and what is free where the study's results go, with what they take there already."""
    results = Layout(study).results.absolute()
    present = next(folder for folder in (results, *results.parents) if folder.is_dir())
    files = [path for path in results.rglob("*") if path.is_file()] if results.is_dir() else []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(float(memory), float(shutil.disk_usage(present).free + sum(path.stat().st_size for path in files)))


def _stage(rule: str, costs: Sequence[Cost], device: Device) -> Stage:
    on_gpu = device.memory > 0
    return Stage(
        rule=rule,
        jobs=len(costs),
        tokens=sum(cost.tokens for cost in costs),
        flops=sum(cost.flops + cost.half_flops for cost in costs),
        device_memory=max(_device_memory(cost, on_gpu) for cost in costs),
        host_memory=max(host_memory(rule, cost, on_gpu) for cost in costs),
        pages=max(cost.pages for cost in costs),
        disk=Need(sum(cost.disk for cost in costs), max(costs, key=lambda cost: cost.disk).disk_key),
        scratch=max(cost.scratch for cost in costs),
        hours=sum(_seconds(cost, device) for cost in costs) / 3600,
    )


def _device_memory(cost: Cost, on_gpu: bool) -> Need:
    """Of each of the GPUs of a job."""
    if not on_gpu or not cost.on_device:
        return Need(0.0, "")
    return Need(CONTEXT + cost.memory / cost.devices, cost.memory_key)


def host_memory(rule: str, cost: Cost, on_gpu: bool) -> Need:
    """Of the host: what modules take, what a job holds there, and where no GPU does it, weights and batches."""
    computed = 0.0 if on_gpu and cost.on_device else max(cost.memory, cost.cpu_memory) * cost.speedup
    return Need(baseline(rule) + cost.host + computed, cost.memory_key)


def _seconds(cost: Cost, device: Device) -> float:
    """The longer of products and traffic, each at `SHARE` of the peak; then what disk and start take."""
    if cost.on_device:
        half, single, bandwidth, n = device.half, device.single, device.bandwidth, cost.speedup
    else:
        cores = CORES if device.memory else 2
        half, single, bandwidth, n = cores * CORE_FLOPS, cores * CORE_FLOPS, cores * CORE_BANDWIDTH, 1
    products = cost.flops / single + cost.half_flops / half
    computing = max(products, cost.traffic / bandwidth) / (SHARE * n)
    return START_SECONDS + computing + (cost.moved + cost.disk + cost.scratch) / DISK_BANDWIDTH
