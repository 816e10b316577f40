"""Disks, paths, clocks and second runs: one line says what is wrong, and nothing is lost."""

import os
import re
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

from kills import differences, digests
from trees import SNAKEMAKE_OPTIONS, STUDY, Tree

pytestmark = pytest.mark.workflow

TOKENS = "results/test/tokens/both/base.h5"
GATES = "results/test/activations/both/base/main/gates.h5"
PAGE = "results/test/report/index.html"


@contextmanager
def mounted(place, *options):
    """A file system at a directory for a block; the test is skipped where only root may mount."""
    run = subprocess.run(["mount", *options, place], capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"only root can mount: {run.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def errors(run):
    """The lines that jobs log as errors."""
    return {line.split(" ERROR ", 1)[1] for line in run.stderr.splitlines() if " ERROR " in line}


def test_a_disk_that_fills_is_one_line_and_the_study_goes_on_where_there_is_space(blank):
    results = blank.path / "results" / "test"
    results.mkdir()
    with mounted(results, "-t", "tmpfs", "-o", "size=100k", "tmpfs"):
        run = blank.snakemake(TOKENS, check=False)
        assert run.returncode == 1
        line = (
            "No space left on device: free space where `results` is, or move it, and run again; finished files are kept"
        )
        assert line in errors(run)
        assert "run the same command again" in run.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", results], check=True)
        blank.snakemake(TOKENS)
        assert (blank.path / TOKENS).is_file()
        assert not list(results.rglob("*.part"))


def test_text_that_vanishes_is_one_line_and_what_was_made_of_it_stays(blank, tmp_path):
    results, text = blank.path / "results" / "test", blank.path / "tests" / "data" / "text"
    blank.snakemake(TOKENS)
    before = digests(results)
    text.rename(tmp_path / "elsewhere")
    run = blank.snakemake(TOKENS, check=False)
    assert run.returncode == 1
    assert errors(run) == {"corpus source 'city': no file matches 'tests/data/text/city-*.txt'"}
    assert {name.split("/")[0] for name in differences(before, digests(results))} <= {"corpora"}
    (tmp_path / "elsewhere").rename(text)
    blank.snakemake(TOKENS)
    assert differences(before, digests(results)) == []


def test_read_only_results_are_one_line_before_any_job(done):
    results = done.path / "results" / "test"
    (done.path / TOKENS).unlink()
    before = digests(results)
    with mounted(results, "--bind", results):
        subprocess.run(["mount", "-o", "remount,bind,ro", results], check=True)
        run = done.snakemake(TOKENS, check=False)
    assert run.returncode == 1
    assert "results/test: cannot be written (it is read-only); make it writable, or set `results`" in run.stderr
    assert "rule prepare_tokens" not in run.stderr
    assert differences(before, digests(results)) == []


def test_a_path_with_blanks_behind_a_link_and_files_from_the_future(done, tmp_path):
    """A finished study is moved: nothing runs again, and what is deleted comes back with the same bytes."""
    expected = digests(done.path / "results" / "test")
    place, elsewhere = tmp_path / "a b ü" / "δ tree", tmp_path / "else where ß"
    place.parent.mkdir()
    done.path.rename(place)
    (place / "results" / "test").rename(elsewhere)
    (place / "results" / "test").symlink_to(elsewhere)
    moved = Tree(place)
    assert moved.rules() == set()
    for name in (TOKENS, "results/test/activations/both/base/main/0.h5"):
        os.utime(place / name, (time.time() + 1e7,) * 2)
    for name in (GATES, PAGE):
        (place / name).unlink()
    moved.snakemake()
    assert differences(expected, digests(elsewhere)) == []
    assert moved.rules() == set()


def test_a_second_run_in_the_same_directory_is_refused_and_the_first_goes_on(done):
    expected = digests(done.path / "results" / "test")
    (done.path / PAGE).unlink()
    command = ["python", "-m", "snakemake", "--configfile", STUDY, *SNAKEMAKE_OPTIONS]
    with subprocess.Popen(command, cwd=done.path, stderr=subprocess.PIPE, text=True) as first:
        said = ""
        while "rule build_report" not in said:
            said += (line := first.stderr.readline())
            assert line, said
        second = done.snakemake(check=False)
        first.communicate()
    assert second.returncode == 1
    assert "cannot be locked" in second.stderr
    assert first.returncode == 0
    assert differences(expected, digests(done.path / "results" / "test")) == []


def test_results_of_another_working_directory_are_refused_in_one_line(done, fresh, tmp_path):
    """Its record, .snakemake, is not here: files would be taken for up to date that another config made."""
    other = Tree(tmp_path / "other")
    shutil.copytree(fresh, other.path)
    other.edit(STUDY, "results: results/test", f"results: {done.path / 'results' / 'test'}")
    run = other.snakemake("--dry-run", check=False)
    assert run.returncode == 1
    assert re.search(r"test: was made from another working directory, whose \.snakemake says", run.stdout + run.stderr)


def test_a_second_study_with_the_same_results_takes_no_file_of_the_first_for_its_own(done):
    """In one working directory it is safe: what the two say differently runs again, whoever runs."""
    done.edit(STUDY, "steps: 8,", "steps: 9,")
    assert "derive_model" in done.rules()
    done.edit(STUDY, "steps: 9,", "steps: 8,")
    assert done.rules() == set()
