"""dictionary_learning's classes, each against its own equations written out, and its directories."""

import json
import pickle

import numpy as np
import pytest
import torch

from diptych.dictionaries import sae
from diptych.dictionaries.published import dictionary_learning, hookpoints, sources
from diptych.runtime.errors import DiptychError
from saelens_directories import FEATURES, WIDTH, assert_reads_as

K = 4
SITE = "blocks.3.hook_resid_post"


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(**more):
    """State of a class with linear layers."""
    return {
        "encoder.weight": normal(FEATURES, WIDTH, seed=1),
        "encoder.bias": normal(FEATURES, seed=2),
        "decoder.weight": normal(WIDTH, FEATURES, seed=3),
        **more,
    }


def plain(**more):
    """State of a class with SAELens' names."""
    return {
        "W_enc": normal(WIDTH, FEATURES, seed=1),
        "b_enc": normal(FEATURES, seed=2),
        "W_dec": normal(FEATURES, WIDTH, seed=3),
        "b_dec": normal(WIDTH, seed=4),
        **more,
    }


BIAS = normal(WIDTH, seed=4)
GATED = {
    "decoder_bias": BIAS,
    "r_mag": normal(FEATURES, seed=5) / 2,
    "gate_bias": normal(FEATURES, seed=6),
    "mag_bias": normal(FEATURES, seed=7),
}
COUNT, THRESHOLD = torch.tensor(K, dtype=torch.int), torch.tensor(1.5)
STATES = {
    "AutoEncoder": linear(bias=BIAS),
    "AutoEncoderNew": linear(**{"decoder.bias": BIAS}),
    "GatedAutoEncoder": {name: value for name, value in linear(**GATED).items() if name != "encoder.bias"},
    "AutoEncoderTopK": linear(b_dec=BIAS, k=COUNT, threshold=torch.tensor(-1.0)),
    "BatchTopKSAE": linear(b_dec=BIAS, k=COUNT, threshold=THRESHOLD),
    "MatryoshkaBatchTopKSAE": plain(k=COUNT, threshold=THRESHOLD, group_sizes=torch.tensor([8, 16])),
    "JumpReluAutoEncoder": plain(threshold=normal(FEATURES, seed=8).abs() + 0.1),
}


def kept(values, k):
    """The k largest of each row; 0 elsewhere."""
    top = values.topk(k, dim=-1)
    return torch.zeros_like(values).scatter(-1, top.indices, top.values)


def published(dict_class, state, x):
    """Codes and reconstructions as the class defines them, float64."""
    s = {name: value.double() for name, value in state.items()}
    match dict_class:
        case "AutoEncoder":  # from_pretrained gives the decoder unit norm and the encoder its norms
            norms = s["decoder.weight"].norm(dim=0)
            pre = (x - s["bias"]) @ (s["encoder.weight"] * norms[:, None]).T + s["encoder.bias"] * norms
            f = pre.relu()
            return f, f @ (s["decoder.weight"] / norms).T + s["bias"]
        case "AutoEncoderNew":
            f = (x @ s["encoder.weight"].T + s["encoder.bias"]).relu()
            return f, f @ s["decoder.weight"].T + s["decoder.bias"]
        case "GatedAutoEncoder":
            encoded = (x - s["decoder_bias"]) @ s["encoder.weight"].T
            gate = encoded + s["gate_bias"] > 0
            f = gate * (s["r_mag"].exp() * encoded + s["mag_bias"]).relu()
            return f, f @ s["decoder.weight"].T + s["decoder_bias"]
        case "AutoEncoderTopK":
            f = kept(((x - s["b_dec"]) @ s["encoder.weight"].T + s["encoder.bias"]).relu(), K)
            return f, f @ s["decoder.weight"].T + s["b_dec"]
        case "BatchTopKSAE":
            active = ((x - s["b_dec"]) @ s["encoder.weight"].T + s["encoder.bias"]).relu()
            f = active * (active > s["threshold"])
            return f, f @ s["decoder.weight"].T + s["b_dec"]
        case "MatryoshkaBatchTopKSAE":
            active = ((x - s["b_dec"]) @ s["W_enc"] + s["b_enc"]).relu()
            f = active * (active > s["threshold"])
            return f, f @ s["W_dec"] + s["b_dec"]
        case "JumpReluAutoEncoder":
            pre = x @ s["W_enc"] + s["b_enc"]
            f = (pre * (pre > s["threshold"])).relu()
            return f, f @ s["W_dec"] + s["b_dec"]


