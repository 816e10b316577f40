"""Crosscoder objectives and training, against dense autograd, planted truth and the identical control."""

import os
import signal
from dataclasses import replace
from functools import cached_property

import numpy as np
import pytest
import torch

from diptych.activations import rows
from diptych.activations.sides import MemorySide
from diptych.crosscoder.training import feed, stage
from diptych.crosscoder.training.stage import Training
from diptych.oracle import planted
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding import architecture, objectives
from diptych.sparse_coding.architecture import Architecture, Crosscoder
from diptych.storage import artifacts
from diptych.storage.checkpoints import Checkpoint

torch.set_num_threads(1)
SMALL = {"n_latents": 48, "k": 4, "batch": 128, "steps": 40, "learning_rate": 1e-3}
MORTAL = {**SMALL, "n_latents": 400, "dead_share": 0.02, "k_initial": 8}
"""Settings at which latents die within the run."""


def silent_run(auxiliary=1 / 32):
    """A run whose latents 0 .. 9 cannot fire."""
    settings = Training(**{**SMALL, "steps": 100}, dead_share=0.05, auxiliary=auxiliary)
    data = planted.make_pair(n_documents=20).rows()
    crosscoder = Crosscoder(settings.architecture(data.widths))
    feed.set_normalisation(crosscoder, data, np.flatnonzero(data.fold != 0))
    with torch.no_grad():
        crosscoder.b_enc[:10] = -20.0
    optimizer = torch.optim.Adam(crosscoder.parameters(), lr=settings.rate)
    run = stage.Run(crosscoder, optimizer, silent_rows=torch.zeros(settings.n_latents))
    return run, settings, feed.Feed(data, crosscoder, settings)


def test_silent_latents_are_dead_after_their_share_of_the_rows_until_they_fire(monkeypatch):
    run, settings, feed = silent_run()
    named = []
    evaluate = objectives.evaluate_terms

    def watched(crosscoder, z_BD, objective, step):
        named.append(set(step.dead.tolist()))
        return evaluate(crosscoder, z_BD, objective, step)

    monkeypatch.setattr(objectives, "evaluate_terms", watched)
    batches = feed.batches(0)
    for _ in range(8):
        stage.take_step(run, next(batches), settings.losses(), settings)
        run.step += 1
    assert all(not dead & set(range(10)) for dead in named[:5])  # 5 % of 100 steps
    assert all(dead >= set(range(10)) for dead in named[5:])
    with torch.no_grad():
        run.crosscoder.b_enc[:10] = 1.0
    stage.take_step(run, next(batches), settings.losses(), settings)
    assert not run.silent_rows[:10].any()


def test_the_auxiliary_loss_revives_dead_latents():
    alive = {}
    for auxiliary in (0.0, 1.0):
        run, settings, feed = silent_run(auxiliary)
        with torch.no_grad():  # they read something, but say too little of it to be chosen
            run.crosscoder.b_enc[:10] = 0.0
            run.crosscoder.W_dec[:10] *= 0.01
        for _, z_BD in zip(range(60), feed.batches(0), strict=False):
            stage.take_step(run, z_BD, settings.losses(), settings)
            run.step += 1
        alive[auxiliary] = int((run.silent_rows[:10] == 0).sum())
    assert alive[0.0] == 0
    assert alive[1.0] >= 8


def test_gradients_are_clipped():
    run, settings, feed = silent_run()
    settings = replace(settings, clip=1e-3)
    stage.take_step(run, next(feed.batches(0)), settings.losses(), settings)
    total = torch.stack([weight.grad.norm() for weight in run.crosscoder.parameters()]).norm()
    assert float(total) == pytest.approx(1e-3, rel=1e-3)


def test_dedicated_latents_keep_zero_encoder_and_decoder_rows_in_other_models():
    pair = planted.make_pair(n_documents=10)
    settings = Training(**SMALL, dedicated=(0.25, 0.25))
    crosscoder, _, _ = stage.optimise(pair.rows(), settings)
    for weights in (crosscoder.W_enc, crosscoder.W_dec):
        in_A, in_B = crosscoder.per_model(weights.detach())
        assert in_B[:12].abs().max() == 0
        assert in_A[12:24].abs().max() == 0
        assert in_A[:12].abs().sum(1).min() > 0
        assert in_B[12:24].abs().sum(1).min() > 0


