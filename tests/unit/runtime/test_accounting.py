"""A job's own account: processor time of the whole process and its children, written when it ends well."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.runtime import accounting, logs

ROOT = Path(logs.__file__).parents[3]
JOB = """
import sys
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
logs.start(sys.argv[1], sys.argv[2])
{work}
"""
BUSY = """
import resource
def burn(seconds):
    while sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) < seconds:
        pass
"""


def run(tmp_path: Path, work: str) -> tuple[subprocess.CompletedProcess[str], Path, str]:
    """A job of the rule `any` of a model that is called `logs`: its end, its account and its log."""
    log = tmp_path / "logs" / "results" / "logs" / "any" / "logs" / "seed-0.log"
    script = ROOT / "workflow" / "scripts" / "any.py"
    ended = subprocess.run(
        [sys.executable, "-c", JOB.format(work=BUSY + work), str(log), str(script)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "workflow"), "PATH": "/usr/bin:/bin"},
    )
    account = tmp_path / "logs" / "results" / "benchmarks" / "any" / "logs" / "seed-0.process.json"
    return ended, account, log.read_text()


def test_an_account_holds_the_time_of_the_process_and_of_its_children(tmp_path: Path) -> None:
    child = f"import subprocess\nsubprocess.run([sys.executable, '-c', {BUSY + 'burn(0.4)'!r}], check=True)\n"
    ended, path, log = run(tmp_path, f"burn(0.8)\n{child}")
    assert ended.returncode == 0
    account = json.loads(path.read_text())
    assert set(account) == {"s", *accounting.Usage._fields}
    assert account["children_s"] >= 0.4
    assert account["processor_s"] >= 0.8 + account["children_s"]
    assert account["peak_memory_mb"] > 5
    assert log.splitlines()[-1].endswith("MB")
    assert f"{account['processor_s']:.1f} s of processor time" in log


def test_a_memory_peak_is_in_mebibytes_and_outlasts_what_was_freed(tmp_path: Path) -> None:
    _, path, _ = run(tmp_path, "block = b'1' * 300_000_000\ndel block\n")
    # A child's peak begins with what its parent held when it was forked; in KiB it would be more than this.
    assert 300_000_000 / 2**20 < json.loads(path.read_text())["peak_memory_mb"] < 290_000


@pytest.mark.parametrize("error", ["DiptychError('no rows')", "ValueError('a defect')"])
def test_a_job_that_fails_has_no_account_and_its_last_word_is_why(tmp_path: Path, error: str) -> None:
    ended, path, log = run(tmp_path, f"raise {error}")
    assert ended.returncode == 1
    assert not path.exists()
    assert log.splitlines()[-1].endswith(error.split("'")[1])


def test_the_account_lies_beside_the_benchmark_of_the_same_job() -> None:
    file = accounting.file_of("results/logs/dump_activations/web/base/sites/0.log", "dump_activations")
    assert file == Path("results/benchmarks/dump_activations/web/base/sites/0.process.json")
