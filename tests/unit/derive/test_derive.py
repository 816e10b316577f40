import json
import re

import numpy as np
import pytest
import torch

from diptych.derive import finetune, plant, rerandomize, training
from diptych.models import pretrained, sources
from diptych.models.batches import Sequences
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from random_texts import WORDS, random_texts, write_tokens

FULL = finetune.Tuning(method="full")


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "llama"
    fetch_random(out, "llama")
    return out


def fetch_random(out, architecture):
    source = {"architecture": architecture, "layers": 2, "width": 32, "heads": 2, "vocabulary": 300, "seed": 1}
    sources.fetch(out, spec={"made": architecture}, source={"kind": "random", **source})


# --- planting -----------------------------------------------------------------------------------------------------


def residual(directory, layer, batch, dtype="float32"):
    """What leaves block `layer` (not the last one), [tokens, d]."""
    with torch.no_grad():
        states = pretrained.load(directory, dtype=dtype)(
            torch.from_numpy(batch.ids), attention_mask=torch.from_numpy(batch.mask).long(), output_hidden_states=True
        ).hidden_states
    return states[layer + 1][torch.from_numpy(batch.mask)].float().numpy()


@pytest.fixture(scope="module")
def tokens(parent, tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens") / "tokens.h5", parent, random_texts(120, 0))


def test_planted_model_differs_by_the_truth_exactly(parent, tokens, tmp_path):
    out = tmp_path / "planted"
    plant.plant(parent, tokens, out, spec={"seed": 0}, layer=0, concept=["Congress"], size=0.5)
    sequences = Sequences.read(tokens)
    batch = sequences.batch(np.arange(20))
    with artifacts.read(out / "truth.h5", "truth") as truth:
        v, score, concept = truth["v"][:], truth["score"][:], truth["concept"][:]
        statistics = artifacts.read_json(truth, "statistics")
    difference = residual(out, 0, batch) - residual(parent, 0, batch)
    expected = np.outer(score[batch.rows], v)
    assert np.abs(difference - expected).max() < 0.02 * np.abs(expected).max()  # h is kept in bfloat16 for the truth
    folds = sequences.fold[sequences.document[sequences.row_sequence]]
    assert score[concept & (folds != 0) & sequences.counts].mean() == pytest.approx(1, abs=0.01)
    assert statistics["test"]["d_prime"] > 3
    norm = np.linalg.norm(residual(parent, 0, sequences.batch(np.arange(len(sequences)))), axis=1)
    assert np.linalg.norm(v) == pytest.approx(0.5 * np.median(norm[sequences.counts]), rel=0.02)


@pytest.mark.parametrize("architecture", ["gpt2", "neox"])
def test_planting_in_other_architectures(architecture, tmp_path):
    fetch_random(tmp_path / "parent", architecture)
    tokens = write_tokens(tmp_path / "tokens.h5", tmp_path / "parent", random_texts(120, 0))
    out = tmp_path / "planted"
    plant.plant(tmp_path / "parent", tokens, out, spec={}, layer=0, concept=["moon"], size=1.0)
    batch = Sequences.read(tokens).batch(np.arange(10))
    with artifacts.read(out / "truth.h5", "truth") as truth:
        expected = np.outer(truth["score"][:][batch.rows], truth["v"][:])
    difference = residual(out, 0, batch) - residual(tmp_path / "parent", 0, batch)
    assert np.abs(difference - expected).max() < 0.02 * np.abs(expected).max()


def test_planting_behind_a_norm_is_refused(tmp_path):
    fetch_random(tmp_path / "parent", "gemma2")
    tokens = write_tokens(tmp_path / "tokens.h5", tmp_path / "parent", random_texts(120, 0))
    with pytest.raises(DiptychError, match="normalises its MLP's output"):
        plant.plant(tmp_path / "parent", tokens, tmp_path / "planted", spec={}, layer=0, concept=["moon"])


def test_concept_rows_are_the_last_tokens_of_whole_words(parent, tmp_path):
    texts = ["the Congress met, congress! and Congressmen met; anticongress", "no such word " * 3]
    tokens = write_tokens(tmp_path / "tokens.h5", parent, texts)
    sequences = Sequences.read(tokens)
    with artifacts.read(tokens, "tokens") as file:
        found = plant.concept_rows(file, sequences, ["congress", "met"])
        ends = file["char_span"][:][found, 1].tolist()
    expected = [match.end() for match in re.finditer(r"\b(congress|met)\b", texts[0], re.IGNORECASE)]
    assert ends == expected


def test_written_text_survives_stripped_spaces():
    spans = np.array([[0, 3], [3, 7], [7, 12]])
    assert plant._written(spans, ["the", "old", " moon"]) == "the old moon"


def test_fit_is_the_closed_form():
    generator = np.random.default_rng(0)
    h = generator.standard_normal((4000, 6)) @ generator.standard_normal((6, 6)) + 1
    concept = np.arange(4000) < 400
    h[concept] += [2, 0, 0, 1, 0, 0]
    rounded = torch.from_numpy(h).bfloat16()
    x = rounded.double().numpy()
    found = plant.fit(rounded, concept, np.ones(4000, dtype=bool), 0.1)
    sigma = np.cov(x.T, bias=True)
    u = np.linalg.solve(sigma + 0.1 * np.trace(sigma) / 6 * np.eye(6), x[concept].mean(0) - x.mean(0))
    u /= u @ x[concept].mean(0)
    np.testing.assert_allclose(found.u, u, rtol=0, atol=1e-4 * np.abs(u).max())
    assert found.score[concept].mean() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 2}, "layer 2 is none of the model's blocks 0 to 1"),
        ({"concept": ["zebra"]}, "0 tokens in the training folds"),
    ],
)
def test_plant_refuses(parent, tokens, tmp_path, settings, message):
    with pytest.raises(DiptychError, match=message):
        plant.plant(parent, tokens, tmp_path / "out", spec={}, **({"layer": 0, "concept": ["moon"]} | settings))


