import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from diptych.runtime.errors import ArtifactError
from diptych.storage import artifacts, checksums, fingerprint, unfinished
from edited import edited

SPEC = {"settings": {"b": 1, "a": [1.5, None]}, "code": "x"}


def write(path, values=(1.0, 2.0)):
    with artifacts.create(path, "thing", SPEC) as out:
        out.array("values", np.array(values))
        out.table("rows", {"name": ["a", "b"], "x": np.array([1.0, np.nan])}, nan="not measured")
        out.json("facts", {"n": np.int64(3), "bad": float("nan")})


def test_round_trip(tmp_path):
    write(tmp_path / "a.h5")
    with artifacts.read(tmp_path / "a.h5", "thing") as file:
        np.testing.assert_array_equal(file["values"][:], [1.0, 2.0])
        table = artifacts.read_table(file, "rows")
        assert list(table) == ["name", "x"]
        assert list(table["name"]) == ["a", "b"]
        assert artifacts.read_json(file, "facts") == {"n": 3, "bad": None}
        assert json.loads(file.attrs["spec"]) == SPEC


def test_same_inputs_give_the_same_bytes(tmp_path):
    write(tmp_path / "a.h5")
    write(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_failing_writer_leaves_nothing_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.h5"
    write(path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError), artifacts.create(path, "thing", SPEC) as out:
        out.array("values", np.ones(3))
        raise RuntimeError
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.h5"]


@pytest.mark.parametrize("values", [(1.0, np.inf), (np.nan, 1.0)])
def test_non_finite_values_are_refused_when_written(tmp_path, values):
    with pytest.raises(ArtifactError, match=r"values: 1 non-finite"):
        write(tmp_path / "a.h5", values)
    assert not (tmp_path / "a.h5").exists()


def test_infinity_is_refused_even_where_nan_may_stand(tmp_path):
    with pytest.raises(ArtifactError), artifacts.create(tmp_path / "a.h5", "thing", SPEC) as out:
        out.array("x", np.array([np.inf]), nan="may be missing")


@pytest.mark.parametrize(("settled_s", "checks"), [(-1.0, 1), (60.0, 2)])
def test_a_file_that_is_settled_is_checked_once_and_again_when_it_changed(tmp_path, monkeypatch, settled_s, checks):
    """A file so new that a further write may leave its times as they are is checked each time."""
    path, calls, digest = tmp_path / "a.h5", [], checksums._digest
    write(path)
    monkeypatch.setattr(checksums, "SETTLED_S", settled_s)
    monkeypatch.setattr(checksums, "_digest", lambda *arguments: calls.append(1) or digest(*arguments))
    for _ in range(2):
        with artifacts.read(path, "thing") as file:
            np.testing.assert_array_equal(file["values"][:], [1.0, 2.0])
            offset = file["values"].id.get_offset()
    assert len(calls) == checks
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x01")
    os.utime(path, (1, 1))
    with artifacts.read(path, "thing") as file, pytest.raises(ArtifactError, match="values is damaged"):
        file["values"][:]


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "a.h5"
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ArtifactError, match=r"a\.h5: cut short"):
        artifacts.read(path, "thing")


def test_missing_foreign_and_unfinished_files_are_named(tmp_path):
    with pytest.raises(ArtifactError, match="no such file"):
        artifacts.read(tmp_path / "none.h5", "thing")
    write(tmp_path / "a.h5")
    with pytest.raises(ArtifactError, match="holds 'thing' where 'other' is expected"):
        artifacts.read(tmp_path / "a.h5", "other")
    with edited(tmp_path / "a.h5") as file:
        file.attrs["complete"] = False
    with pytest.raises(ArtifactError, match="did not finish"):
        artifacts.read(tmp_path / "a.h5", "thing")
    with edited(tmp_path / "a.h5") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(ArtifactError, match="version 99"):
        artifacts.read(tmp_path / "a.h5", "thing")


