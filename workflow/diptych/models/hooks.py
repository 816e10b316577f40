"""Models with hooks: the activations at some sites from one forward pass that goes no deeper than it must.

    loader = Loader("results/models/base", ["middle"], "cpu")
    model = loader.load("bfloat16")
    model(token_ids)["middle"]      # [b, length, d]

Weights are never folded or centred: the values are the model's own. The residual stream before and after a block is
taken from the blocks of the transformers model, not from its `hidden_states`: these lack the stream behind the last
block, and what is behind block i has index i + 1 in most architectures but i in Mamba's. Any other TransformerLens
hook comes through its `TransformerBridge`, which is slower (it computes attention step by step, so that there is
something to hook) and only then imported.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diptych.models import pretrained
from diptych.models.placement import Devices
from diptych.models.sites import block_of, neighbouring, resolve_site, unknown
from diptych.runtime.errors import DiptychError

DType = Literal["bfloat16", "float16", "float32"]
TORCH: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
_RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_post|in|out)")


class Reached(Exception):  # noqa: N818 (it is no error)
    """All sites have been seen: the rest of the forward pass is not needed."""


class HookedModel:
    """A model with a hook at each site.

    Args:
        forward: runs the model on token ids.
        attach: puts a callback of one tensor on a hook, by hook name.
        hooks: hook name by site.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], object],
        attach: Callable[[str, Callable[[Tensor], None]], None],
        hooks: Mapping[str, str],
    ) -> None:
        self._forward = forward
        self._attach = attach
        self.hooks: dict[str, str] = {}
        self._wanted: set[str] = set()
        self._seen: dict[str, Tensor] = {}
        self.watch(hooks)

    def watch(self, hooks: Mapping[str, str]) -> None:
        """Put hooks at more sites."""
        for hook in sorted(set(hooks.values()) - set(self.hooks.values())):
            self._attach(hook, self._catcher(hook))
        self.hooks.update(hooks)

    def _catcher(self, hook: str) -> Callable[[Tensor], None]:
        def catch(value: Tensor) -> None:
            if hook in self._wanted:
                self._seen[hook] = value
                if len(self._seen) == len(self._wanted):
                    raise Reached

        return catch

    @torch.inference_mode()
    def __call__(self, ids: Tensor, sites: Collection[str] | None = None) -> dict[str, Tensor]:
        """Activations [b, length, d] by site (all of them if not given) on the device of `ids`, heads flattened.

        Raises:
            DiptychError: a hook did not fire, or its tensor has no row per token.
        """
        hooks = {site: hook for site, hook in self.hooks.items() if sites is None or site in sites}
        self._seen.clear()
        self._wanted = set(hooks.values())
        try:
            self._forward(ids)
        except Reached:
            pass
        else:
            silent = sorted(self._wanted - set(self._seen))
            raise DiptychError(f"site {silent[0]!r}: this model never computes it; choose another hook")
        values = {site: self._seen[hook] for site, hook in hooks.items()}
        self._seen.clear()
        for site, value in values.items():
            if value.shape[:2] != ids.shape or value.ndim < 3:
                raise DiptychError(
                    f"site {site!r}: shape {tuple(value.shape)} has no row per token; choose another hook"
                )
        return {site: value.flatten(2).to(ids.device) for site, value in values.items()}


