"""Crosscoders leaving and entering Diptych, and latents recovered across seeds."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diptych import DiptychError, artifacts, planted
from diptych.crosscoder import architecture, exchange, seeds, training
from diptych.crosscoder.architecture import Architecture, Crosscoder

torch.set_num_threads(1)


@pytest.mark.parametrize("objective", ["batchtopk", "topk", "l1"])
def test_exported_weights_need_nothing_but_their_equation(tmp_path, objective):
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
    x = [torch.from_numpy(part) for part in data.take(np.arange(200)).x]
    pre = (x[0] @ t["W_enc.0"] + x[1] @ t["W_enc.1"] + t["b_enc"]).relu()
    if config["activation"] == "jumprelu":
        f = pre * (pre >= t["theta"])
    elif config["activation"] == "topk":
        score = pre * t["score_weight"]
        f = pre * (score >= score.topk(config["k"], dim=1).values[:, -1:])
    else:
        f = pre
    crosscoder = architecture.load(tmp_path / "w.h5")
    expected = crosscoder.per_model(crosscoder(torch.cat(x, 1)).detach())
    off = [(f @ t[f"W_dec.{m}"] + t[f"b_dec.{m}"] - expected[m]).abs().amax(1) for m in (0, 1)]
    assert float((torch.stack(off) > 1e-3).float().mean()) < 0.01  # a score at the cut may fall on either side


def test_published_layout_comes_in(tmp_path):
    torch.manual_seed(0)
    t = {
        "W_enc": torch.randn(2, 6, 10),
        "W_dec": torch.randn(10, 2, 6),
        "b_enc": torch.randn(10),
        "b_dec": torch.randn(2, 6),
    }
    save_file(t, tmp_path / "cc.safetensors")
    crosscoder = exchange.load_published(tmp_path / "cc.safetensors")
    x = torch.randn(5, 2, 6)
    f = (torch.einsum("bmd,mdf->bf", x, t["W_enc"]) + t["b_enc"]).relu()
    torch.testing.assert_close(crosscoder.encode(x.reshape(5, 12)), f)
    expected = torch.einsum("bf,fmd->bmd", f, t["W_dec"]) + t["b_dec"]
    torch.testing.assert_close(crosscoder(x.reshape(5, 12)), expected.reshape(5, 12))
    with pytest.raises(DiptychError, match="W_dec has shape"):
        exchange.from_published({**t, "W_dec": torch.zeros(10, 2, 5)})


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


def test_a_file_of_another_kind_is_one_clear_error(tmp_path):
    with artifacts.create(tmp_path / "w.h5", "features", {}):
        pass
    with pytest.raises(DiptychError, match="features"):
        exchange.export(tmp_path / "w.h5", tmp_path / "out", spec={})
