"""Students: what they start as, what they learn, and that memory and interruptions change nothing."""

import json

import numpy as np
import pytest
import torch
import transformers

from diptych.derive import distill, losses, student
from diptych.derive.distill import Distillation, Distiller
from diptych.derive.losses import Loss
from diptych.models import pretrained, sources
from diptych.models.batches import Sequences
from diptych.models.pretrained import OutOfMemoryError
from diptych.runtime.errors import DiptychError
from diptych.storage.checkpoints import Checkpoint
from random_texts import random_texts, write_tokens

ARCHITECTURES = ("llama", "gpt2", "neox", "gemma2")
ALL = {"kl": 1.0, "jacobian": 0.5, "hidden": 0.2}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """A teacher of each architecture, with three blocks."""
    place = tmp_path_factory.mktemp("teachers")
    for architecture in ARCHITECTURES:
        sizes = {"architecture": architecture, "layers": 3, "width": 16, "heads": 2, "vocabulary": 280, "seed": 1}
        sources.fetch(place / architecture, spec={"made": architecture}, source={"kind": "random", **sizes})
    return place


@pytest.fixture(scope="module")
def corpora(teachers, tmp_path_factory):
    place = tmp_path_factory.mktemp("corpora")
    return (
        write_tokens(place / "train.h5", teachers / "llama", random_texts(12, 1), n_sources=1, length=20),
        write_tokens(place / "held_out.h5", teachers / "llama", random_texts(6, 2), length=20),
    )


def sequences_of(lengths):
    """Random sequences of these lengths."""
    start = np.concatenate([[0], np.cumsum(lengths)])
    token = np.random.default_rng(0).integers(3, 250, start[-1])
    document = np.arange(len(lengths))
    return Sequences(
        "tokens", token, start, np.ones(len(token), bool), document, document * 0, document, document.astype(np.uint64),
        ("text",),
    )  # fmt: skip


def distiller(teacher_dir, dtype=torch.float64, **settings):
    loss = Loss(**settings.pop("loss"))
    torch.manual_seed(0)
    return Distiller(pretrained.load(teacher_dir).to(dtype), Distillation(loss=loss, **settings), "cpu")


# --- which blocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "n_layers", "blocks"),
    [
        ("every 2", 12, (0, 2, 4, 7, 9, 11)),  # DistilGPT-2's
        ("every 3", 30, (0, 3, 6, 10, 13, 16, 19, 23, 26, 29)),
        ("every 1", 4, (0, 1, 2, 3)),
        ("every 4", 4, (0,)),
        ("every 3", 4, (0, 3)),
        (1, 4, (0,)),
        (4, 4, (0, 1, 2, 3)),
        ([2, 0], 4, (2, 0)),
        ([0, 0, 1, 1], 2, (0, 0, 1, 1)),
    ],
)
def test_chosen_blocks(layers, n_layers, blocks):
    assert student.chosen_blocks(layers, n_layers) == blocks


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([0, 3], "distill: layers: 3 is none of the parent's blocks 0 to 2"),
        (4, "distill: layers: 4 are more than the parent's 3 blocks; lower it, or list blocks several times"),
        ("every 4", "distill: layers: every 4 of only 3 blocks of the parent; lower it"),
    ],
)
def test_blocks_that_the_teacher_has_not_are_refused(teachers, corpora, tmp_path, layers, message):
    with pytest.raises(DiptychError, match=message) as error:
        distill.distill(teachers / "llama", *corpora, tmp_path / "out", spec={}, loss={"kl": 1}, layers=layers)
    assert "\n" not in str(error.value)


def test_tokens_of_another_vocabulary_are_refused(teachers, corpora, tmp_path):
    sizes = {"architecture": "llama", "layers": 2, "width": 16, "heads": 2, "vocabulary": 259, "seed": 1}
    sources.fetch(tmp_path / "other", spec={}, source={"kind": "random", **sizes})
    with pytest.raises(
        DiptychError, match="outside the model's vocabulary of 259; these tokens were made with another"
    ):
        distill.distill(tmp_path / "other", *corpora, tmp_path / "out", spec={}, loss={"kl": 1}, layers=1)