@pytest.mark.parametrize("independent", [False, True])
def test_shared_latents_stay_tied(independent):
    pair = planted.make_pair(n_documents=10, labels={"only_B": 4})
    crosscoder, _, _ = stage.optimise(pair.rows(), Training(**SMALL, shared=0.5, independent=independent))
    in_A, in_B = crosscoder.per_model(crosscoder.W_dec.detach())
    torch.testing.assert_close(in_A[:24], in_B[:24], rtol=1e-5, atol=1e-6)
    assert (in_A[24:] - in_B[24:]).abs().max() > 1e-3


def test_normalisation_gives_every_model_the_same_mean_length():
    pair = planted.make_pair(d_A=24, d_B=40, d_0=20, n_documents=20)
    data = pair.rows()
    crosscoder = Crosscoder(Architecture((24, 40), 8))
    train = np.flatnonzero(data.fold != 0)
    feed.set_normalisation(crosscoder, data, train)
    z_BD = crosscoder.normalise(architecture.crosscoder_input(data.take(train).x, crosscoder.architecture))
    for part in crosscoder.per_model(z_BD):
        assert float(part.norm(dim=1).mean()) == pytest.approx(32**0.5, rel=1e-4)
        assert float(part.mean(0).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("objective", "penalty", "steps", "learning_rate"),
    [("batchtopk", 0.0, 200, 1e-2), ("topk", 0.0, 200, 1e-2), ("l1", 3.0, 300, 5e-3), ("jumprelu", 10.0, 300, 5e-3)],
)
def test_planted_exclusive_latents_are_found(objective, penalty, steps, learning_rate):
    pair = planted.make_pair(labels={"only_A": 3, "only_B": 3}, n_documents=60, d_A=24, d_B=32, d_0=24, n_features=32)
    settings = Training(
        objective=objective,
        penalty=penalty,
        n_latents=48,
        k=5,
        batch=128,
        steps=steps,
        learning_rate=learning_rate,
        decoder_norm=0.3 if penalty else None,
    )
    crosscoder, run, _ = stage.optimise(pair.rows(), settings)
    assert run.series["l0"][-1] < 10
    assert planted_precision(crosscoder, pair) >= 0.9


def planted_precision(crosscoder, pair):
    """Average precision of latents ranked by how exclusive they are, weighted by nothing else."""
    r = crosscoder.relative_norm().detach().numpy()
    in_A, in_B = (part.detach().numpy() for part in crosscoder.per_model(crosscoder.W_dec))
    order = np.argsort(-np.abs(r - 0.5))
    sides = ["B" if r[j] > 0.5 else "A" for j in order]
    found = [in_B[j] if side == "B" else in_A[j] for j, side in zip(order, sides, strict=True)]
    return planted.average_precision(found, sides, pair)


def test_identical_pair_has_no_exclusive_latent():
    pair = planted.identical_pair(n_documents=60)
    crosscoder, _, _ = stage.optimise(pair.rows(), Training(**{**SMALL, "steps": 150}))
    assert float((crosscoder.relative_norm() - 0.5).abs().max().detach()) <= 1e-3
    in_A, in_B = crosscoder.per_model(crosscoder.W_dec.detach())
    assert float(torch.nn.functional.cosine_similarity(in_A, in_B).min()) > 0.999


def test_difference_baseline_finds_what_differs():
    pair = planted.make_pair(labels={"only_B": 2}, n_documents=80, same_map=True, noise=0.01)
    settings = Training(objective="diff", n_latents=3, k=1, batch=128, steps=200, learning_rate=1e-2)
    crosscoder, _, _ = stage.optimise(pair.rows(), settings)
    rows_F = torch.nn.functional.normalize(crosscoder.W_dec.detach(), dim=1).numpy()
    assert (np.abs(rows_F @ pair.truths("B").T).max(0) > 0.7).all()


