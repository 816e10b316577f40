import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from diptych.activations import rows
from diptych.dictionaries import sae as dictionaries
from diptych.dictionaries import saelens_trainer, sparse_trainer, training
from diptych.dictionaries.scaled_rows import Scale, ScaledRows, scale_rows
from diptych.dictionaries.settings import Settings
from diptych.runtime.errors import DiptychError
from diptych.sparse_coding import objectives
from saelens_directories import FEATURES, WIDTH, weights, write

K = 3
ARCHITECTURES = ("standard", "topk", "batchtopk", "jumprelu")
SETTINGS = Settings(n_features=FEATURES, k=K, batch=256, learning_rate=1e-2, l1_coefficient=0.5, seed=0, steps=20)


def planted_directions(seed=0):
    """Random unit directions [FEATURES, WIDTH]."""
    directions = np.random.default_rng(seed).standard_normal((FEATURES, WIDTH))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def sparse_rows(n=3000, seed=0):
    """Rows that are sums of a few of FEATURES random directions, far from the origin and of odd scale."""
    generator = np.random.default_rng([seed, 1])
    directions = planted_directions(seed)
    active = generator.random((n, FEATURES)) < K / FEATURES
    codes = active * generator.lognormal(0, 0.3, (n, FEATURES))
    x = 40 * (codes @ directions + 3).astype(np.float32)
    return rows.in_memory([x], np.arange(n) // 30)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dictionary of each architecture, trained for a moment on the same rows."""
    place = tmp_path_factory.mktemp("dictionaries")
    made = sparse_rows()
    for architecture in ARCHITECTURES:
        training.train(
            made,
            place / architecture,
            replace(SETTINGS, architecture=architecture, steps=300),
            spec={"architecture": architecture},
            metadata={"model_name": "base", "hook_name": "blocks.1.hook_resid_post"},
        )
    return made, place


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reads_as_saelens_reads(trained, architecture):
    from sae_lens import SAE

    made, place = trained
    sae = SAE.load_from_disk(place / architecture)
    mine = dictionaries.load(place / architecture)
    x = torch.from_numpy(made.take(np.arange(200)).x[0])
    with torch.no_grad():
        theirs = sae.encode(x)
        torch.testing.assert_close(mine.encode(x), theirs, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(mine.decode(mine.encode(x)), sae.decode(theirs), rtol=1e-4, atol=1e-3)
    assert (mine.width, mine.n_features) == (WIDTH, FEATURES)
    assert mine.metadata["model_name"] == "base"
    np.testing.assert_allclose(np.linalg.norm(mine.W_dec, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_reconstructs_held_out_rows(trained, architecture):
    report = json.loads((trained[1] / architecture / "training.json").read_text())
    assert report["test"]["fvu"] < 0.25
    assert report["test"]["l0"] < 2.5 * K
    assert report["train"]["rows"] + report["test"]["rows"] == 3000


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_finds_the_planted_directions(trained, architecture):
    found = dictionaries.load(trained[1] / architecture).W_dec
    assert np.median(np.abs(planted_directions() @ found.T).max(axis=1)) > 0.9


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_learns_as_saelens_trainer_from_the_same_weights_and_batches(architecture):
    """The two differ in the encoder's bias term (SAELens subtracts b_dec) and in the weight of dead latents' loss."""
    steps = 300
    scaled = scale_rows(source := sparse_rows(), np.flatnonzero(source.fold != 0))
    settings = replace(SETTINGS, architecture=architecture, steps=steps)
    state, trainer = sparse_trainer.start(settings, WIDTH, "cpu"), saelens_training(settings)
    with torch.no_grad():
        trainer.sae.W_dec.copy_(state.crosscoder.W_dec)
        trainer.sae.W_enc.copy_(state.crosscoder.W_enc.T)
    objective = objectives.Objective(architecture)
    product = objectives.product_memory(settings.batch, FEATURES, objective, torch.device("cpu"))
    losses = []
    for z_BD in islice(scaled.batches(batch=settings.batch, seed=0, first=0), steps):
        own = sparse_trainer.take_step(state, z_BD, objective, settings, product)
        theirs = trainer.step(z_BD).losses["mse_loss"]
        trainer.n_training_steps += 1
        losses.append((float(own.reconstruction), float(theirs.detach())))
    own, theirs = np.array(losses).T
    assert own[0] == pytest.approx(theirs[0], rel=1e-4)
    np.testing.assert_allclose(own[:20], theirs[:20], rtol=0.03)
    assert own[-50:].mean() < 1.03 * theirs[-50:].mean()
    recovered = [
        np.abs(planted_directions() @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T).max(axis=1)
        for rows in (state.crosscoder.W_dec.detach().numpy(), trainer.sae.W_dec.detach().numpy())
    ]
    assert np.mean(recovered[0] > 0.9) >= np.mean(recovered[1] > 0.9) - 0.05
    assert np.median(recovered[0]) > 0.9


def saelens_training(settings):
    """SAELens' trainer of a topk or batchtopk SAE under the same settings."""
    from sae_lens.registry import get_sae_training_class

    sae_class, config_class = get_sae_training_class(settings.architecture)
    sae = sae_class(config_class(d_in=WIDTH, d_sae=settings.n_features, k=settings.k))
    return saelens_trainer.trainer_of(sae, settings, "cpu")


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_saved_codes_are_those_of_the_crosscoder(architecture):
    """f_j ||d_j|| in the units of the rows; x_hat is the same."""
    scaled = scale_rows(source := sparse_rows(), np.flatnonzero(source.fold != 0))
    settings = replace(SETTINGS, architecture=architecture)
    crosscoder = sparse_trainer.start(settings, WIDTH, "cpu").crosscoder
    with torch.no_grad():
        for values in crosscoder.parameters():
            values.add_(0.05 * torch.randn(values.shape, generator=torch.Generator().manual_seed(len(values))))
    crosscoder.mean.copy_(torch.from_numpy(scaled.scale.mean))
    crosscoder.scale.fill_(scaled.scale.factor)
    crosscoder.threshold.fill_(0.2)
    saved = sparse_trainer.saelens_weights(crosscoder)
    x = torch.from_numpy(source.take(np.arange(500)).x[0])
    with torch.no_grad():
        f_BF, x_hat = crosscoder.encode(x), crosscoder(x)
        score_BF = f_BF * crosscoder.score_weights() / crosscoder.scale
        pre_BF = (x - torch.from_numpy(saved["b_dec"])) @ torch.from_numpy(saved["W_enc"].copy())
        pre_BF = (pre_BF + torch.from_numpy(saved["b_enc"])).relu()
        kept_BF = pre_BF * (f_BF > 0)
        torch.testing.assert_close(kept_BF, score_BF, rtol=1e-4, atol=1e-3)
        back = kept_BF @ torch.from_numpy(saved["W_dec"]) + torch.from_numpy(saved["b_dec"])
        torch.testing.assert_close(back, x_hat, rtol=1e-4, atol=1e-3)
    assert ((f_BF > 0).sum(1) <= K).all() or architecture == "batchtopk"
    if architecture == "batchtopk":
        below = score_BF[score_BF > 0].min()
        assert saved["threshold"].max() < below


def test_batchtopk_is_sparse_as_asked(trained):
    """SAELens' running threshold gives other sparsities after a short run; the saved one is set on training rows."""
    made, place = trained
    dictionary = dictionaries.load(place / "batchtopk")
    x = torch.from_numpy(made.take(np.flatnonzero(made.fold != 0)).x[0])
    assert float((dictionary.encode(x) > 0).sum(dim=1).float().mean()) == pytest.approx(K, abs=0.01)
    assert len(np.unique(dictionary.threshold)) == 1


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "standard"])
def test_same_inputs_give_same_bytes_whatever_the_test_fold(tmp_path, architecture):
    made = sparse_rows()
    x = made.take(np.arange(len(made))).x[0].copy()
    x[made.fold == 0] += 100
    changed = rows.in_memory([x], made.document)
    for name, source in (("one", made), ("two", made), ("changed", changed)):
        training.train(source, tmp_path / name, replace(SETTINGS, architecture=architecture), spec={})
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (tmp_path / "two" / "manifest.json").read_bytes()
    first, other = ((tmp_path / name / dictionaries.WEIGHTS_FILE).read_bytes() for name in ("one", "changed"))
    assert first == other
    config = json.loads((tmp_path / "one" / dictionaries.CONFIG_FILE).read_text())
    assert list(config) == sorted(config)  # SAELens would write them in the order of a set of strings


def test_seeds_differ(trained, tmp_path):
    for name, seed in (("one", 0), ("other", 1)):
        training.train(trained[0], tmp_path / name, replace(SETTINGS, seed=seed, steps=5), spec={})
    one, other = (dictionaries.load(tmp_path / name).W_dec for name in ("one", "other"))
    assert np.abs(one @ other.T).max(axis=1).mean() < 0.95


def test_every_row_is_read_once_an_epoch():
    n = 1000
    made = rows.in_memory([np.arange(n, dtype=np.float32)[:, None]], np.arange(n))
    chosen = np.flatnonzero(made.fold != 0)
    scaled = ScaledRows(made, chosen, Scale(np.zeros(1, dtype=np.float32), 1.0))
    batches = scaled.batches(batch=100, seed=0, first=0)
    epoch = torch.cat([next(batches) for _ in range(len(chosen) // 100)]).numpy().ravel()
    assert sorted(epoch) == chosen.tolist()
    assert not np.array_equal(epoch, np.sort(epoch))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch, capsys, architecture):
    from sae_lens.training.sae_trainer import SAETrainer

    made = sparse_rows()
    place, name = (sparse_trainer, "take_step") if architecture.endswith("topk") else (SAETrainer, "step")
    how = {"settings": replace(SETTINGS, architecture=architecture, steps=30), "spec": {"a": 1}, "checkpoint_every": 8}
    training.train(made, tmp_path / "whole", **how)
    step, taken = getattr(place, name), []

    def killed(trainer, *arguments):
        taken.append(trainer.n_training_steps if place is SAETrainer else trainer.step)
        if len(taken) == 20:
            raise KilledError
        return step(trainer, *arguments)

    monkeypatch.setattr(place, name, killed)
    with pytest.raises(KilledError):
        training.train(made, tmp_path / "killed", **how)
    assert (tmp_path / ".killed.checkpoint").exists()
    capsys.readouterr()
    training.train(made, tmp_path / "killed", **how)
    shown = capsys.readouterr().err
    done = "4096/7680" if place is SAETrainer else "4.10k/7.68k"  # 16 of 30 steps of 256 rows
    for text in (f"| {done} [", "| 7.68k/7.68k [", "loss=", "score: 100%"):
        assert text in shown, text
    assert taken == [*range(20), *range(16, 30)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]
    for name in ("manifest.json", dictionaries.WEIGHTS_FILE, dictionaries.CONFIG_FILE, "training.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_gpu_and_cpu_agree(tmp_path, architecture):
    settings = replace(SETTINGS, architecture=architecture, steps=100)
    for device in ("cpu", "cuda:0"):
        training.train(sparse_rows(), tmp_path / device, settings, spec={}, device=device)
    cpu, gpu = (json.loads((tmp_path / device / "training.json").read_text())["test"] for device in ("cpu", "cuda:0"))
    assert gpu["fvu"] == pytest.approx(cpu["fvu"], rel=0.05)
    assert gpu["l0"] == pytest.approx(cpu["l0"], rel=0.05)


def test_damaged_directories_are_refused(tmp_path):
    with pytest.raises(DiptychError, match=r"holds no cfg\.json"):
        dictionaries.load(tmp_path)
    place = write(tmp_path / "d", {"architecture": "standard"}, weights())
    whole = (place / dictionaries.WEIGHTS_FILE).read_bytes()
    (place / dictionaries.WEIGHTS_FILE).write_bytes(whole[:-100])
    with pytest.raises(DiptychError, match="missing or cut short"):
        dictionaries.load(place)
    half = {name: values.astype(np.float16) for name, values in weights().items()}
    save_file(half, place / dictionaries.WEIGHTS_FILE)
    with pytest.raises(DiptychError, match="is F16"):
        dictionaries.load(place)
    assert load_file(place / dictionaries.WEIGHTS_FILE)


@pytest.mark.parametrize(
    ("settings", "message"), [({"batch": 10_000}, "less than one batch"), ({"k": 100}, "k 100 exceeds n_features")]
)
def test_training_refuses(tmp_path, settings, message):
    with pytest.raises(DiptychError, match=message):
        training.train(sparse_rows(), tmp_path / "d", replace(SETTINGS, **settings), spec={})


@pytest.mark.parametrize("architecture", ["topk", "standard"])
def test_training_that_diverges_is_refused(tmp_path, architecture):
    settings = replace(SETTINGS, architecture=architecture, learning_rate=1e30, warmup=0)
    with pytest.raises(DiptychError, match=r"the loss is (nan|inf) at step .*; lower `learning_rate`"):
        training.train(sparse_rows(), tmp_path / "d", settings, spec={})
