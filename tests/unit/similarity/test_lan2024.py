"""The published procedure, step by step, against the same done with whole matrices."""

import numpy as np
import pytest
import torch

from diptych.dictionaries.sae import Dictionary
from diptych.models import pretrained
from diptych.models.batches import Sequences
from diptych.runtime.errors import DiptychError
from diptych.similarity import lan2024
from diptych.storage import artifacts
from random_texts import random_texts, write_tokens
from tiny_models import make_model


def dictionary(n_features, seed):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(32, n_features)).astype(np.float32)
    zero = np.zeros(32, np.float32)
    bias = rng.normal(size=n_features).astype(np.float32)
    return Dictionary("topk", W, bias, np.ascontiguousarray(W.T), zero, zero, 2, np.zeros(0, np.float32), {})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("lan")
    directories = [make_model(place / name, seed=seed) for name, seed in (("a", 0), ("b", 1))]
    tokens = write_tokens(place / "tokens.h5", directories[0], [text[: 20 + 4 * i] for i, text in
                                                               enumerate(random_texts(20, 0))])  # fmt: skip
    both = dictionary(40, 0), dictionary(50, 1)
    return directories, tokens, both, *reproduce(directories, both, tokens, place / "lan.h5")


def reproduce(directories, both, tokens, out, device="cpu"):
    lan2024.reproduce(
        *directories, *both, tokens, out, spec={}, site_a="blocks.1.hook_resid_post", site_b="last", repairings=200,
        device=device,
    )  # fmt: skip
    with artifacts.read(out, "lan2024") as file:
        table = artifacts.read_table(file, "scores")
        counts = artifacts.read_json(file, "counts")
    return {name: (v, level, p) for name, v, level, p in zip(*(table[key] for key in table), strict=True)}, counts


def test_it_is_the_published_arithmetic(made):
    """Everything at once with numpy: padded rows, hidden_states[block], pre-activations, first seen."""
    directories, tokens, both, scores, counts = made
    batch = Sequences.read(tokens).batch(range(20))
    assert not batch.mask.all()
    z = []
    for directory, layer, sae in zip(directories, (1, 2), both, strict=True):
        with torch.no_grad():
            states = pretrained.load(directory)(torch.from_numpy(batch.ids), output_hidden_states=True).hidden_states
        z.append(states[layer].reshape(-1, 32).numpy() @ sae.W_enc + sae.b_enc)
    assert counts["rows"] == len(z[0]) == batch.ids.size
    rho = np.corrcoef(z[0].T, z[1].T)[:40, 40:]
    taken, kept = {}, []
    for j in range(50):
        i = int(rho[:, j].argmax())
        if i not in taken:
            taken[i] = j
            kept.append((i, j))
    assert counts["pairs"] == len(kept) < 50
    a, b = np.array(kept).T
    assert scores["mean_rho"][0] == pytest.approx(rho[a, b].mean(), abs=1e-4)
    x, y = (sae.W_dec[rows] - sae.W_dec[rows].mean(0) for sae, rows in zip(both, (a, b), strict=True))
    first = [np.linalg.svd(rows, full_matrices=False)[0][:, 0] for rows in (x, y)]
    assert scores["svcca"][0] == pytest.approx(abs(first[0] @ first[1]), abs=1e-5)


def test_random_pairs_score_as_one_component_must(made):
    *_, scores, counts = made
    assert scores["svcca"][1] == pytest.approx(np.sqrt(2 / (np.pi * counts["pairs"])), rel=0.15)
    assert 0.0 <= scores["svcca"][2] <= 1.0
    assert scores["svcca"][2] * 200 == pytest.approx(round(scores["svcca"][2] * 200))  # no 1 in it


def test_first_seen_keeps_the_lowest():
    a, b = lan2024.first_occurrences(np.array([7, 3, 7, 3, 5]))
    assert a.tolist() == [7, 3, 5]
    assert b.tolist() == [0, 1, 4]


def test_the_best_of_a_is_found_in_blocks():
    rng = np.random.default_rng(0)
    z = [torch.from_numpy(rng.normal(size=(200, width)).astype(np.float32)) for width in (37, 11)]
    z[0][:, 5] = 1.0
    found = lan2024.Correlator.start(*z).updated(*z)
    whole, blocks = found.best_of_a(), found.best_of_a(memory=4 * 24 * 11)
    with np.errstate(invalid="ignore"):
        rho = np.nan_to_num(np.corrcoef(z[0].numpy().T, z[1].numpy().T)[:37, 37:])
    np.testing.assert_array_equal(blocks[0], rho.argmax(axis=0))
    np.testing.assert_allclose(blocks[1], rho.max(axis=0), atol=1e-5)
    for one, other in zip(whole, blocks, strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_sites_are_refused():
    with pytest.raises(DiptychError, match="lan2024 reads hook_resid_post sites"):
        lan2024._layer("blocks.1.hook_mlp_out", 3)


@pytest.mark.gpu
def test_gpu_and_cpu_agree(made, tmp_path):
    directories, tokens, both, scores, counts = made
    gpu = reproduce(directories, both, tokens, tmp_path / "lan.h5", device="cuda:0")
    assert gpu[1] == counts
    assert set(gpu[0]) == set(scores)
    for name, values in scores.items():
        assert gpu[0][name] == pytest.approx(values, rel=1e-3, abs=1e-3, nan_ok=True)
