"""Published crosscoders in each library's layout, against a plain re-computation of its own encode and decode."""

import json
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

import stand_ins
from diptych.crosscoder import exchange
from diptych.crosscoder.evaluation import latents
from diptych.crosscoder.evaluation import stage as evaluation
from diptych.crosscoder.published import plain, stage
from diptych.crosscoder.published.files import downloaded, files_of
from diptych.oracle import planted
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding import architecture
from diptych.storage import artifacts
from tolerance import rounding_bound

torch.set_num_threads(1)

EPS = np.finfo(np.float32).eps
WIDTH, LATENTS, ROWS = 16, 24, 40
NORMALISATIONS = ["CROSSCODER", "SAE", "MIXED", "NONE"]
ACTIVATION_NAMES = {
    "relu": ("ReLUActivation", {}),
    "jumprelu": ("AnthropicSTEJumpReLUActivation", {"size": LATENTS, "bandwidth": 2.0}),
    "topk": ("TopkActivation", {"k": 4}),
    "batchtopk": ("BatchTopkActivation", {"k_per_example": 4}),
}


class Expected(NamedTuple):
    """Codes [B, F] and reconstructions [B, M, d] of a library, and how far float32 may be from them."""

    f: np.ndarray
    x_hat: np.ndarray
    f_bound: np.ndarray
    x_bound: np.ndarray


def doubles(tensors):
    return {name: np.asarray(tensor, dtype=np.float64) for name, tensor in tensors.items()}


def with_bias(values, weight, bias):
    """Rows with a 1 behind them and a weight with its bias as last row: one product, so one bound."""
    ones = np.ones((len(values), 1))
    return np.concatenate([values, ones], 1).astype(np.float32), np.concatenate([weight, bias[None]]).astype(np.float32)


def expected(z, W_enc, b_enc, W_dec, b_dec, select, scale, mean):
    """Codes and reconstructions of rows z [B, M, d] in the crosscoder's units; x_hat = decoded / scale + mean.

    `select` gives the code of pre-activations [B, F] and how far each is from being selected or not.
    """
    flat, n_models = z.reshape(len(z), -1), z.shape[1]
    pre_bound = rounding_bound(*with_bias(flat, W_enc.reshape(-1, W_enc.shape[-1]), b_enc))
    f, margin = select(np.einsum("bmd,mdf->bf", z, W_enc) + b_enc)
    assert (margin > pre_bound).all(), "no entry of the test is within rounding of the cut"
    f_bound = np.where(f != 0, pre_bound, 0)
    x_hat, x_bound = np.empty(z.shape), np.empty(z.shape)
    for m in range(n_models):
        decoded = f @ W_dec[m] + b_dec[m]
        x_hat[:, m] = decoded / scale[m] + mean[m]
        sums = rounding_bound(*with_bias(f, W_dec[m], b_dec[m])) + f_bound @ np.abs(W_dec[m])
        x_bound[:, m] = sums / scale[m] + 8 * EPS * (np.abs(decoded) / scale[m] + np.abs(mean[m]))
    return Expected(f, x_hat, f_bound, x_bound)


def assert_same(crosscoder, x, truth):
    x_BD = torch.from_numpy(x.reshape(len(x), -1).astype(np.float32))
    with torch.no_grad():
        f = crosscoder.encode(x_BD).double().numpy()
        x_hat = crosscoder(x_BD).double().numpy().reshape(x.shape)
    assert ((f != 0) == (truth.f != 0)).all(), "the same latents are active"
    assert (truth.f != 0).any()
    assert (np.abs(f - truth.f) <= truth.f_bound).all()
    assert (np.abs(x_hat - truth.x_hat) <= truth.x_bound).all()


