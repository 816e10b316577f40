"""A crosscoder trained by two processes that share each batch is the one that a single process trains."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych.activations import streaming
from diptych.crosscoder.training import feed, parallel, stage
from diptych.oracle import planted
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding import architecture
from diptych.storage import artifacts, fingerprint

WORKER = """
import json, sys
from dataclasses import replace
import torch
from diptych.crosscoder.training import parallel, stage
from diptych.crosscoder.training import feed
from diptych.oracle import planted

class Counted:
    def __init__(self, side):
        self.side, self.width, self.dtype, self.taken = side, side.width, side.dtype, 0
    def take(self, rows):
        self.taken += len(rows)
        return self.side.take(rows)
    def read(self, rows, out):
        self.taken += len(rows)
        self.side.read(rows, out)

class Streamed(Counted):
    def compute(self, rows):
        return torch.from_numpy(self.take(rows))
    def valid(self, rows):
        return rows % 7 != 3

def counted(data, kind):
    return replace(data, sides=tuple(kind(side) for side in data.sides))

torch.set_num_threads(1)
parallel.end_with_parent()
group = parallel.join("cpu")
for name, settings in json.loads(sys.argv[1]).items():
    data = planted.make_pair(n_documents=20, labels={"only_B": 3}).rows()
    data = counted(data, Streamed if name == "streamed" else Counted)
    stage.train(data, f"{sys.argv[2]}/{name}.h5", spec={}, group=group, **settings)
    with open(f"{sys.argv[2]}/taken-{name}-{group.rank}.json", "w") as file:
        json.dump([side.taken for side in data.sides], file)
shared = group.array((group.size,), "int64")
shared[group.rank] = group.rank + 1
group.wait()
with open(f"{sys.argv[2]}/shared-{group.rank}.json", "w") as file:
    json.dump(shared.tolist(), file)
parallel.leave(group)
"""
SMALL = {"n_latents": 48, "k": 4, "batch": 64, "steps": 25, "learning_rate": 1e-2}
RUNS = {
    "batchtopk": {**SMALL, "dead_share": 0.02},
    "accumulated": {**SMALL, "accumulate": 2},
    "l1": {**SMALL, "objective": "l1", "decoder_norm": 0.5},
    "streamed": {**SMALL, "buffer_rows": 512},
}


def torchrun(tmp_path, processes, *arguments):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {"PYTHONPATH": str(fingerprint.LIBRARY.parent), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    subprocess.run(
        [sys.executable, *command, str(script), *arguments], check=True, env=environment, capture_output=True
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Directories with the same runs by one process and by two."""
    place = tmp_path_factory.mktemp("parallel")
    for processes, name in ((1, "one"), (2, "two")):
        (place / name).mkdir()
        torchrun(place, processes, json.dumps(RUNS), str(place / name))
    return place


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_give_the_loss_of_one(trained, name):
    series = {}
    for which in ("one", "two"):
        with artifacts.read(trained / which / f"{name}.h5", "crosscoder") as file:
            series[which] = {key: file[f"series/{key}"][:] for key in ("loss", "l0", "fvu", "dead_share")}
            summary = artifacts.read_json(file, "summary")
            assert summary["rows_seen"] > (0.75 if name == "streamed" else 0.9) * summary["rows_train"]
    for key in ("loss", "fvu", "l0", "dead_share"):
        np.testing.assert_allclose(series["two"][key], series["one"][key], rtol=2e-3, atol=1e-6, err_msg=key)
    assert series["one"]["loss"][-1] < 0.7 * series["one"]["loss"][0]
    one, two = (architecture.load(trained / which / f"{name}.h5") for which in ("one", "two"))
    torch.testing.assert_close(two.W_dec, one.W_dec, rtol=1e-2, atol=2e-3)
    torch.testing.assert_close(two.scale, one.scale)
    assert float(two.threshold) == pytest.approx(float(one.threshold), rel=1e-2)


@pytest.mark.parametrize("name", ["batchtopk", "streamed"])
def test_each_process_reads_its_share_of_the_rows(trained, name):
    alone, second = (
        json.loads((trained / which / f"taken-{name}-{rank}.json").read_text())
        for which, rank in (("one", 0), ("two", 1))
    )
    with artifacts.read(trained / "one" / f"{name}.h5", "crosscoder") as file:
        rows_train = artifacts.read_json(file, "summary")["rows_train"]
    assert min(alone) > rows_train
    assert max(second) < 0.6 * min(alone)


def test_processes_share_the_memory_that_rows_are_read_to(trained):
    for rank in (0, 1):
        assert json.loads((trained / "two" / f"shared-{rank}.json").read_text()) == [1, 2]


def test_a_batch_that_cannot_be_shared_is_one_clear_line():
    data = planted.make_pair(n_documents=20).rows()
    crosscoder = architecture.Crosscoder(stage.Training(**SMALL).architecture(data.widths))
    with pytest.raises(DiptychError, match="multiple of 3"):
        feed.Feed(data, crosscoder, stage.Training(**SMALL), parallel.Group(0, 3))


def test_processes_take_disjoint_rows_of_every_part_of_a_batch():
    batch = np.random.default_rng(0).permutation(64)
    parts = [feed.own_part(batch, 2, parallel.Group(rank, 2)) for rank in (0, 1)]
    first, second = (np.concatenate([parts[0][half], parts[1][half]]) for half in (slice(0, 16), slice(16, 32)))
    assert np.array_equal(np.concatenate([first, second]), batch)


def test_a_worker_that_stops_gives_its_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(fingerprint.LIBRARY.parent))
    place = [str(tmp_path / "none.h5")]
    job = {
        "rows": streaming.input_lists({"shards": place, "gates": place, "tokens": place}),
        "spec": {"reads": {"site": "middle", "rows": "all"}, "settings": {}, "job": {}},
        "out": str(tmp_path), "log": str(tmp_path / "log"), "devices": ["cpu"], "model_devices": [],
        "threads": 1, "track": [], "checkpoint_every": 5, "throughput": None,
    }  # fmt: skip
    with pytest.raises(DiptychError, match=r"none\.h5"):
        parallel.launch("diptych.crosscoder.training.worker", job, 2)
    assert Path(job["log"]).is_file()