class Loader:
    """Loads a model directory with hooks at its sites, in any dtype.

    Args:
        directory: as `model_sources.fetch` or a derivation made it.
        sites: each a hook name, a relative depth or `first | middle | last`.
        device: where it runs, or those that it is spread over.
        neighbours: also put hooks at the same place one layer before and behind each site.
    """

    def __init__(
        self, directory: str | Path, sites: Sequence[str], device: Devices, *, neighbours: bool = False
    ) -> None:
        from transformers import AutoConfig

        self._directory = str(directory)
        self._device = device
        try:
            config = AutoConfig.from_pretrained(self._directory, trust_remote_code=pretrained.trusts(directory))
        except (OSError, ValueError) as error:
            raise pretrained.unreadable(directory, error) from error
        self._config = config.get_text_config()
        self._n_layers = int(self._config.num_hidden_layers)
        self.width = int(self._config.hidden_size)
        """Width of the residual stream."""
        self.hooks = {site: resolve_site(site, self._n_layers) for site in sites}
        """Hook name by site."""
        self.neighbours = {
            site: neighbouring(hook, self._n_layers) if neighbours else [] for site, hook in self.hooks.items()
        }
        """Hook names one layer before and behind, by site."""

    def check(self, largest: int, longest: int) -> None:
        """Raise `DiptychError` if a token id is outside the vocabulary or a sequence longer than the context."""
        vocabulary = int(self._config.vocab_size)
        if largest >= vocabulary:
            raise DiptychError(
                f"{self._directory}: token id {largest} is outside the model's vocabulary of {vocabulary}; "
                "model and tokenizer do not belong together"
            )
        context = getattr(self._config, "max_position_embeddings", None)
        if context is not None and longest > context:
            raise DiptychError(
                f"{self._directory}: sequences of {longest} tokens are longer than the model's context of {context}; "
                "lower the corpus's `sequence_length`"
            )

    def load(self, dtype: DType) -> HookedModel:
        """The model without weight processing, hooked at the sites and, where they exist, their neighbours."""
        hooks = {**{hook: hook for near in self.neighbours.values() for hook in near}, **self.hooks}
        residual_only = all(_RESIDUAL.fullmatch(hook) for hook in hooks.values())
        with pretrained.loading(self._directory):
            return self._load_residual(dtype, hooks) if residual_only else self._load_bridge(dtype, hooks)

    def _load_residual(self, dtype: DType, hooks: Mapping[str, str]) -> HookedModel:
        model = pretrained.load(self._directory, dtype=dtype, device=self._device)
        blocks = find_blocks(model, self._n_layers)

        def attach(hook: str, catch: Callable[[Tensor], None]) -> None:
            match = _RESIDUAL.fullmatch(hook)
            assert match is not None
            hook_block(blocks[int(match[1])], catch, before=match[2] in ("resid_pre", "in"))

        return HookedModel(lambda ids: model.base_model(input_ids=ids, use_cache=False), attach, hooks)

    def _load_bridge(self, dtype: DType, hooks: Mapping[str, str]) -> HookedModel:
        bridge = load_bridge(self._directory, dtype, self._device)
        for hook in self.hooks.values():
            if hook not in bridge.hook_dict:
                raise unknown(hook, bridge.hook_dict)

        def attach(hook: str, catch: Callable[[Tensor], None]) -> None:
            def keep(value: Tensor, hook: object) -> None:
                catch(value)

            bridge.add_hook(hook, keep)

        known = {site: hook for site, hook in hooks.items() if hook in bridge.hook_dict}
        return HookedModel(lambda ids: bridge.original_model(input_ids=ids, use_cache=False), attach, known)


def load_bridge(directory: str | Path, dtype: DType, device: Devices) -> Any:
    """TransformerLens' bridge around the model of a directory."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        str(directory),
        hf_model=pretrained.load(directory, dtype=dtype, device=device),
        dtype=TORCH[dtype],
        trust_remote_code=pretrained.trusts(directory),
    )


def block_outputs(hook: str) -> dict[str, str]:
    """The embedding and the outputs of the blocks up to that of `hook`: hook name by what it is called."""
    last = block_of(hook) or 0
    blocks = {f"block {block}": f"blocks.{block}.hook_resid_post" for block in range(last + 1)}
    return {"the embedding": "blocks.0.hook_resid_pre", **blocks}


def find_blocks(model: nn.Module, n_layers: int) -> nn.ModuleList:
    """The list of a transformers model's blocks: the outermost module list of that length.

    Raises:
        DiptychError: there is none.
    """
    lists = [
        (name.count("."), name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if not lists:
        raise DiptychError(f"{type(model).__name__}: no list of {n_layers} blocks found; name a TransformerLens hook")
    return min(lists, key=lambda candidate: candidate[:2])[2]


def hook_block(block: nn.Module, catch: Callable[[Tensor], None], *, before: bool) -> None:
    """Give `catch` the residual stream before or after a block."""

    def on_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        catch(args[0] if args else kwargs["hidden_states"])

    def on_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        catch(output[0] if isinstance(output, tuple) else output)

    if before:
        block.register_forward_pre_hook(on_input, with_kwargs=True)
    else:
        block.register_forward_hook(on_output)


def widths(model: HookedModel, device: torch.device) -> dict[str, int]:
    """Width of each site, from a sequence of two tokens."""
    values = model(torch.zeros((1, 2), dtype=torch.int64, device=device))
    return {site: int(value.shape[-1]) for site, value in values.items()}