def rows(seed=1, size=(1.0, 1.0), n=ROWS):
    """Rows [n, 2, d] of two models, each of its own size and with a mean of its own."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2, WIDTH)) + rng.normal(size=(1, 2, WIDTH))
    return (x * np.array(size)[:, None]).astype(np.float32)


# --- dictionary_learning --------------------------------------------------------------------------------------


def dictionary_learning_state(normalisation="CROSSCODER", *, threshold=3.0, size=None, target_rms=4.0):
    """A BatchTopK crosscoder's state dict, random; with a normaliser for rows of these sizes."""
    g = torch.Generator().manual_seed(0)
    norms = torch.rand(2, LATENTS, 1, generator=g) * 0.3 + 0.02  # so that the code normalisations select differently
    state = {
        "encoder.weight": torch.randn(2, WIDTH, LATENTS, generator=g),
        "encoder.bias": torch.randn(LATENTS, generator=g),
        "decoder.weight": torch.randn(2, LATENTS, WIDTH, generator=g) * norms,
        "decoder.bias": torch.randn(2, WIDTH, generator=g),
        "code_normalization_id": torch.tensor(1 + [*NORMALISATIONS, "DECOUPLED"].index(normalisation)),
        "k": torch.tensor(4, dtype=torch.int),
        "threshold": torch.tensor(threshold),
        "target_rms": torch.tensor(target_rms),
        "activation_mean": torch.full((2, WIDTH), torch.nan),
        "activation_std": torch.full((2, WIDTH), torch.nan),
        "activation_global_scale": torch.ones(2),
    }
    if size is not None:
        std = (torch.rand(2, WIDTH, generator=g) + 0.5) * torch.tensor(size)[:, None]
        state["activation_mean"] = torch.randn(2, WIDTH, generator=g) * torch.tensor(size)[:, None]
        state["activation_std"] = std
        state["activation_global_scale"] = target_rms / torch.sqrt((std**2).sum(-1) + 1e-8)
    return state


def dictionary_learning_code(state, x, alphas=(1.0, 0.1)):
    """What BatchTopKCrossCoder's encode and decode give for raw rows x, step by step in float64."""
    t = doubles(state)
    scale, back, mean = np.ones(2), np.ones(2), np.zeros((2, WIDTH))
    if not np.isnan(t["activation_mean"]).any():
        scale, mean = t["activation_global_scale"], t["activation_mean"]
        back = scale + 1e-8
    norm_MF = np.linalg.norm(t["decoder.weight"], axis=2)
    summed, concatenated = norm_MF.sum(0), np.sqrt((norm_MF**2).sum(0))
    n_F = [summed, concatenated, alphas[0] * concatenated + alphas[1] * summed, np.ones(LATENTS)]
    weight = n_F[int(state["code_normalization_id"]) - 1]

    def select(pre):
        f = np.maximum(pre, 0)
        return f * (f * weight > t["threshold"]), np.abs(pre - t["threshold"] / weight)

    z = (x.astype(np.float64) - mean) * scale[:, None]
    return expected(
        z,
        t["encoder.weight"],
        t["encoder.bias"],
        t["decoder.weight"],
        t["decoder.bias"],
        select,
        back,
        mean,
    )


def save_hub(directory, state, config=None, trainer=None):
    """A directory as `push_to_hub` and the upload of the trainer's config leave it."""
    directory.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, directory / "model.safetensors")
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    if trainer is not None:
        (directory / "trainer_config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    return directory


def load(weights, models=()):
    return stage.load(files_of(weights), models)


CONFIG = {"activation_dim": WIDTH, "dict_size": LATENTS, "num_layers": 2, "k": 4, "norm_init_scale": 1.0}


@pytest.mark.parametrize("size", [None, (3.0, 0.2), (2_400_000.0, 0.2)])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_dictionary_learnings_batchtopk_gives_its_own_codes(tmp_path, normalisation, size):
    threshold = 12.0 if normalisation == "NONE" else 3.0
    state = dictionary_learning_state(normalisation, threshold=threshold, size=size, target_rms=8.0)
    x = rows(size=size or (1.0, 1.0))
    config = {**CONFIG, "code_normalization": normalisation, "dict_class": "BatchTopKCrossCoder"}
    crosscoder = load(save_hub(tmp_path / "hub", state, config))
    truth = dictionary_learning_code(state, x)
    assert_same(crosscoder, x, truth)
    assert 0.5 < (truth.f > 0).sum(1).mean() < LATENTS / 2
    relative = np.linalg.norm(doubles(state)["decoder.weight"], axis=2)
    np.testing.assert_allclose(crosscoder.relative_norm().detach(), relative[1] / relative.sum(0), rtol=1e-5)
    assert crosscoder.architecture.k == 4


def test_code_normalisations_select_different_latents():
    active = []
    for normalisation in NORMALISATIONS[:2]:
        state = dictionary_learning_state(normalisation)
        active.append(dictionary_learning_code(state, rows()).f > 0)
    assert (active[0] != active[1]).any()


def test_weights_of_a_mixed_code_normalisation_are_the_configs(tmp_path):
    state, x = dictionary_learning_state("MIXED"), rows()
    alphas = {"code_normalization_alpha_sae": 0.5, "code_normalization_alpha_cc": 0.7}
    crosscoder = load(save_hub(tmp_path / "hub", state, {**CONFIG, **alphas}))
    assert_same(crosscoder, x, dictionary_learning_code(state, x, (0.5, 0.7)))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_trainers_checkpoint_is_the_same_crosscoder(tmp_path, compiled):
    state, x = dictionary_learning_state("SAE", size=(3.0, 0.2)), rows(size=(3.0, 0.2))
    prefix = "_orig_mod." if compiled else ""
    torch.save({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "model_final.pt")
    trainer = {"dict_class": "BatchTopKCrossCoder", "lm_name": "org/it-org/base", "code_normalization": "SAE", "k": 4}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer}))
    crosscoder = load(tmp_path, ["org/base", "org/it"])
    assert_same(crosscoder, x, dictionary_learning_code(state, x))


