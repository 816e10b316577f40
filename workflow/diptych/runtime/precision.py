"""The precision in which this machine runs forward passes fast: what `dtype: auto` of a model stands for.

fast_dtype("auto")      # "bfloat16" on a GPU of compute capability 8 or a processor with bfloat16 instructions

Without such instructions bfloat16 is computed by conversion, several times as slow as float32. Nothing heavy is
imported here: the answer is needed while a study is planned.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from diptych.runtime.errors import DiptychError

FastDtype = Literal["bfloat16", "float32"]

VARIABLE = "DIPTYCH_DTYPE"
"""Environment variable that holds the answer: set by the user, or here for all processes that this one starts."""
PROCESSOR_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""Flags of /proc/cpuinfo of processors that multiply bfloat16 matrices."""
COMPUTE_CAPABILITY = 8.0
"""Of the first GPUs that do."""


def fast_dtype(device: str) -> FastDtype:
    """bfloat16 where the hardware multiplies bfloat16 matrices, else float32.

    A scheduler's job reads its study again on another machine and must find there what was planned: so the answer is
    kept in the environment, which the job inherits.

    Args:
        device: where forward passes run: "auto" (a GPU if there is one), "cpu" or "cuda".

    Raises:
        DiptychError: the variable holds something else, or device is "cuda" and no GPU is seen here.
    """
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = "bfloat16" if _is_bfloat16_fast(device) else "float32"
    dtype = os.environ[VARIABLE]
    if dtype == "bfloat16":
        return "bfloat16"
    if dtype == "float32":
        return "float32"
    raise DiptychError(f"{VARIABLE}: must be bfloat16 or float32 (got {dtype!r})")


def _is_bfloat16_fast(device: str) -> bool:
    capabilities = [] if device == "cpu" else _compute_capabilities()
    if capabilities:
        return min(capabilities) >= COMPUTE_CAPABILITY
    if device == "cuda":
        raise DiptychError(
            "models: `dtype: auto` cannot be told with device: cuda on a machine without a GPU; state bfloat16 or "
            f"float32, there or in the environment variable {VARIABLE}"
        )
    return not PROCESSOR_FLAGS.isdisjoint(_processor_flags())


def _compute_capabilities() -> list[float]:
    """Compute capability of each NVIDIA GPU that the driver lists; [] without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return [float(line) for line in listed.stdout.split()] if listed.returncode == 0 else []


def _processor_flags() -> list[str]:
    """The processor's flags; [] where the system has no /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
