"""Sources of published dictionaries, and what one says of itself against what the config gives it."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from diptych.dictionaries import sae
from diptych.dictionaries.published import sources
from diptych.runtime.errors import DiptychError
from saelens_directories import WIDTH, weights, write


def test_sparsify_directory(tmp_path):
    """Against sparsify's own equations, with top-k written out."""
    stored = weights(seed=3)
    W, W_dec, b_enc, b_dec = stored["W_enc"].T.copy(), stored["W_dec"], stored["b_enc"], stored["b_dec"]
    place = tmp_path / "layers.3"
    place.mkdir()
    (place / "cfg.json").write_text(json.dumps({"k": 4, "d_in": WIDTH, "activation": "topk", "expansion_factor": 1.5}))
    save_file({"encoder.weight": W, "encoder.bias": b_enc, "W_dec": W_dec, "b_dec": b_dec}, place / "sae.safetensors")
    sources.fetch(tmp_path / "out", spec={}, source={"kind": "sparsify", "path": str(place)})
    mine = sae.load(tmp_path / "out")
    x = np.random.default_rng(0).standard_normal((50, WIDTH)).astype(np.float32)
    before = np.maximum((x - b_dec) @ W.T + b_enc, 0)
    codes = np.where(before >= np.sort(before, axis=1)[:, [-4]], before, 0)
    np.testing.assert_allclose(mine.encode(torch.from_numpy(x)).numpy(), codes, rtol=1e-4, atol=1e-4)
    decoded = mine.decode(torch.from_numpy(codes)).numpy()
    np.testing.assert_allclose(decoded, codes @ W_dec + b_dec, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "torch.float32", "float64"])
def test_saelens_directory_is_stored_in_float32(tmp_path, dtype):
    from safetensors.torch import load_file, save_file

    stored = {name: torch.from_numpy(values).to(getattr(torch, dtype.removeprefix("torch.")))
              for name, values in weights().items()}  # fmt: skip
    metadata = {"hook_name": "blocks.1.hook_resid_post", "sae_lens_version": "6.1.0"}
    place = write(tmp_path / "d", {"architecture": "topk", "k": 2, "dtype": dtype, "metadata": metadata}, weights())
    save_file(stored, place / "sae_weights.safetensors")
    sources.fetch(tmp_path / "out", spec={}, source={"kind": "directory", "path": str(place)})
    for name, values in load_file(tmp_path / "out" / "sae_weights.safetensors").items():
        torch.testing.assert_close(values, stored[name].float(), rtol=0, atol=0)
    assert json.loads((tmp_path / "out" / "cfg.json").read_text())["dtype"] == "float32"
    assert sae.load(tmp_path / "out").metadata == metadata


def test_a_float32_directory_is_stored_as_it_is(tmp_path):
    config = {"architecture": "topk", "k": 2, "metadata": {"hook_name": "blocks.1.hook_resid_post"}}
    place = write(tmp_path / "d", config, weights())
    sources.fetch(tmp_path / "out", spec={}, source={"kind": "directory", "path": str(place)})
    name = "sae_weights.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (place / name).read_bytes()
    read, stored = (json.loads((directory / "cfg.json").read_text()) for directory in (place, tmp_path / "out"))
    assert read == stored


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "saelens", "release": "gpt2-small-res-jbb", "id": "blocks.9"}, "no release .*did you mean 'gpt2-"),
        ({"kind": "saelens", "release": "gpt2-small-res-jb", "id": "blocks.9.hook_resid_prey"}, "did you mean 'blocks"),
        ({"kind": "sparsify", "path": "/nowhere"}, "holds no cfg.json; not a sparsify directory"),
        ({"kind": "directory", "path": "/nowhere"}, r"out \(/nowhere\): holds no cfg.json; not a SAELens directory"),
        ({"kind": "ftp"}, "unknown kind 'ftp'"),
    ],
)
def test_sources_refuse(tmp_path, source, message):
    with pytest.raises(DiptychError, match=message) as caught:
        sources.fetch(tmp_path / "out", spec={}, source=source)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


# --- what a dictionary says of itself against what the config gives it ----------------------------------------------

SHAPE = {"n_layers": 6, "width": WIDTH, "vocabulary": 100, "context": 64, "architecture": "gpt_neox"}