def test_an_l1_crosscoder_of_dictionary_learning_is_a_relu(tmp_path):
    state, x = dictionary_learning_state(size=(3.0, 0.2)), rows(size=(3.0, 0.2))
    truth = dictionary_learning_code({**state, "threshold": torch.tensor(0.0)}, x)
    names = ("k", "threshold")
    without = {name: tensor for name, tensor in state.items() if name not in names}
    crosscoder = load(save_hub(tmp_path / "hub", without, {**CONFIG, "dict_class": "CrossCoder"}))
    assert crosscoder.architecture.activation == "relu"
    assert_same(crosscoder, x, truth)


def test_first_versions_had_no_normaliser_and_named_no_code_normalisation(tmp_path, caplog):
    state, x = dictionary_learning_state(), rows()
    old = {name: state[name] for name in state if name.split(".")[0] in ("encoder", "decoder", "k", "threshold")}
    torch.save(old, tmp_path / "ae.pt")
    assert_same(load(tmp_path / "ae.pt"), x, dictionary_learning_code(state, x))
    assert "CROSSCODER is taken" in caplog.text


def exact_state(threshold):
    """A latent that is 2 where the input is 1, with decoder norms 1 + 1: its score is 4, without rounding."""
    return {
        "encoder.weight": torch.tensor([[[2.0], [0.0]], [[0.0], [0.0]]]),
        "encoder.bias": torch.zeros(1),
        "decoder.weight": torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]),
        "decoder.bias": torch.zeros(2, 2),
        "code_normalization_id": torch.tensor(1),
        "k": torch.tensor(1),
        "threshold": torch.tensor(threshold),
    }


@pytest.mark.parametrize(("threshold", "code"), [(4.0, 0.0), (3.999999, 2.0), (0.0, 2.0), (-1.0, 2.0)])
def test_a_score_at_the_threshold_is_not_above_it(tmp_path, caplog, threshold, code):
    crosscoder = load(save_hub(tmp_path / "hub", exact_state(threshold)))
    assert crosscoder.encode(torch.tensor([[1.0, 0, 0, 0]])).item() == code
    assert crosscoder.encode(torch.tensor([[-1.0, 0, 0, 0]])).item() == 0
    assert ("was never set" in caplog.text) == (threshold < 0)


def change(name, value):
    return lambda state: {**state, name: value}


