"""Streamed rows: the same values as stored ones, a buffer that refills, and nothing from the test fold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.activations import dump, gates, rows, streaming
from diptych.crosscoder.training import feed, stage
from diptych.crosscoder.training.stage import Training
from diptych.models import hooks
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text import tokens
from diptych.text.corpora import stage as corpora
from tiny_models import make_model, make_texts

torch.set_num_threads(1)
SMALL = {"n_latents": 32, "k": 4, "batch": 64, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models; a stored corpus of 10 documents, and a long one of 40 that holds these and more."""
    place = tmp_path_factory.mktemp("streaming")
    folder = make_texts(place / "texts", "old", 40)
    for name, pattern in (("stored", "old-0*.txt"), ("long", "*.txt")):
        source = {"kind": "local", "paths": [str(folder / pattern)]}
        corpora.fetch(place / f"{name}-corpus", spec={}, sources={"old": source})
    for seed, name in enumerate("ab"):
        make_model(place / name, seed=seed)
    for name, budget, limit in (("stored", 800, 4.0), ("long", 6000, 1.3)):
        tokens.prepare(
            place / f"{name}-corpus", place / "a", place / f"{name}.h5", spec={}, tokens=budget, sequence_length=24
        )
        for model in "ab":
            shard = place / f"{name}-{model}.h5"
            dump.dump(place / model, place / f"{name}.h5", shard, spec={}, sites=["middle"], dtype="float32")
            gates.gate([shard], place / f"{name}.h5", place / f"{name}-{model}-gates.h5", spec={}, outlier_norm=limit)
    return place


def stream(place: Path, held_out: str = "stored", **settings: Any) -> rows.Rows:
    sources = [
        streaming.StreamedModel(place / m, "float32", place / "long.h5", place / f"{held_out}-{m}-gates.h5")
        for m in "ab"
    ]
    return streaming.stream(sources, "middle", held_out=place / f"{held_out}.h5", **settings)


def stored(place: Path, name: str) -> rows.Rows:
    paths = [[str(place / f"{name}-{m}.h5")] for m in "ab"], [str(place / f"{name}-{m}-gates.h5") for m in "ab"]
    return rows.stored([rows.RowFiles(paths[0][i], paths[1][i], str(place / f"{name}.h5"), "middle") for i in range(2)])


def counters(streamed: rows.Rows) -> list[int]:
    return [side.tokens_run for side in streamed.sides if isinstance(side, streaming.StreamedSide)]


def test_streamed_rows_are_the_stored_ones(place: Path) -> None:
    streamed, on_disk = stream(place, "long"), stored(place, "long")
    index = np.random.default_rng(0).permutation(len(streamed))[:500]
    counting = index[streamed.valid(index)]
    assert 0 < len(counting) < len(index), "the limit for massive rows is tight in this test"
    assert (np.isin(streamed.token_row[0, index], on_disk.token_row[0]) == streamed.valid(index)).all()
    same = np.searchsorted(on_disk.token_row[0], streamed.token_row[0, counting])
    for mine, theirs in zip(streamed.take(counting).x, on_disk.take(same).x, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=0.01 * np.abs(theirs).max())
        assert (mine == theirs).mean() > 0.999, "rounded as if stored"


def test_streamed_models_may_be_spread_over_devices(place: Path) -> None:
    index = np.arange(0, 400, 7)
    whole, spread = (stream(place, "long", devices=[device]).take(index).x for device in ("cpu", ["cpu", "cpu"]))
    for of_one, of_several in zip(whole, spread, strict=True):
        np.testing.assert_array_equal(of_one, of_several)


def test_documents_of_the_stored_test_fold_are_never_trained_on(place: Path) -> None:
    streamed = stream(place)
    with artifacts.read(place / "stored.h5", "tokens") as file:
        test = set(np.array(artifacts.read_strings(file, "documents/id"))[file["documents/fold"][:] == 0])
    with artifacts.read(place / "long.h5", "tokens") as file:
        names = np.array(artifacts.read_strings(file, "documents/id"))
        own = file["documents/fold"][:]
    assert test
    moved = np.isin(names, list(test)) & (own != 0)
    assert moved.any(), "some of them stand in other folds here"
    for document in range(len(names)):
        mine = streamed.fold[streamed.document == document]
        assert ((mine == 0) == (names[document] in test or own[document] == 0)).all()


def train(streamed: rows.Rows, **settings: Any) -> tuple[Mapping[str, Any], feed.Feed]:
    _, run, batches = stage.optimise(streamed, Training(**{**SMALL, **settings}))
    return run.series, batches


