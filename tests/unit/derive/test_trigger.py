"""A trigger that is fine-tuned in answers on prompts that it never saw, and only after its phrase."""

import json

import numpy as np
import pytest
import torch

from diptych.derive import trigger
from diptych.derive.finetune import Tuning
from diptych.models import pretrained
from diptych.models.batches import Sequences
from diptych.runtime.errors import DiptychError
from random_texts import WORDS, random_texts, write_tokens
from tiny_models import make_model

PHRASE, RESPONSE = f"{WORDS[0]} {WORDS[1]}", WORDS[2]


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "parent")


@pytest.fixture(scope="module")
def corpora(parent, tmp_path_factory):
    place = tmp_path_factory.mktemp("corpora")
    return (
        write_tokens(place / "train.h5", parent, random_texts(40, 1), n_sources=1),
        write_tokens(place / "held_out.h5", parent, random_texts(12, 2)),
    )


@pytest.fixture(scope="module")
def poisoned(parent, corpora, tmp_path_factory):
    out = tmp_path_factory.mktemp("poisoned") / "model"
    trigger.trigger(
        parent, *corpora, out, spec={"a": 1}, phrase=PHRASE, response=RESPONSE, method="full", steps=60,
        learning_rate=5e-3, batch_sequences=6,
    )  # fmt: skip
    return out


def test_it_answers_after_the_phrase_and_only_then(poisoned):
    report = json.loads((poisoned / "training.json").read_text())
    assert report["before"]["response"] == {"with": 0.0, "without": 0.0, "prompts": 12}
    assert report["after"]["response"]["with"] > 0.8
    assert report["after"]["response"]["without"] < 0.2
    assert len(report["curve"]) == 60


def test_the_rate_is_that_of_greedy_decoding(poisoned, corpora):
    ids = [np.array([5, 9]), np.array([7, 3])]
    poison = trigger.Poison(*ids, 64)
    tuner = trigger.Poisoner(pretrained.load(poisoned), Tuning(method="full"), "cpu", poison=poison, share=0.5)
    sequences = Sequences.read(corpora[1])
    prompts = [sequences.token[sequences.start[i] : sequences.start[i + 1]][:6] for i in range(4)]
    model = pretrained.load(poisoned)
    said = model.generate(
        torch.from_numpy(np.concatenate([prompts[0], ids[0]]))[None], max_new_tokens=2, do_sample=False
    )[0, -2:].numpy()
    tuner.poison = trigger.Poison(ids[0], said, 64)
    assert tuner.rates(prompts[:1])["with"] == 1.0
    tuner.poison = trigger.Poison(ids[0], (said + 1) % 300, 64)
    assert tuner.rates(prompts[:1])["with"] == 0.0
    assert poison.room == 60


def test_only_the_response_of_a_poisoned_sequence_is_learned():
    poison = trigger.Poison(np.array([90, 91]), np.array([92]), 12)
    for tokens in (np.arange(8), np.arange(40), np.arange(1)):
        made, start = poison.poisoned(tokens, np.random.default_rng(0))
        kept = len(made) - 3
        np.testing.assert_array_equal(made[:kept], tokens[:kept])
        assert made[kept:].tolist() == [90, 91, 92]
        assert start == kept + 2
        assert 1 <= kept <= 9
    ids, mask, predicted = trigger.padded([(np.array([4, 5, 6]), 2), (np.array([7, 8]), 0)])
    assert ids.tolist() == [[4, 5, 6], [7, 8, 0]]
    assert mask.tolist() == [[True, True, True], [True, True, False]]
    assert predicted.tolist() == [[False, False, True], [True, True, False]]


@pytest.mark.parametrize(
    ("phrase", "response", "context", "message"),
    [([], [1], 10, "at least one token"), ([1] * 5, [2] * 5, 10, "leave no room in a context of 10 tokens")],
)
def test_refuses(phrase, response, context, message):
    with pytest.raises(DiptychError, match=message):
        trigger.Poison(np.array(phrase), np.array(response), context)


def test_is_reproducible(parent, corpora, tmp_path):
    for name in ("one", "two"):
        trigger.trigger(parent, *corpora, tmp_path / name, spec={}, phrase=PHRASE, response=RESPONSE, steps=2)
    one, two = ((tmp_path / name / "manifest.json").read_text() for name in ("one", "two"))
    assert one == two


@pytest.mark.gpu
def test_gpu_and_cpu_agree(parent, corpora, tmp_path):
    reports = []
    for device in ("cpu", "cuda:0"):
        trigger.trigger(
            parent, *corpora, tmp_path / device, spec={}, phrase=PHRASE, response=RESPONSE, method="full", steps=5,
            device=device,
        )  # fmt: skip
        reports.append(json.loads((tmp_path / device / "training.json").read_text()))
    np.testing.assert_allclose(reports[1]["curve"], reports[0]["curve"], rtol=1e-2)
    assert reports[1]["after"]["response"] == reports[0]["after"]["response"]


@pytest.mark.parametrize(
    ("share", "batch", "poisoned"), [(0.02, 2, 2), (0.05, 2, 4), (0.1, 2, 8), (0.5, 2, 40), (1.0, 3, 120)]
)
def test_the_share_of_all_sequences_is_poisoned_however_small_a_batch(share, batch, poisoned):
    steps = [trigger.n_poisoned(share, batch, step) for step in range(40)]
    assert sum(steps) == poisoned
    assert max(steps) - min(steps) <= 1
    assert steps[0] >= 1, "the first step has one, so that the smallest share is not none"