@pytest.mark.parametrize(
    ("edit", "config", "message"),
    [
        (change("encoder.skip", torch.ones(1)), {}, "unknown tensor 'encoder.skip'; known: activation_global_scale"),
        (change("decoder.weight", torch.ones(2, LATENTS, 5)), {}, r"decoder.weight has shape \(2, 24, 5\)"),
        (change("decoder.bias", torch.ones(WIDTH)), {}, r"decoder.bias has shape \(16,\), expected \(2, 16\)"),
        (change("encoder.weight", torch.ones(WIDTH, LATENTS)), {}, "a dictionary of one model"),
        (change("encoder.bias", torch.full((LATENTS,), torch.nan)), {}, "encoder.bias holds values that are not"),
        (change("code_normalization_id", torch.tensor(5)), {}, "DECOUPLED is not read: it gives every model a code"),
        (change("code_normalization_id", torch.tensor(9)), {}, "code normalisation number 9 is not read"),
        (change("activation_global_scale", torch.ones(2)), {}, "a normaliser for each coordinate is not read"),
        (change("threshold", torch.ones(2)), {}, "2 thresholds; one for each model is not read"),
        (None, {"dict_class": "DedicatedFeatureBatchTopKCrossCoder"}, "class 'DedicatedFeatureBatchTopKCrossCoder'"),
        (None, {"dict_class": "CrossCoder"}, "the config says CrossCoder, but the file has a threshold"),
        (None, {"code_normalization": "SAE"}, "the config says code normalisation SAE, the weights CROSSCODER"),
        (None, {"encoder_layers": [1]}, r"encoder_layers \[1\]: an encoder that reads some models only"),
        (None, {"decoder_type": "embedding_bag"}, "decoder_type 'embedding_bag' is not read"),
        (None, {"gate": True}, "config.json: unknown key 'gate'"),
    ],
)
def test_what_dictionary_learning_may_also_mean_is_refused_by_name(tmp_path, edit, config, message):
    state = dictionary_learning_state(size=(3.0, 0.2))
    directory = save_hub(tmp_path / "hub", edit(state) if edit else state, {**CONFIG, **config})
    with pytest.raises(DiptychError, match=message) as error:
        load(directory)
    assert "\n" not in str(error.value)
    assert str(directory / "model.safetensors") in str(error.value)


def test_a_warning_says_that_it_was_trained_on_other_models(tmp_path, caplog):
    trainer = {"lm_name": "google/gemma-2-2b-it-google/gemma-2-2b"}
    directory = save_hub(tmp_path / "hub", dictionary_learning_state(), CONFIG, trainer)
    load(directory, ["google/gemma-2-2b", "google/gemma-2-2b-it"])
    assert "trained on" not in caplog.text
    load(directory, ["google/gemma-2-2b", "google/gemma-2-9b-it"])
    assert "does not name google/gemma-2-9b-it" in caplog.text


# --- crosscode ------------------------------------------------------------------------------------------------


def crosscode_state(activation, *, factors=None, b_enc=True, b_dec=True):
    """The state dict of a `ModelHookpointAcausalCrosscoder` of two models and one hookpoint, factors folded in."""
    g = torch.Generator().manual_seed(3)
    state = {
        "_W_enc_XiDiL": torch.randn(2, 1, WIDTH, LATENTS, generator=g),
        "_W_dec_LXoDo": torch.randn(LATENTS, 2, 1, WIDTH, generator=g) * (torch.rand(LATENTS, 2, 1, 1, generator=g)),
        "b_enc_L": torch.randn(LATENTS, generator=g) - 3,
        "_b_dec_XoDo": torch.randn(2, 1, WIDTH, generator=g),
        "folded_scaling_factors_in_Xi": torch.zeros(2, 1),
        "folded_scaling_factors_out_Xo": torch.zeros(2, 1),
        "is_folded": torch.tensor(False),
    }
    if factors is not None:
        factor = torch.tensor(factors)[:, None]
        state["_W_enc_XiDiL"] *= factor[..., None, None]
        state["_W_dec_LXoDo"] /= factor[..., None]
        state["_b_dec_XoDo"] /= factor[..., None]
        state |= {name: factor.clone() for name in state if name.startswith("folded")}
        state["is_folded"] = torch.tensor(True)
    if activation == "jumprelu":
        state["_activation_fn.log_threshold_L"] = torch.rand(LATENTS, generator=g)
    for name, there in (("b_enc_L", b_enc), ("_b_dec_XoDo", b_dec)):
        if not there:
            del state[name]
    return state


def save_crosscode(directory, state, activation, **changed):
    directory.mkdir(exist_ok=True, parents=True)
    torch.save(state, directory / "model.pt")
    classname, cfg = ACTIVATION_NAMES.get(activation, (activation, {}))
    config: dict[str, Any] = {
        "n_models": 2, "n_hookpoints": 1, "d_model": WIDTH, "n_latents": LATENTS,
        "activation_fn": {"classname": classname, "cfg": cfg},
        "use_encoder_bias": "b_enc_L" in state, "use_decoder_bias": "_b_dec_XoDo" in state,
    } | changed  # fmt: skip
    # What yaml.dump makes of a torch.dtype, which a safe loader knows nothing of.
    text = json.dumps(config)[:-1] + ', "dtype": !!python/object/apply:torch.serialization._get_layout [torch.float32]}'
    (directory / "model_cfg.yaml").write_text(text)
    return directory


