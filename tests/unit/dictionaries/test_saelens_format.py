"""What every version of SAELens writes, against SAELens' own `encode` and `decode` in float64."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from diptych.dictionaries import sae, saelens_format
from diptych.dictionaries.published import sources
from diptych.runtime.errors import DiptychError
from saelens_directories import FEATURES, WIDTH, assert_reads_as, saelens_on, weights, weights_of, write

HOOK = "blocks.1.hook_resid_post"
SIZES = {"d_in": WIDTH, "d_sae": FEATURES}
METADATA = {"sae_lens_version": "6.0.0", "hook_name": HOOK}


def rows(n=200, seed=1):
    """Rows far from the origin and of very different norms."""
    generator = np.random.default_rng(seed)
    scale = generator.lognormal(0, 1, (n, 1))
    return (scale * (generator.standard_normal((n, WIDTH)) + 0.5)).astype(np.float32)


def fetched(tmp_path, place, **reader):
    sources.fetch(tmp_path / "out", spec={}, source={"kind": "directory", "path": str(place)}, **reader)
    return sae.load(tmp_path / "out")


ENCODERS = [
    {"architecture": "standard"},
    {"architecture": "topk", "k": 4},
    {"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": True},
    {"architecture": "jumprelu"},
    {"architecture": "gated"},
]


@pytest.mark.parametrize("reads_b_dec", [True, False])
@pytest.mark.parametrize("normalise", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: "-".join(encoder))
def test_every_encoder_and_normalisation(tmp_path, encoder, normalise, reads_b_dec):
    config = {"normalize_activations": normalise, "apply_b_dec_to_input": reads_b_dec, "metadata": METADATA}
    place = write(tmp_path / "d", encoder | SIZES | config, weights_of(encoder["architecture"]))
    x = rows()
    codes, decoded = saelens_on(place, x)
    assert 0 < (codes > 0).mean() < 0.9
    dictionary, decoder = sae.load(place), sae.Decoder(place)
    assert_reads_as(dictionary, codes, decoded, x)
    np.testing.assert_allclose(decoder.rows([3, 0]), dictionary.W_dec[[3, 0]], rtol=1e-6)
    assert (decoder.n_features, decoder.width) == dictionary.W_dec.shape
    assert_reads_as(fetched(tmp_path, place), codes, decoded, x)
    again, decoded_again = saelens_on(tmp_path / "out", x)  # what is stored is SAELens' own format
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_array_equal(decoded_again, decoded)


def test_heads_are_read_side_by_side(tmp_path):
    """SAELens flattens [heads, d_head]; rows are stored flat."""
    config = {"architecture": "standard", "reshape_activations": "hook_z"}
    metadata = METADATA | {"hook_name": "blocks.1.attn.hook_z"}
    place = write(tmp_path / "d", config | SIZES | {"metadata": metadata}, weights())
    x = rows()
    codes, decoded = saelens_on(place, x.reshape(len(x), 4, 4))
    assert_reads_as(fetched(tmp_path, place), codes, decoded.reshape(x.shape), x)


def test_a_row_of_zeros_has_a_code(tmp_path):
    config = {"architecture": "standard", "normalize_activations": "constant_norm_rescale", "metadata": METADATA}
    dictionary = sae.load(write(tmp_path / "d", config, weights()))
    zero = torch.zeros(1, WIDTH)
    codes = dictionary.encode(zero)
    assert torch.isfinite(codes).all()
    assert torch.equal(dictionary.decode(codes, zero), zero)


def test_normalised_codes_need_their_rows_to_be_decoded(tmp_path):
    config = {"architecture": "standard", "normalize_activations": "layer_norm", "metadata": METADATA}
    dictionary = sae.load(write(tmp_path / "d", config, weights()))
    with pytest.raises(ValueError, match="layer_norm: the rows are needed"):
        dictionary.decode(torch.zeros(1, FEATURES))


# --- older versions -------------------------------------------------------------------------------------------------

VERSION_1 = {  # the whole configuration of a run, without an architecture
    "model_name": "gpt2-small", "hook_point": HOOK, "hook_point_layer": 1, "hook_point_head_index": None,
    "dataset_path": "Skylion007/openwebtext", "is_dataset_tokenized": False, "context_size": 128, **SIZES,
    "use_cached_activations": False, "n_batches_in_buffer": 128, "store_batch_size": 32, "dtype": "torch.float32",
    "device": "cuda", "seed": 42, "b_dec_init_method": "geometric_median", "expansion_factor": 1.5,
    "l1_coefficient": 8e-5, "lp_norm": 1, "lr": 4e-4, "use_ghost_grads": True, "log_to_wandb": True,
    "noise_scale": 0.0, "normalize_sae_decoder": True, "apply_b_dec_to_input": True, "activation_fn": "relu",
    "mse_loss_normalization": None, "tokens_per_buffer": 65536, "verbose": False,
}  # fmt: skip
VERSION_3 = {
    "architecture": "standard", **SIZES, "dtype": "float32", "device": "cuda", "model_name": "gpt2-small",
    "hook_name": HOOK, "hook_layer": 1, "hook_head_index": None, "activation_fn_str": "relu",
    "apply_b_dec_to_input": True, "finetuning_scaling_factor": False, "sae_lens_training_version": "3.11.0",
    "prepend_bos": True, "dataset_path": "Skylion007/openwebtext", "dataset_trust_remote_code": True,
    "context_size": 128, "normalize_activations": "none",
}  # fmt: skip
VERSION_5 = VERSION_3 | {
    "activation_fn_kwargs": {}, "neuronpedia_id": None, "model_from_pretrained_kwargs": {}, "seqpos_slice": [None],
    "sae_lens_training_version": "5.9.1",
}  # fmt: skip
without = {key: value for key, value in VERSION_3.items() if key != "architecture"}
OLD = {
    "1": VERSION_1,
    "1, no b_dec on the input": VERSION_1 | {"apply_b_dec_to_input": False},
    "2, normalisation as a truth value": VERSION_1 | {"normalize_activations": False},
    "3, no architecture": without,
    "3, not normalised": VERSION_3 | {"normalize_activations": None},
    "5": VERSION_5,
    "5, topk by its activation": VERSION_5 | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}},
    "5, topk": VERSION_5 | {"architecture": "topk", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}},
    "5, layer norm": VERSION_5 | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5},
                                  "normalize_activations": "layer_norm"},
    "5, constant norm": VERSION_5 | {"normalize_activations": "constant_norm_rescale"},
    "5, gated": VERSION_5 | {"architecture": "gated"},
    "5, jumprelu": VERSION_5 | {"architecture": "jumprelu", "apply_b_dec_to_input": False},
}  # fmt: skip


def reader(site=HOOK, name="openai-community/gpt2", width=WIDTH):
    shape = {"n_layers": 6, "width": width, "vocabulary": 100, "context": 64, "architecture": "gpt2"}
    return {"reader": sources.Reader("small", name, site, shape)}


@pytest.mark.parametrize("version", OLD)
def test_directories_of_older_versions(tmp_path, version):
    config = OLD[version]
    place = write(tmp_path / "d", config, weights_of(config.get("architecture", "standard")))
    x = rows()
    codes, decoded = saelens_on(place, x)
    dictionary = fetched(tmp_path, place, **reader())
    assert_reads_as(dictionary, codes, decoded, x)
    assert (dictionary.metadata["hook_name"], dictionary.metadata["model_name"]) == (HOOK, "gpt2-small")
    again, _ = saelens_on(tmp_path / "out", x)
    np.testing.assert_array_equal(again, codes)


@pytest.mark.parametrize("version", OLD)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"site": "blocks.2.hook_resid_post"},
            r"out.site: 'blocks.2.hook_resid_post' is .* reads blocks.1.hook_resid_",
        ),
        ({"name": "EleutherAI/pythia-70m"}, r"out.model: 'small' is EleutherAI/pythia-70m, but .* made for gpt2-small"),
        ({"width": 2 * WIDTH}, "reads rows of width 16, but small has width 32"),
    ],
)
def test_an_older_dictionary_for_something_else_is_refused(tmp_path, version, given, message):
    config = OLD[version]
    place = write(tmp_path / "d", config, weights_of(config.get("architecture", "standard")))
    with pytest.raises(DiptychError, match=message) as caught:
        fetched(tmp_path, place, **reader(**given))
    assert str(place) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_input_of_a_block_is_the_output_of_the_block_before_in_older_ones_too(tmp_path):
    place = write(tmp_path / "d", VERSION_1 | {"hook_point": "blocks.2.hook_resid_pre"}, weights())
    assert fetched(tmp_path, place, **reader()).metadata["hook_name"] == "blocks.2.hook_resid_pre"


def test_old_attention_heads_are_read_side_by_side(tmp_path):
    """Before version 6 the hook alone said that heads are flattened."""
    place = write(tmp_path / "d", VERSION_3 | {"hook_name": "blocks.1.attn.hook_z"}, weights())
    fetched(tmp_path, place, **reader("blocks.1.attn.hook_z"))
    assert json.loads((tmp_path / "out" / "cfg.json").read_text())["reshape_activations"] == "hook_z"


def test_a_module_of_another_library_is_its_hook(tmp_path):
    config = VERSION_5 | {"model_class_name": "AutoModelForCausalLM", "hook_name": "transformer.h.1"}
    place = write(tmp_path / "d", config, weights())
    fetched(tmp_path, place, **reader())
    with pytest.raises(DiptychError, match=r"reads transformer.h.1; set the site"):
        fetched(tmp_path, place, **reader("blocks.2.hook_resid_post"))


# --- what is folded in ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scaling_factor", "finetuning_scaling_factor"])
def test_a_factor_from_fine_tuning_is_in_the_decoder(tmp_path, name):
    """decode(f) = (f * factor) W_dec + b_dec, as SAELens 1 to 5 had it."""
    plain = weights()
    factor = np.random.default_rng(3).uniform(0.5, 2, FEATURES).astype(np.float32)
    place = write(tmp_path / "d", VERSION_3 | {"finetuning_scaling_factor": True}, plain | {name: factor})
    unscaled = write(tmp_path / "plain", VERSION_3, plain)
    x = rows()
    codes, _ = saelens_on(unscaled, x)
    decoded = (codes * factor) @ plain["W_dec"].astype(np.float64) + plain["b_dec"]
    assert_reads_as(fetched(tmp_path, place), codes, decoded, x)
    np.testing.assert_allclose(saelens_on(tmp_path / "out", x)[1], decoded, rtol=1e-6, atol=1e-5)


def test_a_factor_of_ones_is_left_out(tmp_path):
    place = write(tmp_path / "d", VERSION_1, weights(scaling_factor=1))
    x = rows()
    codes, decoded = saelens_on(place, x)
    assert_reads_as(fetched(tmp_path, place), codes, decoded, x)


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: "-".join(encoder))
def test_the_scale_of_a_checkpoint(tmp_path, encoder):
    """SAELens 6 keeps the factor on the rows beside an unfinished dictionary, which reads the scaled rows."""
    factor = 0.37
    plain = {**encoder, **SIZES, "metadata": METADATA}
    tensors = weights_of(encoder["architecture"])
    trained = write(tmp_path / "plain", plain, tensors)
    place = write(tmp_path / "d", plain | {"normalize_activations": "expected_average_only_in"}, tensors)
    (place / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor, "has_whitening": False}))
    x = rows()
    codes, decoded = saelens_on(trained, x.astype(np.float64) * np.float32(factor))
    if encoder.get("rescale_acts_by_decoder_norm"):
        codes = codes / np.float32(factor)  # the norms of the decoder rows are those of the raw units
    assert_reads_as(fetched(tmp_path, place), codes, decoded / np.float32(factor), x)
    assert json.loads((tmp_path / "out" / "cfg.json").read_text())["normalize_activations"] == "none"


CENTRED = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}


@pytest.mark.parametrize("architecture", ["standard", "gated"])
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("reads_b_dec", [True, False])
def test_a_dictionary_of_centred_activations_reads_the_models_own(tmp_path, old, architecture, reads_b_dec):
    """Codes of x are those that the published weights give to x less its mean over the coordinates."""
    said = VERSION_5 | CENTRED if old else SIZES | {"metadata": METADATA | CENTRED}
    config = said | {"architecture": architecture, "apply_b_dec_to_input": reads_b_dec}
    place = write(tmp_path / "d", config, weights_of(architecture))
    x = rows()
    codes, _ = saelens_on(place, x - x.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(
        fetched(tmp_path, place).encode(torch.from_numpy(x)).numpy(), codes, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "more", [{"hook_name": "blocks.1.mlp.hook_post"}, {"normalize_activations": "layer_norm"}], ids=str
)
def test_what_centring_does_not_change_is_left(tmp_path, more):
    """Neurons are not centred, and a row that is normalised is centred anyway."""
    place = write(tmp_path / "d", VERSION_5 | CENTRED | more, weights())
    fetched(tmp_path, place)
    name = saelens_format.WEIGHTS_FILE
    assert (tmp_path / "out" / name).read_bytes() == (place / name).read_bytes()


# --- what is refused ------------------------------------------------------------------------------------------------

NEW = {"architecture": "standard", **SIZES, "metadata": METADATA}
REFUSED = [
    (NEW | {"architecture": "abstopk", "k": 3}, "architecture 'abstopk' is not read here; use standard, topk, jumpr"),
    (NEW | {"architecture": "transcoder"}, "architecture 'transcoder' is not read"),
    (NEW | {"architecture": "batchtopk", "k": 3}, "architecture 'batchtopk' is not read"),
    (NEW | {"metadata": METADATA | {"hook_name_out": "blocks.1.hook_mlp_out"}}, "is a transcoder"),
    (VERSION_5 | {"hook_name_out": "blocks.1.hook_mlp_out"}, "is a transcoder"),
    (VERSION_5 | {"activation_fn_str": "tanh-relu"}, "'standard' with activation_fn 'tanh-relu' is not read"),
    (VERSION_1 | {"activation_fn": "tanh-relu"}, "'standard' with activation_fn 'tanh-relu' is not read"),
    (VERSION_5 | {"architecture": "gated", "activation_fn_str": "topk"}, "'gated' with activation_fn 'topk' is not"),
    (VERSION_5 | {"architecture": "topk"}, "'topk' with activation_fn 'relu' is not read"),
    (VERSION_5 | {"activation_fn_str": "topk"}, "architecture topk, but its k is None"),
    (NEW | {"architecture": "topk"}, "architecture topk, but its k is None"),
    (VERSION_5 | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3, "postact_fn": "Identity"}},
     "activation_fn_kwargs.postact_fn is not read"),
    (NEW | {"normalize_activations": "expected_average_only_in"}, "expected_average_only_in, and the factor is not in"),
    (VERSION_1 | {"normalize_activations": True}, "expected_average_only_in, and the factor is not in"),
    (NEW | {"normalize_activations": "covariance_whitening"}, "'covariance_whitening' is not read here"),
    (NEW | {"reshape_activations": "heads"}, "reshape_activations 'heads' is not read"),
    (NEW | {"metadata": METADATA | {"hook_head_index": 3}}, r"reads head 3 alone \(hook_head_index\)"),
    (VERSION_1 | {"hook_point_head_index": 0}, r"reads head 0 alone \(hook_head_index\)"),
    (VERSION_5 | {"hook_name": "blocks.1.attn.hook_z", "model_from_pretrained_kwargs": {"fold_value_biases": True}},
     "fold_value_biases, which changes blocks.1.attn.hook_z"),
    (NEW | {"d_in": 8}, r"W_enc has shape \(16, 24\), expected \(8, 24\)"),
    (NEW | {"d_sae": 8}, r"W_enc has shape \(16, 24\), expected \(16, 8\)"),
    (NEW | {"architecture": "jumprelu"}, "has no threshold, which architecture jumprelu needs"),
    (NEW | {"architecture": "gated"}, "has no b_gate, which architecture gated needs"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_what_would_be_read_wrongly_is_refused(tmp_path, config, message):
    """By its alias and directory, in one line, and nothing is left behind."""
    place = write(tmp_path / "d", config, weights())
    with pytest.raises(DiptychError, match=message) as caught:
        fetched(tmp_path, place)
    assert str(caught.value).startswith(f"dictionaries.out ({place}): ")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    with pytest.raises(DiptychError, match=message):
        sae.load(place)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (weights(scaling_factor=0.5), "has a scaling_factor that is not 1, but finetuning_scaling_factor is false"),
        (weights(log_threshold=0.5), "its log_threshold is not read in architecture standard"),
        ({**weights(), "W_dec": weights()["W_enc"]}, r"W_dec has shape \(16, 24\), expected \(24, 16\)"),
    ],
)
def test_tensors_that_are_not_read_are_refused(tmp_path, tensors, message):
    place = write(tmp_path / "d", VERSION_3, tensors)
    with pytest.raises(DiptychError, match=message) as caught:
        fetched(tmp_path, place)
    assert str(caught.value).startswith(f"dictionaries.out ({place}): ")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cfg.json", b"{", "cfg.json is no JSON"),
        ("cfg.json", b"[]", "cfg.json is no JSON object"),
        ("sae_weights.safetensors", b"nothing", "sae_weights.safetensors is cut short"),
        ("sae_weights.safetensors", None, "holds no sae_weights.safetensors; not a SAELens directory"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, content, message):
    place = write(tmp_path / "d", NEW, weights())
    (place / name).unlink() if content is None else (place / name).write_bytes(content)
    with pytest.raises(DiptychError, match=message) as caught:
        fetched(tmp_path, place)
    assert str(caught.value).startswith(f"dictionaries.out ({place}): ")


def test_every_key_of_the_installed_saelens_is_known():
    """A key that a later SAELens adds to what it reads has to be honoured or refused here first."""
    from sae_lens.registry import get_sae_class

    honoured = {"architecture", "d_in", "d_sae", "k", "apply_b_dec_to_input", "normalize_activations",
                "reshape_activations", "rescale_acts_by_decoder_norm", "metadata"}  # fmt: skip
    how_it_runs = {"dtype", "device"}
    for architecture in saelens_format.TENSORS:
        keys = {field.name for field in fields(get_sae_class(architecture)[1])}
        assert keys <= honoured | how_it_runs, architecture


def test_a_published_dictionary_of_normalised_rows(tmp_path, monkeypatch):
    """The release and id of the GPT-2 study, in the layout of its repository, without the network."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    repository, site = "jbloom/GPT2-Small-OAI-v5-32k-mlp-out-SAEs", "blocks.0.hook_mlp_out"
    config = OLD["5, layer norm"] | CENTRED | {"hook_name": site, "dtype": "torch.float32"}
    place = write(tmp_path / "v5_32k_layer_0", config, weights())

    def download(repo_id, filename, **more):
        path = tmp_path / filename
        if repo_id != repository or not path.is_file():
            raise loaders.EntryNotFoundError(filename)
        return str(path)

    monkeypatch.setattr(loaders, "hf_hub_download", download)
    source = {"kind": "saelens", "release": "gpt2-small-mlp-out-v5-32k", "id": site}
    sources.fetch(tmp_path / "out", spec={}, source=source, **reader(site))
    x = rows()
    assert_reads_as(sae.load(tmp_path / "out"), *saelens_on(place, x), x)
    (place / "cfg.json").write_text(json.dumps(config | {"activation_fn_str": "tanh-relu"}))
    message = r"^dictionaries.no \(gpt2-small-mlp-out-v5-32k blocks.0.hook_mlp_out\): .* activation_fn 'tanh-relu'"
    with pytest.raises(DiptychError, match=message):
        sources.fetch(tmp_path / "no", spec={}, source=source)
    save_file(weights(threshold=1), place / "sae_weights.safetensors")
    (place / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(DiptychError, match=r"^dictionaries.no \(gpt2-small-mlp.*\): cannot be fetched \(Error"):
        sources.fetch(tmp_path / "no", spec={}, source=source)
