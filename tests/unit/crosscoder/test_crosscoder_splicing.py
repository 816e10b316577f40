"""Models with replaced activations: nothing lost by their own, all by an ablation, and the rows left alone."""

import math

import numpy as np
import pytest
import torch

from diptych.activations import dump, gates, rows
from diptych.crosscoder.evaluation import encoded, splicing, stage
from diptych.crosscoder.training import feed
from diptych.crosscoder.training import stage as training
from diptych.models import patching
from diptych.sparse_coding.architecture import Architecture, Crosscoder
from diptych.storage import artifacts
from diptych.text import tokens
from diptych.text.corpora import stage as corpora
from tiny_models import make_model, make_texts

torch.set_num_threads(1)
CPU = "cpu"
HOOKS = ["blocks.1.hook_resid_post", "blocks.0.hook_resid_pre", "blocks.2.hook_resid_post", "blocks.2.hook_resid_pre"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox", "gemma2"])
def test_a_models_own_activations_change_nothing_and_others_do(tmp_path, architecture):
    directory = make_model(tmp_path, architecture)
    ids = torch.randint(3, 400, (2, 12), generator=torch.Generator().manual_seed(0))
    for hook in HOOKS:
        model = patching.load(directory, hook, "float32", CPU)
        logits, values = model.clean(ids)
        torch.testing.assert_close(model.patched(ids, values), logits, rtol=1e-5, atol=1e-5)
        changed = values.clone()
        changed[:, 5] = 0.0
        other = model.patched(ids, changed)
        torch.testing.assert_close(other[:, :5], logits[:, :5], rtol=1e-5, atol=1e-5)  # causal: the past is as it was
        assert (other[:, 5] - logits[:, 5]).abs().max() > 1e-3
        torch.testing.assert_close(model.clean(ids)[0], logits)


def test_a_hook_that_only_transformer_lens_has(tmp_path):
    directory = make_model(tmp_path)
    ids = torch.arange(3, 15)[None]
    model = patching.load(directory, "blocks.1.hook_mlp_out", "float32", CPU)
    logits, values = model.clean(ids)
    torch.testing.assert_close(model.patched(ids, values), logits, rtol=1e-4, atol=1e-4)
    assert (model.patched(ids, torch.zeros_like(values)) - logits).abs().max() > 1e-3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models, their tokens, and their rows after the middle block."""
    place = tmp_path_factory.mktemp("splicing")
    folder = make_texts(place / "texts", "old", 20, repeats=1)
    corpora.fetch(place / "corpus", spec={}, sources={"old": {"kind": "local", "paths": [str(folder / "*.txt")]}})
    for name, seed in (("a", 0), ("b", 1)):
        make_model(place / name, seed=seed)
    tokens.prepare(place / "corpus", place / "a", place / "tokens.h5", spec={}, tokens=None, sequence_length=24)
    for name in "ab":
        dump.dump(
            place / name, place / "tokens.h5", place / f"{name}.h5", spec={}, sites=["middle"], dtype="float32",
            store="float32", device="cpu",
        )  # fmt: skip
        gates.gate([str(place / f"{name}.h5")], place / "tokens.h5", place / f"{name}-gates.h5", spec={})
    return place


def read(place):
    models = [
        rows.RowFiles([str(place / f"{name}.h5")], str(place / f"{name}-gates.h5"), str(place / "tokens.h5"), "middle")
        for name in "ab"
    ]
    splice = [
        {"directory": place / name, "tokens": place / "tokens.h5", "shard": place / f"{name}.h5"} for name in "ab"
    ]
    return rows.stored(models), splice


def perfect(data):
    """A crosscoder that reconstructs every row: one latent for each signed coordinate."""
    eye = torch.eye(sum(data.widths))
    crosscoder = Crosscoder(Architecture(data.widths, 2 * len(eye), activation="relu"))
    feed.set_normalisation(crosscoder, data, np.arange(len(data)))
    with torch.no_grad():
        for weights in (crosscoder.W_enc, crosscoder.W_dec):
            weights.copy_(torch.cat([eye, -eye]))
    return crosscoder


def test_a_perfect_reconstruction_loses_nothing(place):
    data, splice = read(place)
    for found in splicing.measure(perfect(data), data, splice, "middle", n_tokens=200):
        assert found["spliced"] == pytest.approx(found["clean"], abs=1e-4)
        assert found["kl"] == pytest.approx(0, abs=1e-4)
        assert found["recovered_zero"] == pytest.approx(1, abs=1e-2)
        assert 150 <= found["n"] <= 250


def test_a_crosscoder_that_says_the_mean_recovers_nothing_over_the_mean(place):
    data, splice = read(place)
    crosscoder = perfect(data)
    with torch.no_grad():
        crosscoder.W_dec.zero_()
        crosscoder.mean.copy_(encoded.training_mean(crosscoder, data))
    for found in splicing.measure(crosscoder, data, splice, "middle", n_tokens=200):
        assert found["spliced"] == pytest.approx(found["mean"], rel=1e-6)
        assert found["kl"] > 1e-4


def test_losses_are_those_of_a_plain_forward_pass_at_rows_that_count(place):
    from transformers import AutoModelForCausalLM

    data, splice = read(place)
    text = splicing.Sequences.held_out(place / "tokens.h5", data, 1, 150)
    model = AutoModelForCausalLM.from_pretrained(place / "b", dtype=torch.float32).eval()
    losses = []
    for ids, row in zip(text.ids, text.row, strict=True):
        assert (data.fold[row[row >= 0]] == 0).all()
        assert row[0] == -1  # the first token never counts
        with torch.inference_mode():
            log_p = model(torch.from_numpy(ids)[None]).logits[0].log_softmax(-1)
        losses += [-float(log_p[t, ids[t + 1]]) for t in range(len(ids) - 1) if row[t] >= 0]
    found = splicing.measure(perfect(data), data, splice, "middle", n_tokens=150)[1]
    assert found["n"] == len(losses)
    assert found["clean"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_an_ablation_that_costs_nothing_recovers_nothing():
    scores = splicing.Spliced(n=10, clean=3.0, spliced=3.001, zero=3.009, mean=3.02, kl=0.0)
    assert math.isnan(scores.recovered(scores.zero))
    assert scores.recovered(scores.mean) == pytest.approx(0.95)


def test_the_stage_stores_the_losses_of_each_model(place, tmp_path):
    data, splice = read(place)
    settings = {"n_latents": 64, "k": 8, "batch": 64, "steps": 30, "learning_rate": 1e-2}
    training.train(data, tmp_path / "w.h5", spec={}, **settings)
    stage.evaluate(tmp_path / "w.h5", data, tmp_path / "e.h5", spec={}, splice=splice, splice_tokens=100, site="middle")
    with artifacts.read(tmp_path / "e.h5", "evaluation") as file:
        losses = artifacts.read_json(file, "splicing")
    assert len(losses) == 2
    assert all(found["kl"] > 0 for found in losses)
    stage.evaluate(tmp_path / "w.h5", data, tmp_path / "none.h5", spec={}, splice=splice, site="middle")
    with artifacts.read(tmp_path / "none.h5", "evaluation") as file:
        assert artifacts.read_json(file, "splicing") == []


@pytest.mark.gpu
def test_a_gpu_loses_what_the_cpu_loses(place):
    data, splice = read(place)
    crosscoder = perfect(data)
    with torch.no_grad():
        crosscoder.W_dec[::3] = 0
    cpu, gpu = (
        splicing.measure(crosscoder.to(device), data, splice, "middle", n_tokens=200) for device in ("cpu", "cuda:0")
    )
    for of_cpu, of_gpu in zip(cpu, gpu, strict=True):
        assert of_gpu["kl"] > 1e-3
        assert of_gpu == pytest.approx(of_cpu, rel=1e-2, nan_ok=True)