def crosscode_code(state, activation, x, scales=(1.0, 1.0)):
    """What the crosscoder gives for raw rows, or for rows that are scaled beforehand, in float64."""
    t = doubles(state)
    scale = np.array(scales)

    def topk(pre, k, axis):
        flat = pre if axis else pre.reshape(1, -1)
        order = np.argsort(-flat, axis=1)
        f = np.zeros_like(flat)
        np.put_along_axis(f, order[:, :k], np.take_along_axis(flat, order[:, :k], 1), 1)
        cut = np.take_along_axis(flat, order[:, k - 1 : k + 1], 1).mean(1, keepdims=True)
        return f.reshape(pre.shape), np.abs(flat - cut).reshape(pre.shape)

    def select(pre):
        match activation:
            case "relu":
                return np.maximum(pre, 0), np.abs(pre)
            case "jumprelu":
                theta = np.exp(t["_activation_fn.log_threshold_L"])
                return pre * (pre > theta), np.abs(pre - theta)
            case "topk":
                return topk(pre, 4, axis=True)
            case _:
                return topk(pre, 4 * len(pre), axis=False)

    return expected(
        x.astype(np.float64) * scale[:, None],
        t["_W_enc_XiDiL"][:, 0],
        t.get("b_enc_L", np.zeros(LATENTS)),
        t["_W_dec_LXoDo"][:, :, 0].transpose(1, 0, 2),
        t.get("_b_dec_XoDo", np.zeros((2, 1, WIDTH)))[:, 0],
        select,
        scale,
        np.zeros((2, WIDTH)),
    )


@pytest.mark.parametrize("factors", [None, (0.25, 3.0)])
@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
def test_crosscodes_crosscoder_gives_its_own_codes(tmp_path, activation, biases, factors):
    state = crosscode_state(activation, factors=factors, b_enc=biases[0], b_dec=biases[1])
    x = rows(size=(1.0, 1.0) if factors is None else (4.0, 0.3))
    crosscoder = load(save_crosscode(tmp_path / "step_0", state, activation))
    truth = crosscode_code(state, activation, x)
    assert_same(crosscoder, x, truth)
    assert crosscoder.scale.tolist() == list(factors or (1.0, 1.0))
    unfolded = np.linalg.norm(doubles(state)["_W_dec_LXoDo"][:, :, 0], axis=2) * np.array(factors or (1.0, 1.0))
    np.testing.assert_allclose(crosscoder.relative_norm().detach(), unfolded[:, 1] / unfolded.sum(1), rtol=1e-5)
    if activation == "topk":
        assert ((truth.f != 0).sum(1) == 4).all()


def test_crosscodes_topk_keeps_negative_pre_activations_too(tmp_path):
    state = crosscode_state("topk")
    state["b_enc_L"] -= 8
    x = rows()
    truth = crosscode_code(state, "topk", x)
    assert (truth.f < 0).any()
    assert_same(load(save_crosscode(tmp_path / "step_0", state, "topk")), x, truth)


def test_a_calibrated_batchtopk_of_crosscode_has_the_codes_of_one_large_batch(tmp_path):
    data = planted.make_pair(d_A=WIDTH, d_B=WIDTH, d_0=WIDTH, n_documents=20).rows()
    state = crosscode_state("batchtopk")
    files = files_of(save_crosscode(tmp_path / "step_0", state, "batchtopk"))
    with pytest.raises(DiptychError, match=r"a row's code depends on its batch; set `calibrate: true`"):
        stage.import_published(files, tmp_path / "w.h5", spec={})
    stage.import_published(files, tmp_path / "w.h5", spec={}, calibrate=True, rows=data)
    train = np.flatnonzero(data.fold != 0)
    x = np.stack(data.take(train).x, axis=1)
    crosscoder = architecture.load(tmp_path / "w.h5")
    assert_same(crosscoder, x, crosscode_code(state, "batchtopk", x))
    x_BD = torch.from_numpy(x.reshape(len(x), -1))
    assert int((crosscoder.encode(x_BD) != 0).sum()) == 4 * len(train)
    with artifacts.read(tmp_path / "w.h5", "crosscoder") as file:
        assert artifacts.read_json(file, "summary")["rows_calibration"] == len(train)


