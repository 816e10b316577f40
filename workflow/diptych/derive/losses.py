"""Losses of a student that compare what it computes with what its teacher computes: outputs and hidden states.

Loss(kl=1.0, temperature=2.0, jacobian=0.5)     # weights of a sum; the Jacobian's own module is `jacobian_loss`
divergence(teacher.log_p, student.log_p, 2.0)   # summed over positions
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from diptych.derive.jacobian_loss import Probe
from diptych.models.hooks import hook_block


@dataclass(frozen=True)
class Loss:
    """Weights and settings of the losses whose sum is minimised.

    Attributes:
        kl: weight of the Kullback-Leibler divergence.
        temperature: by which both models' logits are divided in it.
        jacobian: weight of the Jacobian loss.
        probe: kind of its probe vectors.
        probes: of them, for each sequence and step.
        hidden: weight of the distance of the hidden states.
    """

    kl: float = 0.0
    temperature: float = 2.0
    jacobian: float = 0.0
    probe: Probe = "token"
    probes: int = 1
    hidden: float = 0.0


def divergence(teacher: Tensor, own: Tensor, temperature: float) -> Tensor:
    """T^2 sum_t KL(p_t || q_t) of log-probabilities [n, V] at temperature T (Hinton et al., 2015); q is the student's.

    The factor keeps the gradient's size when T grows.
    """
    log_p, log_q = ((log / temperature).log_softmax(-1) for log in (teacher, own))
    total = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(dtype=torch.float64)
    return temperature**2 * total


def state_distance(teacher: Sequence[Tensor], own: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Sum over positions of ||h_S - h_T||^2 / ||h_T||^2, mean over blocks.

    Args:
        teacher: hidden states [b, L, d] behind each block that one of the student's stands for.
        own: the student's.
        mask: bool [b, L], the positions.
    """
    distances = [
        ((h_S - h_T)[mask].square().sum(-1) / h_T[mask].square().sum(-1)).sum(dtype=torch.float64)
        for h_T, h_S in zip(teacher, own, strict=True)
    ]
    return torch.stack(distances).mean()


def block_outputs(blocks: Iterable[nn.Module]) -> list[Tensor]:
    """A list that holds the hidden states behind some blocks after every forward pass."""
    states: list[Tensor] = []
    for place, block in enumerate(blocks):
        states.append(torch.empty(0))
        hook_block(block, partial(states.__setitem__, place), before=False)
    return states