def test_rotated_features_show_their_angle():
    theta = 0.9
    pair = planted.make_pair(
        labels={"rotated": (4, theta)}, n_documents=80, d_A=24, d_B=24, n_features=24, same_map=True
    )
    settings = Training(n_latents=24, k=4, batch=128, steps=500, learning_rate=1e-2)
    crosscoder, _, _ = stage.optimise(pair.rows(), settings)
    in_A, in_B = (
        torch.nn.functional.normalize(part.detach(), dim=1).numpy() for part in crosscoder.per_model(crosscoder.W_dec)
    )
    turned = (in_A * in_B).sum(1)
    near = in_A @ pair.directions_A.T
    found = {
        label: [float(turned[near[:, j].argmax()]) for j in pair.features(label) if near[:, j].max() > 0.9]
        for label in ("rotated", "shared")
    }
    assert len(found["rotated"]) >= 3
    assert np.median(found["rotated"]) == pytest.approx(np.cos(theta), abs=0.1)
    assert np.median(found["shared"]) > 0.95
    assert max(found["rotated"]) < np.median(found["shared"])


@pytest.mark.parametrize("objective", ["batchtopk", "topk", "l1", "jumprelu"])
def test_bfloat16_products_train_the_same_crosscoder(objective):
    data = planted.make_pair(n_documents=40).rows()
    settings = {**SMALL, "objective": objective, "steps": 60, "penalty": 1.0, "decoder_norm": 0.5}
    losses = {}
    for compute in ("float32", "bfloat16"):
        crosscoder, run, _ = stage.optimise(data, Training(**settings, compute=compute))
        losses[compute] = run.series["loss"]
        assert all(weights.dtype == torch.float32 for weights in crosscoder.parameters())
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"][-1] == pytest.approx(losses["float32"][-1], rel=0.05)
    assert losses["bfloat16"][-1] < 0.8 * losses["bfloat16"][0]


@pytest.mark.gpu
@pytest.mark.parametrize("objective", ["batchtopk", "topk", "l1", "jumprelu"])
def test_gpu_and_cpu_agree(objective):
    data = planted.make_pair(n_documents=40).rows()
    settings = Training(**{**SMALL, "objective": objective})
    runs = {device: stage.optimise(data, settings, device=device) for device in ("cpu", "cuda:0")}
    series = {device: run.series["loss"] for device, (_, run, _) in runs.items()}
    np.testing.assert_allclose(series["cuda:0"], series["cpu"], rtol=1e-2)
    for crosscoder, _, own in runs.values():
        stage.calibrate(crosscoder, own)
    thresholds = [float(crosscoder.threshold) for crosscoder, _, _ in runs.values()]
    assert thresholds[0] == pytest.approx(thresholds[1], rel=0.05)


@pytest.mark.gpu
def test_a_second_training_on_a_gpu_differs_by_rounding_alone():
    """`-s` prints by how much: sums of atomic additions come in another order each time."""
    data = planted.make_pair(n_documents=40).rows()
    runs = [stage.optimise(data, Training(**SMALL), device="cuda:0")[0].W_dec.detach().cpu() for _ in range(2)]
    print(f"two trainings of one seed: decoders differ by at most {float((runs[0] - runs[1]).abs().max()):.1e}")
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-3, atol=1e-4)


def test_rows_kept_aside_are_whole_training_documents():
    data = planted.make_pair(n_documents=200).rows()
    aside = feed.calibration_rows(data, Training(calibration_share=0.1))
    documents = np.unique(data.document[aside])
    assert len(documents) == 16
    assert (data.fold[aside] != 0).all()
    assert aside.sum() == np.isin(data.document, documents).sum()
    assert not feed.calibration_rows(data, Training(calibration_share=0.0)).any()
    assert not feed.calibration_rows(data, Training(objective="l1")).any()
    other = feed.calibration_rows(data, Training(calibration_share=0.1, seed=1))
    assert (aside != other).any()