def trained(place, dict_class, state=None, **trainer):
    """A directory as dictionary_learning's training writes it."""
    place.mkdir(parents=True)
    config = {
        "trainer_class": "SomeTrainer", "dict_class": dict_class, "lr": 1e-4, "steps": 1000, "seed": 0,
        "activation_dim": WIDTH, "dict_size": FEATURES, "device": "cuda:0", "layer": 3,
        "lm_name": "EleutherAI/pythia-70m-deduped", "wandb_name": dict_class, "submodule_name": "resid_post_layer_3",
    }  # fmt: skip
    if "TopK" in str(dict_class):
        config["k"] = K
    buffer = {"d_submodule": WIDTH, "io": "out", "n_ctxs": 244, "ctx_len": 1024, "device": "cuda:0"}
    (place / "config.json").write_text(json.dumps({"trainer": config | trainer, "buffer": buffer}))
    torch.save(STATES[dict_class] if state is None else state, place / "ae.pt")
    return place


def fetched(tmp_path, place, reader=None):
    source = {"kind": "dictionary_learning", "path": str(place)}
    sources.fetch(tmp_path / "out", spec={}, source=source, reader=reader)
    return sae.load(tmp_path / "out")


def rows():
    return (2 * normal(300, WIDTH, seed=9) + 0.5).numpy()


@pytest.mark.parametrize("dict_class", STATES)
def test_every_class_is_read_as_it_is_defined(tmp_path, dict_class):
    from sae_lens import SAE

    x = rows()
    codes, decoded = published(dict_class, STATES[dict_class], torch.from_numpy(x).double())
    assert 0 < (codes > 0).double().mean() < 0.9
    dictionary = fetched(tmp_path, trained(tmp_path / "d", dict_class))
    assert_reads_as(dictionary, codes, decoded, x)
    assert dictionary.metadata["hook_name"] == SITE
    stored = SAE.load_from_disk(tmp_path / "out", dtype="float64")  # in SAELens' own format
    with torch.no_grad():
        theirs = stored.encode(torch.from_numpy(x).double())
        torch.testing.assert_close(theirs, codes, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stored.decode(theirs), decoded, rtol=1e-5, atol=1e-4)


def test_a_decoder_of_unit_norm_is_left_as_it_is(tmp_path):
    state = linear(bias=BIAS)
    state["decoder.weight"] = state["decoder.weight"] / state["decoder.weight"].norm(dim=0)
    dictionary = fetched(tmp_path, trained(tmp_path / "d", "AutoEncoder", state))
    np.testing.assert_array_equal(dictionary.W_enc, state["encoder.weight"].T)
    np.testing.assert_array_equal(dictionary.W_dec, state["decoder.weight"].T)


def test_half_precision_is_stored_in_float32(tmp_path):
    state = {name: value.bfloat16() for name, value in STATES["JumpReluAutoEncoder"].items()}
    dictionary = fetched(tmp_path, trained(tmp_path / "d", "JumpReluAutoEncoder", state))
    np.testing.assert_array_equal(dictionary.W_dec, state["W_dec"].float())


def test_early_top_k_has_its_k_in_the_config_alone(tmp_path):
    state = linear(b_dec=BIAS)
    assert fetched(tmp_path, trained(tmp_path / "d", "AutoEncoderTopK", state)).k == K


