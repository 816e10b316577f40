"""A model that is pushed: vectors added to its residual stream at one site while it writes.

    edit = Edit(vectors, first=prompt_length - 1)          # one vector a row, from the last prompt token on
    tokens = sample(model, prompt, uniform, hook, edit)    # [b, length], with a cache of keys and values
    seen = measure(model, prompt, tokens, hook, edit)      # KL to the unpushed model and its surprise, token by token

Every row of a batch has its own vector, so directions, strengths and samples run side by side. Randomness comes in as
uniform numbers: rows with the same numbers write the same text until their vectors make a difference, and a vector of
zeros changes nothing, to the bit.
"""

from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diptych import DiptychError
from diptych.hooked import find_blocks
from diptych.sites import residual_block

DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LOGIT_BYTES = 2**29
"""Memory for the logits of one forward pass when texts are measured."""


class Edit(NamedTuple):
    """What happens to the residual stream at a site.

    Attributes:
        vectors: [b, d], one for each row of the batch.
        first: first position that is changed.
        last: last one; None changes all that follow.
        replaces: the vector takes the place of the residual instead of being added to it.
        only: positions that are changed where they are no range; None for all of first .. last.
    """

    vectors: Tensor
    first: int
    last: int | None = None
    replaces: bool = False
    only: tuple[int, ...] | None = None


class Intervention:
    """Applies an edit to every forward pass inside a `with` block.

    It counts the positions that pass by, so a forward pass with a cache goes on where the last one stopped.
    """

    def __init__(self, model: nn.Module, hook: str, edit: Edit | None) -> None:
        self._model, self._hook, self._edit = model, hook, edit
        self._seen = 0
        self._handle: Any = None

    def __enter__(self) -> "Intervention":
        if self._edit is not None:
            block, before = _place(self._model, self._hook)
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


def _place(model: nn.Module, hook: str) -> tuple[nn.Module, bool]:
    """The block of a residual-stream hook, and whether the hook is before it."""
    found = residual_block(hook)
    if found is None:
        raise DiptychError(f"site {hook!r}: not in the residual stream, so it cannot be steered; leave its pair out")
    blocks = find_blocks(model, int(_config(model).num_hidden_layers))
    return blocks[found.block], found.before


def _config(model: nn.Module) -> Any:
    config: Any = model.config
    return config.get_text_config()


@torch.inference_mode()
def sample(
    model: Any, prompt: IntArray, uniform: DoubleArray | None, length: int, hook: str, edit: Edit | None, rows: int = 1
) -> IntArray:
    """Let a model go on from a prompt.

    Args:
        model: a transformers causal language model.
        prompt: int64 [p].
        uniform: float64 [b, length] in [0, 1), from which tokens are drawn by inverting the cumulative distribution;
            None takes the likeliest token each time.
        length: tokens written.
        hook: where the edit happens, a residual-stream hook name.
        edit: what happens; None leaves the model alone.
        rows: of the batch, if `uniform` is None.

    Returns:
        int64 [b, length].
    """
    rows = rows if uniform is None else len(uniform)
    device = next(model.parameters()).device
    draws = None if uniform is None else torch.from_numpy(uniform).to(device)
    ids = torch.from_numpy(prompt).to(device).expand(rows, -1)
    written = []
    with Intervention(model, hook, edit):
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        for step in range(length):
            token = _drawn(out.logits[:, -1], None if draws is None else draws[:, step])
            written.append(token)
            if step + 1 < length:
                out = model(input_ids=token[:, None], past_key_values=out.past_key_values, use_cache=True)
    tokens: IntArray = torch.stack(written, dim=1).cpu().numpy()
    return tokens


def _drawn(logits: Tensor, uniform: Tensor | None) -> Tensor:
    """One token a row from logits [b, V]."""
    if uniform is None:
        return logits.argmax(dim=-1)
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)
    at = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)
    return at[:, 0].clamp_(max=logits.shape[-1] - 1)


class Measured(NamedTuple):
    """What two models make of the same tokens; float64 [b, length].

    Attributes:
        kl: KL(steered || unsteered) of the distribution that each token was drawn from, in nats. Over texts that the
            steered model wrote, its sum estimates the KL of whole texts (chain rule).
        surprise: -log p of each token under the unsteered model, in nats.
    """

    kl: DoubleArray
    surprise: DoubleArray


@torch.inference_mode()
def measure(model: Any, prompt: IntArray, tokens: IntArray, hook: str, edit: Edit) -> Measured:
    """Read texts once with the edit and once without.

    Args:
        model: as for `sample`.
        prompt: int64 [p].
        tokens: int64 [b, length], what was written behind it.
        hook: where the edit happens.
        edit: what happened while it was written.
    """
    device = next(model.parameters()).device
    length = tokens.shape[1]
    size = max(1, LOGIT_BYTES // (16 * length * int(_config(model).vocab_size)))
    kl, surprise = [], []
    for start in range(0, len(tokens), size):
        part = torch.from_numpy(tokens[start : start + size]).to(device)
        ids = torch.cat([torch.from_numpy(prompt).to(device).expand(len(part), -1), part], dim=1)[:, :-1]
        with Intervention(model, hook, edit._replace(vectors=edit.vectors[start : start + size])):
            steered = _log_softmax(model(input_ids=ids, use_cache=False, logits_to_keep=length).logits)
        left_alone = _log_softmax(model(input_ids=ids, use_cache=False, logits_to_keep=length).logits)
        surprise.append(-left_alone.gather(2, part[:, :, None])[:, :, 0].double().cpu().numpy())
        kl.append((steered.exp() * (steered - left_alone)).sum(dim=-1).double().cpu().numpy())
    return Measured(np.concatenate(kl), np.concatenate(surprise))


@torch.inference_mode()
def shift(model: Any, prompts: list[IntArray], hook: str, edits: list[Edit]) -> DoubleArray:
    """How an edit changes the next token's log-probabilities, mean over prompts: float64 [b, V].

    Args:
        model: as for `sample`.
        prompts: each int64 [p].
        hook: where the edits happen.
        edits: one for each prompt, on the same vectors.
    """
    total: Any = 0.0
    device = next(model.parameters()).device
    for prompt, edit in zip(prompts, edits, strict=True):
        ids = torch.from_numpy(prompt).to(device)[None]
        before = _log_softmax(model(input_ids=ids, use_cache=False, logits_to_keep=1).logits)[:, -1]
        with Intervention(model, hook, edit):
            rows = ids.expand(len(edit.vectors), -1)
            after = _log_softmax(model(input_ids=rows, use_cache=False, logits_to_keep=1).logits)[:, -1]
        total = total + (after - before).double()
    changed: DoubleArray = (total / len(prompts)).cpu().numpy()
    return changed


def _log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.float(), dim=-1)
