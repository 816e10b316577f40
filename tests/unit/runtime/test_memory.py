"""Peak memory of a dump and of reading it back does not grow with the number of tokens."""

import subprocess
import sys
from pathlib import Path

import pytest

from diptych.text import tokens
from diptych.text.corpora import stage
from tiny_models import make_model, make_texts

LIBRARY = Path(__file__).parents[3] / "workflow"
CODE = """
import resource, sys
import numpy as np, torch
from diptych.activations import dump
from diptych.activations.sides import StoredSide
torch.set_num_threads(1)
model, tokens, out = sys.argv[1:]
SITES = [f"blocks.{block}.hook_resid_{end}" for block in range(3) for end in ("pre", "post")]
dump.dump(model, tokens, out, spec={}, sites=SITES, dtype="float32", store="float32",
          batch_tokens=1024)
side = StoredSide([out], SITES[-1])
n = side._datasets[0].shape[0]
for start in range(0, n, 1024):
    side.take(np.arange(start, min(n, start + 1024)))
print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("memory")
    folder = make_texts(directory / "texts", "old", 40, repeats=90)
    stage.fetch(directory / "corpus", spec={}, sources={"old": {"kind": "local", "paths": [str(folder / "*.txt")]}})
    make_model(directory / "model")
    return directory


def peak(directory: Path, budget: int) -> tuple[int, int]:
    """Number of rows, and the peak resident memory in bytes of a subprocess that writes and reads them."""
    path = directory / f"{budget}.h5"
    tokens.prepare(directory / "corpus", directory / "model", path, spec={}, tokens=budget, sequence_length=64)
    result = subprocess.run(
        [sys.executable, "-c", CODE, str(directory / "model"), str(path), str(directory / f"rows-{budget}.h5")],
        env={"PYTHONPATH": str(LIBRARY), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    n_rows, peak_bytes = map(int, result.stdout.split())
    return n_rows, peak_bytes


def test_peak_memory_is_flat(directory: Path) -> None:
    small, large = peak(directory, 16_000), peak(directory, 90_000)
    assert (small[0], large[0]) == (16_000, 90_000)
    bytes_written = (large[0] - small[0]) * 6 * 32 * 4
    # the peak of one and the same run differs by 9 MB from time to time
    assert large[1] - small[1] < 0.5 * bytes_written, "a dump that kept its rows would grow by all bytes"