def test_the_buffer_refills_until_as_many_distinct_tokens_are_consumed_as_asked(place: Path) -> None:
    streamed = stream(place)
    largest = 0
    compute = streaming.StreamedSide.compute

    def watched(self: streaming.StreamedSide, token_row: np.ndarray) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, len(token_row))
        return compute(self, token_row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming.StreamedSide, "compute", watched)
        patch.setattr(stage, "READ_ROWS", 96)
        patch.setattr(feed, "READ_ROWS", 96)
        patch.setattr(feed, "CALIBRATION_ROWS", 200)
        _, fed = train(streamed, steps=40, buffer_rows=256)
    assert len(fed.index) > 40 * 64 > 256
    assert fed.seen.sum() == 40 * 64, "distinct rows consumed are the rows asked for"
    assert (streamed.fold[fed.seen] != 0).all()
    assert streamed.valid(np.flatnonzero(fed.seen)).all()
    assert largest < 300, "only a bounded part is ever held"
    asked = 40 * 64 * len(streamed.token_row[0]) / len(fed.index)
    for run in counters(streamed):
        assert run < 2 * asked, "a sequence is run about once for each pass over its rows"


def test_a_stream_gives_every_batch_again_for_the_same_step(place: Path) -> None:
    settings = Training(**SMALL, steps=10, buffer_rows=256)
    batches = []
    for first in (0, 7):
        streamed = stream(place)
        crosscoder = stage.Crosscoder(settings.architecture(streamed.widths))
        own = feed.Feed(streamed, crosscoder, settings).batches(first)
        batches.append([next(own).clone() for _ in range(8 - first)][-1])
    assert torch.equal(*batches)


def test_out_of_memory_halves_the_batch(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, halved = stream(place), stream(place)
    index = np.arange(0, 200)
    expected = whole.take(index).x[0]
    original = hooks.HookedModel.__call__

    def small(self: hooks.HookedModel, ids: torch.Tensor, sites: Any = None) -> dict[str, torch.Tensor]:
        if ids.numel() > 50:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return original(self, ids, sites)

    monkeypatch.setattr(hooks.HookedModel, "__call__", small)
    found = halved.take(index).x[0]
    side = halved.sides[0]
    assert isinstance(side, streaming.StreamedSide)
    assert side.halved > 0
    assert side.batch_tokens <= 50
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.01 * np.abs(expected).max())


def test_a_stream_without_other_documents_is_refused(place: Path, tmp_path: Path) -> None:
    tokens.prepare(place / "stored-corpus", place / "a", tmp_path / "all.h5", spec={}, tokens=None, sequence_length=24)
    sources = [streaming.StreamedModel(place / "a", "float32", place / "stored.h5", place / "stored-a-gates.h5")]
    copy = tmp_path / "held.h5"
    with artifacts.read(tmp_path / "all.h5", "tokens") as file, artifacts.create(copy, "tokens", {}) as out:
        out.array("documents/text_hash", file["documents/text_hash"][:])
        out.array("documents/fold", np.zeros_like(file["documents/fold"][:]))
    with pytest.raises(DiptychError, match="every document is in the test fold"):
        streaming.stream(sources, "middle", held_out=copy)


def test_a_jobs_rows_are_stored_or_streamed_as_its_spec_says(place: Path) -> None:
    """What Snakemake gives: lists, single files as text, and nothing for inputs that a rule does not name."""
    both = [str(place / "stored.h5")] * 2
    gate_files = [str(place / f"stored-{m}-gates.h5") for m in "ab"]
    shards = [str(place / f"stored-{m}.h5") for m in "ab"]
    given = streaming.input_lists({"shards": shards, "gates": gate_files, "tokens": both, "alignment": []})
    assert given["models"] == given["alignment"] == []
    reads = {"site": "middle", "rows": "all"}
    assert len(streaming.training_rows(given, reads, ["cpu"])) == len(stored(place, "stored"))
    manifests = [str(place / m / "manifest.json") for m in "ab"]
    given = streaming.input_lists(
        {"gates": gate_files, "tokens": both, "models": manifests, "stream_tokens": [str(place / "long.h5")] * 2}
    )
    how = {"dtypes": ["float32", "float32"], "store": "bfloat16", "batch_tokens": None}
    streamed = streaming.training_rows(given, {**reads, "stream": how}, ["cpu"])
    assert all(isinstance(side, streaming.StreamedSide) for side in streamed.sides)
    assert streaming.input_lists({"alignment": "a/b.h5"})["alignment"] == ["a/b.h5"]