CROSSCODER = {"W_enc": normal(2, WIDTH, FEATURES, seed=1)}
REFUSED = [
    ("BatchTopKCrossCoder", CROSSCODER, {}, "dict_class 'BatchTopKCrossCoder' is not read here; use one of AutoE"),
    ("IdentityDict", {}, {}, "dict_class 'IdentityDict' is not read"),
    (None, STATES["AutoEncoder"], {}, "dict_class 'None' is not read"),
    ("AutoEncoder", STATES["AutoEncoderTopK"], {}, "ae.pt has no bias, which AutoEncoder needs"),
    ("AutoEncoder", STATES["AutoEncoder"] | {"activation_mean": BIAS}, {}, "ae.pt has activation_mean, which is"),
    ("AutoEncoder", STATES["AutoEncoder"], {"norm_factor": 3.5}, "trainer.norm_factor is 3.5, and nothing says"),
    ("AutoEncoder", STATES["AutoEncoder"], {"activation_dim": 8}, "trainer.activation_dim is 8, but ae.pt has 16"),
    ("AutoEncoder", STATES["AutoEncoder"], {"dict_size": 8}, "trainer.dict_size is 8, but ae.pt has 24"),
    ("AutoEncoder", STATES["AutoEncoder"] | {"encoder.bias": BIAS}, {}, r"b_enc has shape \(16,\), expected \(24,\)"),
    ("AutoEncoderTopK", STATES["AutoEncoderTopK"], {"k": 7}, "trainer.k is 7, but ae.pt has k 4"),
    ("AutoEncoderTopK", linear(b_dec=BIAS), {"k": None}, "trainer.k is None, but ae.pt has k None"),
    ("BatchTopKSAE", STATES["BatchTopKSAE"] | {"threshold": torch.tensor(-1.0)}, {}, "its threshold is -1, never set"),
    ("BatchTopKSAE", linear(b_dec=BIAS, k=COUNT), {}, "ae.pt has no threshold, which BatchTopKSAE needs"),
    ("AutoEncoder", [1, 2], {}, "ae.pt is no state of a dictionary"),
]  # fmt: skip


@pytest.mark.parametrize(("dict_class", "state", "trainer", "message"), REFUSED)
def test_what_would_be_read_wrongly_is_refused(tmp_path, dict_class, state, trainer, message):
    place = trained(tmp_path / "d", dict_class, state, **trainer)
    with pytest.raises(DiptychError, match=message) as caught:
        fetched(tmp_path, place)
    assert str(caught.value).startswith(f"dictionaries.out ({place}): ")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


class Marker:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_but_tensors_is_unpickled(tmp_path):
    place = trained(tmp_path / "d", "AutoEncoder")
    (place / "ae.pt").write_bytes(pickle.dumps({"bias": Marker(tmp_path / "ran")}))
    with pytest.raises(DiptychError, match=r"\): ae.pt holds no plain tensors \(Weights only load failed"):
        fetched(tmp_path, place)
    torch.save({"bias": Marker(tmp_path / "ran")}, place / "ae.pt")
    with pytest.raises(DiptychError, match="holds no plain tensors"):
        fetched(tmp_path, place)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "holds no config.json; not a dictionary_learning directory"),
        ("ae.pt", None, "holds no ae.pt; not a dictionary_learning directory"),
        ("config.json", b"{", "config.json is no JSON"),
        ("config.json", b"{}", "config.json has no trainer"),
        ("ae.pt", b"", "ae.pt holds no plain tensors"),
    ],
)
def test_damaged_directories_are_refused(tmp_path, name, content, message):
    place = trained(tmp_path / "d", "AutoEncoder")
    (place / name).unlink() if content is None else (place / name).write_bytes(content)
    with pytest.raises(DiptychError, match=message) as caught:
        fetched(tmp_path, place)
    assert str(caught.value).startswith(f"dictionaries.out ({place}): ")


def reader(site=SITE, name="EleutherAI/pythia-70m-deduped"):
    shape = {"n_layers": 6, "width": WIDTH, "vocabulary": 100, "context": 64, "architecture": "gpt_neox"}
    return sources.Reader("small", name, site, shape)


