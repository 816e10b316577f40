"""A model with the activations at one hook replaced, to see what its predictions lose.

    model = load("results/models/base", "blocks.15.hook_resid_post", "bfloat16", "cpu")
    clean, values = model.clean(ids)              # logits [b, length, V], activations [b, length, d]
    logits = model.patched(ids, replacement)      # replacement [b, length, d] in their place

The residual stream before or after a block is replaced in the transformers model itself, and the blocks before it
are passed over, since nothing of theirs remains. Any other TransformerLens hook goes through its `TransformerBridge`.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diptych.models import pretrained
from diptych.models.hooks import DType, find_blocks, load_bridge
from diptych.models.placement import Devices
from diptych.models.sites import unknown

RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_post|in|out)")


class PatchedModel(Protocol):
    """A causal language model that can be run with other activations at one hook."""

    def clean(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [b, length, V] and the hook's activations, of the model as it is."""

    def patched(self, ids: Tensor, replacement: Tensor) -> Tensor:
        """Logits with the hook's activations replaced by others of the same dtype."""


def load(directory: str | Path, hook: str, dtype: DType, device: Devices) -> PatchedModel:
    """The model of a directory on its devices, to be patched at `hook` (a resolved name, see `sites.resolve_site`)."""
    match = RESIDUAL.fullmatch(hook)
    if not match:
        return BridgeModel(directory, hook, dtype, device)
    model = pretrained.load(directory, dtype=dtype, device=device)
    blocks = find_blocks(model, int(model.config.get_text_config().num_hidden_layers))
    first = int(match[1]) + (match[2] not in ("resid_pre", "in"))
    return ResidualModel(model, list(blocks), first)


class ResidualModel:
    """A transformers model patched at the residual stream that enters block `first` (or leaves the last one)."""

    def __init__(self, model: Any, blocks: list[nn.Module], first: int) -> None:
        self._model, self._blocks, self._first = model, blocks, first

    @torch.inference_mode()
    def clean(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """See `PatchedModel`."""
        outputs: list[Tensor] = []
        if self._first == len(self._blocks):
            handle = self._blocks[-1].register_forward_hook(
                lambda module, args, output: outputs.append(_stream(output))
            )
        else:
            handle = self._blocks[self._first].register_forward_pre_hook(
                lambda module, args, kwargs: outputs.append(args[0] if args else kwargs["hidden_states"]),
                with_kwargs=True,
            )
        try:
            logits = self._logits(ids)
        finally:
            handle.remove()
        return logits, outputs[0].to(ids.device)

    @torch.inference_mode()
    def patched(self, ids: Tensor, replacement: Tensor) -> Tensor:
        """See `PatchedModel`."""
        with _passed_over(self._blocks[: self._first], replacement):
            if self._first:
                return self._logits(ids)
            handle = self._blocks[0].register_forward_pre_hook(_returning(replacement), with_kwargs=True)
            try:
                return self._logits(ids)
            finally:
                handle.remove()

    def _logits(self, ids: Tensor) -> Tensor:
        logits: Tensor = self._model(input_ids=ids, use_cache=False).logits
        return logits


class BridgeModel:
    """A model patched at any TransformerLens hook."""

    def __init__(self, directory: str | Path, hook: str, dtype: DType, device: Devices) -> None:
        self._bridge = load_bridge(directory, dtype, device)
        if hook not in self._bridge.hook_dict:
            raise unknown(hook, self._bridge.hook_dict)
        self._hook = hook

    @torch.inference_mode()
    def clean(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """See `PatchedModel`."""
        outputs: list[Tensor] = []
        logits = self._run(ids, lambda value, hook: outputs.append(value.flatten(2)))
        return logits, outputs[0].to(ids.device)

    @torch.inference_mode()
    def patched(self, ids: Tensor, replacement: Tensor) -> Tensor:
        """See `PatchedModel`."""
        return self._run(ids, lambda value, hook: replacement.reshape(value.shape).to(value))

    def _run(self, ids: Tensor, function: Callable[[Tensor, Any], Tensor | None]) -> Tensor:
        with self._bridge.hooks(fwd_hooks=[(self._hook, function)]):
            logits: Tensor = self._bridge.original_model(input_ids=ids, use_cache=False).logits
        return logits


def _stream(output: Any) -> Tensor:
    """The residual stream in a block's output."""
    stream: Tensor = output[0] if isinstance(output, tuple) else output
    return stream


def _returning(replacement: Tensor) -> Callable[..., Any]:
    def give(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (replacement.to(args[0].dtype), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": replacement.to(kwargs["hidden_states"].dtype)}

    return give


@contextmanager
def _passed_over(blocks: list[nn.Module], replacement: Tensor) -> Iterator[None]:
    """Have each of `blocks` return `replacement` at once.

    It is not cast to the dtype that enters the first block: Mamba's stream is float32 behind a bfloat16 embedding.
    """

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return replacement

    forwards = [block.forward for block in blocks]
    for block in blocks:
        block.forward = forward
    try:
        yield
    finally:
        for block, own in zip(blocks, forwards, strict=True):
            block.forward = own