@pytest.mark.parametrize(
    ("edit", "changed", "activation", "message"),
    [
        (change("W_skip_XDD", torch.ones(1)), {}, "relu", "unknown tensor 'W_skip_XDD'"),
        (change("_W_dec_LXoDo", torch.ones(LATENTS, 2, 1, 5)), {}, "relu", r"_W_dec_LXoDo has shape \(24, 2, 1, 5\)"),
        (change("_b_dec_XoDo", torch.ones(2, WIDTH)), {}, "relu", r"_b_dec_XoDo has shape \(2, 16\)"),
        (change("_W_enc_XiDiL", torch.ones(2, 3, WIDTH, LATENTS)), {}, "relu", "reads 3 hookpoints of each model"),
        (change("_W_enc_XiDiL", torch.ones(2, WIDTH, LATENTS)), {}, "relu", "no axes of models and hookpoints"),
        (change("is_folded", torch.tensor(True)), {}, "relu", "folded factors must be positive"),
        (None, {}, "GroupMaxActivation", "activation 'GroupMaxActivation' is not read; known: ReLUActivation"),
        (None, {}, "jumprelu", "_activation_fn.log_threshold_L missing"),
        (None, {"activation_fn": None}, "relu", "names no `activation_fn`"),
        (None, {"activation_fn": {"classname": "TopkActivation", "cfg": {}}}, "topk", "has no k of TopkActivation"),
        (None, {"use_decoder_bias": False}, "relu", "says use_decoder_bias: False, but the weights have a _b_dec"),
        (None, {"skip_linear": True}, "relu", "model_cfg.yaml: unknown key 'skip_linear'"),
    ],
)
def test_what_crosscode_may_also_mean_is_refused_by_name(tmp_path, edit, changed, activation, message):
    state = crosscode_state("relu")
    directory = save_crosscode(tmp_path / "step_0", edit(state) if edit else state, activation, **changed)
    with pytest.raises(DiptychError, match=message) as error:
        load(directory)
    assert "\n" not in str(error.value)


def test_weights_of_crosscode_without_their_config_are_refused(tmp_path):
    torch.save(crosscode_state("relu"), tmp_path / "model.pt")
    with pytest.raises(DiptychError, match=r"model_cfg\.yaml is not beside the weights"):
        load(tmp_path)


def test_models_are_in_the_order_of_crosscodes_experiment(tmp_path):
    directory = save_crosscode(tmp_path / "run" / "step_0", crosscode_state("relu"), "relu")
    llms = "[{name: gemma-2-2b}, {hf_model_name: google/gemma-2-2b-it, base_archicteture_name: gemma-2-2b}]"
    tuples = "train: {betas: !!python/tuple [0.0, 0.999]}\n"
    (tmp_path / "run" / "experiment_config.yaml").write_text(
        f"data: {{activations_harvester: {{llms: {llms}}}}}\n{tuples}"
    )
    ids = ["google/gemma-2-2b", "google/gemma-2-2b-it"]
    load(directory, ids)
    load(directory, [None, ids[1]])
    with pytest.raises(DiptychError, match=r"trained on gemma-2-2b, google/gemma-2-2b-it, in this order"):
        load(directory, ids[::-1])


# --- the plain layout, and what all of them share ---------------------------------------------------------------


def plain_state():
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (2, WIDTH, LATENTS), "W_dec": (LATENTS, 2, WIDTH), "b_enc": (LATENTS,), "b_dec": (2, WIDTH)}
    return {name: torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()}


def plain_code(state, x, scale):
    t = doubles(state)
    return expected(
        x.astype(np.float64) * np.array(scale)[:, None],
        t["W_enc"],
        t["b_enc"],
        t["W_dec"].transpose(1, 0, 2),
        t["b_dec"],
        lambda pre: (np.maximum(pre, 0), np.abs(pre)),
        np.array(scale),
        np.zeros((2, WIDTH)),
    )


def test_published_layout_comes_in(tmp_path):
    state, x = plain_state(), rows()
    save_file(state, tmp_path / "cc.safetensors")
    assert_same(load(tmp_path / "cc.safetensors"), x, plain_code(state, x, (1.0, 1.0)))
    with pytest.raises(DiptychError, match="W_dec has shape"):
        plain.read({**state, "W_dec": torch.zeros(LATENTS, 2, 5)})
    with pytest.raises(DiptychError, match="b_dec missing"):
        plain.read({name: tensor for name, tensor in state.items() if name != "b_dec"})


