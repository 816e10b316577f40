"""What one job takes: the terms that all stages' formulas are written in.

Cost(flops=2e12, memory=5e9, disk=1e9, on_device=True)

Sizes of HDF5 files are those of their datasets (`h5`); what is not counted, as runs of text, is small beside them.
"""

from dataclasses import dataclass
from typing import NamedTuple

H5_DATASET = 600.0
"""Bytes that a dataset takes beside its values (header, checksum, attributes): 490 to 670 in the test study's files."""


@dataclass(frozen=True)
class Cost:
    """Cost of one job.

    Attributes:
        tokens: token rows that it reads or makes.
        flops: floating-point operations of its products in float32, 2 a multiply-add.
        half_flops: those in bfloat16 or float16.
        traffic: bytes that it moves between memory and units beside the operands of large products.
        moved: bytes that it reads from disk; those that it writes are `disk` and `scratch`.
        memory: bytes of weights, batches and buffers where it computes: the device, or else the host.
        cpu_memory: the same where no GPU computes, if that is more: what a GPU without room for it leaves out.
        host: bytes that it holds on the host in any case, beside what its modules take.
        pages: bytes of mapped files, which count as resident memory while there is room and are given back when not.
        disk: bytes of its outputs.
        scratch: bytes on disk beside these while it runs.
        on_device: whether it runs on the GPU if there is one.
        devices: GPUs that share its memory.
        speedup: processes that share its products.
        memory_key: key of the config by which memory shrinks, with how.
        disk_key: key of the config by which disk shrinks, with how.
    """

    tokens: float = 0.0
    flops: float = 0.0
    half_flops: float = 0.0
    traffic: float = 0.0
    moved: float = 0.0
    memory: float = 0.0
    cpu_memory: float = 0.0
    host: float = 0.0
    pages: float = 0.0
    disk: float = 0.0
    scratch: float = 0.0
    on_device: bool = False
    devices: int = 1
    speedup: int = 1
    memory_key: str = ""
    disk_key: str = ""


class Products(NamedTuple):
    """Floating-point operations of forward passes by precision, as in `Cost`."""

    flops: float
    half_flops: float

    @classmethod
    def of(cls, dtype: str, flops: float) -> "Products":
        """Operations of a model that computes in `dtype`."""
        return cls(flops, 0.0) if dtype == "float32" else cls(0.0, flops)

    def plus(self, other: "Products") -> "Products":
        """Both."""
        return Products(self.flops + other.flops, self.half_flops + other.half_flops)


def h5(datasets: int, values: float) -> float:
    """Bytes of an HDF5 file of so many datasets with so many bytes of values."""
    return H5_DATASET * datasets + values