def test_plant_is_reproducible(parent, tokens, tmp_path):
    for name in ("one", "two"):
        plant.plant(parent, tokens, tmp_path / name, spec={"a": 1}, layer=0, concept=["moon"], seed=3)
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two")]
    assert manifests[0] == manifests[1]


# --- fine-tuning --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpora(parent, tmp_path_factory):
    """Training texts that repeat a cycle of words; held-out texts of the same cycle and of random words."""
    place = tmp_path_factory.mktemp("corpora")
    cycle = [" ".join((WORDS * 3)[i : i + 16]) for i in range(12)]
    train = write_tokens(place / "train.h5", parent, cycle[:9] * 2, n_sources=1)
    held_out = [text for pair in zip(cycle[8:], random_texts(4, 5), strict=True) for text in pair]
    return train, write_tokens(place / "held_out.h5", parent, held_out)


@pytest.mark.parametrize(("method", "learning_rate"), [("lora", 2e-2), ("full", 1e-2)])
def test_finetune_learns_what_it_reads(parent, corpora, tmp_path, method, learning_rate):
    train, held_out = corpora
    out = tmp_path / "tuned"
    finetune.finetune(
        parent, train, held_out, out, spec={}, method=method, steps=25, learning_rate=learning_rate, batch_sequences=6
    )
    report = json.loads((out / "training.json").read_text())
    assert report["after"]["loss"]["source0"] < report["before"]["loss"]["source0"] - 1
    assert len(report["curve"]) == 25
    assert report["shared_documents"] == 1
    assert pretrained.describe(out) == pretrained.describe(parent)
    tuned = finetune.Tuner(pretrained.load(out), FULL, "cpu")
    sequences = Sequences.read(held_out)
    chosen = training.held_out_sequences(sequences, Sequences.read(train), 1024, np.random.default_rng(0))
    assert tuned.losses(sequences, chosen)["source0"] == pytest.approx(report["after"]["loss"]["source0"], abs=1e-4)


