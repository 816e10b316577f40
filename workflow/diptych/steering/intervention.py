"""Steering: vectors added to a model's residual stream at one site while it generates text.

    edit = Edit(vectors, first=prompt_length - 1)          # one vector per row, from the last prompt token on
    sampled = sample(model, prompt, uniform, length, hook, edit)    # tokens [b, length], with a cache
    measured = measure(model, prompt, sampled)  # KL from the unsteered model and its surprisal, per token

Every row of a batch has its own vector, so directions, strengths and samples run side by side. Randomness is
passed as uniform numbers: rows with the same numbers generate the same text until their vectors make a difference, and
a vector of zeros changes nothing, to the bit.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diptych.models.hooks import find_blocks
from diptych.models.sites import residual_block
from diptych.runtime.errors import DiptychError

DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LOGIT_BYTES = 2**29
"""Memory for the logits of one forward pass when texts are read again."""


class Edit(NamedTuple):
    """A change of the residual stream at a site.

    Attributes:
        vectors: [b, d], one for each row of the batch.
        first: first position that is changed.
        last: last position that is changed; None: all after `first`.
        replaces: the vector replaces the residual instead of being added to it.
        only: positions that are changed, if not all of first .. last.
    """

    vectors: Tensor
    first: int
    last: int | None = None
    replaces: bool = False
    only: tuple[int, ...] | None = None


class Intervention:
    """Applies an edit to every forward pass inside a `with` block.

    It counts positions, so a forward pass with a cache continues where the last one stopped.
    """

    def __init__(self, model: nn.Module, hook: str, edit: Edit | None) -> None:
        self._model, self._hook, self._edit = model, hook, edit
        self._seen = 0
        self._handle: Any = None

    def __enter__(self) -> "Intervention":
        if self._edit is not None:
            block, before = _module_at(self._model, self._hook)
            if before:
                self._handle = block.register_forward_pre_hook(self._on_input, with_kwargs=True)
            else:
                self._handle = block.register_forward_hook(self._on_output)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _on_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (self._changed(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._changed(kwargs["hidden_states"])}

    def _on_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (self._changed(output[0]), *output[1:])
        return self._changed(output)

    def _changed(self, hidden: Tensor) -> Tensor:
        """The residual stream [b, t, d] of the next t positions, edited."""
        assert self._edit is not None
        edit = self._edit
        position = torch.arange(self._seen, self._seen + hidden.shape[1], device=hidden.device)
        self._seen += hidden.shape[1]
        where = position >= edit.first
        if edit.last is not None:
            where &= position <= edit.last
        if edit.only is not None:
            where &= torch.isin(position, torch.tensor(edit.only, device=hidden.device))
        vectors = edit.vectors.to(hidden.device, hidden.dtype)[:, None, :]
        return torch.where(where[None, :, None], vectors if edit.replaces else hidden + vectors, hidden)


def _module_at(model: nn.Module, hook: str) -> tuple[nn.Module, bool]:
    """The block of a residual-stream hook, and whether the hook is before it."""
    block = residual_block(hook)
    if block is None:
        raise DiptychError(f"site {hook!r}: not in the residual stream, so it cannot be steered; leave its pair out")
    blocks = find_blocks(model, int(_config(model).num_hidden_layers))
    return blocks[block.block], block.before


def _config(model: nn.Module) -> Any:
    config: Any = model.config
    return config.get_text_config()


class Sampled(NamedTuple):
    """Tokens int64 [b, length], and the log-probabilities float32 [b, length, V] that each was drawn from."""

    tokens: IntArray
    log_p: Tensor


@torch.inference_mode()
def sample(model: Any, prompt: IntArray, uniform: DoubleArray, length: int, hook: str, edit: Edit | None) -> Sampled:
    """Sample continuations of a prompt from a model.

    Args:
        model: a transformers causal language model.
        prompt: int64 [p].
        uniform: float64 [b, length] in [0, 1), from which tokens are drawn by inverting the cumulative distribution.
        length: number of tokens.
        hook: name of the residual-stream hook at which the edit is applied.
        edit: the change; None: unsteered.
    """
    draws = torch.from_numpy(uniform).to(next(model.parameters()).device)
    steps = _steps(model, prompt, len(uniform), length, hook, edit, lambda log_p, step: _sampled(log_p, draws[:, step]))
    tokens: IntArray = torch.stack([token for token, _ in steps], dim=1).cpu().numpy()
    return Sampled(tokens, torch.stack([log_p for _, log_p in steps], dim=1))


@torch.inference_mode()
def decode_greedily(model: Any, prompt: IntArray, length: int, hook: str, edit: Edit) -> IntArray:
    """Greedy continuations of a prompt, int64 [b, length], one per vector of the edit; arguments as for `sample`."""
    rows = len(edit.vectors)
    steps = _steps(model, prompt, rows, length, hook, edit, lambda log_p, step: log_p.argmax(dim=-1))
    tokens: IntArray = torch.stack([token for token, _ in steps], dim=1).cpu().numpy()
    return tokens


def _steps(
    model: Any,
    prompt: IntArray,
    rows: int,
    length: int,
    hook: str,
    edit: Edit | None,
    choose: Callable[[Tensor, int], Tensor],
) -> list[tuple[Tensor, Tensor]]:
    """The tokens [b] chosen one after another, with the log-probabilities [b, V] they were chosen from."""
    ids = torch.from_numpy(prompt).to(next(model.parameters()).device).expand(rows, -1)
    steps = []
    with Intervention(model, hook, edit):
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        for step in range(length):
            log_p = _log_softmax(out.logits[:, -1])
            token = choose(log_p, step)
            steps.append((token, log_p))
            if step + 1 < length:
                cache = "cache_params" if "cache_params" in out else "past_key_values"  # a recurrent model's state
                out = model(input_ids=token[:, None], use_cache=True, **{cache: out[cache]})
    return steps


def _sampled(log_p: Tensor, uniform: Tensor) -> Tensor:
    """One token per row from log-probabilities [b, V] and uniform numbers [b]."""
    cumulative = log_p.exp().cumsum(dim=-1, dtype=torch.float64)
    at = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)
    return at[:, 0].clamp_(max=log_p.shape[-1] - 1)


class Measured(NamedTuple):
    """Comparison of the steered and the unsteered model on the same tokens; float64 [b, length].

    Attributes:
        kl: KL(steered || unsteered) of the distribution that each token was drawn from, in nats. For texts sampled
            from the steered model, its sum estimates the KL of whole texts (chain rule).
        surprise: -log p of each token under the unsteered model, in nats.
    """

    kl: DoubleArray
    surprise: DoubleArray


@torch.inference_mode()
def measure(model: Any, prompt: IntArray, sampled: Sampled) -> Measured:
    """Run sampled texts through the unsteered model and compare its predictions.

    Texts are sampled token by token with a cache and compared in one pass: the two differ by the rounding of the
    model's precision; the KL of a vector of zeros shows by how much.

    Args:
        model: as for `sample`.
        prompt: int64 [p].
        sampled: continuations of the prompt, with the distributions they were drawn from.
    """
    device = next(model.parameters()).device
    length = sampled.tokens.shape[1]
    size = max(1, LOGIT_BYTES // (16 * length * sampled.log_p.shape[2]))
    kl, surprise = [], []
    for start in range(0, len(sampled.tokens), size):
        part = torch.from_numpy(sampled.tokens[start : start + size]).to(device)
        ids = torch.cat([torch.from_numpy(prompt).to(device).expand(len(part), -1), part], dim=1)[:, :-1]
        steered = sampled.log_p[start : start + size]
        unsteered = _log_softmax(model(input_ids=ids, use_cache=False, logits_to_keep=length).logits)
        surprise.append(-unsteered.gather(2, part[:, :, None])[:, :, 0].double().cpu().numpy())
        kl.append((steered.exp() * (steered - unsteered)).sum(dim=-1).double().cpu().numpy())
    return Measured(np.concatenate(kl), np.concatenate(surprise))


def _log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.float(), dim=-1)
