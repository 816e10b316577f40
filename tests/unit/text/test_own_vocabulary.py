"""Tokens that one corpus is rich in."""

import numpy as np
import pytest

from diptych.storage import artifacts
from diptych.text import own_vocabulary as vocabulary
from small_study import write_tokens


def test_log_odds():
    counts, reference = np.array([30.0, 10.0, 0.0, 60.0]), np.array([10.0, 30.0, 0.0, 60.0])
    z = vocabulary.log_odds_z(counts, reference, prior_tokens=20.0)
    prior = 20.0 * np.array([40, 40, 0, 120]) / 200
    first = np.log((30 + prior[0]) / (120 - 30 - prior[0])) - np.log((10 + prior[0]) / (120 - 10 - prior[0]))
    assert z[0] == pytest.approx(first / np.sqrt(1 / (30 + prior[0]) + 1 / (10 + prior[0])))
    assert z[1] == pytest.approx(-z[0])
    assert z[2] == z[3] == 0.0


def test_own_vocabulary_is_what_one_corpus_is_rich_in(tmp_path):
    tokens = tmp_path / "tokens.h5"
    write_tokens(tokens, np.repeat(np.arange(60), 40))
    with artifacts.read(tokens, "tokens") as file:
        token = file["token"][:]
    with artifacts.create(tmp_path / "tuned.h5", "tokens", {}) as file:
        file.array("token", np.where(np.arange(len(token)) % 10 == 0, 77, token))
        file.array("counts", np.ones(len(token), dtype=bool))
    assert vocabulary.own_vocabulary(tmp_path / "tuned.h5", tokens).tolist() == [77]
    assert vocabulary.own_vocabulary(tokens, tokens).tolist() == []
