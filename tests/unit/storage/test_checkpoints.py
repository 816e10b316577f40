import logging

import pytest
import torch

from diptych.storage.checkpoints import Checkpoint

STATE = {"step": 3, "weights": torch.arange(4000.0), "curve": [0.5, 0.25], "names": {"a": 1}}


def test_what_was_saved_last_comes_back(tmp_path):
    checkpoint = Checkpoint.beside(tmp_path / "weights.h5", {"a": 1})
    assert checkpoint.load("cpu") is None
    checkpoint.save({"step": 1})
    checkpoint.save(STATE)
    state = checkpoint.load("cpu")
    assert state is not None
    assert torch.equal(state.pop("weights"), STATE["weights"])
    assert state == {name: value for name, value in STATE.items() if name != "weights"}
    assert [path.name for path in tmp_path.iterdir()] == [".weights.h5.checkpoint"]
    checkpoint.remove()
    assert not list(tmp_path.iterdir())


def test_another_spec_starts_afresh(tmp_path):
    Checkpoint.beside(tmp_path / "weights.h5", {"a": 1}).save(STATE)
    assert Checkpoint.beside(tmp_path / "weights.h5", {"a": 2}).load("cpu") is None


@pytest.mark.parametrize("kept", [0, 10, 3000])
def test_a_damaged_one_starts_afresh_and_says_so(tmp_path, caplog, kept):
    checkpoint = Checkpoint.beside(tmp_path / "weights.h5", {"a": 1})
    checkpoint.save(STATE)
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:kept])
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load("cpu") is None
    assert "cannot be read" in caplog.text
    assert "starting afresh" in caplog.text
