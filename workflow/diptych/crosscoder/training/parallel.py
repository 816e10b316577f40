"""Data-parallel training: several processes with the same weights, each with its part of every batch.

Under `torchrun` every process calls `training.stage.train`; they communicate through a `Group`:

    group = parallel.join("cuda")       # ALONE in a process that was not started by torchrun
    group.sum_(firings)                 # over all processes, in place
    group.average_gradients(weights)    # the gradient of the whole batch
    group.cut(scores, budget)           # batchtopk selects over the whole batch, not over each process's part
    group.array((1000, 64), np.uint16)  # memory that all of them read and write

Gradients, selections and firings are those of the whole batch, so the loss is that of a single process up to the
order of its sums. `launch` starts the processes of one machine.
"""

import ctypes
import math
import mmap
import os
import signal
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed

from diptych.runtime.errors import DiptychError
from diptych.sparse_coding import objectives
from diptych.storage.canonical import canonical_json

PR_SET_PDEATHSIG = 1
"""Linux: which signal a process gets when its parent dies."""


@dataclass(frozen=True)
class Group:
    """The processes of a run on one machine.

    Attributes:
        rank: of this one.
        size: their number.
        readers: the group of their reading threads, which may not use that of the training threads.
    """

    rank: int = 0
    size: int = 1
    readers: distributed.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which reads and writes files for all."""
        return self.rank == 0

    def sum_(self, values: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place; also returns it."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def share_(self, values: Tensor) -> None:
        """Broadcast the first process's tensor to the others, in place."""
        if self.size > 1:
            distributed.broadcast(values, src=0)

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array in memory that the processes share; without others, of this one. For reading threads."""
        if self.size == 1:
            return np.empty(shape, dtype)
        n_bytes = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        names: list[Any] = [None]
        if self.leads:
            descriptor = os.memfd_create("diptych-rows")
            os.ftruncate(descriptor, n_bytes)
            names = [f"/proc/{os.getpid()}/fd/{descriptor}"]
        distributed.broadcast_object_list(names, src=0, group=self.readers)
        if not self.leads:
            descriptor = os.open(names[0], os.O_RDWR)
        memory = mmap.mmap(descriptor, n_bytes)
        self.wait()  # every process has opened it
        os.close(descriptor)
        return np.frombuffer(memory, dtype, count=math.prod(shape)).reshape(shape)

    def wait(self) -> None:
        """Wait until the reading threads of all processes have come here."""
        if self.size > 1:
            distributed.barrier(group=self.readers)

    def gather(self, values: Tensor) -> Tensor:
        """Concatenate the rows of all processes, which may differ in number."""
        if self.size == 1:
            return values
        counts = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(self.size)]
        distributed.all_gather(counts, torch.tensor([len(values)], device=values.device))
        padded = values.new_zeros((max(int(count) for count in counts), *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(parts, padded)
        return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Average gradients over the processes, whose parts of a batch are of equal size, in place."""
        if self.size == 1:
            return
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        waiting = [distributed.all_reduce(grad, async_op=True) for grad in grads]
        for work, grad in zip(waiting, grads, strict=True):
            work.wait()
            grad.div_(self.size)

    def cut(self, scores: Tensor, budget: int) -> Tensor:
        """The smallest of the `size * budget` largest positive scores of all processes; see `objectives.largest`."""
        budget *= self.size
        if self.size == 1:
            return objectives.largest(scores, budget)
        top = scores if len(scores) <= budget else scores.topk(budget, sorted=False).values
        return objectives.largest(self.gather(top), budget)


ALONE = Group()


def join(device: str) -> Group:
    """Join the group of torchrun's processes; `ALONE` in a process that torchrun did not start."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return ALONE
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    readers = distributed.new_group(backend="gloo")
    return Group(distributed.get_rank(), distributed.get_world_size(), readers)


def leave(group: Group) -> None:
    """Leave the group that `join` returned."""
    if group.size > 1:
        distributed.destroy_process_group()


def end_with_parent() -> None:
    """On Linux, have this process killed when its parent dies, so that none keeps running in the background."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def launch(module: str, job: dict[str, Any], processes: int) -> None:
    """Run `python -m module job.json` in several processes of this machine with torchrun, and wait for them.

    A process that stops with a `DiptychError` writes its message to the file `job["error"]`, a path that is set here.

    Raises:
        DiptychError: with that message, or because a process died.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    with tempfile.TemporaryDirectory(prefix="diptych-") as directory:
        error, description = Path(directory) / "error.txt", Path(directory) / "job.json"
        description.write_text(canonical_json({**job, "error": str(error)}), encoding="utf-8")
        try:
            main(["--standalone", "--nproc-per-node", str(processes), "-m", module, str(description)])
        except ChildFailedError:
            message = error.read_text(encoding="utf-8") if error.is_file() else ""
            raise DiptychError(message or "crosscoder: a process of the run died; see the log above") from None
