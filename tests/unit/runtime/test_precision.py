"""What `dtype: auto` stands for: decided by the hardware once, and handed on in the environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.runtime import precision
from diptych.runtime.errors import DiptychError

OLD = ["fpu", "avx2", "avx512f"]
NEW = [*OLD, "avx512_bf16"]


@pytest.fixture
def machine(monkeypatch):
    """Sets the flags of the processor and the compute capabilities of the GPUs of a machine that is asked anew."""

    def build(flags, capabilities):
        monkeypatch.delenv(precision.VARIABLE, raising=False)
        monkeypatch.setattr(precision, "_processor_flags", lambda: flags)
        monkeypatch.setattr(precision, "_compute_capabilities", lambda: capabilities)

    monkeypatch.setenv(precision.VARIABLE, "float32")  # so that the variable is what it was after the test
    return build


@pytest.mark.parametrize(
    ("flags", "capabilities", "device", "dtype"),
    [
        (OLD, [], "auto", "float32"),
        (NEW, [], "auto", "bfloat16"),
        (["amx_bf16"], [], "cpu", "bfloat16"),
        (OLD, [9.0], "auto", "bfloat16"),
        (OLD, [8.0, 9.0], "cuda", "bfloat16"),
        (NEW, [7.5, 8.0], "auto", "float32"),  # the job may get either GPU
        (OLD, [9.0], "cpu", "float32"),
    ],
)
def test_bfloat16_only_where_the_device_has_instructions_for_it(flags, capabilities, device, dtype, machine):
    machine(flags, capabilities)
    assert precision.fast_dtype(device) == dtype


def test_a_gpu_that_is_not_here_is_not_guessed(machine):
    machine(NEW, [])
    with pytest.raises(DiptychError, match="cannot be told with device: cuda on a machine without a GPU; state"):
        precision.fast_dtype("cuda")


def test_the_answer_holds_for_processes_on_other_machines(machine, monkeypatch):
    machine(NEW, [])
    assert precision.fast_dtype("auto") == "bfloat16"
    monkeypatch.setattr(precision, "_processor_flags", lambda: OLD)
    assert precision.fast_dtype("auto") == "bfloat16"
    code = "from diptych.runtime import precision; print(precision.fast_dtype('cuda'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "bfloat16\n"


def test_a_wrong_answer_in_the_environment_is_refused(machine, monkeypatch):
    monkeypatch.setenv(precision.VARIABLE, "bf16")
    with pytest.raises(DiptychError, match=r"DIPTYCH_DTYPE: must be bfloat16 or float32 \(got 'bf16'\)"):
        precision.fast_dtype("auto")


def test_capabilities_are_those_that_the_driver_lists(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert precision._compute_capabilities() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 8.9\necho 9.0\n")
    tool.chmod(0o755)
    assert precision._compute_capabilities() == [8.9, 9.0]
    tool.write_text("#!/bin/sh\necho no driver\nexit 9\n")
    assert precision._compute_capabilities() == []


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="no /proc/cpuinfo")
def test_flags_are_read():
    assert (os.uname().machine != "x86_64") or "fpu" in precision._processor_flags()
