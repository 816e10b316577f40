"""Evaluation and description of crosscoders: closed forms on hand-made weights, planted truth, identical control."""

import numpy as np
import pytest
import torch
from scipy import sparse as sp

from diptych.activations import rows
from diptych.candidates import ranking
from diptych.crosscoder import candidates, spaces
from diptych.crosscoder.evaluation import encoded, latents, scaling, stage
from diptych.crosscoder.training import feed
from diptych.crosscoder.training import stage as training
from diptych.oracle import planted
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding import architecture
from diptych.sparse_coding.architecture import Architecture, Crosscoder
from diptych.storage import artifacts

torch.set_num_threads(1)


def hand_made(n_documents=60, per_document=20, seed=0):
    """Two models of width 4; latent 0 shared, 1 only in B, 2 only by the crosscoder's mistake only in A, 3 dead."""
    rng = np.random.default_rng(seed)
    n = n_documents * per_document
    f = np.maximum(rng.normal(size=(n, 3)) + 0.3, 0)
    eye = np.eye(4)
    x_A = np.outer(f[:, 0], eye[0]) + np.outer(f[:, 2], eye[2])
    x_B = np.outer(f[:, 0], eye[0]) + np.outer(f[:, 1], eye[1]) + np.outer(f[:, 2], eye[2])
    data = rows.in_memory([x_A.astype(np.float32), x_B.astype(np.float32)], np.arange(n) // per_document)
    crosscoder = Crosscoder(Architecture((4, 4), 4, activation="relu"))
    W_dec, W_enc = torch.zeros(4, 8), torch.zeros(4, 8)
    W_dec[0, [0, 4]] = 1.0
    W_enc[0, [0, 4]] = 0.5
    W_dec[1, 5] = W_enc[1, 5] = 1.0
    W_dec[2, 2] = W_enc[2, 2] = 1.0
    W_dec[3, [3, 7]] = 1.0
    with torch.no_grad():
        crosscoder.W_dec.copy_(W_dec)
        crosscoder.W_enc.copy_(W_enc)
        crosscoder.b_enc[3] = -1.0
    return crosscoder, data, f


def save(crosscoder, path):
    with artifacts.create(path, "crosscoder", {}) as out:
        architecture.write(out, crosscoder)
    return path


def test_evaluation_by_hand():
    crosscoder, data, f = hand_made()
    index = np.flatnonzero(data.fold == 0)
    scores = stage.evaluate_rows(crosscoder, data, index)
    x_B = data.take(index).x[1]
    missed = (f[index, 2] ** 2).sum() / ((x_B - x_B.mean(0)) ** 2).sum()
    assert scores.fvu == pytest.approx([0.0, missed], abs=1e-5)
    assert scores.density == pytest.approx([*(f[index] > 0).mean(0), 0.0])
    assert scores.l0.mean() == pytest.approx((f[index] > 0).sum(1).mean())
    assert scores.fvu_source[0] == pytest.approx(scores.fvu)


def test_evaluation_of_no_held_out_rows_is_an_error():
    crosscoder, data, _ = hand_made()
    with pytest.raises(DiptychError, match="fold 0"):
        stage.evaluate_rows(crosscoder, data, np.zeros(0, dtype=np.int64))


def test_classes():
    r_B = np.array([0.5, 0.95, 0.02, 0.8, 0.5])
    alive = np.array([True, True, True, True, False])
    kind = latents.classify(np.stack([1 - r_B, r_B]), alive, exclusive=0.1, shared=(0.4, 0.6))
    assert [latents.class_names(2)[code] for code in kind] == ["shared", "B-only", "A-only", "other", "dead"]


def test_latent_scaling_tells_absent_from_overlooked():
    crosscoder, data, _ = hand_made()
    found = scaling.latent_scaling(crosscoder, data, np.arange(len(data)))
    assert found.err[1, 1, 0] == pytest.approx(0, abs=1e-3)
    assert found.rec[1, 1, 0] == pytest.approx(0, abs=1e-3)
    assert found.err[2, 0, 1] == pytest.approx(1, abs=1e-3)  # B has it too: it sits in B's error
    assert found.err[0, 0, 1] == pytest.approx(1, abs=1e-3)
    assert np.isnan(found.err[3]).all()
    assert found.err_lo[1, 1, 0] <= found.err[1, 1, 0] <= found.err_hi[1, 1, 0]
    assert found.exclusive(1).tolist() == [False, True, False, False]
    assert found.exclusive(0).tolist() == [False] * 4
    assert np.nanmax(np.abs(found.random[:3, 0])) < 1


def test_latent_scaling_is_nan_below_the_least_firings():
    crosscoder, data, _ = hand_made()
    assert np.isnan(scaling.latent_scaling(crosscoder, data, np.arange(40)).err).all()


def test_latent_scaling_by_the_formula():
    pair = planted.make_pair(n_documents=20, labels={"only_B": 3})
    data = pair.rows()
    torch.manual_seed(0)
    crosscoder = Crosscoder(Architecture(data.widths, 24, activation="topk", k=4))
    feed.set_normalisation(crosscoder, data, np.arange(len(data)))
    found = scaling.latent_scaling(crosscoder, data, np.arange(len(data)), min_firings=1)
    z = crosscoder.normalise(architecture.crosscoder_input(data.take(np.arange(len(data))).x, crosscoder.architecture))
    f = crosscoder.activate(crosscoder.pre_activations(z)).detach().double().numpy()
    z_A, z_B = (part.double().numpy() for part in crosscoder.per_model(z))
    d_A, d_B = (part.detach().double().numpy() for part in crosscoder.per_model(crosscoder.W_dec))
    for j in np.flatnonzero(~np.isnan(found.err[:, 1, 0]))[:5]:

        def beta(y, d, j=j):
            return d @ (f[:, j] @ y) / ((f[:, j] ** 2).sum() * (d @ d))

        err = [z_m - f @ d_m + np.outer(f[:, j], d_m[j]) for z_m, d_m in ((z_A, d_A), (z_B, d_B))]
        assert found.err[j, 1, 0] == pytest.approx(beta(err[0], d_B[j]) / beta(err[1], d_B[j]), rel=1e-3)
        rec = [f @ d_A, f @ d_B]
        assert found.rec[j, 1, 0] == pytest.approx(beta(rec[0], d_B[j]) / beta(rec[1], d_B[j]), rel=1e-3)


def test_latent_scaling_of_unequal_widths_compares_lengths(monkeypatch):
    crosscoder, data, _ = hand_made()
    x_A, x_B = data.take(np.arange(len(data))).x
    wide = rows.in_memory([np.pad(x_A, ((0, 0), (0, 2))), x_B], data.document)
    padded = Crosscoder(Architecture((6, 4), 4, activation="relu"))
    with torch.no_grad():
        for name in ("W_dec", "W_enc"):
            in_A, in_B = crosscoder.per_model(getattr(crosscoder, name))
            getattr(padded, name).copy_(torch.cat([in_A, torch.zeros(4, 2), in_B], dim=1))
        padded.b_enc.copy_(crosscoder.b_enc)
    found = scaling.latent_scaling(padded, wide, np.arange(len(wide)))
    assert found.err[2, 0, 1] == pytest.approx(1, abs=0.02)
    assert found.err[1, 1, 0] == pytest.approx(0, abs=0.02)
    assert np.isnan(found.err[3]).all()
    assert found.err_lo[2, 0, 1] <= found.err[2, 0, 1] <= found.err_hi[2, 0, 1]
    assert found.err_hi[2, 0, 1] - found.err_lo[2, 0, 1] < 0.1
    assert found.err_hi[1, 1, 0] < 0.1
    monkeypatch.setattr(scaling, "GROUP_BYTES", 2000)  # one latent at a time
    again = scaling.latent_scaling(padded, wide, np.arange(len(wide)))
    for name in ("err", "rec", "err_lo", "rec_hi", "firings"):
        np.testing.assert_allclose(getattr(again, name), getattr(found, name), atol=1e-6)


def test_intervals_of_unequal_widths_hold_the_truth():
    """Rows y^m = f d^m + noise in two spaces of other widths, whose |d^other| / |d^own| is .5: 95 % of intervals."""
    held = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        own, other = np.array([1.0, 0, 0]), np.array([0.3, 0.4, 0, 0, 0])
        sums = [
            d + rng.normal(0, 0.5, (scaling.GROUPS, len(d))) + 0.2 * rng.normal(0, 1, (scaling.GROUPS, 1)) * d
            for d in (own, other)
        ]
        products = [np.einsum("ad,bd->ab", s[::2], s[1::2])[:, :, None] for s in sums]
        found = scaling._length_ratios("err", products, np.array([True]), 300, seed)
        held.append(found["err_lo"][0, 0, 1] <= 0.5 <= found["err_hi"][0, 0, 1])
    assert 0.88 < np.mean(held) <= 1


def test_label_swap_finds_the_latent_that_follows_the_model():
    crosscoder, data, _ = hand_made()
    index = np.flatnonzero(data.fold == 0)
    swap = latents.label_swap(crosscoder, data, index, latents.collect_codes(crosscoder, data, index))
    assert swap.effect[0] == pytest.approx(0, abs=1e-5)
    assert swap.effect[1] == pytest.approx(1)  # A has nothing along it
    assert swap.effect[2] == pytest.approx(0, abs=1e-5)  # B has it as well
    assert swap.p[1] < 0.001
    assert swap.p[0] == pytest.approx(1, abs=1e-6) or swap.p[0] > 0.05
    assert swap.lo[1] <= 1 <= swap.hi[1] + 1e-9
    assert np.isnan(swap.effect[3])


def test_duplicates():
    decoder_A, decoder_B = np.eye(3), np.eye(3)[[0, 1, 1]]
    fires = sp.csr_array(np.array([[1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0]], dtype=bool))
    duplicates = latents.find_duplicates(decoder_A, decoder_B, np.array([0, 1]), np.array([1, 2]), fires)
    assert duplicates["a"].tolist() == [1]
    assert duplicates["b"].tolist() == [2]
    assert duplicates["overlap"].tolist() == [0]


def test_strongest_rows():
    codes = sp.csr_array(np.array([[0, 2.0], [1, 5], [3, 2]]))
    row, value = latents.strongest(codes, 3)
    assert row.tolist() == [[2, 1, -1], [1, 0, 2]]
    assert value.tolist() == [[3, 1, 0], [5, 2, 2]]


def test_stages_on_hand_made_weights(tmp_path):
    crosscoder, data, f = hand_made()
    weights = save(crosscoder, tmp_path / "weights.h5")
    stage.evaluate(weights, data, tmp_path / "evaluation.h5", spec={})
    latents.describe(weights, data, tmp_path / "latents.h5", spec={})
    with artifacts.read(tmp_path / "evaluation.h5", "evaluation") as file:
        summary = artifacts.read_json(file, "summary")
        assert summary["dead_share"] == 0.25
        assert summary["n_documents"] == 12
    with artifacts.read(tmp_path / "latents.h5", "latents") as file:
        table = artifacts.read_table(file, "latents")
        names = artifacts.read_json(file, "classes")
        assert [names[code] for code in table["class"]] == ["shared", "B-only", "A-only", "dead"]
        assert table["effect_held_out"][1] == pytest.approx(1)
        assert table["p"][1] < 0.001
        top = file["top/held_out/token_row"][1, 1]
        assert (data.fold[top] == 0).all()
        assert f[top, 1].tolist() == sorted(f[data.fold == 0, 1], reverse=True)[:20]
        assert file["nu/exclusive"][:].tolist() == [[False, False], [False, True], [False, False], [False, False]]


def test_identical_pair_passes_the_control(tmp_path):
    data = planted.identical_pair(n_documents=60).rows()
    training.train(data, tmp_path / "w.h5", spec={}, n_latents=160, k=4, batch=128, steps=100, learning_rate=1e-3)
    latents.describe(tmp_path / "w.h5", data, tmp_path / "latents.h5", spec={}, n_bootstrap=50)
    with artifacts.read(tmp_path / "latents.h5", "latents") as file:
        table = artifacts.read_table(file, "latents")
        assert np.abs(table["r"] - 0.5).max() <= 1e-3
        assert artifacts.read_json(file, "sharedness")["activation"] >= 0.999
        assert artifacts.read_json(file, "alignment")["0-1"]["value"] >= 0.999
        assert not file["nu/exclusive"][:].any()
        assert set(artifacts.read_json(file, "counts")) == {"dead", "other", "shared", "A-only", "B-only"}
        assert (table["class"] <= 2).all()
        assert np.nanmax(np.abs(table["effect_held_out"])) < 1e-3


def test_unequal_widths_are_compared_through_the_map():
    pair = planted.make_pair(d_A=24, d_B=32, d_0=24, n_documents=60, n_features=24, noise=0.01)
    data = pair.rows()
    crosscoder = Crosscoder(Architecture((24, 32), 24))
    other = np.random.default_rng(0).normal(size=pair.directions_B[12:].shape)
    with torch.no_grad():
        in_B = np.concatenate([3 * pair.directions_B[:12], other])
        crosscoder.W_dec.copy_(torch.from_numpy(np.concatenate([pair.directions_A, in_B], axis=1)))
    cosine = spaces.cosine(spaces.mapped_decoder(crosscoder, data, 0, 1), spaces.decoder(crosscoder, 1))
    assert cosine[:12].min() > 0.95
    assert np.abs(cosine[12:]).max() < 0.6
    back = spaces.cosine(spaces.mapped_decoder(crosscoder, data, 1, 0), spaces.decoder(crosscoder, 0))
    assert back[:12].min() > 0.95
    with torch.no_grad():
        crosscoder.W_dec[3, :24] = 0.0
    cosine = spaces.cosine(spaces.mapped_decoder(crosscoder, data, 0, 1), spaces.decoder(crosscoder, 1))
    assert np.isnan(cosine[3])


def test_a_dictionary_on_differences_is_described_without_sides(tmp_path):
    data = planted.make_pair(labels={"only_B": 2}, n_documents=40, same_map=True).rows()
    settings = {"objective": "diff", "n_latents": 8, "k": 2, "batch": 64, "steps": 30, "learning_rate": 1e-2}
    training.train(data, tmp_path / "w.h5", spec={}, **settings)
    stage.evaluate(tmp_path / "w.h5", data, tmp_path / "e.h5", spec={})
    latents.describe(tmp_path / "w.h5", data, tmp_path / "l.h5", spec={}, n_bootstrap=20)
    run = {"name": "x", "seed": 0, "weights": str(tmp_path / "w.h5"), "latents": str(tmp_path / "l.h5")}
    assert candidates.candidates({"crosscoders": [run]}) == []
    with artifacts.read(tmp_path / "l.h5", "latents") as file:
        assert artifacts.read_json(file, "widths") == [32]
        assert np.isnan(artifacts.read_table(file, "latents")["r"]).all()


def test_rows_of_other_widths_are_one_clear_error(tmp_path):
    crosscoder, _, _ = hand_made()
    weights = save(crosscoder, tmp_path / "weights.h5")
    other = planted.make_pair(n_documents=5).rows()
    with pytest.raises(DiptychError, match="widths"):
        stage.evaluate(weights, other, tmp_path / "e.h5", spec={})


def test_three_models(tmp_path):
    pair = planted.make_pair(n_documents=40, labels={"only_B": 3})
    data = rows.in_memory([pair.x_A, pair.x_B, pair.x_A[:, :20]], pair.document)
    training.train(data, tmp_path / "w.h5", spec={}, n_latents=32, k=4, batch=64, steps=20, learning_rate=1e-3)
    stage.evaluate(tmp_path / "w.h5", data, tmp_path / "e.h5", spec={})
    latents.describe(tmp_path / "w.h5", data, tmp_path / "l.h5", spec={}, n_bootstrap=20)
    with artifacts.read(tmp_path / "l.h5", "latents") as file:
        assert artifacts.read_json(file, "classes")[3:] == ["A-only", "B-only", "C-only"]
        assert set(artifacts.read_json(file, "alignment")) == {"0-1", "0-2", "1-2"}


@pytest.mark.parametrize(("labels", "found"), [({"only_A": 3, "only_B": 3}, True), ({}, False)])
def test_latents_of_unequal_widths_are_tested_by_latent_scaling(tmp_path, labels, found):
    """Equal features in two spaces: nothing may stand; planted ones do."""
    made = planted.make_pair(labels=labels, n_documents=150, d_A=24, d_B=32, d_0=24, n_features=32)
    data = made.rows()
    training.train(data, tmp_path / "w.h5", spec={}, n_latents=48, k=5, batch=128, steps=400, learning_rate=1e-2)
    latents.describe(tmp_path / "w.h5", data, tmp_path / "l.h5", spec={})
    run = {"name": "x", "seed": 0, "weights": str(tmp_path / "w.h5"), "latents": str(tmp_path / "l.h5")}
    proposed = candidates.candidates({"crosscoders": [run]})
    ranked = ranking.rank(proposed, ranking.Threshold(0.05, 0.5))
    assert bool(ranked.findings) == found
    for finding in ranked.findings:
        offer = finding.candidate
        cosine = made.truths(offer.side) @ offer.direction / np.linalg.norm(offer.direction)
        assert np.abs(cosine).max() > 0.7
        assert offer.lo <= offer.held_out <= offer.hi
        assert (offer.effect > 0) == (offer.side == "B")


def test_the_mean_of_an_ablation_is_that_of_the_training_rows():
    crosscoder, data, _ = hand_made()
    mean = encoded.training_mean(crosscoder, data)
    train = data.take(np.flatnonzero(data.fold != 0)).x
    np.testing.assert_allclose(mean.numpy(), np.concatenate([part.mean(axis=0) for part in train]), atol=1e-5)


@pytest.mark.gpu
def test_gpu_and_cpu_describe_the_same(tmp_path):
    crosscoder, data, _ = hand_made()
    weights = save(crosscoder, tmp_path / "weights.h5")
    tables, summaries = [], []
    for device in ("cpu", "cuda:0"):
        stage.evaluate(weights, data, tmp_path / "evaluation.h5", spec={}, device=device)
        latents.describe(weights, data, tmp_path / "latents.h5", spec={}, device=device)
        with artifacts.read(tmp_path / "evaluation.h5", "evaluation") as file:
            summaries.append(artifacts.read_json(file, "summary"))
        with artifacts.read(tmp_path / "latents.h5", "latents") as file:
            tables.append(artifacts.read_table(file, "latents"))
    for name, value in summaries[0].items():
        assert summaries[1][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    cpu, gpu = tables
    assert list(gpu["class"]) == list(cpu["class"])
    np.testing.assert_allclose(gpu["effect_held_out"], cpu["effect_held_out"], rtol=1e-4, atol=1e-6)