def test_what_a_config_lists_by_block_is_that_of_the_chosen_blocks():
    gemma = transformers.Gemma2Config(num_hidden_layers=4, eos_token_id=[1, 2, 3, 4])
    assert gemma.layer_types[0] != gemma.layer_types[1]
    chosen = student._config(gemma, [1, 3])
    assert chosen.layer_types == [gemma.layer_types[1], gemma.layer_types[3]]
    assert (chosen.num_hidden_layers, chosen.eos_token_id) == (2, [1, 2, 3, 4])
    neo = transformers.GPTNeoConfig(num_layers=4, attention_types=[[["global", "local"], 2]])
    chosen = student._config(neo, [1, 2, 3])
    assert chosen.attention_layers == ["local", "global", "local"]
    assert type(neo).from_dict(chosen.to_dict()).attention_layers == chosen.attention_layers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_student_starts_as_its_blocks_say(teachers, architecture):
    teacher = pretrained.load(teachers / architecture)
    own = student.student_of(teacher, (0, 2), "parent")
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        blocks = student.find_blocks(teacher, 3)
        del blocks[1]
        teacher.config.num_hidden_layers = 2
        if architecture == "gemma2":
            teacher.config.layer_types = own.config.layer_types
        assert torch.equal(own(ids, use_cache=False).logits, teacher(ids, use_cache=False).logits)
    weights = own.named_parameters(remove_duplicate=False)
    frozen = {name for name, weight in weights if not weight.requires_grad}
    tied = own.get_output_embeddings().weight is own.get_input_embeddings().weight
    assert tied == (architecture in ("gpt2", "gemma2"))
    assert len(frozen) == 1 + tied


# --- no steps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [{"kl": 1}, ALL], ids=["kl", "all"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_step_from_all_blocks_is_the_teacher(teachers, corpora, tmp_path, architecture, loss):
    out = tmp_path / "student"
    distill.distill(teachers / architecture, *corpora, out, spec={}, loss=loss, layers="every 1", steps=0)
    report = json.loads((out / "training.json").read_text())
    assert report["before"] == report["after"]
    assert set(report["after"]["kl"].values()) == set(report["after"]["jacobian"].values()) == {0.0}
    teacher, own = (pretrained.load(path) for path in (teachers / architecture, out))
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        assert torch.equal(teacher(ids).logits, own(ids).logits)


def test_no_loss_has_a_gradient_at_the_teacher(teachers):
    trained = distiller(teachers / "llama", loss=ALL, layers="every 1")
    values = trained._accumulate(sequences_of([5, 7]), np.arange(2), 0)
    assert set(values) == {"kl", "jacobian", "hidden"}
    assert max(values.values()) < 1e-20
    assert max(float(weight.grad.abs().max()) for weight in trained._trained) < 1e-8


def test_a_random_student_is_another_model_with_the_teachers_embedding(teachers, corpora, tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("two", 1)):
        distill.distill(
            teachers / "llama", *corpora, tmp_path / name, spec={}, loss={"kl": 1}, layers="every 1", init="random",
            steps=0, seed=seed,
        )  # fmt: skip
    weights = {name: pretrained.load(tmp_path / name).state_dict() for name in ("one", "again", "two")}
    teacher = pretrained.load(teachers / "llama").state_dict()
    for key, weight in weights["one"].items():
        assert torch.equal(weight, weights["again"][key]), key
        same = "embed_tokens" in key or "norm" in key  # norms start at 1 in every Llama
        assert torch.equal(weight, weights["two"][key]) == torch.equal(weight, teacher[key]) == same, key
    spread = float(weights["one"]["model.layers.0.mlp.up_proj.weight"].std())
    assert spread == pytest.approx(16**-0.5, rel=0.1)  # the architecture's initializer_range
    report = json.loads((tmp_path / "one" / "training.json").read_text())
    assert min(report["after"]["kl"].values()) > 0.05
    assert min(report["after"]["jacobian"].values()) > 0.5


# --- gradients ----------------------------------------------------------------------------------------------------

LOSSES = {
    "kl": {"kl": 1.0, "temperature": 3.0},
    "token": {"jacobian": 1.0},
    "unit_vector": {"jacobian": 1.0, "probe": "unit_vector", "probes": 2},
    "hidden": {"hidden": 1.0},
    "sum": ALL | {"probes": 3},
}


# GPT-2 computes in float64 throughout; the others do their norms, rotations and softmax in float32.
PRECISE, COARSE = {"step": 1e-5, "tolerance": 1e-6}, {"step": 3e-3, "tolerance": 2e-3}


@pytest.mark.parametrize(
    ("architecture", "loss", "precision"),
    [
        *(("gpt2", loss, PRECISE) for loss in LOSSES),
        *((architecture, "sum", COARSE) for architecture in ("llama", "neox", "gemma2")),
    ],
)
def test_gradients_are_finite_differences(teachers, architecture, loss, precision):
    trained = distiller(teachers / architecture, loss=LOSSES[loss], layers=[0, 2], micro_batch=2)
    sequences, which = sequences_of([5, 7, 4]), np.arange(3)

    def value():
        values = trained._accumulate(sequences, which, 0)
        return sum(weight * values[name] for name, weight in trained._weights.items())

    value()
    # The final norm is behind all hidden states.
    gradient = [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in trained._trained]
    generator = torch.Generator().manual_seed(1)
    random = [torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in trained._trained]
    # Half along the gradient, so that the slope is not lost in rounding.
    direction = [g / norm(gradient) + u / norm(random) for g, u in zip(gradient, random, strict=True)]
    slope = sum(float((g * u).sum()) for g, u in zip(gradient, direction, strict=True))
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for weight, change in zip(trained._trained, direction, strict=True):
                weight += sign * precision["step"] * change
        ends.append(value())
    found = (ends[0] - ends[1]) / (2 * precision["step"])
    assert found == pytest.approx(slope, rel=precision["tolerance"])
    assert slope > 0.5 * norm(gradient) > 0