def published(place, hook="blocks.3.hook_resid_pre", model="pythia-70m-deduped", **metadata):
    config = {"architecture": "standard", "dtype": "float32",
              "metadata": {"hook_name": hook, "model_name": model, **metadata}}  # fmt: skip
    return write(place, config, weights())


def reader(site="blocks.2.hook_resid_post", name="EleutherAI/pythia-70m-deduped", **shape):
    return sources.Reader("base", name, site, SHAPE | shape)


def test_the_stream_before_a_block_is_that_after_the_block_before(tmp_path):
    source = {"kind": "directory", "path": str(published(tmp_path / "d"))}
    for site in ("blocks.2.hook_resid_post", "blocks.3.hook_resid_pre", "0.34"):
        sources.fetch(tmp_path / "out", spec={}, source=source, reader=reader(site))
    assert sae.load(tmp_path / "out").metadata["hook_name"] == "blocks.3.hook_resid_pre"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"site": "blocks.3.hook_resid_post"},
            r"dictionaries.out.site: .*blocks.3.hook_resid_post in base.*reads blocks",
        ),
        ({"site": "middle"}, "set the site that it reads"),
        ({"name": "EleutherAI/pythia-160m"}, "dictionaries.out.model: 'base' is EleutherAI/pythia-160m.*trained_on"),
        ({"width": 32}, "reads rows of width 16, but base has width 32"),
    ],
)
def test_a_dictionary_for_something_else_is_refused(tmp_path, given, message):
    source = {"kind": "directory", "path": str(published(tmp_path / "d"))}
    with pytest.raises(DiptychError, match=message) as caught:
        sources.fetch(tmp_path / "out", spec={}, source=source, reader=reader(**given))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_names_of_models():
    same = sources.same_model
    assert same("gpt2-small", "openai-community/gpt2")
    assert same("gemma-2-2b", "google/gemma-2-2b")
    assert not same("gemma-2-2b", "google/gemma-2-2b-it")


def test_sparsify_comes_from_the_hub_by_its_folder(tmp_path, monkeypatch):
    """Out of the hub's own cache layout, offline."""
    import huggingface_hub

    snapshot = tmp_path / "hub" / "models--owner--saes" / "snapshots" / ("a" * 40)
    (snapshot / "layers.3").mkdir(parents=True)
    refs = tmp_path / "hub" / "models--owner--saes" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    stored = weights(seed=3)
    (snapshot / "layers.3" / "cfg.json").write_text(json.dumps({"k": 4, "activation": "topk"}))
    save_file(
        {"encoder.weight": stored["W_enc"].T.copy(), "encoder.bias": stored["b_enc"],
         "W_dec": stored["W_dec"], "b_dec": stored["b_dec"]}, snapshot / "layers.3" / "sae.safetensors",
    )  # fmt: skip
    download = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download",
        lambda *args, **more: download(*args, **more, cache_dir=tmp_path / "hub", local_files_only=True),
    )  # fmt: skip
    source = {"kind": "sparsify", "id": "owner/saes", "hookpoint": "layers.3", "revision": "main", "path": None}
    sources.fetch(tmp_path / "out", spec={}, source=source, reader=reader("blocks.3.hook_resid_post", name=None))
    assert sae.load(tmp_path / "out").metadata["hook_name"] == "blocks.3.hook_resid_post"
    with pytest.raises(DiptychError, match="holds no cfg"):
        sources.fetch(tmp_path / "no", spec={}, source={**source, "hookpoint": "layers.9"})


def test_releases_come_from_the_installed_saelens():
    from diptych.dictionaries.published import releases

    listed = releases.listing(releases.MODELS)
    for release in ("gpt2-small-res-jb", "pythia-70m-deduped-res-sm", "gemma-2b-res-jb", "gemma-2b-it-res-jb",
                    "gemma-scope-2b-pt-res-canonical", "llama_scope_lxr_8x"):  # fmt: skip
        assert release in listed
    assert "blocks.8.hook_resid_pre" in releases.releases("gpt2-small")["gpt2-small-res-jb"]
    assert set(releases.releases("meta-llama/Llama-3.1-8B")) >= {"llama_scope_lxm_8x"}
