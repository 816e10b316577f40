"""Four kills at random moments, as `make kills` sends fifty: the artifacts are those of an undisturbed study."""

import subprocess
import sys

import pytest

from kills import differences, digests

pytestmark = pytest.mark.workflow


def test_a_study_that_is_killed_again_and_again_ends_with_the_same_bytes(done):
    command = [sys.executable, "tests/kills.py", "--tree", ".", "--kills", "4", "--seed", "2", "--longest", "5"]
    # How fast Ctrl-C ends a run is measured by `make kills`: here other tests run beside.
    command += ["--ctrl-c", "300", "--without", "crosscoders", "pairs", "report"]
    run = subprocess.run(command, cwd=done.path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr[-4000:]
    assert "every artifact is bit for bit that of the undisturbed study" in run.stdout
    assert "0 without a word on how to go on" in run.stdout
    assert done.rules() == set()


def test_what_a_kill_lost_or_left_is_told(tmp_path):
    (tmp_path / "logs").mkdir()
    for name in ("a", "logs/b"):
        (tmp_path / name).write_text(name)
    before = digests(tmp_path)
    assert list(before) == ["a"]
    (tmp_path / ".a.checkpoint").touch()
    (tmp_path / "a").write_text("other")
    assert differences(before, digests(tmp_path)) == [".a.checkpoint: left over", "a: other bytes"]
    assert differences(before, {}) == ["a: missing"]