def test_scales_are_of_weights_that_bring_none(tmp_path):
    save_file(plain_state(), tmp_path / "cc.safetensors")
    files, x = files_of(tmp_path / "cc.safetensors"), rows(size=(3.0, 5.0))
    stage.import_published(files, tmp_path / "w.h5", spec={}, scales=(0.3, 0.2))
    scale = np.array([0.3, 0.2], dtype=np.float32)
    assert_same(architecture.load(tmp_path / "w.h5"), x, plain_code(plain_state(), x, scale.astype(np.float64)))
    with pytest.raises(DiptychError, match="2 models, but `scales` has 3"):
        stage.import_published(files, tmp_path / "w.h5", spec={}, scales=(1, 1, 1))
    with pytest.raises(DiptychError, match="2 models, but `models` has 3"):
        stage.import_published(files, tmp_path / "w.h5", spec={}, models=[None] * 3)
    state = dictionary_learning_state(size=(3.0, 0.2))
    with pytest.raises(DiptychError, match="brings the scales of its models; take `scales` out"):
        stage.import_published(
            files_of(save_hub(tmp_path / "hub", state)), tmp_path / "w.h5", spec={}, scales=(0.3, 0.2)
        )


@pytest.mark.parametrize("layout", ["plain", "dictionary_learning", "jumprelu", "topk", "batchtopk"])
def test_evaluation_and_latents_run_on_what_was_imported(tmp_path, layout):
    data = planted.make_pair(d_A=WIDTH, d_B=WIDTH, d_0=WIDTH, n_documents=20).rows()
    if layout == "plain":
        save_file(plain_state(), tmp_path / "cc.safetensors")
        weights = tmp_path / "cc.safetensors"
    elif layout == "dictionary_learning":
        weights = save_hub(tmp_path / "hub", dictionary_learning_state("SAE", size=(2.0, 1.0)), CONFIG)
    else:
        state = crosscode_state(layout, factors=(0.5, 2.0))
        state["b_enc_L"] -= 300 * (layout == "topk")  # so low that negative ones are among the k largest
        weights = save_crosscode(tmp_path / "step_0", state, layout)
    chosen = {"calibrate": True, "rows": data} if layout == "batchtopk" else {}
    stage.import_published(files_of(weights), tmp_path / "w.h5", spec={}, models=[None, None], **chosen)
    evaluation.evaluate(tmp_path / "w.h5", data, tmp_path / "e.h5", spec={})
    latents.describe(tmp_path / "w.h5", data, tmp_path / "l.h5", spec={}, n_bootstrap=10)
    index = np.flatnonzero(data.fold == 0)
    crosscoder = architecture.load(tmp_path / "w.h5")
    f = crosscoder.encode(torch.from_numpy(np.concatenate(data.take(index).x, axis=1))).detach().numpy()
    assert (f < 0).any() == (layout == "topk")
    with artifacts.read(tmp_path / "e.h5", "evaluation") as file:
        np.testing.assert_allclose(file["density"][:], (f != 0).mean(0), atol=1 / len(index))
        assert artifacts.read_json(file, "summary")["l0_mean"] == pytest.approx((f != 0).sum(1).mean(), rel=1e-2)
    with artifacts.read(tmp_path / "l.h5", "latents") as file:
        np.testing.assert_allclose(file["latents/mean_held_out"][:], f.mean(0), rtol=1e-3, atol=1e-3 * np.abs(f).max())


@pytest.mark.parametrize("layout", ["dictionary_learning", "topk"])
def test_what_was_imported_can_be_exported_again(tmp_path, layout):
    if layout == "topk":
        state = crosscode_state("topk", factors=(0.5, 2.0))
        weights = save_crosscode(tmp_path / "step_0", state, "topk")
    else:
        weights = save_hub(tmp_path / "hub", dictionary_learning_state("SAE", size=(2.0, 1.0)), CONFIG)
    stage.import_published(files_of(weights), tmp_path / "w.h5", spec={})
    exchange.export(tmp_path / "w.h5", tmp_path / "out", spec={})
    config, t = json.loads((tmp_path / "out/config.json").read_text()), load_file(tmp_path / "out/model.safetensors")
    x = rows(size=(2.0, 0.5))
    pre = x[:, 0] @ t["W_enc.0"] + x[:, 1] @ t["W_enc.1"] + t["b_enc"]
    pre = pre if config.get("signed") else np.maximum(pre, 0)
    score = pre * t["score_weight"] if layout == "topk" else pre
    f = pre * (score >= (np.sort(score, axis=1)[:, -4, None] if layout == "topk" else t["theta"]))
    crosscoder = architecture.load(tmp_path / "w.h5")
    code = crosscoder.encode(torch.from_numpy(x.reshape(len(x), -1))).detach().numpy()
    assert ((f != 0) != (code != 0)).mean() < 0.01  # a score at the cut may fall on either side
    np.testing.assert_allclose(np.where(code != 0, f, 0), np.where(f != 0, code, 0), rtol=1e-3, atol=1e-4)


