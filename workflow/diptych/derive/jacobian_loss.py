"""Distance of two models' Jacobians d log p / d input embeddings, by vector-Jacobian products (METHODS 6).

    E_v ||J_S^T v - J_T^T v||^2 / E_v ||J_T^T v||^2,    J the Jacobian of all log p_t by all input embeddings x_s

A probe is a vector v_t of the vocabulary's length at every position t, the same for both models: the one-hot vector of
a token drawn from the teacher, or a random unit vector. J^T v is the gradient of sum_t v_t . log p_t by the embeddings,
one backward pass through a model, and the student's is differentiated once more to train it. Numerator and denominator
are summed over sequences, positions and probes before they are divided:

    teacher, student = (read(model, ids, mask, differentiable=True) for model in models)
    v = draw("token", [[seed, 0], [seed, 1]], lengths, teacher.log_p)
    target = pullback(teacher, v)
    squared_norm(pullback(student, v, create_graph=True) - target) / squared_norm(target)
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Probe = Literal["token", "unit_vector"]


class Reading(NamedTuple):
    """What a model says of some padded sequences: input embeddings [b, L, d] and log p [n, V] at the n real tokens."""

    embedded: Tensor
    log_p: Tensor


def read(model: Any, ids: Tensor, mask: Tensor, *, differentiable: bool, autocast: bool = False) -> Reading:
    """Next-token log-probabilities of a model, at least in float32, and the input embeddings that they are of.

    Args:
        model: a causal transformers model.
        ids: [b, L], padded on the right.
        mask: bool [b, L], True at real tokens.
        differentiable: whether derivatives by the embeddings will be taken.
        autocast: multiply in bfloat16.
    """
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_(differentiable)
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=autocast):
        logits = model(inputs_embeds=embedded, attention_mask=mask.long(), use_cache=False).logits[mask]
    return Reading(embedded, logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)))


def draw(probe: Probe, keys: Sequence[Sequence[int]], lengths: Sequence[int], log_p: Tensor) -> Tensor:
    """Probe vectors v_t of some sequences; those of a sequence are a function of its key and, if "token", of its log p.

    Args:
        probe: kind of vector.
        keys: seed of each sequence.
        lengths: real tokens of each sequence; n is their sum.
        log_p: the teacher's, [n, V]; of "unit_vector" only the shape, dtype and device matter.

    Returns:
        Token ids int64 [n] that stand for one-hot vectors, or unit vectors [n, V].
    """
    generators = [np.random.default_rng(key) for key in keys]
    of_each = zip(generators, lengths, strict=True)
    if probe == "token":
        uniform = np.concatenate([generator.random(length) for generator, length in of_each])
        return sample(log_p.detach(), torch.from_numpy(uniform).to(log_p.device))
    normal = [rng.standard_normal((length, log_p.shape[1]), dtype=np.float32) for rng, length in of_each]
    vectors = torch.from_numpy(np.concatenate(normal)).to(log_p)
    normalised: Tensor = vectors / vectors.norm(dim=1, keepdim=True)
    return normalised


def sample(log_p: Tensor, uniform: Tensor) -> Tensor:
    """Tokens int64 [n] distributed as exp(log_p) [n, V]: their cumulative sums, inverted at `uniform` float64 [n]."""
    cumulative = log_p.double().exp().cumsum(-1)
    # Relative to the rounded total, so that a draw near 1 is a token too.
    tokens = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
    return tokens.clamp(max=log_p.shape[1] - 1)


def pullback(reading: Reading, v: Tensor, *, create_graph: bool = False) -> Tensor:
    """J^T v, [b, L, d]: the gradient of sum_t v_t . log p_t by the input embeddings.

    Args:
        reading: a differentiable one; its graph is kept for further probes.
        v: token ids [n] or vectors [n, V], as `draw` gives them.
        create_graph: whether J^T v can be differentiated by the model's weights.
    """
    log_p = reading.log_p
    picked = log_p.gather(1, v[:, None]) if v.ndim == 1 else v * log_p
    (gradient,) = torch.autograd.grad(picked.sum(), reading.embedded, create_graph=create_graph, retain_graph=True)
    return gradient


def squared_norm(gradient: Tensor) -> Tensor:
    """||g||^2 over all entries, summed in float64."""
    return gradient.square().sum(dtype=torch.float64)
