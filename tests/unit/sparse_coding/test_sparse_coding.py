"""The sparse code and its objectives, against dense autograd and by the formula."""

import numpy as np
import pytest
import torch

from diptych.sparse_coding import architecture, objectives
from diptych.sparse_coding.architecture import Architecture, Crosscoder
from diptych.sparse_coding.objectives import Objective, Step

torch.set_num_threads(1)


def random_crosscoder(widths=(6, 4), n_latents=20, **settings) -> Crosscoder:
    """A crosscoder with random weights and biases in float64."""
    torch.manual_seed(1)
    crosscoder = Crosscoder(Architecture(widths, n_latents, **settings)).double()
    with torch.no_grad():
        for parameter in crosscoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return crosscoder


def gradients(crosscoder, z_BD, objective, step, *, dense):
    crosscoder.zero_grad(set_to_none=True)
    terms = objectives.evaluate_terms(crosscoder, z_BD, objective, step, dense=dense)
    terms.loss.backward()
    return terms, {name: parameter.grad.clone() for name, parameter in crosscoder.named_parameters()}


@pytest.mark.parametrize("name", ["batchtopk", "topk"])
@pytest.mark.parametrize("prefixes", [(), (5, 12, 20)])
@pytest.mark.parametrize("dead", [None, torch.tensor([1, 4, 17, 18, 19, 0, 2])])
def test_sparse_gradients_are_those_of_dense_autograd(name, prefixes, dead):
    crosscoder = random_crosscoder()
    z_BD = torch.randn(32, 10, dtype=torch.float64)
    step = Step(k=3, dead=dead, floor=0.2)
    objective = Objective(name, prefixes=prefixes)
    fast, fast_grads = gradients(crosscoder, z_BD, objective, step, dense=False)
    slow, slow_grads = gradients(crosscoder, z_BD, objective, step, dense=True)
    torch.testing.assert_close(fast.loss, slow.loss)
    for parameter, grad in slow_grads.items():
        assert grad.abs().max() > 0
        torch.testing.assert_close(fast_grads[parameter], grad)


@pytest.mark.parametrize("floor", [0.0, 0.5, 2.0, 50.0])
def test_batch_top_k_is_exact_whatever_the_floor(floor):
    crosscoder = random_crosscoder()
    z_BD = torch.randn(16, 10, dtype=torch.float64)
    norm_F = crosscoder.decoder_norms().sum(0).detach()
    product_BF = (z_BD @ crosscoder.W_enc.T).detach()
    chosen, cut = objectives.batch_top_k(product_BF, crosscoder.b_enc.detach(), norm_F, 40, floor)
    score_BF = (product_BF + crosscoder.b_enc.detach()).relu() * norm_F
    expected = (score_BF >= score_BF.flatten().topk(40).values[-1]).nonzero()
    assert torch.equal(torch.stack([chosen.row, chosen.latent], 1), expected)
    assert cut == pytest.approx(float(score_BF.flatten().topk(40).values[-1]))


def test_batch_top_k_with_too_few_positive_scores_keeps_them_all():
    product_BF = torch.tensor([[1.0, -1.0], [-2.0, 3.0]])
    chosen, cut = objectives.batch_top_k(product_BF, torch.zeros(2), torch.ones(2), 4)
    assert chosen.row.tolist() == [0, 1]
    assert chosen.latent.tolist() == [0, 1]
    assert cut == 0


@pytest.mark.parametrize("k", [1, 5, 40])
def test_row_top_k_keeps_the_largest_positive_scores_of_each_row(k):
    generator = torch.Generator().manual_seed(0)
    pre_BF, norm_F = torch.randn(30, 40, generator=generator), torch.rand(40, generator=generator) + 0.5
    chosen = objectives.row_top_k(pre_BF, norm_F, k)
    score_BF = (pre_BF * norm_F).relu()
    expected_BF = torch.zeros_like(score_BF).scatter(1, score_BF.topk(k, dim=1).indices, 1.0) * (score_BF > 0)
    kept_BF = torch.zeros_like(score_BF)
    kept_BF[chosen.row, chosen.latent] = 1.0
    assert torch.equal(kept_BF, expected_BF)
    assert torch.equal(chosen.row * 40 + chosen.latent, (chosen.row * 40 + chosen.latent).sort().values)


def test_row_top_k_keeps_ties_at_the_cut():
    chosen = objectives.row_top_k(torch.tensor([[2.0, 1.0, 1.0, 0.0], [-1.0, -1.0, -2.0, 3.0]]), torch.ones(4), 2)
    assert list(zip(chosen.row.tolist(), chosen.latent.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 2), (1, 3)]


def test_loss_is_the_mean_over_rows_of_the_summed_squares():
    crosscoder = random_crosscoder()
    z_BD = torch.randn(8, 10, dtype=torch.float64)
    terms = objectives.evaluate_terms(crosscoder, z_BD, Objective("topk"), Step(k=2))
    by_hand = sum(
        (part - part_hat).square().sum(1).mean()
        for part, part_hat in zip(crosscoder.per_model(z_BD), crosscoder.per_model(terms.x_hat_BD), strict=True)
    )
    torch.testing.assert_close(terms.reconstruction, by_hand)


def test_l1_penalty_by_hand():
    crosscoder = random_crosscoder()
    z_BD = torch.randn(8, 10, dtype=torch.float64)
    terms = objectives.evaluate_terms(crosscoder, z_BD, Objective("l1"), Step(penalty=0.7))
    f_BF = crosscoder.pre_activations(z_BD).relu()
    by_hand = 0.7 * (f_BF * crosscoder.decoder_norms().sum(0)).sum(1).mean()
    torch.testing.assert_close(terms.sparsity, by_hand.detach())


