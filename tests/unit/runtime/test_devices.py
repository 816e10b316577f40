import threading
from types import SimpleNamespace

import pytest
import torch

from diptych.runtime import devices
from diptych.runtime.errors import DiptychError


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """A function that sets the number of GPUs that torch sees; there is no scheduler."""

    def set_count(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"uuid-{index}"))

    for name in ("CUDA_VISIBLE_DEVICES", *devices.SCHEDULER_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "WAIT_SECONDS", 0.01)
    return set_count


def waits(acquire):
    """Whether `acquire()` waits in a thread, and a function that joins the thread and returns the results so far."""
    results = []
    thread = threading.Thread(target=lambda: results.append(acquire()), daemon=True)
    thread.start()
    thread.join(0.2)

    def join():
        thread.join(10)
        return results

    return not results, join


def take():
    with devices.take("auto") as device:
        return device


def test_concurrent_jobs_take_different_gpus(gpus):
    gpus(2)
    with devices.take("auto") as first, devices.take("auto") as second:
        assert {first, second} == {"cuda:0", "cuda:1"}


@pytest.mark.parametrize("variable", [None, "0"])
def test_jobs_take_turns_on_one_gpu(gpus, monkeypatch, variable):
    gpus(1)
    if variable:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    with devices.take("auto") as device:
        assert device == "cuda:0"
        is_waiting, join = waits(take)
        assert is_waiting
    assert join() == ["cuda:0"]


def test_gpus_of_a_scheduler_are_used_without_a_lock(gpus, monkeypatch):
    gpus(1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with devices.take("auto") as first, devices.take("auto") as second:
        assert first == second == "cuda:0"


def test_several_gpus_are_locked_at_once_or_none(gpus):
    gpus(3)
    with devices.take_several("cuda", 2) as pair:
        assert pair == ["cuda:0", "cuda:1"]
        with devices.take("cuda") as third:
            assert third == "cuda:2"
        is_waiting, join = waits(lambda: devices.take_several("cuda", 2).__enter__())
        assert is_waiting
    assert join() == [["cuda:0", "cuda:1"]]


def test_without_a_gpu(gpus):
    gpus(0)
    with devices.take("auto") as device:
        assert device == "cpu"
    with pytest.raises(DiptychError, match="torch sees no GPU"), devices.take("cuda"):
        pass
    gpus(1)
    with pytest.raises(DiptychError, match="2 GPUs are requested and torch sees 1"), devices.take_several("cuda", 2):
        pass