def norm(tensors):
    return sum(float(tensor.square().sum()) for tensor in tensors) ** 0.5


@pytest.mark.parametrize("probe", ["token", "unit_vector"])
def test_micro_batches_change_rounding_only(teachers, probe):
    loss = ALL | {"probe": probe, "probes": 2}
    trained = distiller(teachers / "gpt2", loss=loss, layers=[0, 2], batch_sequences=5)
    sequences, which = sequences_of([5, 9, 4, 6, 1]), np.array([4, 0, 3, 1, 2])
    found = {}
    for micro_batch in (5, 2, 1):
        trained.micro_batch = micro_batch
        values = trained._accumulate(sequences, which, 3)
        found[micro_batch] = values, [weight.grad.clone() for weight in trained._trained]
    largest = max(float(gradient.abs().max()) for gradient in found[5][1])
    for values, gradients in (found[2], found[1]):
        assert values == pytest.approx(found[5][0], rel=1e-9)
        for gradient, whole in zip(gradients, found[5][1], strict=True):
            torch.testing.assert_close(gradient, whole, rtol=0, atol=1e-9 * largest)


def test_the_jacobian_loss_is_pooled_over_the_batch(teachers):
    trained = distiller(teachers / "llama", loss={"jacobian": 1.0}, layers=[0, 2], batch_sequences=2)
    sequences = sequences_of([5, 9])
    part = next(trained._parts(sequences, np.arange(2), [[0, 3, 0, 0], [0, 3, 0, 1]]))
    teacher, own = (trained._read(model, part, differentiable=True) for model in (trained._teacher, trained._model))
    v = trained._vectors(part, 0, teacher.log_p)
    target, product = (distill.pullback(reading, v) for reading in (teacher, own))
    error = (product - target).square().sum((1, 2)), target.square().sum((1, 2))
    pooled = float(error[0].sum() / error[1].sum())
    assert trained._accumulate(sequences, np.arange(2), 0) == {"jacobian": pytest.approx(pooled, rel=1e-12)}
    assert pooled != pytest.approx(float((error[0] / error[1]).mean()), rel=1e-3)


def test_divergence_is_the_closed_form():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 4, 6))
    p, q = (np.exp(of / 2) / np.exp(of / 2).sum(1, keepdims=True) for of in logits)
    log_p, log_q = (torch.from_numpy(of).log_softmax(-1) for of in logits)
    expected = 4 * (p * np.log(p / q)).sum()
    assert float(losses.divergence(log_p, log_q, 2.0)) == pytest.approx(expected, rel=1e-12)
    assert float(losses.divergence(log_p, log_p, 2.0)) == 0.0


