import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from diptych.activations import rows
from diptych.dictionaries import sae as dictionaries
from diptych.dictionaries import training
from diptych.runtime.errors import DiptychError
from saelens_directories import FEATURES, WIDTH, weights, write

K = 3
ARCHITECTURES = ("standard", "topk", "batchtopk", "jumprelu")
SETTINGS = training.Settings(
    n_features=FEATURES, k=K, batch=256, learning_rate=1e-2, l1_coefficient=0.5, seed=0, steps=20
)


def sparse_rows(n=3000, seed=0):
    """Rows that are sums of a few of FEATURES random directions, far from the origin and of odd scale."""
    generator = np.random.default_rng(seed)
    directions = generator.standard_normal((FEATURES, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
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


def test_topk_finds_the_planted_directions(trained):
    generator = np.random.default_rng(0)
    directions = generator.standard_normal((FEATURES, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found = dictionaries.load(trained[1] / "topk").W_dec
    assert np.median(np.abs(directions @ found.T).max(axis=1)) > 0.9


def test_batchtopk_is_sparse_as_asked(trained):
    """SAELens' running threshold gives other sparsities after a short run; the saved one is set on training rows."""
    made, place = trained
    dictionary = dictionaries.load(place / "batchtopk")
    x = torch.from_numpy(made.take(np.flatnonzero(made.fold != 0)).x[0])
    assert float((dictionary.encode(x) > 0).sum(dim=1).float().mean()) == pytest.approx(K, abs=0.01)
    assert len(np.unique(dictionary.threshold)) == 1


def test_same_inputs_give_same_bytes_whatever_the_test_fold(tmp_path):
    made = sparse_rows()
    x = made.take(np.arange(len(made))).x[0].copy()
    x[made.fold == 0] += 100
    changed = rows.in_memory([x], made.document)
    for name, source in (("one", made), ("two", made), ("changed", changed)):
        training.train(source, tmp_path / name, SETTINGS, spec={})
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (tmp_path / "two" / "manifest.json").read_bytes()
    first, other = ((tmp_path / name / dictionaries.WEIGHTS_FILE).read_bytes() for name in ("one", "changed"))
    assert first == other
    config = json.loads((tmp_path / "one" / dictionaries.CONFIG_FILE).read_text())
    assert list(config) == sorted(config)  # SAELens writes them in the order of a set of strings


def test_seeds_differ(trained, tmp_path):
    for name, seed in (("one", 0), ("other", 1)):
        training.train(trained[0], tmp_path / name, replace(SETTINGS, seed=seed, steps=5), spec={})
    one, other = (dictionaries.load(tmp_path / name).W_dec for name in ("one", "other"))
    assert np.abs(one @ other.T).max(axis=1).mean() < 0.95


def test_every_row_is_read_once_an_epoch():
    n = 1000
    made = rows.in_memory([np.arange(n, dtype=np.float32)[:, None]], np.arange(n))
    chosen = np.flatnonzero(made.fold != 0)
    scale = training.Scale(np.zeros(1, dtype=np.float32), 1.0)
    batches = training._batches(made, chosen, scale, training.Settings(batch=100), 0)
    epoch = torch.cat([next(batches) for _ in range(len(chosen) // 100)]).numpy().ravel()
    assert sorted(epoch) == chosen.tolist()
    assert not np.array_equal(epoch, np.sort(epoch))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch, capsys, architecture):
    from sae_lens.training.sae_trainer import SAETrainer

    made = sparse_rows()
    how = {"settings": replace(SETTINGS, architecture=architecture, steps=30), "spec": {"a": 1}, "checkpoint_every": 8}
    training.train(made, tmp_path / "whole", **how)
    step, taken = SAETrainer.step, []

    def killed(self, batch):
        taken.append(self.n_training_steps)
        if len(taken) == 20:
            raise KilledError
        return step(self, batch)

    monkeypatch.setattr(SAETrainer, "step", killed)
    with pytest.raises(KilledError):
        training.train(made, tmp_path / "killed", **how)
    assert (tmp_path / ".killed.checkpoint").exists()
    capsys.readouterr()
    training.train(made, tmp_path / "killed", **how)
    shown = capsys.readouterr().err
    for text in ("| 4096/7680 [", "| 7.68k/7.68k [", "loss=", "score: 100%"):  # 16 of 30 steps of 256 rows were done
        assert text in shown, text
    assert taken == [*range(20), *range(16, 30)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]
    for name in ("manifest.json", dictionaries.WEIGHTS_FILE, dictionaries.CONFIG_FILE, "training.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


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
