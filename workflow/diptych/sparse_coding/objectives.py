"""Training objectives of crosscoders (METHODS 5).

Every objective has the reconstruction error, the mean over rows of sum_m ||x^m - x_hat^m||^2. They differ in how the
code is made sparse:

    batchtopk   keep the batch * k largest scores of the batch; score = relu(pre) * sum_m ||d^m||
    topk        keep the k largest scores of each row
    l1          + penalty * sum_j f_j sum_m ||d_j^m||
    jumprelu    a learned theta per latent; + penalty * sum_j tanh(4 f_j sum_m ||d_j^m||) + a term on silent latents

    terms = evaluate_terms(crosscoder, z_BD, objective, Step(k=16, penalty=0.0, dead=dead, floor=0.0))
    terms.loss.backward()

The k-sparse objectives run on the selected entries alone (`sparse`); `dense=True` computes the same loss with plain
autograd, for comparison.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from diptych.sparse_coding import sparse
from diptych.sparse_coding.architecture import Crosscoder
from diptych.sparse_coding.sparse import Selection

Name = Literal["batchtopk", "topk", "l1", "jumprelu"]
Cut = Callable[[Tensor, int], Tensor]

TANH_SLOPE = 4.0
"""c in tanh(c f ||d||), as published for jumprelu crosscoders."""
SILENT_WEIGHT = 3e-6
"""Weight of the pre-activation loss of jumprelu, as published."""
JUMP_BANDWIDTH = 2.0
"""Width of the window in which theta gets a gradient, as published for inputs of length sqrt(d)."""
FLOOR_MARGIN = 0.8
"""Only scores above this share of the last batch's cut are considered first in the next batch."""


@dataclass(frozen=True)
class Objective:
    """The parts of an objective that are constant during training.

    Attributes:
        name: see the module.
        shared_penalty: factor on the penalty of latents with a tied decoder (l1, jumprelu).
        prefixes: latents 0 .. n - 1 for each n must reconstruct on their own (matryoshka); ends with F.
        auxiliary: weight of the auxiliary loss that revives dead latents.
        bfloat16: the products of whole matrices are computed in bfloat16; weights, sums and losses stay float32.
    """

    name: Name
    shared_penalty: float = 1.0
    prefixes: tuple[int, ...] = ()
    auxiliary: float = 1 / 32
    bfloat16: bool = False


@dataclass(frozen=True)
class Step:
    """The parts of an objective that change from step to step.

    Attributes:
        k: mean number of active latents per row (k-sparse objectives).
        penalty: lambda (l1, jumprelu).
        dead: int64 [n_dead], dead latents.
        floor: a score that this batch's cut is expected to exceed; any value gives the same result.
        cut: function that returns the smallest of the `budget` largest scores; None: `largest`. Another one is needed
            if the batch is distributed over processes.
        product: buffer [B, F] for the encoder's product, reused from step to step.
    """

    k: int = 0
    penalty: float = 0.0
    dead: Tensor | None = None
    floor: float = 0.0
    cut: Cut | None = None
    product: Tensor | None = None


@dataclass(frozen=True)
class Terms:
    """The loss of one batch and its terms.

    Attributes:
        loss: reconstruction + sparsity + weighted auxiliary loss, differentiable.
        reconstruction, sparsity, auxiliary: its parts, scalars without gradient; auxiliary unweighted.
        x_hat_BD: the (full) reconstruction, without gradient.
        firings: how many rows each latent fired on [F].
        cut: the smallest selected score (batchtopk), else 0.
        n_dead: number of dead latents, those of the auxiliary loss.
    """

    loss: Tensor
    reconstruction: Tensor
    sparsity: Tensor
    auxiliary: Tensor
    x_hat_BD: Tensor
    firings: Tensor
    cut: float
    n_dead: int


@dataclass(frozen=True)
class _Code:
    """Reconstructions of each prefix, the sparsity loss, firings and cut."""

    x_hats: list[Tensor]
    sparsity: Tensor
    firings: Tensor
    cut: float = 0.0


