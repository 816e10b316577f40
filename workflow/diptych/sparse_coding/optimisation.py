"""One optimiser step of a sparse code: gradients of a batch, clipped update, rows since each latent fired.

    state = Optimisation(crosscoder, adam(crosscoder), silent_rows=torch.zeros(n_latents))
    terms = backpropagate(state, z_BD, objective, k=32, dead_after=50_000)
    update(state, rate=1e-3, clip=1.0)
    count_silent(state, terms[0].firings, len(z_BD))

Crosscoders and dictionaries (crosscoders of one model) train by these steps.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from diptych.sparse_coding import objectives
from diptych.sparse_coding.architecture import Crosscoder
from diptych.sparse_coding.objectives import Objective, Terms


@dataclass
class Optimisation:
    """What the next step depends on.

    Attributes:
        crosscoder: the weights.
        optimizer: of its parameters.
        step: steps done.
        silent_rows: rows since each latent fired [F].
        floor: `objectives.Step.floor` of the next batch; changes no result.
    """

    crosscoder: Crosscoder
    optimizer: torch.optim.Adam
    step: int = 0
    silent_rows: Tensor = field(default_factory=lambda: torch.zeros(0))
    floor: float = 0.0


def adam(crosscoder: Crosscoder) -> torch.optim.Adam:
    """Adam (.9, .999) on a crosscoder's parameters; `update` sets its learning rate."""
    return torch.optim.Adam(crosscoder.parameters(), fused=True)


def backpropagate(
    state: Optimisation,
    z_BD: Tensor,
    objective: Objective,
    *,
    k: int,
    dead_after: float,
    penalty: float = 0.0,
    parts: int = 1,
    cut: objectives.Cut | None = None,
    product: Tensor | None = None,
) -> list[Terms]:
    """Losses of normalised rows z [B, D] in equal parts; their mean's gradients are in the parameters.

    Args:
        state: weights, and rows since each latent fired.
        z_BD: the batch.
        objective: the objective.
        k: mean number of active latents per row (k-sparse objectives).
        dead_after: rows without firing after which a latent gets the auxiliary loss.
        penalty: lambda (l1, jumprelu).
        parts: number of parts, to save memory; batchtopk selects entries within each.
        cut: see `objectives.Step`.
        product: buffer [B / parts, F], see `objectives.Step`.
    """
    dead = dead_latents(state, dead_after)
    state.optimizer.zero_grad(set_to_none=True)
    terms_of_parts = []
    for part_BD in torch.split(z_BD, len(z_BD) // parts):
        buffer = product if product is not None and len(product) == len(part_BD) else None
        step = objectives.Step(k, penalty, dead, state.floor, cut, buffer)
        terms = objectives.evaluate_terms(state.crosscoder, part_BD, objective, step)
        torch.autograd.backward(terms.loss * (len(part_BD) / len(z_BD)))
        state.floor = objectives.FLOOR_MARGIN * terms.cut
        terms_of_parts.append(terms)
    return terms_of_parts


def update(state: Optimisation, *, rate: float, clip: float) -> None:
    """One step of the optimiser with gradients clipped to norm `clip`; masks of dedicated latents are re-applied."""
    torch.nn.utils.clip_grad_norm_(state.crosscoder.parameters(), clip)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    state.crosscoder.apply_masks()


def count_silent(state: Optimisation, firings: Tensor, n_rows: int) -> None:
    """Add `n_rows` to the silent rows of every latent without firings [F] on them, and set those of others to 0."""
    state.silent_rows.add_(n_rows).mul_(firings == 0)


def dead_latents(state: Optimisation, dead_after: float) -> Tensor:
    """Latents that have not fired on the last `dead_after` rows, int64 [n_dead]."""
    return (state.silent_rows >= dead_after).nonzero()[:, 0]
