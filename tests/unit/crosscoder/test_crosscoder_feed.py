"""Batches read ahead in the stored dtype: the bits of a plain feed that reads, converts and normalises at once."""

import hashlib
import json
import threading
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from diptych.activations import buffer, rows, shuffling
from diptych.activations.sides import MemorySide, StoredSide
from diptych.crosscoder.training import feed, stage
from diptych.crosscoder.training.stage import Training
from diptych.oracle import planted
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding.architecture import Crosscoder, crosscoder_input
from diptych.storage import artifacts

torch.set_num_threads(1)
SMALL = {"n_latents": 48, "k": 4, "batch": 128, "steps": 40, "learning_rate": 1e-3}
DTYPES = {"bfloat16": np.uint16, "float16": np.float16, "float32": np.float32}


@dataclass
class StreamedSide:
    """A side that computes its rows, on a device, and finds some not to be valid."""

    values: np.ndarray
    device: str = "cpu"
    threads: set = field(default_factory=set)

    @property
    def width(self):
        return self.values.shape[1]

    dtype = np.dtype(np.uint16)

    def compute(self, index):
        self.threads.add(threading.get_ident())
        return torch.from_numpy(self.values[index]).bfloat16().to(self.device)

    def take(self, index):
        return self.compute(index).float().cpu().numpy()

    def read(self, index, out):
        buffer.as_tensor(out).copy_(self.compute(index))

    def valid(self, index):
        return index % 7 != 3


def stored_side(path, values, dtype, shards=2):
    """A side in files, each of a part of the rows."""
    stored = artifacts.to_bfloat16(values) if dtype == "bfloat16" else values.astype(DTYPES[dtype])
    paths = []
    for number, part in enumerate(np.array_split(np.arange(len(values)), shards)):
        paths.append(path.with_name(f"{path.name}-{number}.h5"))
        with artifacts.create(paths[-1], "activations", {}) as out:
            out.array("sites/middle/values", stored[part], dtype=dtype)
            out.array("sites/middle/norm", np.ones(len(part)))
            out._file.attrs["first_row"] = int(part[0])
    return StoredSide(paths, "middle")


@pytest.fixture
def make_rows(tmp_path):
    """A function that makes rows of a kind: dtypes of stored ones, or "streamed"."""
    pair = planted.make_pair(n_documents=60, labels={"only_B": 3})
    data = pair.rows()

    def make(kind):
        both = (pair.x_A, pair.x_B)
        if kind == "streamed":
            sides = tuple(StreamedSide(values) for values in both)
        else:
            sides = tuple(stored_side(tmp_path / f"{m}", both[m], dtype) for m, dtype in enumerate(kind.split("-")))
        # Sequences of ten rows, of which the first and last do not count.
        counts = ~np.isin(np.arange(len(data)) % 10, (0, 9))
        position = np.arange(len(data)) % 10
        own = data.token_row[:, counts], *(x[counts] for x in (data.document, data.fold, data.source, position))
        return rows.Rows(sides, *own)

    return make


