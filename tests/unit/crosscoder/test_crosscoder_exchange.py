"""Crosscoders leaving and entering Diptych, and latents recovered across seeds."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.optimize import linear_sum_assignment

from diptych.crosscoder import exchange, seeds
from diptych.crosscoder.training import stage as training
from diptych.crosscoder.training import tracking
from diptych.oracle import planted
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding import architecture
from diptych.sparse_coding.architecture import Architecture, Crosscoder
from diptych.storage import artifacts

torch.set_num_threads(1)


@pytest.mark.parametrize("objective", ["batchtopk", "topk", "l1", "jumprelu"])
def test_exported_weights_need_nothing_but_numpy_and_their_equation(tmp_path, objective):
    data = planted.make_pair(d_A=24, d_B=32, d_0=24, n_documents=20).rows()
    training.train(
        data,
        tmp_path / "w.h5",
        spec={},
        objective=objective,
        n_latents=40,
        k=4,
        batch=128,
        steps=20,
        learning_rate=1e-3,
    )
    exchange.export(tmp_path / "w.h5", tmp_path / "out", spec={})
    config = json.loads((tmp_path / "out/config.json").read_text())
    t = load_file(tmp_path / "out/model.safetensors")
    x = data.take(np.arange(200)).x
    pre = np.maximum(x[0] @ t["W_enc.0"] + x[1] @ t["W_enc.1"] + t["b_enc"], 0)
    if config["activation"] == "jumprelu":
        f = pre * (pre >= t["theta"])
    elif config["activation"] == "topk":
        score = pre * t["score_weight"]
        f = pre * (score >= np.sort(score, axis=1)[:, -config["k"], None])
    else:
        f = pre
    crosscoder = architecture.load(tmp_path / "w.h5")
    expected = crosscoder.per_model(crosscoder(torch.from_numpy(np.concatenate(x, axis=1))).detach())
    off = [np.abs(f @ t[f"W_dec.{m}"] + t[f"b_dec.{m}"] - expected[m].numpy()).max(axis=1) for m in (0, 1)]
    assert (np.stack(off) > 1e-3).mean() < 0.01  # a score at the cut may fall on either side
    assert (f > 0).any()


def test_recovery_is_full_for_a_permuted_copy_and_none_for_random_weights():
    first = Crosscoder(Architecture((16, 16), 12), seed=0)
    with torch.no_grad():
        first.W_dec[:3, :16] = 0.0
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    copy, other = (Crosscoder(Architecture((16, 16), 12), seed=seed) for seed in (0, 5))
    with torch.no_grad():
        copy.W_dec.copy_(first.W_dec[order])
    found = seeds.recovery([first, copy, other])
    assert found[0].tolist() == found[1].tolist() == [2] * 12
    assert found[2].tolist() == [1] * 12


def test_exclusive_latents_are_matched_by_their_own_side():
    first, second = (Crosscoder(Architecture((8, 8), 2), seed=seed) for seed in (0, 1))
    with torch.no_grad():
        second.W_dec[0] = torch.cat([-0.05 * first.W_dec[0, :8], first.W_dec[0, 8:]])
        first.W_dec[0, :8] *= 0.05
    assert seeds.recovery([first, second])[0][0] == 2


def test_matching_in_groups_is_the_optimal_assignment():
    rng = np.random.default_rng(0)
    first = np.repeat(rng.normal(size=(20, 12)), 3, axis=0) + 0.35 * rng.normal(size=(60, 12))
    second = np.repeat(first[::3], 3, axis=0) + 0.35 * rng.normal(size=(60, 12))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second)]
    cosine = unit[0] @ unit[1].T
    i, j = linear_sum_assignment(np.where(cosine > 0.7, cosine, 0), maximize=True)
    best = cosine[i, j][cosine[i, j] > 0.7].sum()
    i, j = seeds.match(first, second)
    assert len(i) > 30
    assert len(set(i)) == len(i) == len(set(j))
    assert cosine[i, j].min() > 0.7
    assert cosine[i, j].sum() == pytest.approx(best)
    assert [len(found) for found in seeds.match(first, first[:0])] == [0, 0]


def test_the_stage_counts_latents_by_runs(tmp_path):
    data = planted.make_pair(n_documents=40).rows()
    paths = [tmp_path / f"{seed}.h5" for seed in (0, 1)]
    settings = {"n_latents": 48, "k": 4, "batch": 128, "steps": 300, "learning_rate": 1e-2}
    for seed, path in enumerate(paths):
        training.train(data, path, spec={}, seed=seed, **settings)
    seeds.compare(paths, tmp_path / "seeds.h5", spec={}, seeds=[0, 1], exclusive=0.1)
    with artifacts.read(tmp_path / "seeds.h5", "seeds") as file:
        counts = artifacts.read_json(file, "summary")["latents_by_runs"]
        assert counts["0"] == counts["1"] == np.bincount(file["recovered/0"][:], minlength=3)[1:].tolist()
    assert counts["0"][1] > 20


def test_wandb_gets_the_series_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = tracking.open_tracker(["wandb"], tmp_path / "tracking", name="x", settings={"k": 4})
    data = planted.make_pair(n_documents=20).rows()
    training.train(data, tmp_path / "w.h5", spec={}, n_latents=16, k=2, batch=64, steps=5, tracker=tracker)
    training.train(data, tmp_path / "plain.h5", spec={}, n_latents=16, k=2, batch=64, steps=5)
    tracker.close()
    assert list((tmp_path / "tracking").rglob("*.wandb"))
    assert (tmp_path / "w.h5").read_bytes() == (tmp_path / "plain.h5").read_bytes()


def test_points_of_a_series_are_flattened():
    assert tracking.flat({"step": 3, "loss": 2, "fvu": [0.1, 0.2]}) == {"loss": 2.0, "fvu/0": 0.1, "fvu/1": 0.2}


def test_a_tracker_that_is_not_installed_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DiptychError, match="install it"):
        tracking.open_tracker(["tensorboard"], tmp_path, name="x", settings={})


def test_a_file_of_another_kind_is_one_clear_error(tmp_path):
    with artifacts.create(tmp_path / "w.h5", "features", {}):
        pass
    with pytest.raises(DiptychError, match="features"):
        exchange.export(tmp_path / "w.h5", tmp_path / "out", spec={})
