"""The check on a GPU: all of it in its tiny form, and what it says where something is missing, fails or is late."""

import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
import zipfile

import pytest

from trees import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.py"


@pytest.fixture
def check(monkeypatch):
    """The script as a module, beside the others."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu

    return gpu


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, SCRIPT, "--tiny", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text(), done.stdout


def test_every_piece_is_measured(run):
    report, _, _ = run
    assert len(report["pieces"]) == 13
    for name, figures in report["pieces"].items():
        assert figures["rows_per_second"] == pytest.approx(figures["rows"] / figures["seconds"]), name
        assert figures["host_gib"] > 0.01
        assert (figures["of_matrix_limit"] is not None) == name.startswith("crosscoder step")
        assert (figures["waiting"] is not None) == name.startswith(("training", "dump"))
    assert report["tests"]["finished"]
    assert report["tests"]["passed"] or report["tests"]["skipped"]


def test_the_table_has_a_line_for_every_piece(run):
    report, table, printed = run
    assert printed == table
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {9}
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == list(report["pieces"])


def test_without_a_gpu_only_the_tiny_form_runs(tmp_path):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, SCRIPT, "--out", tmp_path / "none"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["gpu: torch sees no GPU here; only the tiny form runs without one: add --tiny"]
    assert not (tmp_path / "none").exists()


def test_what_is_missing_comes_from_wheels(check, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "NEEDED", {"json": "json", "from_a_wheel": "from-a-wheel"})
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "before")
    with pytest.raises(SystemExit, match=r"^gpu: this Python lacks from-a-wheel; name a folder of their wheels"):
        check.provide(None, tmp_path / "site")
    with zipfile.ZipFile(tmp_path / "from_a_wheel-1-py3-none-any.whl", "w") as wheel:
        about = "from_a_wheel-1.dist-info"
        wheel.writestr("from_a_wheel.py", "VALUE = 7\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: from-a-wheel\nVersion: 1\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    check.provide(tmp_path, tmp_path / "site")
    assert importlib.import_module("from_a_wheel").VALUE == 7
    assert str(tmp_path / "site") in os.environ["PYTHONPATH"].split(os.pathsep)


def pieces(check, tmp_path, measure, seconds, deadline):
    """Figures of pieces whose functions are given, in forked processes."""
    log, context = tmp_path / "log", multiprocessing.get_context("fork")
    measured = check.measure_pieces(
        dict.fromkeys(measure, seconds), lambda name: measure[name](), log, deadline, context
    )
    assert {check.row(name, figures).count("|") for name, figures in measured.items()} == {9}
    return {name: figures["failed"] for name, figures in measured.items()}


def test_a_piece_that_fails_dies_or_runs_over_is_one_line(check, tmp_path, monkeypatch):
    def fails():
        raise ValueError("a | cause\nand more")

    monkeypatch.setattr(check, "GRACE", 0.1)
    measure = {"fails": fails, "dies": lambda: os._exit(3), "late": lambda: time.sleep(60)}
    assert pieces(check, tmp_path, measure, 2, time.monotonic() + 60) == {
        "fails": "ValueError: a | cause", "dies": "its process died", "late": "it ran over its 2 s",
    }  # fmt: skip


def test_what_has_no_time_left_is_not_begun(check, tmp_path):
    measure = {"first": lambda: {"rows": 1}, "second": lambda: {"rows": 1}}
    assert set(pieces(check, tmp_path, measure, 5, time.monotonic()).values()) == {"not begun: no time was left"}
