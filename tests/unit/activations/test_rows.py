import os
from pathlib import Path

import numpy as np
import pytest

from diptych.activations import rows, sides
from diptych.runtime.errors import ArtifactError
from diptych.storage import artifacts

N, SHARD = 40, 25


@pytest.fixture
def stored(tmp_path):
    """Two models' rows, d = 3 and 2, over five sequences of eight tokens in three documents, two shards each."""
    rng = np.random.default_rng(0)
    values = {"a": rng.normal(size=(N, 3)).astype(np.float32), "b": rng.normal(size=(N, 2)).astype(np.float32)}
    valid = {"a": rng.random(N) < 0.7, "b": rng.random(N) < 0.7}
    with artifacts.create(tmp_path / "tokens.h5", "tokens", {}) as out:
        out.array("token", np.arange(N, dtype=np.int32))
        out.array("sequence", np.repeat(np.arange(5), 8).astype(np.int32))
        out.array("position", np.tile(np.arange(8), 5).astype(np.int32))
        out.array("sequences/document", np.array([0, 0, 1, 2, 2], dtype=np.int32))
        out.array("documents/fold", np.array([0, 1, 2], dtype=np.int32))
        out.array("documents/source", np.array([0, 1, 1], dtype=np.int32))
    models = []
    for name in "ab":
        shards = []
        for index, (start, stop) in enumerate([(0, SHARD), (SHARD, N)]):
            shards.append(str(tmp_path / f"{name}{index}.h5"))
            with artifacts.create(shards[-1], "activations", {}) as out:
                stored_values = values[name][start:stop]
                if name == "a":
                    out.array("sites/middle/values", stored_values, dtype="float32")
                else:
                    out.array("sites/middle/values", artifacts.to_bfloat16(stored_values), dtype="bfloat16")
                out.array("sites/middle/norm", np.linalg.norm(stored_values, axis=1))
                out._file.attrs["first_row"] = start
        with artifacts.create(tmp_path / f"{name}-gates.h5", "gates", {}) as out:
            out.array("sites/middle/valid", valid[name])
        models.append(rows.RowFiles(shards, str(tmp_path / f"{name}-gates.h5"), str(tmp_path / "tokens.h5"), "middle"))
    return models, values, valid