def evaluate_terms(
    crosscoder: Crosscoder, z_BD: Tensor, objective: Objective, step: Step, *, dense: bool = False
) -> Terms:
    """Loss of normalised rows z [B, D], with its parts."""
    if objective.name in ("batchtopk", "topk"):
        code = _k_sparse_code(crosscoder, z_BD, objective, step, dense)
    else:
        code = _penalised_code(crosscoder, z_BD, objective, step)
    errors = [mse_loss(x_hat_BD, z_BD, reduction="sum") for x_hat_BD in code.x_hats]
    reconstruction = sum(errors, z_BD.new_zeros(())) / (len(errors) * len(z_BD))
    x_hat_BD = code.x_hats[-1].detach()
    with _precision(objective, z_BD):
        auxiliary = auxiliary_loss(crosscoder, z_BD, x_hat_BD, step.dead)
    return Terms(
        loss=reconstruction + code.sparsity + objective.auxiliary * auxiliary,
        reconstruction=reconstruction.detach(),
        sparsity=code.sparsity.detach(),
        auxiliary=auxiliary.detach(),
        x_hat_BD=x_hat_BD,
        firings=code.firings,
        cut=code.cut,
        n_dead=0 if step.dead is None else len(step.dead),
    )


def auxiliary_loss(crosscoder: Crosscoder, z_BD: Tensor, x_hat_BD: Tensor, dead: Tensor | None) -> Tensor:
    """Auxiliary loss sum_m ||e^m - e_hat^m||^2, mean over rows, by which dead latents learn the error of the others.

    e = x - x_hat is without gradient; e_hat comes from the min(dbar / 2, dead) highest scoring dead latents of each
    row, from relu(pre), and without the decoder's bias, which is subtracted in e already.
    """
    if dead is None or len(dead) == 0:
        return z_BD.new_zeros(())
    W_enc, W_dec = crosscoder.W_enc[dead], crosscoder.W_dec[dead]
    f_BF = torch.addmm(crosscoder.b_enc[dead], z_BD, W_enc.T).relu()
    k = int(crosscoder.architecture.mean_width) // 2
    if k < len(dead):
        with torch.no_grad():
            score_BF = f_BF * crosscoder.decoder_norms().sum(0)[dead]
            top_mask = torch.zeros_like(f_BF).scatter_(1, score_BF.topk(k, dim=1, sorted=False).indices, 1.0)
        f_BF = f_BF * top_mask
    return mse_loss(f_BF @ W_dec, z_BD - x_hat_BD.detach(), reduction="sum") / len(z_BD)


def largest(scores: Tensor, budget: int) -> Tensor:
    """The smallest of the `budget` largest positive scores; 0 if there are no more than that."""
    if len(scores) <= budget:
        return scores.new_zeros(())
    return scores.topk(budget, sorted=False).values.min()


@torch.no_grad()
def batch_top_k(
    product_BF: Tensor, b_enc: Tensor, norm_F: Tensor, budget: int, floor: float = 0.0, cut: Cut | None = None
) -> tuple[Selection, float]:
    """The `budget` largest positive scores relu(product + b_enc) * norm of a batch, with ties at the cut.

    Only entries above `floor` are considered; if the cut turns out to be near or below it, all positive ones are, so
    that the floor never changes the result. Returns the selection and the cut (0: fewer than `budget` are positive).
    """
    n_rows, n_latents = product_BF.shape
    positive = sparse.positions(product_BF > floor / norm_F - b_enc)
    latent = positive % n_latents
    score = (product_BF.view(-1)[positive] + b_enc[latent]) * norm_F[latent]
    lowest = float((cut or largest)(score, budget))
    if floor > 0 and lowest < 1.01 * floor:
        return batch_top_k(product_BF, b_enc, norm_F, budget, cut=cut)
    return sparse.selection_from_flat(positive[score >= lowest], (n_rows, n_latents)), lowest


@torch.no_grad()
def row_top_k(pre_BF: Tensor, norm_F: Tensor, k: int) -> Selection:
    """The k largest positive scores of each row, with ties at the cut."""
    score_BF = pre_BF * norm_F
    if score_BF.device.type == "cpu":  # several times faster than torch.topk
        n_less = score_BF.shape[1] - k
        lowest_B = torch.from_numpy(np.partition(score_BF.numpy(), n_less, axis=1)[:, n_less])
    else:
        lowest_B = score_BF.topk(k, dim=1, sorted=False).values.amin(1)
    mask_BF = (score_BF >= lowest_B[:, None]).logical_and_(score_BF > 0)
    return sparse.selection_from_flat(sparse.positions(mask_BF), (score_BF.shape[0], score_BF.shape[1]))


def product_memory(n_rows: int, n_latents: int, objective: Objective, device: torch.device) -> Tensor:
    """Allocate the buffer `Step.product`."""
    dtype = torch.bfloat16 if objective.bfloat16 else torch.float32
    return torch.empty(n_rows, n_latents, dtype=dtype, device=device)


def _encoder_product(crosscoder: Crosscoder, z_BD: Tensor, objective: Objective, out: Tensor | None) -> Tensor:
    if objective.bfloat16:
        return torch.mm(z_BD.bfloat16(), crosscoder.W_enc.T.bfloat16(), out=out)
    return torch.mm(z_BD, crosscoder.W_enc.T, out=out)


