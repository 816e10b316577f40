"""Products with the Jacobian of log p by input embeddings: closed forms, and the full Jacobian of a tiny model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from diptych.derive import jacobian_loss
from diptych.derive.jacobian_loss import Reading, draw, pullback, sample, squared_norm

V, D = 7, 5


class Linear(torch.nn.Module):
    """logits_t = W x_t."""

    def __init__(self, W, embedding):
        super().__init__()
        self.W = W
        self.embedding = torch.nn.Embedding.from_pretrained(embedding)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, inputs_embeds, attention_mask, use_cache):
        return SimpleNamespace(logits=inputs_embeds @ self.W.T)


def linear(scale=1.0, embedding=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    W = scale * torch.randn(V, D, generator=generator, dtype=torch.float64)
    return Linear(W, torch.randn(V, D, generator=generator, dtype=torch.float64) if embedding is None else embedding)


IDS = torch.tensor([[1, 4, 2], [3, 0, 0]])
MASK = torch.tensor([[True, True, True], [True, False, False]])
LENGTHS, KEYS = [3, 1], [[0, 1], [0, 2]]


def read(model):
    return jacobian_loss.read(model, IDS, MASK, differentiable=True)


@pytest.mark.parametrize("probe", ["token", "unit_vector"])
def test_products_with_a_linear_model_are_the_closed_form(probe):
    model = linear()
    reading = read(model)
    v = draw(probe, KEYS, LENGTHS, reading.log_p)
    dense = torch.nn.functional.one_hot(v, V).double() if v.ndim == 1 else v
    p = reading.log_p.exp()
    # d log p / d logits = I - 1 p^T
    expected = torch.zeros(2, 3, D, dtype=torch.float64)
    expected[MASK] = ((dense - dense.sum(1, keepdim=True) * p) @ model.W).detach()
    torch.testing.assert_close(pullback(reading, v), expected, rtol=1e-12, atol=1e-12)


def test_expected_norm_of_a_token_probe_is_the_trace_with_the_covariance_of_the_output():
    model = linear()
    reading = jacobian_loss.read(model, IDS[:, :1], MASK[:, :1], differentiable=True)
    p = reading.log_p.exp().detach()
    norms = torch.stack([pullback(reading, torch.full((2,), y)).square().sum((1, 2)) for y in range(V)], dim=1)
    covariance = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("nyz,yd,zd->n", covariance, model.W, model.W)
    torch.testing.assert_close((p * norms).sum(1), expected)


@pytest.mark.parametrize("probe", ["token", "unit_vector"])
def test_a_scaled_linear_model_has_the_squared_difference_of_the_scales(probe):
    zero = torch.zeros(V, D, dtype=torch.float64)  # every token's embedding: both models say that all are as likely
    teacher, own = read(linear(1.0, zero)), read(linear(1.5, zero))
    v = draw(probe, KEYS, LENGTHS, teacher.log_p)
    target = pullback(teacher, v)
    assert float(squared_norm(pullback(own, v) - target) / squared_norm(target)) == pytest.approx(0.25, rel=1e-12)


def test_tokens_are_drawn_as_the_teacher_gives_them():
    p = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0])
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    tokens = sample(p.log().expand(1000, 5), uniform)
    assert torch.bincount(tokens, minlength=5).tolist() == [500, 0, 300, 200, 0]
    assert sample(p.log()[None], torch.tensor([1 - 2.0**-53], dtype=torch.float64)).item() == 3
    assert sample(p.log()[None], torch.tensor([0.0], dtype=torch.float64)).item() == 0


@pytest.mark.parametrize("probe", ["token", "unit_vector"])
def test_a_sequence_has_its_own_probe_in_any_batch(probe):
    log_p = torch.randn(9, V, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    together = draw(probe, [[0, 1], [0, 2]], [4, 5], log_p)
    alone = draw(probe, [[0, 2]], [5], log_p[4:])
    assert torch.equal(together[4:], alone)
    assert not torch.equal(draw(probe, [[0, 3]], [5], log_p[4:]), alone)
    if probe == "unit_vector":
        torch.testing.assert_close(together.norm(dim=1), torch.ones(9))


def tiny_model(seed):
    # GPT-2 computes nothing in float32 on its own, as others do in norms, rotations and softmax.
    config = transformers.GPT2Config(
        vocab_size=V,
        n_embd=8,
        n_layer=2,
        n_head=2,
        n_positions=16,
        initializer_range=0.6,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel(config).double().eval()
    model.set_attn_implementation("eager")
    return model


@pytest.fixture(scope="module")
def jacobians():
    """p [T, V] and J [T, V, T, d] of a teacher and a student with the same embedding, on one sequence."""
    teacher, own = tiny_model(0), tiny_model(1)
    own.get_input_embeddings().load_state_dict(teacher.get_input_embeddings().state_dict())
    ids = torch.tensor([[1, 5, 3, 2]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    full = []
    for model in (teacher, own):
        embedded = model.get_input_embeddings()(ids).detach()

        def log_p(x, model=model):
            return model(inputs_embeds=x, use_cache=False).logits[0].log_softmax(-1)

        full.append(torch.autograd.functional.jacobian(log_p, embedded)[:, :, 0])
    readings = [jacobian_loss.read(model, ids, mask, differentiable=True) for model in (teacher, own)]
    return readings, full


@pytest.mark.parametrize("probe", ["token", "unit_vector"])
def test_products_are_those_with_the_full_jacobian(jacobians, probe):
    readings, full = jacobians
    v = draw(probe, [[4]], [4], readings[0].log_p)
    dense = torch.nn.functional.one_hot(v, V).double() if v.ndim == 1 else v
    for reading, J in zip(readings, full, strict=True):
        torch.testing.assert_close(pullback(reading, v)[0], torch.einsum("tv,tvsd->sd", dense, J))


@pytest.mark.parametrize("probe", ["token", "unit_vector"])
def test_the_loss_over_many_probes_is_that_of_the_full_jacobian(jacobians, probe):
    (teacher, _), (J_T, J_S) = jacobians
    n = 20_000
    log_p = teacher.log_p.detach()
    v = draw(probe, [[0, draw_number] for draw_number in range(n)], [4] * n, log_p.repeat(n, 1))
    dense = (torch.nn.functional.one_hot(v, V).double() if v.ndim == 1 else v).reshape(n, -1)
    for J in (J_S - J_T, J_T):
        matrix = J.reshape(4 * V, -1)
        squares = (dense @ matrix).square().sum(1)
        assert float(squares.mean()) == pytest.approx(
            float(expected_square(J, log_p.exp(), probe)), abs=5 * float(squares.std()) / n**0.5
        )


def expected_square(J, p, probe):
    """E_v ||J^T v||^2 for v_t independent over positions."""
    if probe == "unit_vector":
        return J.square().sum() / V
    means = torch.einsum("tv,tvsd->tsd", p, J)
    second = torch.einsum("tv,tvsd->", p, J.square())
    return second - means.square().sum() + means.sum(0).square().sum()


def test_the_score_of_the_teachers_own_tokens_has_mean_zero(jacobians):
    (teacher, _), (J_T, J_S) = jacobians
    p = teacher.log_p.exp().detach()
    scale = J_T.abs().max()
    assert torch.einsum("tv,tvsd->tsd", p, J_T).abs().max() < 1e-12 * scale
    assert torch.einsum("tv,tvsd->tsd", p, J_S).abs().max() > 1e-3 * scale


def test_a_reading_is_of_the_ids():
    model = tiny_model(0)
    reading = jacobian_loss.read(model, IDS, MASK, differentiable=False)
    assert isinstance(reading, Reading)
    with torch.no_grad():
        expected = model(input_ids=IDS[:1]).logits[0].log_softmax(-1)
    np.testing.assert_allclose(reading.log_p[:3].detach(), expected, rtol=0, atol=1e-12 * expected.abs().max())
    assert not reading.embedded.requires_grad