@pytest.mark.parametrize("submodule_name", ["resid_post_layer_3", None])
def test_hook_and_model_are_compared(tmp_path, submodule_name):
    """The folder says the submodule where the config does not."""
    place = trained(tmp_path / "resid_post_layer_3" / "trainer_0", "AutoEncoder", submodule_name=submodule_name)
    fetched(tmp_path, place, reader())
    with pytest.raises(
        DiptychError, match=r"^dictionaries.out.site: .* but this dictionary \(.*trainer_0\) reads blocks.3"
    ):
        fetched(tmp_path, place, reader("blocks.2.hook_resid_post"))
    with pytest.raises(
        DiptychError, match=r"^dictionaries.out.model: .*trainer_0\) was made for EleutherAI/pythia-70m-d"
    ):
        fetched(tmp_path, place, reader(name="EleutherAI/pythia-160m"))


def test_what_is_read_of_the_submodule(tmp_path):
    """A submodule's input is another hook than its name says, and a transcoder reads one and decodes another."""
    place = trained(tmp_path / "d", "AutoEncoder")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"buffer": {"io": "in"}}))
    assert "hook_name" not in fetched(tmp_path, place, reader("blocks.5.hook_resid_post")).metadata
    (place / "config.json").write_text(json.dumps(config | {"buffer": {"io": "in_and_out"}}))
    with pytest.raises(DiptychError, match=r"buffer\.io is in_and_out, a transcoder's"):
        fetched(tmp_path, place)


def test_names_of_hookpoints():
    names = {
        "resid_post_layer_8": "blocks.8.hook_resid_post",
        "resid_out_layer3": "blocks.3.hook_resid_post",
        "resid_pre_layer_2": "blocks.2.hook_resid_pre",
        "mlp_out_layer_5": "blocks.5.hook_mlp_out",
        "mlp_layer5": "blocks.5.hook_mlp_out",
        "attn_out_layer5": "blocks.5.hook_attn_out",
        "attention_out_layer_5": "blocks.5.hook_attn_out",
        "layers.3": SITE,
        "gpt_neox.layers.3.mlp": "blocks.3.hook_mlp_out",
        "transformer.h.3": SITE,
        "mlp_in_layer_5": None,
        "trainer_0": None,
        "blocks.3.hook_resid_pre": None,
        "None": None,
    }
    assert {name: hookpoints.hook_of(name) for name in names} == names


def test_it_comes_from_the_hub_by_its_folder(tmp_path, monkeypatch):
    """Out of the hub's own cache layout, offline."""
    import huggingface_hub

    repository = tmp_path / "hub" / "models--owner--saes"
    trained(repository / "snapshots" / ("a" * 40) / "resid_post_layer_3" / "trainer_0", "BatchTopKSAE")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    download = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download",
        lambda *args, **more: download(*args, **more, cache_dir=tmp_path / "hub", local_files_only=True),
    )  # fmt: skip
    folder = "resid_post_layer_3/trainer_0"
    source = {"kind": "dictionary_learning", "id": "owner/saes", "folder": folder, "revision": "main", "path": None}
    sources.fetch(tmp_path / "out", spec={}, source=source, reader=reader())
    assert sae.load(tmp_path / "out").architecture == "jumprelu"
    message = r"^dictionaries.no \(owner/saes resid_post_layer_9\): holds no config.json"
    with pytest.raises(DiptychError, match=message):
        sources.fetch(tmp_path / "no", spec={}, source={**source, "folder": "resid_post_layer_9"})


def test_rows_that_a_trainer_scales_are_read_as_they_are(tmp_path):
    """A trainer that divides rows by their norm multiplies biases and thresholds by it: codes grow with the rows."""
    norm = 3.7
    state = {
        name: value * norm if value.is_floating_point() and value.ndim < 2 else value
        for name, value in STATES["BatchTopKSAE"].items()
    }
    x = rows()
    codes, decoded = published("BatchTopKSAE", STATES["BatchTopKSAE"], torch.from_numpy(x).double() / norm)
    dictionary = fetched(tmp_path, trained(tmp_path / "d", "BatchTopKSAE", state))
    assert_reads_as(dictionary, codes * norm, decoded * norm, x)


def test_every_layout_names_what_its_architecture_needs():
    from diptych.dictionaries.saelens_format import TENSORS

    for dict_class, layout in dictionary_learning.LAYOUTS.items():
        assert set(layout.tensors.values()) == set(TENSORS[layout.architecture]), dict_class
