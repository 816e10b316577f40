"""Site suspect: a dictionary belongs where it reconstructs best, and says so where it is read one layer off."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from diptych.activations import dump, gates, rows, shard_sequences
from diptych.activations.sides import StoredSide
from diptych.dictionaries import codes, encoding, layer_check, sae
from diptych.storage import artifacts
from diptych.text import tokens
from diptych.text.corpora import stage
from tiny_models import make_model, make_texts

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("layers")
    folder = make_texts(place / "texts", "old", 10)
    stage.fetch(place / "corpus", spec={}, sources={"old": {"kind": "local", "paths": [str(folder / "*.txt")]}})
    make_model(place / "model", layers=5)
    tokens.prepare(place / "corpus", place / "model", place / "tokens.h5", spec={}, tokens=2000, sequence_length=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_sequences, "SAMPLE_ROWS", 600)
        for shard in (0, 1):
            dump.dump(
                place / "model", place / "tokens.h5", place / f"{shard}.h5", spec={}, shard=shard, shards=2,
                sites=["middle", "first", "blocks.3.hook_resid_post", "blocks.4.hook_mlp_out"], dtype="float32",
            )  # fmt: skip
    gates.gate([place / "0.h5", place / "1.h5"], place / "tokens.h5", place / "gates.h5", spec={})
    return place


def principal_dictionary(place: Path, site: str, directory: Path) -> sae.Dictionary:
    """The best linear dictionary of a site: its leading principal directions, both signs, read by ReLU."""
    x = StoredSide([place / "0.h5", place / "1.h5"], site).take(np.arange(2000))
    mean = x.mean(axis=0)
    directions = np.linalg.svd(x - mean, full_matrices=False)[2][:8]
    W_dec = np.concatenate([directions, -directions]).astype(np.float32)
    directory.mkdir()
    weights = {"W_dec": W_dec, "W_enc": np.ascontiguousarray(W_dec.T), "b_enc": np.zeros(16, np.float32), "b_dec": mean}
    save_file(weights, directory / "sae_weights.safetensors")
    (directory / "cfg.json").write_text('{"architecture": "standard", "d_in": 32, "apply_b_dec_to_input": true}')
    return sae.load(directory)


def measure(place: Path, site: str, dictionary: sae.Dictionary, out: Path) -> dict[str, float]:
    """FVU by hook through the features of both shards, as `encode_features` writes them."""
    paths = []
    for shard in (place / "0.h5", place / "1.h5"):
        model = rows.RowFiles([str(shard)], str(place / "gates.h5"), str(place / "tokens.h5"), site)
        layers = layer_check.measure(shard, model.gates, site, dictionary)
        paths.append(out / shard.name)
        encoding.encode(rows.stored([model]), dictionary, paths[-1], spec={}, layers=lambda layers=layers: layers)
    return layer_check.read(paths)


def test_the_neighbours_are_the_layers_own_rows(place: Path) -> None:
    with artifacts.read(place / "0.h5", "activations") as file:
        near = artifacts.read_json(file, "neighbours")
        sample, first = file["sample_row"][:], artifacts.read_json(file, "first_row")
        assert near["middle"] == ["blocks.1.hook_resid_post", "blocks.3.hook_resid_post"]
        assert near["first"] == ["blocks.1.hook_resid_post"]
        assert near["blocks.4.hook_mlp_out"] == ["blocks.3.hook_mlp_out"]
        assert 250 < len(sample) < 350, "half of the sample in each shard"
        assert set(file["sample"]) == {"blocks.1.hook_resid_post", "blocks.2.hook_resid_post",
                                       "blocks.4.hook_resid_post", "blocks.3.hook_mlp_out"}  # fmt: skip
        same = file["sample/blocks.2.hook_resid_post"][:]
        np.testing.assert_array_equal(same, file["sites/middle/values"][:][sample - first])


def test_a_layer_that_one_shard_lacks_is_not_compared(tmp_path: Path) -> None:
    """A neighbour is left out of a shard whose values there are not finite; a shard may have no rows that count."""
    sums = codes.Reconstruction(10, np.zeros(2), 1.0, 4.0, 5.0, 10)
    shards: list[dict[str, codes.Reconstruction]] = [{"own": sums, "next": sums}, {"own": sums}, {}]
    for number, layers in enumerate(shards):
        with artifacts.create(tmp_path / f"{number}.h5", "features", {}) as file:
            file.json("layers", list(layers))
            for hook, found in layers.items():
                encoding.write_reconstruction(file, f"layers/{hook}", found)
    assert layer_check.read([tmp_path / "0.h5", tmp_path / "2.h5"]) == {"own": 0.25, "next": 0.25}
    assert layer_check.read([tmp_path / f"{number}.h5" for number in range(3)]) == {"own": 0.25}


def test_a_dictionary_is_best_where_it_belongs_and_suspect_one_layer_off(place: Path, tmp_path: Path) -> None:
    own = principal_dictionary(place, "middle", tmp_path / "own")
    fvu = measure(place, "middle", own, tmp_path / "middle")
    assert next(iter(fvu)) == "blocks.2.hook_resid_post"
    assert len(fvu) == 3
    assert layer_check.suspect(fvu) is None
    off = principal_dictionary(place, "blocks.3.hook_resid_post", tmp_path / "off")
    assert layer_check.suspect(measure(place, "middle", off, tmp_path / "off-by-one")) == "blocks.3.hook_resid_post"


def test_only_counted_rows_are_scored_and_shards_are_pooled(place: Path, tmp_path: Path) -> None:
    dictionary = principal_dictionary(place, "middle", tmp_path / "own")
    measured = [layer_check.measure(place / f"{n}.h5", place / "gates.h5", "middle", dictionary) for n in (0, 1)]
    samples = []
    for shard in (0, 1):
        with artifacts.read(place / f"{shard}.h5", "activations") as file:
            samples.append(file["sample_row"][:])
    with artifacts.read(place / "gates.h5", "gates") as file:
        valid = file["sites/middle/valid"][:]
    counted = np.concatenate(samples)
    counted = counted[valid[counted]]
    hook = "blocks.2.hook_resid_post"
    assert measured[0][hook].n + measured[1][hook].n == len(counted)
    x = torch.from_numpy(StoredSide([place / "0.h5", place / "1.h5"], "middle").take(counted))
    error = (x - dictionary.decode(dictionary.encode(x))).double().square().sum()
    total = (x - x.mean(0)).double().square().sum()
    pooled = measured[0][hook].merge(measured[1][hook])
    assert pooled.fvu == pytest.approx(float(error / total), rel=1e-4)