def test_only_rows_valid_in_both_models_are_read(stored):
    models, values, valid = stored
    pair = rows.stored(models)
    both = np.flatnonzero(valid["a"] & valid["b"])
    np.testing.assert_array_equal(pair.token_row, [both, both])
    blocks = list(pair.blocks(7))
    np.testing.assert_array_equal(np.concatenate([b.row for b in blocks]), np.arange(len(both)))
    np.testing.assert_array_equal(np.concatenate([b.x[0] for b in blocks]), values["a"][both])
    np.testing.assert_allclose(np.concatenate([b.x[1] for b in blocks]), values["b"][both], rtol=2**-8)
    np.testing.assert_array_equal(pair.document, np.array([0, 0, 1, 2, 2])[both // 8])
    np.testing.assert_array_equal(pair.position, both % 8)


def test_selection_and_shuffling_keep_rows_with_their_index(stored):
    models, values, _ = stored
    pair = rows.stored(models)
    select = pair.fold != 0
    seen = []
    for block in pair.blocks(2, select=select, shuffle=np.random.default_rng(1)):
        np.testing.assert_array_equal(block.x[0], values["a"][pair.token_row[0][block.row]])
        seen.extend(block.row)
    assert sorted(seen) == list(np.flatnonzero(select))
    assert seen != sorted(seen)


def test_take_in_any_order(stored):
    models, values, _ = stored
    pair = rows.stored(models)
    index = np.random.default_rng(2).permutation(len(pair))
    np.testing.assert_array_equal(pair.take(index).x[0], values["a"][pair.token_row[0][index]])


def test_one_shard_gives_only_its_rows(stored):
    models, _, valid = stored
    second = rows.stored([models[0]._replace(shards=models[0].shards[1:])])
    np.testing.assert_array_equal(second.token_row[0], SHARD + np.flatnonzero(valid["a"][SHARD:]))


def test_alignment_pairs_rows(stored, tmp_path):
    models, _, valid = stored
    with artifacts.create(tmp_path / "alignment.h5", "alignment", {}) as out:
        out.json("identity", False)
        out.array("row_a", np.arange(0, 30))
        out.array("row_b", np.arange(5, 35))
    pair = rows.stored(models, str(tmp_path / "alignment.h5"))
    keep = valid["a"][:30] & valid["b"][5:35]
    np.testing.assert_array_equal(pair.token_row, [np.arange(30)[keep], np.arange(5, 35)[keep]])


def test_no_common_row_is_an_error(stored, tmp_path):
    models, _, _ = stored
    with artifacts.create(tmp_path / "none.h5", "gates", {}) as out:
        out.array("sites/middle/valid", np.zeros(N, dtype=bool))
    with pytest.raises(ArtifactError, match="no row is valid"):
        rows.stored([models[0], models[1]._replace(gates=str(tmp_path / "none.h5"))])


@pytest.mark.parametrize("selected", ["all", "last"])
def test_first_rows_come_with_those_that_count(stored, selected):
    models, values, valid = stored
    pair, counts = rows.stored_with_first(models, 2, row_selection=selected)
    expected = rows.stored(models, row_selection=selected).token_row[0]
    np.testing.assert_array_equal(pair.token_row[0][counts], expected)
    first = np.flatnonzero(np.arange(N) % 8 < 2)
    np.testing.assert_array_equal(pair.token_row[0], np.union1d(first, expected))
    assert (~(valid["a"] & valid["b"]))[first].any(), "some first rows do not count"
    np.testing.assert_array_equal(pair.take(np.arange(len(pair))).x[0], values["a"][pair.token_row[0]])
    np.testing.assert_array_equal(pair.position, pair.token_row[0] % 8)


def test_rows_that_are_not_stored_are_in_no_selection(stored, tmp_path):
    """A shard with the first positions only names its token rows."""
    models, values, valid = stored
    first = np.flatnonzero(np.arange(N) % 8 < 3)
    with artifacts.create(tmp_path / "first.h5", "activations", {}) as out:
        out.array("sites/middle/values", values["a"][first], dtype="float32")
        out.array("sites/middle/norm", np.linalg.norm(values["a"][first], axis=1))
        out.array("token_row", first)
        out._file.attrs["first_row"] = 0
    side = sides.StoredSide([tmp_path / "first.h5"], "middle")
    np.testing.assert_array_equal(np.flatnonzero(side.covers(N)), first)
    np.testing.assert_array_equal(side.take(first[3:9]), values["a"][first[3:9]])
    of_first = models[0]._replace(shards=[str(tmp_path / "first.h5")])
    np.testing.assert_array_equal(rows.stored([of_first]).token_row[0], first[valid["a"][first]])


def test_rows_are_read_as_stored_over_gaps_and_shards(stored):
    models, values, _ = stored
    bits = {"a": values["a"], "b": artifacts.to_bfloat16(values["b"])}
    rng = np.random.default_rng(1)
    for model, name in zip(models, "ab", strict=True):
        side = sides.StoredSide(model.shards, "middle")
        for index in (np.arange(N), np.array([7]), np.arange(0, N, 3), np.sort(rng.permutation(N)[:17])):
            out = np.zeros((len(index), side.width), dtype=side.dtype)
            side.read(index, out)
            assert np.array_equal(out, bits[name][index])


def test_a_flipped_byte_is_an_error_where_rows_are_read_as_stored(stored):
    path, values = stored[0][1].shards[1], artifacts.to_bfloat16(stored[1]["b"])[SHARD:]
    content = bytearray(Path(path).read_bytes())
    content[content.index(values.tobytes()) + 5] ^= 1
    Path(path).write_bytes(content)
    out = np.zeros((2, 2), dtype=np.uint16)
    with pytest.raises(ArtifactError, match=r"b1\.h5: sites/middle/values is damaged"):
        sides.StoredSide([path], "middle").read(np.array([SHARD, SHARD + 3]), out)


def test_reads_that_return_less_than_asked_are_continued(stored, monkeypatch):
    models, values, _ = stored
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, views, offset: preadv(file, [views[0][:5]], offset))
    side = sides.StoredSide(models[0].shards, "middle")
    index = np.array([1, 2, 3, 8, 9, 30])
    out = np.zeros((len(index), side.width), dtype=side.dtype)
    side.read(index, out)
    assert np.array_equal(out, values["a"][index])