def test_a_threshold_from_rows_that_were_learnt_by_heart_is_too_low_elsewhere():
    """Why rows are kept aside: 64 noise directions, few rows, many steps."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 48)).astype(np.float32)
    data = rows.in_memory([x, x], np.arange(600) // 10)
    settings = {"n_latents": 256, "k": 8, "batch": 128, "steps": 300, "learning_rate": 1e-2}
    held_out = {}
    for share in (0.0, 0.2):
        crosscoder, _, feed = stage.optimise(data, Training(**settings, calibration_share=share))
        stage.calibrate(crosscoder, feed)
        x_BD = architecture.crosscoder_input(data.take(np.flatnonzero(data.fold == 0)).x, crosscoder.architecture)
        held_out[share] = float((crosscoder.encode(x_BD) > 0).sum(1).float().mean())
    assert held_out[0.2] == pytest.approx(8, rel=0.15)
    assert abs(held_out[0.0] / 8 - 1) > 2 * abs(held_out[0.2] / 8 - 1)


@pytest.mark.parametrize("steps", [60, 200])
def test_threshold_makes_held_out_l0_equal_k(steps):
    pair = planted.make_pair(n_documents=150)
    data = pair.rows()
    settings = Training(**{**SMALL, "steps": steps})
    crosscoder, _, feed = stage.optimise(data, settings)
    stage.calibrate(crosscoder, feed)
    with torch.no_grad():
        l0 = [
            float((crosscoder.encode(architecture.crosscoder_input(block.x, crosscoder.architecture)) > 0).sum())
            for block in data.blocks(1000, select=data.fold == 0)
        ]
    assert sum(l0) / (data.fold == 0).sum() == pytest.approx(4, rel=0.1)


class Watched(MemorySide):
    """A side that remembers which rows were read."""

    @cached_property
    def taken(self):
        return []

    def take(self, index):
        self.taken.append(index)
        return super().take(index)

    def read(self, index, out):
        self.taken.append(index)
        super().read(index, out)


@pytest.mark.parametrize("buffer_rows", [256, 10_000])
def test_held_out_rows_are_never_read_and_the_buffer_refills(buffer_rows):
    pair = planted.make_pair(n_documents=100)
    data = pair.rows()
    sides = (Watched(pair.x_A), Watched(pair.x_B))
    watched = rows.Rows(sides, data.token_row, data.document, data.fold, data.source, data.position)
    settings = Training(**SMALL, buffer_rows=buffer_rows)
    crosscoder, _, feed = stage.optimise(watched, settings)
    stage.calibrate(crosscoder, feed)
    read = np.unique(np.concatenate(sides[0].taken))
    assert (data.fold[read] != 0).all()
    assert feed.seen.sum() > 0.9 * len(feed.index)
    assert not feed.seen[feed.aside].any()
    assert not set(data.document[feed.aside]) & set(data.document[feed.index])


def test_every_batch_is_a_function_of_seed_and_step():
    data = planted.make_pair(n_documents=100).rows()
    for buffer_rows in (600, 10_000):
        settings = Training(**SMALL, buffer_rows=buffer_rows)
        crosscoder = Crosscoder(settings.architecture(data.widths))
        whole = feed.Feed(data, crosscoder, settings).batches(0)
        batches = [next(whole).clone() for _ in range(60)]
        late = feed.Feed(data, crosscoder, settings).batches(37)
        assert torch.equal(next(late), batches[37])
        assert len(torch.cat(batches[:20]).unique(dim=0)) > 2000


def train_in_child(path, kill_after):
    """Exit status of a forked process that trains and dies by SIGKILL before step `kill_after`."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    take_step, taken = stage.take_step, []

    def counted(*arguments):
        taken.append(1)
        if len(taken) > kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return take_step(*arguments)

    stage.take_step = counted
    data = planted.make_pair(n_documents=20).rows()
    stage.train(data, path, spec={"a": 1}, checkpoint_every=7, **MORTAL)
    os._exit(0)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_random_steps_goes_on_to_the_same_bits(tmp_path, seed):
    assert train_in_child(tmp_path / "whole.h5", 1000) == 0
    for step in np.random.default_rng(seed).integers(1, 17, size=2):
        assert train_in_child(tmp_path / "killed.h5", step) == signal.SIGKILL
        assert not (tmp_path / "killed.h5").exists()
    assert train_in_child(tmp_path / "killed.h5", 1000) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.h5", "whole.h5"]
    assert (tmp_path / "killed.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    with artifacts.read(tmp_path / "whole.h5", "crosscoder") as file:
        assert file["series/dead_share"][:].max() > 0


def test_checkpoint_of_another_spec_is_not_used(tmp_path):
    data = planted.make_pair(n_documents=20).rows()
    one, two = (Checkpoint(tmp_path / "checkpoint", key) for key in ("one", "two"))
    stage.optimise(data, Training(**SMALL), checkpoint=one, checkpoint_every=10)
    _, run, feed = stage.optimise(data, Training(**SMALL), checkpoint=two, checkpoint_every=100)
    assert run.series["step"][0] == 0
    assert run.step == 40
    assert feed.seen.any()


def test_weights_come_back_from_the_artifact(tmp_path):
    data = planted.make_pair(d_A=24, d_B=32, d_0=24, n_documents=20).rows()
    stage.train(data, tmp_path / "weights.h5", spec={"seed": 0}, device="cpu", **SMALL)
    crosscoder = architecture.load(tmp_path / "weights.h5")
    assert float(crosscoder.threshold) > 0
    assert crosscoder.architecture.widths == (24, 32)
    trained, _, feed = stage.optimise(data, Training(**SMALL))
    stage.calibrate(trained, feed)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(crosscoder.state_dict()[name], value, rtol=0, atol=0)
    assert (crosscoder.scale != 1).all()
    with artifacts.read(tmp_path / "weights.h5", "crosscoder") as file:
        assert file["series/fvu"].shape == (40, 2)
        assert file["series/fvu"][-1].max() < file["series/fvu"][0].min()
        summary = artifacts.read_json(file, "summary")
    assert summary["rows_seen"] == summary["rows_train"]
    assert summary["rows_train"] + summary["rows_calibration"] == (data.fold != 0).sum()


def test_divergence_stops_with_one_clear_line():
    data = planted.make_pair(n_documents=20).rows()
    settings = Training(**{**SMALL, "learning_rate": 50.0, "warmup_share": 0.0})
    with pytest.raises(stage.DivergedError, match="lower `learning_rate`"):
        stage.optimise(data, settings)


def test_too_few_rows_for_a_batch_is_one_clear_line():
    data = planted.make_pair(n_documents=4).rows()
    with pytest.raises(DiptychError, match="lower `batch`"):
        stage.optimise(data, Training(**SMALL))


def test_accumulation_gives_the_gradient_of_the_whole_batch():
    data = planted.make_pair(n_documents=20).rows()
    settings = {**SMALL, "objective": "topk", "steps": 5}
    whole, _, _ = stage.optimise(data, Training(**settings))
    parts, _, _ = stage.optimise(data, Training(**settings, accumulate=4))
    torch.testing.assert_close(parts.W_dec, whole.W_dec, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({}, 1e-4),  # as published: 16,384 latents, 24,000 steps
        ({"objective": "l1"}, 5e-5),
        ({"n_latents": 1024}, 4e-4),
        ({"steps": 6_000}, 2e-4),
        ({"steps": 240_000}, 1e-4),
        ({"objective": "l1", "n_latents": 65_536, "steps": 1_500}, 1e-4),
        ({"learning_rate": 3e-3, "n_latents": 64}, 3e-3),
    ],
)
def test_default_learning_rate_follows_size_and_steps(settings, rate):
    assert Training(**settings).rate == pytest.approx(rate)


