import threading
from types import SimpleNamespace

import pytest
import torch

from diptych.runtime import devices
from diptych.runtime.errors import DiptychError


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """Call with a number: torch then sees so many GPUs, and no scheduler is there."""

    def see(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"uuid-{index}"))

    for name in ("CUDA_VISIBLE_DEVICES", *devices.SCHEDULERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "WAIT_SECONDS", 0.01)
    return see


def waits(how):
    """Whether `how()`, run beside, has not come to its device; and what to call to see that it does at last."""
    taken = []
    thread = threading.Thread(target=lambda: taken.append(how()), daemon=True)
    thread.start()
    thread.join(0.2)

    def end():
        thread.join(10)
        return taken

    return not taken, end


def take():
    with devices.take("auto") as device:
        return device


def test_jobs_side_by_side_take_different_gpus(gpus):
    gpus(2)
    with devices.take("auto") as one, devices.take("auto") as other:
        assert {one, other} == {"cuda:0", "cuda:1"}


@pytest.mark.parametrize("variable", [None, "0"])
def test_jobs_take_turns_on_one_gpu(gpus, monkeypatch, variable):
    gpus(1)
    if variable:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    with devices.take("auto") as device:
        assert device == "cuda:0"
        waiting, end = waits(take)
        assert waiting
    assert end() == ["cuda:0"]


def test_what_a_scheduler_grants_is_taken_without_a_lock(gpus, monkeypatch):
    gpus(1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with devices.take("auto") as one, devices.take("auto") as other:
        assert one == other == "cuda:0"


def test_several_are_taken_at_once_or_none(gpus):
    gpus(3)
    with devices.take_several("cuda", 2) as pair:
        assert pair == ["cuda:0", "cuda:1"]
        with devices.take("cuda") as third:
            assert third == "cuda:2"
        waiting, end = waits(lambda: devices.take_several("cuda", 2).__enter__())
        assert waiting
    assert end() == [["cuda:0", "cuda:1"]]


def test_without_a_gpu(gpus):
    gpus(0)
    with devices.take("auto") as device:
        assert device == "cpu"
    with pytest.raises(DiptychError, match="torch sees no GPU"), devices.take("cuda"):
        pass
    gpus(1)
    with pytest.raises(DiptychError, match="2 GPUs are asked for and torch sees 1"), devices.take_several("cuda", 2):
        pass