def test_calibrating_is_for_thresholds_and_needs_rows(tmp_path):
    save_file(plain_state(), tmp_path / "cc.safetensors")
    with pytest.raises(DiptychError, match="not cut at a threshold; take `calibrate` out"):
        stage.import_published(files_of(tmp_path / "cc.safetensors"), tmp_path / "w.h5", spec={}, calibrate=True)
    hub = files_of(save_hub(tmp_path / "hub", dictionary_learning_state()))
    with pytest.raises(DiptychError, match="`calibrate` needs the rows"):
        stage.import_published(hub, tmp_path / "w.h5", spec={}, calibrate=True)
    narrow = planted.make_pair(d_A=8, d_B=8, d_0=8, n_documents=10).rows()
    with pytest.raises(DiptychError, match="trained on widths"):
        stage.import_published(hub, tmp_path / "w.h5", spec={}, calibrate=True, rows=narrow)


class Code:
    def __reduce__(self):
        return print, ("run by a pickle",)


def test_a_pt_file_gives_tensors_and_nothing_else(tmp_path, capsys):
    state = plain_state()
    torch.save(state, tmp_path / "cc.pt")
    crosscoder = load(tmp_path / "cc.pt")
    torch.testing.assert_close(crosscoder.W_dec[:, :WIDTH].detach(), state["W_dec"][:, 0])
    torch.save({**state, "more": Code()}, tmp_path / "code.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "none.safetensors").write_bytes(b"something else")
    (tmp_path / "none.pt").write_bytes(b"something else")
    for name in ("code.pt", "list.pt", "none.pt", "none.safetensors"):
        with pytest.raises(DiptychError, match="holds no plain tensors") as error:
            load(tmp_path / name)
        assert "\n" not in str(error.value)
    assert "run by a pickle" not in capsys.readouterr().out


def test_files_that_are_not_there_or_of_no_known_layout(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DiptychError, match=r"holds none of model\.safetensors, model\.pt"):
        load(tmp_path / "empty")
    with pytest.raises(DiptychError, match="no such file"):
        load(tmp_path / "cc.pt")
    save_file({"W_enc_HMD": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DiptychError, match="tensors W_enc_HMD are in no known layout of a crosscoder"):
        load(tmp_path / "other.safetensors")
    directory = save_hub(tmp_path / "hub", dictionary_learning_state())
    for text, message in (("{", "cannot be read"), ("[]", "holds no keys")):
        (directory / "config.json").write_text(text)
        with pytest.raises(DiptychError, match=message):
            load(directory)


def test_files_of_a_directory_are_its_weights_and_their_configs(tmp_path):
    run = tmp_path / "run"
    directory = save_crosscode(run / "step_0", crosscode_state("relu"), "relu")
    (run / "experiment_config.yaml").write_text("data: {}")
    (directory / "notes.txt").write_text("not a part of it")
    names = [file.relative_to(run).as_posix() for file in files_of(directory)]
    assert names == ["step_0/model.pt", "step_0/model_cfg.yaml", "experiment_config.yaml"]
    assert files_of(directory / "model.pt") == files_of(directory)
    assert files_of(tmp_path / "nowhere.pt") == [tmp_path / "nowhere.pt"]


def test_a_crosscoder_comes_from_a_folder_of_the_hub(tmp_path, monkeypatch):
    """Out of the hub's own cache layout, offline; what is not there is one line."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = stand_ins.publish(tmp_path, "owner/crosscoder")
    stand_ins.write_crosscoder(snapshot / "blocks.1.hook_resid_pre", width=8)
    files = downloaded("owner/crosscoder", "main", "blocks.1.hook_resid_pre")
    assert [file.name for file in files] == ["cc_weights.pt"]
    assert load(files[0]).architecture.widths == (8, 8)
    with pytest.raises(DiptychError, match="crosscoder owner/other at revision main: not in the local cache") as caught:
        downloaded("owner/other", "main")
    assert "\n" not in str(caught.value)
