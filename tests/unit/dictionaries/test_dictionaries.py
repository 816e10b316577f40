import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from diptych.activations import rows
from diptych.dictionaries import sae as dictionaries
from diptych.dictionaries import sources, training
from diptych.runtime.errors import DiptychError

WIDTH, FEATURES, K = 16, 24, 3
WEIGHTS = dictionaries.WEIGHTS_FILE
ARCHITECTURES = ("standard", "topk", "batchtopk", "jumprelu")
SETTINGS = training.Settings(
    n_features=FEATURES, k=K, batch=256, learning_rate=1e-2, l1_coefficient=0.5, seed=0, steps=20
)


def sparse_rows(n=3000, seed=0):
    """Rows that are sums of a few of FEATURES random directions, far from the origin and of odd scale."""
    generator = np.random.default_rng(seed)
    directions = generator.standard_normal((FEATURES, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    active = generator.random((n, FEATURES)) < K / FEATURES
    codes = active * generator.lognormal(0, 0.3, (n, FEATURES))
    x = 40 * (codes @ directions + 3).astype(np.float32)
    return rows.in_memory([x], np.arange(n) // 30)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dictionary of each architecture, trained for a moment on the same rows."""
    place = tmp_path_factory.mktemp("dictionaries")
    made = sparse_rows()
    for architecture in ARCHITECTURES:
        training.train(
            made,
            place / architecture,
            replace(SETTINGS, architecture=architecture, steps=300),
            spec={"architecture": architecture},
            metadata={"model_name": "base", "hook_name": "blocks.1.hook_resid_post"},
        )
    return made, place


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reads_as_saelens_reads(trained, architecture):
    from sae_lens import SAE

    made, place = trained
    sae = SAE.load_from_disk(place / architecture)
    mine = dictionaries.load(place / architecture)
    x = torch.from_numpy(made.take(np.arange(200)).x[0])
    with torch.no_grad():
        theirs = sae.encode(x)
        torch.testing.assert_close(mine.encode(x), theirs, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(mine.decode(mine.encode(x)), sae.decode(theirs), rtol=1e-4, atol=1e-3)
    assert (mine.width, mine.n_features) == (WIDTH, FEATURES)
    assert mine.metadata["model_name"] == "base"
    np.testing.assert_allclose(np.linalg.norm(mine.W_dec, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_reconstructs_held_out_rows(trained, architecture):
    report = json.loads((trained[1] / architecture / "training.json").read_text())
    assert report["test"]["fvu"] < 0.25
    assert report["test"]["l0"] < 2.5 * K
    assert report["train"]["rows"] + report["test"]["rows"] == 3000


def test_topk_finds_the_planted_directions(trained):
    generator = np.random.default_rng(0)
    directions = generator.standard_normal((FEATURES, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found = dictionaries.load(trained[1] / "topk").W_dec
    assert np.median(np.abs(directions @ found.T).max(axis=1)) > 0.9


def test_batchtopk_is_sparse_as_asked(trained):
    """SAELens' running threshold gives other sparsities after a short run; the saved one is set on training rows."""
    made, place = trained
    dictionary = dictionaries.load(place / "batchtopk")
    x = torch.from_numpy(made.take(np.flatnonzero(made.fold != 0)).x[0])
    assert float((dictionary.encode(x) > 0).sum(dim=1).float().mean()) == pytest.approx(K, abs=0.01)
    assert len(np.unique(dictionary.threshold)) == 1


def test_same_inputs_give_same_bytes_whatever_the_test_fold(tmp_path):
    made = sparse_rows()
    x = made.take(np.arange(len(made))).x[0].copy()
    x[made.fold == 0] += 100
    changed = rows.in_memory([x], made.document)
    for name, source in (("one", made), ("two", made), ("changed", changed)):
        training.train(source, tmp_path / name, SETTINGS, spec={})
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (tmp_path / "two" / "manifest.json").read_bytes()
    first, other = ((tmp_path / name / dictionaries.WEIGHTS_FILE).read_bytes() for name in ("one", "changed"))
    assert first == other
    config = json.loads((tmp_path / "one" / dictionaries.CONFIG_FILE).read_text())
    assert list(config) == sorted(config)  # SAELens writes them in the order of a set of strings


def test_seeds_differ(trained, tmp_path):
    for name, seed in (("one", 0), ("other", 1)):
        training.train(trained[0], tmp_path / name, replace(SETTINGS, seed=seed, steps=5), spec={})
    one, other = (dictionaries.load(tmp_path / name).W_dec for name in ("one", "other"))
    assert np.abs(one @ other.T).max(axis=1).mean() < 0.95


def test_every_row_is_read_once_an_epoch():
    n = 1000
    made = rows.in_memory([np.arange(n, dtype=np.float32)[:, None]], np.arange(n))
    chosen = np.flatnonzero(made.fold != 0)
    scale = training.Scale(np.zeros(1, dtype=np.float32), 1.0)
    batches = training._batches(made, chosen, scale, training.Settings(batch=100), 0)
    epoch = torch.cat([next(batches) for _ in range(len(chosen) // 100)]).numpy().ravel()
    assert sorted(epoch) == chosen.tolist()
    assert not np.array_equal(epoch, np.sort(epoch))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch, capsys, architecture):
    from sae_lens.training.sae_trainer import SAETrainer

    made = sparse_rows()
    how = {"settings": replace(SETTINGS, architecture=architecture, steps=30), "spec": {"a": 1}, "checkpoint_every": 8}
    training.train(made, tmp_path / "whole", **how)
    step, taken = SAETrainer.step, []

    def killed(self, batch):
        taken.append(self.n_training_steps)
        if len(taken) == 20:
            raise KilledError
        return step(self, batch)

    monkeypatch.setattr(SAETrainer, "step", killed)
    with pytest.raises(KilledError):
        training.train(made, tmp_path / "killed", **how)
    assert (tmp_path / ".killed.checkpoint").exists()
    capsys.readouterr()
    training.train(made, tmp_path / "killed", **how)
    shown = capsys.readouterr().err
    for text in ("| 4096/7680 [", "| 7.68k/7.68k [", "loss=", "score: 100%"):  # 16 of 30 steps of 256 rows were done
        assert text in shown, text
    assert taken == [*range(20), *range(16, 30)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]
    for name in ("manifest.json", dictionaries.WEIGHTS_FILE, dictionaries.CONFIG_FILE, "training.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def write(place, config, weights):
    place.mkdir()
    (place / dictionaries.CONFIG_FILE).write_text(json.dumps({"dtype": "float32", "device": "cpu"} | config))
    save_file(weights, place / dictionaries.WEIGHTS_FILE)
    return place


def weights(seed=0, **more):
    generator = np.random.default_rng(seed)
    shapes = {"W_enc": (WIDTH, FEATURES), "W_dec": (FEATURES, WIDTH), "b_enc": (FEATURES,), "b_dec": (WIDTH,)}
    made = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return made | {name: np.full(FEATURES, value, dtype=np.float32) for name, value in more.items()}


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ({"architecture": "standard", "apply_b_dec_to_input": False}, {}),
        ({"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": True}, {}),
        ({"architecture": "topk", "k": 4}, {}),
        ({"architecture": "jumprelu", "apply_b_dec_to_input": False}, {"threshold": 0.7}),
    ],
)
def test_settings_of_published_dictionaries(tmp_path, config, more):
    from sae_lens import SAE

    sizes = {"d_in": WIDTH, "d_sae": FEATURES, "metadata": {"sae_lens_version": "6.0.0"}}
    place = write(tmp_path / "d", config | sizes, weights(**more))
    sae, mine = SAE.load_from_disk(place), dictionaries.load(place)
    x = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        codes = sae.encode(x)
        torch.testing.assert_close(mine.encode(x), codes, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.decode(mine.encode(x)), sae.decode(codes), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "gated"}, "architecture 'gated' is not read"),
        ({"architecture": "standard", "normalize_activations": "layer_norm"}, "its inputs are normalised"),
        ({"architecture": "standard", "reshape_activations": "hook_z"}, "reads reshaped activations"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(tmp_path, config, message):
    with pytest.raises(DiptychError, match=message):
        dictionaries.load(write(tmp_path / "d", config, weights()))


def test_damaged_directories_are_refused(tmp_path):
    with pytest.raises(DiptychError, match=r"holds no cfg\.json"):
        dictionaries.load(tmp_path)
    place = write(tmp_path / "d", {"architecture": "standard"}, weights())
    whole = (place / dictionaries.WEIGHTS_FILE).read_bytes()
    (place / dictionaries.WEIGHTS_FILE).write_bytes(whole[:-100])
    with pytest.raises(DiptychError, match="missing or cut short"):
        dictionaries.load(place)
    half = {name: values.astype(np.float16) for name, values in weights().items()}
    save_file(half, place / dictionaries.WEIGHTS_FILE)
    with pytest.raises(DiptychError, match="is F16"):
        dictionaries.load(place)
    assert load_file(place / dictionaries.WEIGHTS_FILE)


@pytest.mark.parametrize(
    ("settings", "message"), [({"batch": 10_000}, "less than one batch"), ({"k": 100}, "k 100 exceeds n_features")]
)
def test_training_refuses(tmp_path, settings, message):
    with pytest.raises(DiptychError, match=message):
        training.train(sparse_rows(), tmp_path / "d", replace(SETTINGS, **settings), spec={})


# --- published dictionaries -----------------------------------------------------------------------------------------


def test_sparsify_directory(tmp_path):
    """Against sparsify's own equations, with top-k written out."""
    stored = weights(seed=3)
    W, W_dec, b_enc, b_dec = stored["W_enc"].T.copy(), stored["W_dec"], stored["b_enc"], stored["b_dec"]
    place = tmp_path / "layers.3"
    place.mkdir()
    (place / "cfg.json").write_text(json.dumps({"k": 4, "d_in": WIDTH, "activation": "topk", "expansion_factor": 1.5}))
    save_file({"encoder.weight": W, "encoder.bias": b_enc, "W_dec": W_dec, "b_dec": b_dec}, place / "sae.safetensors")
    sources.fetch(tmp_path / "out", spec={}, source={"kind": "sparsify", "path": str(place)})
    mine = dictionaries.load(tmp_path / "out")
    x = np.random.default_rng(0).standard_normal((50, WIDTH)).astype(np.float32)
    before = np.maximum((x - b_dec) @ W.T + b_enc, 0)
    codes = np.where(before >= np.sort(before, axis=1)[:, [-4]], before, 0)
    np.testing.assert_allclose(mine.encode(torch.from_numpy(x)).numpy(), codes, rtol=1e-4, atol=1e-4)
    decoded = mine.decode(torch.from_numpy(codes)).numpy()
    np.testing.assert_allclose(decoded, codes @ W_dec + b_dec, rtol=1e-4, atol=1e-4)


def test_saelens_directory_is_stored_in_float32(trained, tmp_path):
    source = tmp_path / "half"
    config = json.loads((trained[1] / "topk" / dictionaries.CONFIG_FILE).read_text()) | {"dtype": "float16"}
    write(source, config, {k: v.astype(np.float16) for k, v in load_file(trained[1] / "topk" / WEIGHTS).items()})
    sources.fetch(tmp_path / "out", spec={}, source={"kind": "directory", "path": str(source)})
    mine, exact = dictionaries.load(tmp_path / "out"), dictionaries.load(trained[1] / "topk")
    np.testing.assert_allclose(mine.W_dec, exact.W_dec, atol=1e-3)
    assert mine.metadata["hook_name"] == "blocks.1.hook_resid_post"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "saelens", "release": "gpt2-small-res-jbb", "id": "blocks.9"}, "no release .*did you mean 'gpt2-"),
        ({"kind": "saelens", "release": "gpt2-small-res-jb", "id": "blocks.9.hook_resid_prey"}, "did you mean 'blocks"),
        ({"kind": "sparsify", "path": "/nowhere"}, "holds no cfg.json; not a sparsify directory"),
        ({"kind": "directory", "path": "/nowhere"}, "holds no cfg.json; not a SAELens directory"),
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
    assert dictionaries.load(tmp_path / "out").metadata["hook_name"] == "blocks.3.hook_resid_pre"


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


def test_a_sparsify_folder_names_its_hook(tmp_path):
    hook = sources._hook_of
    assert hook("layers.3") == {"hook_name": "blocks.3.hook_resid_post"}
    assert hook("gpt_neox.layers.3.mlp") == {"hook_name": "blocks.3.hook_mlp_out"}
    assert hook("elsewhere") == {}


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
    assert dictionaries.load(tmp_path / "out").metadata["hook_name"] == "blocks.3.hook_resid_post"
    with pytest.raises(DiptychError, match="holds no cfg"):
        sources.fetch(tmp_path / "no", spec={}, source={**source, "hookpoint": "layers.9"})


def test_a_dictionary_of_centred_activations_reads_the_models_own(tmp_path):
    """Codes of x are those that the published weights give to x less its mean over the coordinates."""
    place = write(tmp_path / "d", {"architecture": "standard"}, weights())
    before = dictionaries.load(place)
    sources._read_centred(place)
    after = dictionaries.load(place)
    x = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(0)) + 5
    centred = x - x.mean(dim=1, keepdim=True)
    torch.testing.assert_close(after.encode(x), before.encode(centred), rtol=1e-4, atol=1e-4)


def test_releases_come_from_the_installed_saelens():
    from diptych.dictionaries import releases

    listed = releases.listing(releases.MODELS)
    for release in ("gpt2-small-res-jb", "pythia-70m-deduped-res-sm", "gemma-2b-res-jb", "gemma-2b-it-res-jb",
                    "gemma-scope-2b-pt-res-canonical", "llama_scope_lxr_8x"):  # fmt: skip
        assert release in listed
    assert "blocks.8.hook_resid_pre" in releases.releases("gpt2-small")["gpt2-small-res-jb"]
    assert set(releases.releases("meta-llama/Llama-3.1-8B")) >= {"llama_scope_lxm_8x"}