def test_finetune_is_reproducible(parent, corpora, tmp_path):
    for name in ("one", "two"):
        finetune.finetune(parent, *corpora, tmp_path / name, spec={}, steps=3, seed=2)
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two")]
    assert manifests[0] == manifests[1]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_killed_finetune_goes_on_to_the_same_bits(corpora, tmp_path, monkeypatch, method):
    fetch_random(tmp_path / "gpt2", "gpt2")  # it has dropout
    settings = {"method": method, "steps": 7, "checkpoint_every": 2}
    finetune.finetune(tmp_path / "gpt2", *corpora, tmp_path / "whole", spec={"a": 1}, **settings)
    learn, taken = finetune.Tuner._training_loss, []

    def killed(self, sequences, which, step):
        taken.append(step)
        if len(taken) == 6:
            raise KilledError
        return learn(self, sequences, which, step)

    monkeypatch.setattr(finetune.Tuner, "_training_loss", killed)
    with pytest.raises(KilledError):
        finetune.finetune(tmp_path / "gpt2", *corpora, tmp_path / "killed", spec={"a": 1}, **settings)
    assert (tmp_path / ".killed.checkpoint").exists()
    finetune.finetune(tmp_path / "gpt2", *corpora, tmp_path / "killed", spec={"a": 1}, **settings)
    assert taken == [0, 1, 2, 3, 4, 5, 4, 5, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpt2", "killed", "whole"]
    for name in ("manifest.json", "model.safetensors", "training.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_loss_is_the_mean_over_predicted_tokens(parent, corpora):
    sequences = Sequences.read(corpora[1])
    chosen = np.arange(3)
    model = pretrained.load(parent)
    total, count = 0.0, 0
    for i in chosen:
        ids = torch.from_numpy(sequences.token[sequences.start[i] : sequences.start[i + 1]])[None]
        with torch.no_grad():
            log_p = model(ids).logits.log_softmax(-1)
        total -= float(log_p[0, :-1].gather(1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    measured = finetune.Tuner(model, FULL, "cpu").losses(sequences, {"all": chosen}, at_once=2)
    assert measured["all"] == pytest.approx(total / count, rel=1e-5)


def test_held_out_sequences_share_no_document_with_training(parent, corpora):
    train, held_out = (Sequences.read(path) for path in corpora)
    chosen = training.held_out_sequences(held_out, train, 10**6, np.random.default_rng(0))
    assert {name: len(which) for name, which in chosen.items()} == {"source0": 3, "source1": 4}
    none_left = training.held_out_sequences(train, train, 100, np.random.default_rng(0))
    assert len(none_left["source0"]) == 0
    losses = finetune.Tuner(pretrained.load(parent), FULL, "cpu").losses(train, none_left)
    assert np.isnan(losses["source0"])


def test_spread_takes_every_document_before_any_twice():
    document = np.repeat([0, 1, 2], [5, 2, 1])
    order = training._spread(np.arange(8), document, np.random.default_rng(0))
    assert sorted(document[order[:3]]) == [0, 1, 2]
    assert sorted(order) == list(range(8))


def test_schedule_rises_then_falls():
    rates = [training.Schedule(1.0, 10, 0.2).at(step) for step in range(10)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 8 / 9])
    assert rates[-1] == pytest.approx(1 / 9)


def test_tokens_of_another_vocabulary_are_refused(parent, tmp_path):
    tokens = write_tokens(tmp_path / "tokens.h5", parent, random_texts(3, 0))
    sequences = Sequences.read(tokens)
    with pytest.raises(DiptychError, match="made with another tokenizer"):
        sequences.check_fits(pretrained.describe(parent) | {"vocabulary": 10})
    with pytest.raises(DiptychError, match="exceeds the model's context"):
        sequences.check_fits(pretrained.describe(parent) | {"context": 10})


# --- rerandomizing ------------------------------------------------------------------------------------------------


def test_rerandomized_tensors_keep_mean_and_spread(parent, tmp_path):
    for name in ("one", "two"):
        rerandomize.rerandomize(parent, tmp_path / name, spec={}, seed=1)
    before, after = pretrained.load(parent).state_dict(), pretrained.load(tmp_path / "one").state_dict()
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert float(after[name].mean()) == pytest.approx(float(weight.mean()), abs=1e-6)
        assert float(after[name].std(unbiased=False)) == pytest.approx(float(weight.std(unbiased=False)), abs=1e-6)
    name = "model.layers.0.mlp.down_proj.weight"
    correlation = np.corrcoef(before[name].ravel().numpy(), after[name].ravel().numpy())[0, 1]
    assert abs(correlation) < 0.1
    one, two = (json.loads((tmp_path / side / "manifest.json").read_text()) for side in ("one", "two"))
    assert one == two


# --- on a GPU -----------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_gpu_and_cpu_plant_the_same(parent, tokens, tmp_path):
    truths = []
    for device in ("cpu", "cuda:0"):
        out = tmp_path / device
        plant.plant(parent, tokens, out, spec={}, layer=0, concept=["Congress"], device=device)
        with artifacts.read(out / "truth.h5", "truth") as truth:
            truths.append((truth["v"][:], truth["score"][:]))
    for cpu, gpu in zip(*truths, strict=True):
        np.testing.assert_allclose(gpu, cpu, rtol=0, atol=1e-2 * np.abs(cpu).max())


@pytest.mark.gpu
def test_gpu_and_cpu_tune_to_the_same_loss(parent, corpora, tmp_path):
    curves = []
    for device in ("cpu", "cuda:0"):
        finetune.finetune(
            parent, *corpora, tmp_path / device, spec={}, method="full", steps=10, learning_rate=1e-2, device=device
        )
        curves.append(json.loads((tmp_path / device / "training.json").read_text())["curve"])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-2)
