"""Results that belong to another working directory's record of runs, files from the future, and no locks."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diptych.runtime.errors import DiptychError
from diptych.storage import clocks, ownership


@pytest.fixture
def place(tmp_path):
    """A results directory, and the id file of the working directory that made it."""
    results, record = tmp_path / "a" / "results", tmp_path / "a" / ".snakemake" / "id"
    ownership.claim(results, record)
    return results, record


def test_results_and_their_record_belong_together_also_after_a_move(place, tmp_path):
    results, record = place
    before = (results / ownership.NAME).read_text()
    ownership.claim(results, record)
    assert (results / ownership.NAME).read_text() == before == record.read_text()
    (tmp_path / "a").rename(tmp_path / "b")
    ownership.check(tmp_path / "b" / "results", tmp_path / "b" / ".snakemake" / "id")
    ownership.claim(tmp_path / "b" / "more results", tmp_path / "b" / ".snakemake" / "id")


@pytest.mark.parametrize("has_record", [True, False])
def test_results_of_another_working_directory_are_refused(has_record, place, tmp_path):
    other = tmp_path / "other" / "id"
    if has_record:
        ownership.claim(tmp_path / "other" / "results", other)
    for function in (ownership.check, ownership.claim):
        with pytest.raises(DiptychError, match="made from another working directory") as caught:
            function(place[0], other)
        assert "\n" not in str(caught.value)
    (place[0] / ownership.NAME).unlink()
    ownership.claim(place[0], other)


def test_results_that_cannot_be_written_are_one_line(place, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DiptychError, match=r"results: cannot be written \(it is read-only\); make it writable, or set"):
        ownership.claim(*place)
    (tmp_path / "file").touch()
    with pytest.raises(DiptychError, match="cannot be written"):
        ownership.claim(tmp_path / "file" / "results", place[1])


def test_files_from_the_future_are_dated_now(tmp_path):
    for name, ahead_s in (("past", -100), ("future", 1e6)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() + ahead_s,) * 2)
    before = (tmp_path / "past").stat().st_mtime
    assert clocks.date_now(tmp_path) == [tmp_path / "future"]
    assert (tmp_path / "future").stat().st_mtime <= time.time()
    assert (tmp_path / "past").stat().st_mtime == before
    assert clocks.date_now(tmp_path / "nowhere") == []


NO_LOCKS = """
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
int flock(int file, int operation) { fclose(fopen(getenv("ASKED"), "w")); errno = ENOSYS; return -1; }
"""
WRITE_AND_READ = """
import sys
import numpy as np
from diptych.storage import artifacts
with artifacts.create(sys.argv[1], "thing", {}) as out:
    out.array("x", np.ones(3))
with artifacts.read(sys.argv[1], "thing") as file:
    assert file["x"][:].sum() == 3
"""


def test_a_file_system_without_locks(tmp_path):
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no compiler to make a flock that fails")
    (tmp_path / "flock.c").write_text(NO_LOCKS)
    library = tmp_path / "flock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "flock.c"], check=True)
    root = str(Path(ownership.__file__).parents[2])
    environment = {"PYTHONPATH": root, "LD_PRELOAD": str(library), "ASKED": str(tmp_path / "asked")}
    run = subprocess.run(
        [sys.executable, "-c", WRITE_AND_READ, tmp_path / "a.h5"],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "asked").exists()
