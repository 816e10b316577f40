"""Which device a job runs on.

    with devices.take("auto") as device:      # "cpu", or "cuda:1" with that GPU held for the block
        model.to(device)

A scheduler grants each job its own GPUs through CUDA_VISIBLE_DEVICES and the first of them are taken. Snakemake on one
machine grants nothing, so there each job holds a lock file for the GPU it uses: jobs side by side take different ones,
and wait where there are fewer GPUs than jobs.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import torch

from diptych.runtime.errors import DiptychError
from diptych.runtime.logs import logger

WAIT_SECONDS = 1.0
SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID")
"""Variables in a job's environment that tell of a scheduler."""


@contextmanager
def take(device: str) -> Iterator[str]:
    """Hold one device for a block; see `take_several`."""
    with take_several(device, 1) as devices:
        yield devices[0]


@contextmanager
def take_several(device: str, count: int) -> Iterator[list[str]]:
    """Hold `count` GPUs for a block, or the CPU, of which there is one for any count.

    Args:
        device: `auto` (CUDA if there, else the CPU), `cpu` or `cuda`.
        count: GPUs wanted.

    Raises:
        DiptychError: `cuda` is asked for and there is none, or there are fewer than `count`.
    """
    granted = "CUDA_VISIBLE_DEVICES" in os.environ and any(name in os.environ for name in SCHEDULERS)
    if granted:
        logger.info("granted by the scheduler: CUDA_VISIBLE_DEVICES=%s", os.environ["CUDA_VISIBLE_DEVICES"])
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise DiptychError("device: cuda is asked for but torch sees no GPU; set device: auto or cpu")
    if device == "cpu" or not available:
        logger.info("device: cpu, %d threads", torch.get_num_threads())
        yield ["cpu"]
        return
    visible = torch.cuda.device_count()
    if visible < count:
        raise DiptychError(f"device: {count} GPUs are asked for and torch sees {visible}; lower `processes`")
    acquired, locks = (list(range(count)), []) if granted else _lock(visible, count)
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        for index in acquired:
            logger.info("device: GPU %d, %s", index, torch.cuda.get_device_name(index))
        yield [f"cuda:{index}" for index in acquired]


def _lock(visible: int, count: int) -> tuple[list[int], list[IO[str]]]:
    """Wait for GPUs that no other job of this user holds; the locks end with the process.

    All are taken at once or none, so that two jobs never wait for each other.
    """
    directory = Path(tempfile.gettempdir()) / f"diptych-gpu-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    while True:
        acquired: list[int] = []
        locks: list[IO[str]] = []
        for index in range(visible):
            # By UUID: the numbers of visible GPUs change with CUDA_VISIBLE_DEVICES.
            lock: IO[str] = (directory / str(torch.cuda.get_device_properties(index).uuid)).open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            acquired.append(index)
            locks.append(lock)
            if len(acquired) == count:
                return acquired, locks
        for lock in locks:
            lock.close()
        time.sleep(WAIT_SECONDS)