def test_a_short_run_at_the_default_learning_rate_finds_what_is_planted(tmp_path):
    """At the published rate itself 200 steps leave every latent where it started."""
    pair = planted.make_pair(labels={"only_A": 3, "only_B": 3}, n_documents=60, d_A=24, d_B=32, d_0=24, n_features=32)
    settings = {"n_latents": 48, "k": 5, "batch": 128, "steps": 200}
    stage.train(pair.rows(), tmp_path / "weights.h5", spec={}, **settings)
    with artifacts.read(tmp_path / "weights.h5", "crosscoder") as file:
        rate = artifacts.read_json(file, "summary")["learning_rate"]
        assert rate == pytest.approx(1e-4 * (16_384 / 48) ** 0.5 * 120**0.5)
        assert max(file["series/learning_rate"][:]) == pytest.approx(rate)
    assert planted_precision(architecture.load(tmp_path / "weights.h5"), pair) >= 0.9
    still, _, _ = stage.optimise(pair.rows(), Training(**settings, learning_rate=1e-4))
    assert planted_precision(still, pair) < 0.5


def test_schedules():
    settings = Training(steps=100, learning_rate=1.0, penalty=2.0, k=10, k_initial=50)
    assert settings.rate_at(0) == pytest.approx(0.2)
    assert settings.rate_at(50) == 1
    assert settings.rate_at(90) == pytest.approx(0.5)
    assert settings.penalty_at(0, 2304) == 0
    assert settings.penalty_at(50, 2304) == 2
    assert settings.penalty_at(50, 576) == 1
    assert [settings.k_at(step) for step in (0, 25, 99)] == [50, 10, 10]
