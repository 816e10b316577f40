"""A disk that fills while a job writes: one line, nothing half-written, no crash."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

JOB = """
import sys
from pathlib import Path
import numpy as np
from diptych.runtime import logs
from diptych.storage import artifacts
out = Path(sys.argv[1])
script = Path(artifacts.__file__).parents[2] / "scripts" / "any.py"
logs.start(str(out / "job.log"), str(script))
"""
WRITERS = {
    "rows": """
with artifacts.create(out / "rows.h5", "rows", {}) as file:
    rows = file.rows("x", (400_000, 4), "f4")
    for start in range(0, 400_000, 10_000):
        rows[start : start + 10_000] = 1
""",
    "array": """
with artifacts.create(out / "array.h5", "array", {}) as file:
    file.array("x", np.ones(400_000))
""",
    "raw": """
from diptych.activations.shard_writer import RawMatrix
raw = RawMatrix(out / "raw", 400_000, 4, "f4")
try:
    raw.write(np.arange(400_000), np.ones((400_000, 4)))
finally:
    raw.close()
    (out / "raw").unlink()
""",
    "text": """
artifacts.write_text(out / "a.txt", "x" * 4_000_000)
""",
    "checkpoint": """
import torch
from diptych.storage.checkpoints import Checkpoint
Checkpoint.beside(out / "a.h5", {}).save({"x": torch.ones(400_000)})
""",
    "safetensors": """
from safetensors.numpy import save_file
with artifacts.create_directory(out / "model", "model", {}) as directory:
    save_file({"x": np.ones(400_000)}, directory / "x.safetensors")
""",
}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"cannot make a small disk, only root can mount: {made.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_line(small_disk, writer):
    library = Path(__file__).parents[3] / "workflow"
    found = subprocess.run(
        [sys.executable, "-c", JOB + WRITERS[writer], str(small_disk)],
        env={**os.environ, "PYTHONPATH": str(library)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    line = "ERROR No space left on device: free space where `results` is, or move it, and run again; finished files "
    assert found.returncode == 1
    assert found.stderr[9:].strip() == line + "are kept"
    assert (small_disk / "job.log").read_text() == found.stderr
    assert [path.name for path in small_disk.iterdir()] == ["job.log"]