def test_hidden_states_are_compared_position_by_position():
    states = torch.tensor([[[3.0, 4.0], [300.0, 400.0], [1.0, 1.0]]])
    other = states + torch.tensor([[[5.0, 0.0], [0.0, 0.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    assert float(losses.state_distance([states, states], [other, states], mask)) == pytest.approx(0.5)


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "loss", "term"),
    [("llama", {"kl": 1}, "kl"), ("neox", {"jacobian": 1}, "jacobian"), ("gpt2", ALL, "kl")],
)
def test_a_student_learns_and_keeps_the_embedding(teachers, corpora, tmp_path, architecture, loss, term):
    out = tmp_path / "student"
    distill.distill(
        teachers / architecture, *corpora, out, spec={"reads": {"parent": "base", "corpus": "old"}}, loss=loss,
        layers="every 2", steps=15, learning_rate=5e-3, batch_sequences=3,
    )  # fmt: skip
    report = json.loads((out / "training.json").read_text())
    assert report["layers"] == [0, 2]
    for source, before in report["before"][term].items():
        assert report["after"][term][source] < 0.8 * before
    for source, of in report["sequences"].items():
        assert sum(of["kl"]) / sum(of["tokens"]) == pytest.approx(report["after"]["kl"][source])
        assert sum(of["error"]) / sum(of["norm"]) == pytest.approx(report["after"]["jacobian"][source])
        assert len(of["document"]) == len(of["error"]) >= 2
    assert set(report["terms"]) == set(loss)
    assert len(report["curve"]) == len(report["terms"][term]) == 15
    assert report["curve"][4] == pytest.approx(sum(loss[name] * report["terms"][name][4] for name in loss))
    teacher, own = (pretrained.load(path) for path in (teachers / architecture, out))
    assert torch.equal(teacher.get_input_embeddings().weight, own.get_input_embeddings().weight)
    tied = architecture == "gpt2"
    assert torch.equal(teacher.get_output_embeddings().weight, own.get_output_embeddings().weight) == tied
    card = (out / "README.md").read_text()
    assert "# A student of base" in card
    assert "copies of blocks 0, 2 of base" in card
    assert ("one matrix" in card) == tied
    assert f"{report['after']['jacobian']['source0']:.4g}" in card
    assert "attn_implementation" not in (out / "config.json").read_text()


class KilledError(Exception):
    pass


def test_a_killed_distillation_goes_on_to_the_same_bits(teachers, corpora, tmp_path, monkeypatch):
    settings = {
        "loss": ALL,
        "steps": 5,
        "checkpoint_every": 2,
        "batch_sequences": 3,
        "micro_batch": 2,
        "layers": [0, 2],
    }
    distill.distill(teachers / "gpt2", *corpora, tmp_path / "whole", spec={"a": 1}, **settings)
    learn, taken = Distiller._accumulate, []

    def killed(self, sequences, which, step):
        taken.append(step)
        if len(taken) == 4:
            raise KilledError
        return learn(self, sequences, which, step)

    monkeypatch.setattr(Distiller, "_accumulate", killed)
    with pytest.raises(KilledError):
        distill.distill(teachers / "gpt2", *corpora, tmp_path / "killed", spec={"a": 1}, **settings)
    assert (tmp_path / ".killed.checkpoint").exists()
    distill.distill(teachers / "gpt2", *corpora, tmp_path / "killed", spec={"a": 1}, **settings)
    assert taken == [0, 1, 2, 3, 2, 3, 4]
    for name in ("manifest.json", "model.safetensors", "training.json", "README.md"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_memory_that_runs_out_halves_the_micro_batch(teachers, corpora, tmp_path, monkeypatch):
    settings = {"loss": ALL, "layers": [0, 2], "batch_sequences": 4, "steps": 3}
    sequences = Sequences.read(corpora[0])
    alone = distiller(teachers / "llama", torch.float32, **settings, micro_batch=1)
    alone.run(sequences)
    limit, read = [1], Distiller._read

    def short(self, model, part, **more):
        if len(part.ids) > limit[0]:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return read(self, model, part, **more)

    monkeypatch.setattr(Distiller, "_read", short)
    checkpoint = Checkpoint.beside(tmp_path / "model", {})
    halved = distiller(teachers / "llama", torch.float32, **settings, micro_batch=4)
    halved.run(sequences, checkpoint, every=2)
    assert halved.micro_batch == 1
    for weight, expected in zip(halved._trained, alone._trained, strict=True):
        assert torch.equal(weight, expected)
    # A run that goes on from a checkpoint does not try again what did not fit.
    limit[0] = 4
    resumed = distiller(teachers / "llama", torch.float32, **settings, micro_batch=4)
    resumed.run(sequences, checkpoint)
    assert resumed.micro_batch == 1
    assert all(torch.equal(weight, other) for weight, other in zip(resumed._trained, alone._trained, strict=True))
    limit[0] = 0
    with pytest.raises(OutOfMemoryError, match="out of memory with a single sequence; lower"):
        distiller(teachers / "llama", torch.float32, **settings).run(sequences)


def test_a_teacher_whose_output_does_not_depend_on_its_input_has_no_jacobian_loss(teachers):
    trained = distiller(teachers / "llama", loss={"jacobian": 1.0}, layers=[0])
    with torch.no_grad():
        trained._teacher.get_output_embeddings().weight.zero_()
    with pytest.raises(DiptychError, match="products with the probes have squared norm 0"):
        trained._accumulate(sequences_of([5]), np.arange(1), 0)


@pytest.mark.gpu
def test_gpu_and_cpu_agree(teachers, corpora):
    sequences = Sequences.read(corpora[0])
    curves = {}
    for device in ("cpu", "cuda:0"):
        torch.manual_seed(0)
        settings = Distillation(loss=Loss(**ALL), layers=[0, 2], steps=5, batch_sequences=3)
        curves[device] = Distiller(pretrained.load(teachers / "llama", device=device), settings, device).run(sequences)
    for name in ALL:
        np.testing.assert_allclose(curves["cuda:0"][name], curves["cpu"][name], rtol=1e-2)