def _precision(objective: Objective, like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, torch.bfloat16, enabled=objective.bfloat16)


def _k_sparse_code(crosscoder: Crosscoder, z_BD: Tensor, objective: Objective, step: Step, dense: bool) -> _Code:
    with torch.no_grad():
        norm_F = crosscoder.decoder_norms().sum(0)
        product_BF = _encoder_product(crosscoder, z_BD, objective, step.product)
    if objective.name == "batchtopk":
        selection, cut = batch_top_k(product_BF, crosscoder.b_enc, norm_F, step.k * len(z_BD), step.floor, step.cut)
    else:
        selection, cut = row_top_k(product_BF + crosscoder.b_enc, norm_F, step.k), 0.0
    firings = torch.bincount(selection.latent, minlength=selection.shape[1])
    if dense:
        code_BF = torch.zeros_like(product_BF)
        code_BF[selection.row, selection.latent] = 1.0
        f_BF = crosscoder.pre_activations(z_BD).relu() * code_BF
        return _Code(_prefix_decodes(crosscoder, f_BF, objective), z_BD.new_zeros(()), firings, cut)
    f = sparse.encode(z_BD, crosscoder.W_enc, crosscoder.b_enc, selection, product_BF)
    x_hats: list[Tensor] = []
    total: Tensor = crosscoder.b_dec
    for first, last in _intervals(crosscoder, objective):
        part, in_part = (selection, None) if last - first == selection.shape[1] else selection.within(first, last)
        total = total + sparse.decode(f if in_part is None else f[in_part], crosscoder.W_dec, part)
        x_hats.append(total)
    return _Code(x_hats, z_BD.new_zeros(()), firings, cut)


def _penalised_code(crosscoder: Crosscoder, z_BD: Tensor, objective: Objective, step: Step) -> _Code:
    with _precision(objective, z_BD):
        pre_BF = crosscoder.pre_activations(z_BD)
    pre_BF = pre_BF.to(z_BD.dtype)
    norm_F = crosscoder.decoder_norms().sum(0)
    weight_F = torch.ones_like(norm_F)
    weight_F[: crosscoder.architecture.n_shared] = objective.shared_penalty
    if objective.name == "l1":
        f_BF = pre_BF.relu()
        sparsity = step.penalty * (f_BF @ (norm_F * weight_F)).mean()
    else:
        theta_F = crosscoder.log_theta.exp()
        f_BF = jump_relu(pre_BF, theta_F)
        sparsity = step.penalty * (torch.tanh(TANH_SLOPE * f_BF * norm_F) @ weight_F).mean()
        sparsity = sparsity + SILENT_WEIGHT * ((theta_F - pre_BF).relu() @ norm_F).mean()
    return _Code(_prefix_decodes(crosscoder, f_BF, objective), sparsity, (f_BF.detach() > 0).sum(0))


def _prefix_decodes(crosscoder: Crosscoder, f_BF: Tensor, objective: Objective) -> list[Tensor]:
    x_hats: list[Tensor] = []
    total: Tensor = crosscoder.b_dec
    for first, last in _intervals(crosscoder, objective):
        with _precision(objective, f_BF):
            part_BD = f_BF[:, first:last] @ crosscoder.W_dec[first:last]
        total = total + part_BD
        x_hats.append(total)
    return x_hats


def _intervals(crosscoder: Crosscoder, objective: Objective) -> list[tuple[int, int]]:
    ends = objective.prefixes or (crosscoder.architecture.n_latents,)
    return list(zip((0, *ends[:-1]), ends, strict=True))


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_BF: Tensor, theta_F: Tensor) -> Tensor:
        ctx.save_for_backward(pre_BF, theta_F)
        return pre_BF * (pre_BF >= theta_F)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        pre_BF, theta_F = ctx.saved_tensors
        window_BF = ((pre_BF - theta_F).abs() < JUMP_BANDWIDTH / 2).to(pre_BF.dtype)
        grad_theta_F = -(theta_F / JUMP_BANDWIDTH) * (grads[0] * window_BF).sum(0)
        return grads[0] * (pre_BF >= theta_F), grad_theta_F


def jump_relu(pre_BF: Tensor, theta_F: Tensor) -> Tensor:
    """JumpReLU: pre where it is at least theta, else 0; theta gets its gradient from the entries near it."""
    jumped: Tensor = _JumpReLU.apply(pre_BF, theta_F)  # type: ignore[no-untyped-call]
    return jumped