def test_directory_is_whole_or_absent(tmp_path):
    place = tmp_path / "model"
    with artifacts.create_directory(place, "model", SPEC) as directory:
        (directory / "weights").write_text("1")
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["files"]["weights"]["bytes"] == 1
    assert manifest["spec"] == SPEC
    with pytest.raises(RuntimeError), artifacts.create_directory(place, "model", SPEC) as directory:
        (directory / "weights").write_text("2")
        raise RuntimeError
    assert (place / "weights").read_text() == "1"
    with artifacts.create_directory(place, "model", SPEC) as directory:
        (directory / "other").write_text("3")
    assert sorted(os.listdir(place)) == ["manifest.json", "other"]
    assert os.listdir(tmp_path) == ["model"]


WRITERS = {
    "file": ("artifacts.create({place!r}, 'thing', {{}})", ""),
    "directory": ("artifacts.create_directory({place!r}, 'model', {{}})", ""),
    "scratch": ("unfinished.scratch(Path({place!r}))", ".scratch"),
}
"""What writes, and what is added to the name of its result."""


def begin(place, kind):
    """A process that is in the midst of writing `place`."""
    writer, added = WRITERS[kind]
    code = f"""
import time
from pathlib import Path
from diptych.storage import artifacts, unfinished
with {writer.format(place=str(place))} as out:
    time.sleep(600)
"""
    here = {**os.environ, "PYTHONPATH": str(fingerprint.LIBRARY.parent)}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=here)
    unfinished_path = place.with_name(f".{place.name}{added}.{unfinished._machine()}.{process.pid}.part")
    while not unfinished_path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    return process


def test_scratch_space_is_there_for_a_block_and_that_of_the_dead_never(tmp_path):
    killed, live = begin(tmp_path / "x", "scratch"), begin(tmp_path / "x", "scratch")
    killed.kill()
    killed.communicate()
    with unfinished.scratch(tmp_path / "x") as directory:
        (directory / "some").touch()
        with artifacts.create(tmp_path / "x", "thing", {}):
            assert directory.is_dir(), "writing the result takes no scratch space away"
        others = set(os.listdir(tmp_path)) - {directory.name, "x"}
        assert others == {f".x.scratch.{unfinished._machine()}.{live.pid}.part"}
    assert not directory.exists()
    live.kill()
    live.communicate()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_a_killed_writer_left_is_deleted_and_nothing_else(tmp_path, kind):
    places = [tmp_path / name for name in ("x", "x.x")]
    killed = [begin(place, kind) for place in (*places, places[0])]
    live = begin(places[0], kind)
    for process in killed:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    mine = unfinished._machine()
    elsewhere = [f".x.{mine[::-1]}.{killed[0].pid}.part", f".x.{mine}.part", f".xx.{mine}.{killed[0].pid}.part"]
    for name in elsewhere:
        (tmp_path / name).touch()
    assert len(os.listdir(tmp_path)) == 7
    artifacts.write_text(places[0], "whole")
    kept = [f".x.{mine}.{live.pid}.part", f".x.x.{mine}.{killed[1].pid}.part", *elsewhere]
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "x"])
    live.kill()
    live.communicate()


def test_where_the_system_does_not_tell_processes_apart_nothing_is_taken_for_left(tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "BOOT", tmp_path / "none")
    homes = []
    for _ in range(2):
        unfinished._machine.cache_clear()
        homes.append(unfinished._machine())
    unfinished._machine.cache_clear()
    assert homes[0] != homes[1]


def test_bfloat16_rounds_to_nearest_even_and_back():
    exact = np.array([0.0, 1.0, -2.5, 3.0e38, 1e-38], dtype=np.float32)
    bits = artifacts.to_bfloat16(exact)
    np.testing.assert_allclose(artifacts.from_bfloat16(bits), exact, rtol=2**-8)
    np.testing.assert_array_equal(
        artifacts.from_bfloat16(artifacts.to_bfloat16(artifacts.from_bfloat16(bits))), artifacts.from_bfloat16(bits)
    )
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    np.testing.assert_array_equal(
        artifacts.from_bfloat16(artifacts.to_bfloat16(values)), torch.from_numpy(values).bfloat16().float().numpy()
    )
