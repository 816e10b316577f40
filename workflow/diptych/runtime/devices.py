"""Allocation of CPU or GPUs to a job.

    with devices.take("auto") as device:      # "cpu", or "cuda:1" with that GPU locked for the block
        model.to(device)

A scheduler grants each job its own GPUs through CUDA_VISIBLE_DEVICES and the job uses the first of them. Snakemake on
one machine grants no GPUs, so there each job locks a file for the GPU that it uses: concurrent jobs use different ones,
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
"""Time between two attempts to lock GPUs."""
SCHEDULER_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID")
"""Environment variables that a scheduler sets for its jobs."""


@contextmanager
def take(device: str) -> Iterator[str]:
    """Reserve one device for a block; see `take_several`."""
    with take_several(device, 1) as devices:
        yield devices[0]


@contextmanager
def take_several(device: str, count: int) -> Iterator[list[str]]:
    """Reserve `count` GPUs for a block; without a GPU it yields the CPU once, for any count.

    Args:
        device: `auto` (CUDA if available, else the CPU), `cpu` or `cuda`.
        count: number of GPUs.

    Raises:
        DiptychError: `cuda` is requested and there is none, or there are fewer than `count`.
    """
    is_granted = "CUDA_VISIBLE_DEVICES" in os.environ and any(name in os.environ for name in SCHEDULER_VARIABLES)
    if is_granted:
        logger.info("granted by the scheduler: CUDA_VISIBLE_DEVICES=%s", os.environ["CUDA_VISIBLE_DEVICES"])
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise DiptychError("device: cuda is requested but torch sees no GPU; set device: auto or cpu")
    if device == "cpu" or not has_cuda:
        logger.info("device: cpu, %d threads", torch.get_num_threads())
        yield ["cpu"]
        return
    n_visible = torch.cuda.device_count()
    if n_visible < count:
        raise DiptychError(
            f"device: {count} GPUs are requested and torch sees {n_visible}; lower `processes` or `gpus`"
        )
    gpus, locks = (list(range(count)), []) if is_granted else _lock(n_visible, count)
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        for index in gpus:
            logger.info("device: GPU %d, %s", index, torch.cuda.get_device_name(index))
        yield [f"cuda:{index}" for index in gpus]


def _lock(n_visible: int, count: int) -> tuple[list[int], list[IO[str]]]:
    """Wait for GPUs that no other job of this user has locked; returns their indices and open lock files.

    The locks end with the process. All are acquired at once or none, so that two jobs never wait for each other.
    """
    directory = Path(tempfile.gettempdir()) / f"diptych-gpu-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.is_symlink() or directory.stat().st_uid != os.getuid():
        raise DiptychError(f"{directory}: belongs to somebody else; remove it, or set TMPDIR to a directory of yours")
    while True:
        gpus: list[int] = []
        locks: list[IO[str]] = []
        for index in range(n_visible):
            # By UUID: the numbers of visible GPUs change with CUDA_VISIBLE_DEVICES.
            lock: IO[str] = (directory / str(torch.cuda.get_device_properties(index).uuid)).open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            gpus.append(index)
            locks.append(lock)
            if len(gpus) == count:
                return gpus, locks
        for lock in locks:
            lock.close()
        time.sleep(WAIT_SECONDS)
