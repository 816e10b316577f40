"""Devices that a study may run on: speed of matrix products, memory and bandwidth as their makers state them.

machines.named("h100").half          # 989e12 floating-point operations a second

Speeds are dense ones, without sparsity; those of float32 are of the plain units, not of TF32, which Diptych leaves off.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from diptych.runtime.errors import DiptychError

SHARE = 0.4
"""Share of the peak, of products and of bandwidth alike, that hours assume: what large matrices reach in practice."""
CORE_FLOPS = 1e11
"""Floating-point operations per second of a processor's core, float32: 3.1 GHz x 32 (two AVX2 multiply-adds)."""
CORE_BANDWIDTH = 1e10
"""Bytes per second of main memory, a core."""
CORES = 8
"""Cores of a machine with a GPU, which run what needs none: as many threads as a rule may take."""
START_SECONDS = 5.0
"""Seconds in which a job starts: Python, torch and, for a model, transformers."""
DISK_BANDWIDTH = 5e8
"""Bytes per second that are read from or written to disk."""


@dataclass(frozen=True)
class Device:
    """A device that torch runs on.

    Attributes:
        name: as its maker calls it.
        half: peak floating-point operations a second in bfloat16 and float16.
        single: the same in float32.
        memory: bytes; 0 for the processor, which has the machine's.
        bandwidth: bytes a second between memory and units.
        source: of these numbers.
    """

    name: str
    half: float
    single: float
    memory: float
    bandwidth: float
    source: str


DEVICES: Mapping[str, Device] = {
    "cpu": Device("2 cores", 2 * CORE_FLOPS, 2 * CORE_FLOPS, 0, 2 * CORE_BANDWIDTH, "cores x clock x 32"),
    "l4": Device("NVIDIA L4 24 GB", 121e12, 30.3e12, 24e9, 300e9, "nvidia.com, L4 data sheet"),
    "rtx4090": Device("NVIDIA RTX 4090 24 GB", 165e12, 82.6e12, 24e9, 1008e9, "NVIDIA Ada architecture white paper"),
    "l40s": Device("NVIDIA L40S 48 GB", 362e12, 91.6e12, 48e9, 864e9, "nvidia.com, L40S data sheet"),
    "a100-40": Device("NVIDIA A100 40 GB", 312e12, 19.5e12, 40e9, 1555e9, "nvidia.com, A100 data sheet"),
    "a100": Device("NVIDIA A100 SXM 80 GB", 312e12, 19.5e12, 80e9, 2039e9, "nvidia.com, A100 data sheet"),
    "h100": Device("NVIDIA H100 SXM 80 GB", 989e12, 67e12, 80e9, 3350e9, "nvidia.com, H100 data sheet"),
    "h200": Device("NVIDIA H200 141 GB", 989e12, 67e12, 141e9, 4800e9, "nvidia.com, H200 data sheet"),
}
"""Devices by key."""
DEFAULT = "h100"


def named(key: str) -> Device:
    """The device with this key.

    Raises:
        DiptychError: there is none.
    """
    if key not in DEVICES:
        raise DiptychError(f"DEVICE={key}: no such device; use one of {', '.join(DEVICES)}")
    return DEVICES[key]