@pytest.mark.parametrize("shared", [0, 8])
def test_l1_and_jumprelu_by_the_formula(shared):
    """METHODS 5: the penalty of shared latents is a share of the others', silent latents are pulled up."""
    crosscoder = random_crosscoder(widths=(5, 5), activation="relu", n_shared=shared)
    crosscoder.log_theta = torch.nn.Parameter(torch.full((20,), -1.0, dtype=torch.float64))
    z_BD = torch.randn(32, 10, dtype=torch.float64)
    pre = z_BD @ crosscoder.W_enc.T + crosscoder.b_enc
    norm = crosscoder.W_dec[:, :5].norm(dim=1) + crosscoder.W_dec[:, 5:].norm(dim=1)
    weight = torch.ones(20, dtype=torch.float64)
    weight[:shared] = 0.25
    theta = np.exp(-1.0)
    jumped = torch.where(pre >= theta, pre, 0.0)
    expected = {
        "l1": (0.7 * pre.relu() * norm * weight).sum(1).mean(),
        "jumprelu": (0.7 * torch.tanh(4 * jumped * norm) * weight).sum(1).mean()
        + 3e-6 * ((theta - pre).relu() * norm).sum(1).mean(),
    }
    for name, sparsity in expected.items():
        terms = objectives.evaluate_terms(crosscoder, z_BD, Objective(name, shared_penalty=0.25), Step(penalty=0.7))
        torch.testing.assert_close(terms.sparsity, sparsity.detach(), rtol=1e-12, atol=0)
        f_BF = pre.relu() if name == "l1" else jumped
        error = (z_BD - f_BF @ crosscoder.W_dec - crosscoder.b_dec).square().sum(1).mean()
        torch.testing.assert_close(terms.loss, error + sparsity)


def test_auxiliary_loss_is_in_the_total_without_bias_and_with_a_detached_residual():
    crosscoder = random_crosscoder(activation="threshold")
    with torch.no_grad():
        crosscoder.b_dec.fill_(3.0)
    z_BD = torch.randn(8, 10, dtype=torch.float64)
    dead = torch.tensor([3, 7])
    terms = objectives.evaluate_terms(crosscoder, z_BD, Objective("batchtopk"), Step(k=3, dead=dead))
    f_BF = crosscoder.pre_activations(z_BD).relu()[:, dead]
    by_hand = (z_BD - terms.x_hat_BD - f_BF @ crosscoder.W_dec[dead]).square().sum(1).mean()
    torch.testing.assert_close(terms.auxiliary, by_hand.detach())
    torch.testing.assert_close(terms.loss.detach(), terms.reconstruction + by_hand.detach() / 32)
    x_hat_BD = terms.x_hat_BD.clone().requires_grad_()
    objectives.auxiliary_loss(crosscoder, z_BD, x_hat_BD, dead).backward()
    assert x_hat_BD.grad is None
    assert crosscoder.b_dec.grad is None
    assert set(crosscoder.W_dec.grad.abs().sum(1).nonzero()[:, 0].tolist()) <= {3, 7}


def test_auxiliary_loss_uses_the_best_half_width_of_the_dead():
    crosscoder = random_crosscoder(widths=(4, 4))
    z_BD = torch.randn(5, 8, dtype=torch.float64)
    dead = torch.arange(20)
    score_BF = crosscoder.pre_activations(z_BD).relu() * crosscoder.decoder_norms().sum(0)
    kept_BF = score_BF >= score_BF.topk(2, dim=1).values[:, -1:]
    e_hat_BD = (crosscoder.pre_activations(z_BD).relu() * kept_BF) @ crosscoder.W_dec
    expected = (z_BD - e_hat_BD).square().sum(1).mean()
    torch.testing.assert_close(objectives.auxiliary_loss(crosscoder, z_BD, torch.zeros_like(z_BD), dead), expected)


def test_jump_relu_gives_theta_a_gradient_only_from_its_window():
    pre_BF = torch.tensor([[0.5], [1.5], [9.0]])
    theta_F = torch.tensor([1.0], requires_grad=True)
    jumped = objectives.jump_relu(pre_BF, theta_F)
    assert jumped[:, 0].tolist() == [0.0, 1.5, 9.0]
    jumped.sum().backward()
    assert theta_F.grad.item() == pytest.approx(-0.5 * 2)


@pytest.mark.parametrize("activation", ["threshold", "relu", "topk", "jumprelu"])
def test_fold_gives_the_same_function_of_raw_rows(activation):
    crosscoder = random_crosscoder(activation=activation, k=4)
    crosscoder.mean.normal_()
    crosscoder.scale.copy_(torch.tensor([0.3, 5.0]))
    crosscoder.threshold.fill_(0.8)
    x_BD = torch.randn(30, 10, dtype=torch.float64) * 3
    folded = crosscoder.fold().double()
    torch.testing.assert_close(folded.encode(x_BD), crosscoder.encode(x_BD), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded(x_BD), crosscoder(x_BD), rtol=1e-4, atol=1e-5)


def test_equal_widths_start_from_the_same_rows_and_others_do_not():
    start = architecture.initial_directions((8, 8, 6), 5, seed=3)
    first, second, third = start.split((8, 8, 6), dim=1)
    assert torch.equal(first, second)
    assert third.norm(dim=1) == pytest.approx(torch.ones(5))


def test_independent_models_of_equal_width_start_apart():
    tied, apart = (architecture.initial_directions((8, 8), 5, 3, independent=flag).split(8, dim=1) for flag in (0, 1))
    assert torch.equal(*tied)
    assert not torch.equal(*apart)
