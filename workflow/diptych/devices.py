"""Which device a job runs on.

    with devices.take("auto") as device:      # "cpu", or "cuda:1" with that GPU held for the block
        model.to(device)

A scheduler grants GPUs through CUDA_VISIBLE_DEVICES and the first visible one is taken. Snakemake on one machine
grants nothing, so there each job holds a lock file for the GPU it uses and jobs side by side take different ones.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

from diptych import DiptychError
from diptych.logs import logger

WAIT_SECONDS = 1.0


@contextmanager
def take(device: str) -> Iterator[str]:
    """Hold a device for a block.

    Args:
        device: `auto` (CUDA if there, else the CPU), `cpu` or `cuda`.

    Raises:
        DiptychError: `cuda` is asked for and there is none.
    """
    if granted := os.environ.get("CUDA_VISIBLE_DEVICES"):
        logger.info("granted by the scheduler: CUDA_VISIBLE_DEVICES=%s", granted)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise DiptychError("device: cuda is asked for but torch sees no GPU; set device: auto or cpu")
    if device == "cpu" or not available:
        logger.info("device: cpu, %d threads", torch.get_num_threads())
        yield "cpu"
    elif "CUDA_VISIBLE_DEVICES" in os.environ or torch.cuda.device_count() == 1:
        logger.info("device: %s", torch.cuda.get_device_name(0))
        yield "cuda:0"
    else:
        index, lock = _lock_any(torch.cuda.device_count())
        logger.info("device: GPU %d, %s", index, torch.cuda.get_device_name(index))
        with lock:
            yield f"cuda:{index}"


def _lock_any(count: int) -> tuple[int, IO[str]]:
    """Wait for a GPU that no other job of this user holds; the lock ends with the process."""
    place = Path(tempfile.gettempdir()) / f"diptych-gpu-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    while True:
        for index in range(count):
            lock = (place / str(index)).open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
            else:
                return index, lock
        time.sleep(WAIT_SECONDS)
