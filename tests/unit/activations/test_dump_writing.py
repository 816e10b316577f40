"""Writing of a dump behind its forward passes: the bytes of writing in between, and what a failing disk leaves."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch

from diptych.activations import dump as activations
from diptych.activations import shard_writer
from diptych.models import hooks
from diptych.storage import artifacts
from diptych.text import tokens
from diptych.text.corpora import stage
from tiny_models import make_model, make_texts

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and sequences of 2 to 24 tokens."""
    place = tmp_path_factory.mktemp("writing")
    folder = make_texts(place / "texts", "old", 3, repeats=1)
    for number in range(8):
        (folder / f"old-short-{number}.txt").write_text("Peace has been kept upon the frontier"[: 6 + 4 * number])
    stage.fetch(place / "corpus", spec={}, sources={"old": {"kind": "local", "paths": [str(folder / "*.txt")]}})
    make_model(place / "model")
    tokens.prepare(place / "corpus", place / "model", place / "tokens.h5", spec={}, tokens=None, sequence_length=24)
    return place


def dump(place: Path, out: Path, **settings: Any) -> Path:
    chosen = {"sites": ["first", "middle"], "dtype": "bfloat16", "store": "float16", "batch_tokens": 60}
    activations.dump(place / "model", place / "tokens.h5", out, spec={}, device="cpu", **{**chosen, **settings})
    return out


class InBetween:
    """Writes each block before the next forward pass."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        self._function = function

    def __call__(self, item: Any) -> None:
        self._function(item)

    def wait(self) -> None:
        """Nothing waits."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def test_writing_behind_gives_the_bytes_of_writing_in_between(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = dump(place, tmp_path / "behind.h5")
    monkeypatch.setattr(activations, "Behind", InBetween)
    assert behind.read_bytes() == dump(place, tmp_path / "between.h5").read_bytes()


def test_a_failing_disk_ends_the_dump_and_the_rest_is_written_by_the_next_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dump(place, tmp_path / "whole.h5")
    monkeypatch.setattr(activations, "CHECKPOINT_SECONDS", 0.0)
    write, calls = shard_writer.RawMatrix.write, 0

    def fails_once(self: shard_writer.RawMatrix, row: Any, values: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise OSError(28, "No space left on device")
        write(self, row, values)

    monkeypatch.setattr(shard_writer.RawMatrix, "write", fails_once)
    out = tmp_path / "full" / "0.h5"
    with pytest.raises(OSError, match="No space left"):
        dump(place, out)
    assert calls == 12, "nothing is written after the block that failed"
    assert not out.exists()
    assert dump(place, out).read_bytes() == whole.read_bytes()
    assert list(out.parent.iterdir()) == [out]


def test_batches_of_like_lengths_leave_little_padding_and_the_same_rows(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exact = {"dtype": "float32", "store": "float32", "batch_tokens": 2000}
    shapes: list[tuple[int, ...]] = []
    forward = hooks.HookedModel.__call__

    def counted(self: hooks.HookedModel, ids: torch.Tensor, sites: Any = None) -> dict[str, torch.Tensor]:
        shapes.append(tuple(ids.shape))
        return forward(self, ids, sites)

    monkeypatch.setattr(hooks.HookedModel, "__call__", counted)
    with caplog.at_level(logging.INFO):
        batched = dump(place, tmp_path / "batched.h5", **exact)
    positions = sum(b * length for b, length in shapes[1:])  # the first call asks for the sites' widths
    with artifacts.read(place / "tokens.h5", "tokens") as file:
        n_tokens, lengths = len(file["token"]), np.diff(file["sequences/start"][:])
    assert lengths.max() > 2 * lengths.min(), "padded to the longest, a good part would be padding"
    assert positions - n_tokens <= positions / 8
    assert f"{n_tokens} tokens in {len(shapes) - 1} batches; {positions - n_tokens} of {positions}" in caplog.text
    single = dump(place, tmp_path / "single.h5", **{**exact, "batch_tokens": 1})
    with artifacts.read(batched, "activations") as a, artifacts.read(single, "activations") as b:
        for site in ("first", "middle"):
            values = b[f"sites/{site}/values"][:]
            np.testing.assert_allclose(a[f"sites/{site}/values"][:], values, rtol=0, atol=1e-5 * np.abs(values).max())