def plain_batches(self, first, end=None):
    """Batches of a feed that reads a filling when it is needed, all in float32, normalised by the formula."""
    data, settings, crosscoder = self.rows, self.settings, self.crosscoder
    parts = shuffling.blocks(data.position, self.index, min(feed.READ_ROWS, settings.buffer_rows // 2))
    sizes = {"buffer_rows": settings.buffer_rows, "batch": settings.batch, "seed": settings.seed}
    scale = crosscoder.scale.repeat_interleave(torch.tensor(crosscoder.architecture.widths))
    for fill in shuffling.fills(parts, **sizes, first=first, end=end):
        chunks = [fill.rows[start : start + feed.READ_ROWS] for start in range(0, len(fill.rows), feed.READ_ROWS)]
        x_BD = torch.cat([crosscoder_input(data.take(chunk).x, crosscoder.architecture) for chunk in chunks])
        z_BD = (x_BD - crosscoder.mean) * scale
        order = fill.order[data.valid(fill.rows)[fill.order]]
        for start in fill.starts:
            batch = order.take(np.arange(start, start + settings.batch), mode="wrap")
            self.seen[fill.rows[batch]] = True
            yield z_BD[torch.from_numpy(batch)]


def weights_hash(data, settings, **options):
    """Hash of the weights of a training run, and the rows that it consumed."""
    crosscoder, _, fed = stage.optimise(data, settings, **options)
    stage.calibrate(crosscoder, fed)
    content = b"".join(value.detach().cpu().numpy().tobytes() for value in crosscoder.state_dict().values())
    return hashlib.sha256(content).hexdigest(), fed.seen.tolist()


@pytest.mark.parametrize("objective", ["batchtopk", "diff"])
@pytest.mark.parametrize("buffer_rows", [500, 10_000])
@pytest.mark.parametrize("kind", ["bfloat16-bfloat16", "float16-float32", "streamed"])
def test_the_weights_are_those_of_a_plain_feed_to_the_bit(make_rows, monkeypatch, kind, buffer_rows, objective):
    monkeypatch.setattr(feed, "READ_ROWS", 96)
    settings = Training(**SMALL, buffer_rows=buffer_rows, objective=objective)
    ours = weights_hash(make_rows(kind), settings)
    with monkeypatch.context() as patch:
        patch.setattr(feed, "ahead", lambda items, depth=1: items)
        alternating = weights_hash(make_rows(kind), settings)
    monkeypatch.setattr(feed.Feed, "batches", plain_batches)
    assert ours == weights_hash(make_rows(kind), settings)
    assert ours == alternating
    assert ours != weights_hash(make_rows(kind), Training(**SMALL, buffer_rows=buffer_rows, seed=1))


def new_feed(data, device="cpu", **settings):
    training = Training(**{**SMALL, **settings})
    crosscoder = Crosscoder(training.architecture(data.widths))
    fed = feed.Feed(data, crosscoder, training)
    feed.set_normalisation(crosscoder, data, fed.calibration())
    crosscoder.to(device)
    return fed


@pytest.mark.parametrize(
    ("kind", "dtypes"),
    [("bfloat16-bfloat16", (torch.bfloat16,) * 2), ("float16-float32", (torch.float16, torch.float32))],
)
def test_the_buffer_holds_rows_as_they_are_stored(make_rows, kind, dtypes):
    data = make_rows(kind)
    index = np.random.default_rng(0).permutation(len(data))[:100]
    places = buffer.allocate(data, 120, torch.device("cpu"))
    places.write(data, index, 20)
    assert tuple(part.dtype for part in places.parts) == dtypes
    assert places.valid[20:].all()
    for part, x in zip(places.parts, data.take(index).x, strict=True):
        assert np.array_equal(part[20:].float().numpy(), x)


class Gated(MemorySide):
    """A side that reports the first read of some rows, or fails there."""

    late, reached, message = None, None, ""

    def read(self, index, out):
        if np.isin(index, self.late).any():
            if self.message:
                raise DiptychError(self.message)
            self.reached.set()
        super().read(index, out)


@pytest.fixture
def second_filling():
    """Rows of a feed with a side that watches the rows of its second filling."""
    pair = planted.make_pair(n_documents=60)
    side = Gated(pair.x_A)
    data = pair.rows()
    data = rows.Rows((side, side), data.token_row, data.document, data.fold, data.source, data.position)
    fed = new_feed(data, buffer_rows=500)
    parts = shuffling.blocks(data.position, fed.index, 250)
    fills = shuffling.fills(parts, buffer_rows=500, batch=128, seed=0)
    n_steps = len(next(fills).starts)
    type(side).late, type(side).reached, type(side).message = next(fills).rows, threading.Event(), ""
    return fed, side, n_steps


def test_the_next_filling_is_read_while_this_one_is_used(second_filling):
    fed, side, _ = second_filling
    with closing(fed.batches(0)) as batches:
        next(batches)
        assert side.reached.wait(10)
        assert fed.seen.sum() == 128, "rows that were read are not rows that were consumed"


def test_nothing_is_read_that_no_step_needs_and_no_thread_stays(second_filling):
    fed, side, n_steps = second_filling
    before = set(threading.enumerate())
    assert len([*fed.batches(0, n_steps)]) == n_steps
    assert not side.reached.is_set()
    batches = fed.batches(0)
    next(batches)
    assert set(threading.enumerate()) > before
    batches.close()
    assert set(threading.enumerate()) == before


def test_an_error_of_reading_stops_training(second_filling):
    fed, side, _ = second_filling
    type(side).message = "shard 3 is damaged"
    with pytest.raises(DiptychError, match="shard 3 is damaged"):
        stage.optimise(fed.rows, fed.settings)


def test_models_of_a_stream_run_in_another_thread_than_training(make_rows):
    data = make_rows("streamed")
    with closing(new_feed(data, buffer_rows=500).batches(0)) as batches:
        for side in data.sides:
            side.threads.clear()
        next(batches)
        assert data.sides[0].threads
        assert threading.get_ident() not in data.sides[0].threads


def test_the_share_of_time_spent_waiting_is_reported(tmp_path):
    data = planted.make_pair(n_documents=20).rows()
    stage.train(data, tmp_path / "weights.h5", spec={}, throughput=tmp_path / "throughput.json", **SMALL)
    numbers = json.loads((tmp_path / "throughput.json").read_text())
    assert 0 < numbers["first_wait_seconds"] <= numbers["waiting_share"] * numbers["seconds"] < numbers["seconds"]
    assert numbers["rows"] == 40 * 128


@pytest.mark.gpu
@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("kind", ["bfloat16-bfloat16", "float16-float32", "streamed"])
@pytest.mark.parametrize("buffer_rows", [500, 10_000])
def test_gpu_batches_are_those_of_the_cpu(make_rows, monkeypatch, kind, on_device, buffer_rows):
    monkeypatch.setattr(buffer, "fits", lambda rows, n, device: on_device)
    data, batches = make_rows(kind), {}
    for device in ("cpu", "cuda:0"):
        for side in data.sides if kind == "streamed" else ():
            side.device = device
        with closing(new_feed(data, device, buffer_rows=buffer_rows).batches(0, 40)) as own:
            batches[device] = torch.stack([z_BD.cpu().clone() for z_BD in own])
    assert torch.equal(batches["cuda:0"], batches["cpu"])
    assert len(batches["cpu"].flatten(0, 1).unique(dim=0)) > 2000


@pytest.mark.gpu
def test_a_buffer_lies_on_the_gpu_only_where_it_fits(make_rows):
    data, device = make_rows("bfloat16-bfloat16"), torch.device("cuda:0")
    free = torch.cuda.mem_get_info(device)[0]
    row_bytes = 2 * sum(data.widths)
    assert buffer.fits(data, 1000, device)
    assert not buffer.fits(data, free // row_bytes, device)
    assert not buffer.fits(data, 1000, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two GPUs")
def test_models_and_training_on_different_gpus(make_rows):
    data = make_rows("streamed")
    settings = Training(**SMALL, buffer_rows=500)
    losses = []
    for device in ("cuda:0", "cuda:1"):
        for side in data.sides:
            side.device = device
        _, run, _ = stage.optimise(data, settings, device="cuda:0")
        losses.append(run.series["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-3)
