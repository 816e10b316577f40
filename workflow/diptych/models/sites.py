"""Sites: the places in a network where activations are read, by depth or by TransformerLens hook name.

resolve_site("first", 30)       # blocks.0.hook_resid_post: after block 0, not the embedding
resolve_site("middle", 30)      # blocks.15.hook_resid_post: relative depth 0.5
resolve_site("last", 30)        # blocks.29.hook_resid_post: after the last block, before the final norm
resolve_site(0.25, 30)          # blocks.7.hook_resid_post: block min(L - 1, floor(0.25 L))
resolve_site("blocks.3.hook_mlp_out", 30)
resolve_site("middle.mlp.hook_post", 30)    # blocks.15.mlp.hook_post: another hook of that block
"""

import difflib
import re
import sys
from collections.abc import Iterable
from typing import NamedTuple

from diptych.runtime.errors import DiptychError

DEPTHS = {"first": 0.0, "middle": 0.5, "last": 1.0}

BLOCK_HOOKS = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "hook_mlp_in",
    "hook_attn_in",
    "hook_in",
    "hook_out",
    "attn.hook_z",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_in",
    "attn.hook_out",
    "mlp.hook_pre",
    "mlp.hook_post",
    "mlp.hook_in",
    "mlp.hook_out",
    "ln1.hook_normalized",
    "ln2.hook_normalized",
    "ln1.hook_out",
    "ln2.hook_out",
)
"""Hooks of a block that most architectures have; which of them a model has shows when it is loaded."""

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_post|in|out|mlp_out)")


class ResidualPlace(NamedTuple):
    """Hooks at which the residual stream can be changed: before or after a block."""

    block: int
    before: bool


def resolve_site(site: str | float, n_layers: int) -> str:
    """The hook name of a site in a model of `n_layers` blocks.

    Args:
        site: `first`, `middle`, `last`, one of these with a hook of its block, a relative depth in [0, 1], or a hook.
        n_layers: number of blocks, L.

    Raises:
        DiptychError: no such depth, block or hook; the nearest name is suggested.
    """
    text = str(site)
    named, _, hook_of_block = text.partition(".")
    if named in DEPTHS and hook_of_block:
        text = f"blocks.{block_of(resolve_site(named, n_layers))}.{hook_of_block}"
    depth = DEPTHS[text] if text in DEPTHS else _number(text)
    if depth is not None:
        if not 0 <= depth <= 1:
            raise DiptychError(f"site {text!r}: a relative depth lies between 0 and 1")
        return f"blocks.{min(n_layers - 1, int(depth * n_layers + 1e-9))}.hook_resid_post"
    block = _BLOCK.fullmatch(text)
    if block and int(block[1]) >= n_layers:
        raise DiptychError(f"site {text!r}: the model has blocks 0 to {n_layers - 1}")
    hook = block[2] if block else text
    if not hook.rpartition(".")[2].startswith("hook_"):
        position = named if named in DEPTHS else f"blocks.{block[1]}" if block else "middle"
        raise unknown(str(site), [*DEPTHS, *(f"{position}.{name}" for name in BLOCK_HOOKS)])
    return text


def check(site: str | float) -> None:
    """Refuse, before any model is known, what is a site in none.

    Raises:
        DiptychError: as `resolve_site` says it.
    """
    resolve_site(site, sys.maxsize)


def residual_block(hook: str) -> ResidualPlace | None:
    """The block before or after which adding a vector is adding it at `hook`; None for hooks off the residual stream.

    What is added to an MLP's output is added to the stream behind its block, parallel blocks included.
    """
    match = _RESIDUAL.fullmatch(hook)
    return ResidualPlace(int(match[1]), match[2] in ("resid_pre", "in")) if match else None


def can_be_steered(site: str) -> bool:
    """Whether a site, as a config names it, is in the residual stream of any model."""
    return site in DEPTHS or _number(site) is not None or residual_block(site) is not None


def is_output_of_block(site: str) -> bool:
    """Whether a site, as a config names it, is the residual stream after a block.

    >>> is_output_of_block("middle"), is_output_of_block("blocks.3.hook_mlp_out")
    (True, False)
    """
    return (
        site in DEPTHS or _number(site) is not None or re.fullmatch(r"blocks\.\d+\.hook_resid_post", site) is not None
    )


def unknown(site: str, known: Iterable[str]) -> DiptychError:
    """The error for a site that is not among the `known` ones, with the nearest of them."""
    candidates = sorted(known)
    near = difflib.get_close_matches(site, candidates, n=1, cutoff=0.0)
    return DiptychError(f"site {site!r}: no such hook; did you mean {near[0]!r}?")


def neurons_of(site: str) -> str | None:
    """The site of the MLP's neurons that write into the residual stream, or the MLP's output, at `site`.

    It is named in the same way.

    >>> neurons_of("middle"), neurons_of("blocks.3.hook_resid_pre"), neurons_of("blocks.3.hook_attn_out")
    ('middle.mlp.hook_post', 'blocks.2.mlp.hook_post', None)
    >>> neurons_of("blocks.3.hook_mlp_out")
    'blocks.3.mlp.hook_post'
    """
    if site in DEPTHS:
        return f"{site}.mlp.hook_post"
    match = re.fullmatch(r"blocks\.(\d+)\.hook_(resid_pre|resid_post|mlp_out)", site)
    block = int(match[1]) - (match[2] == "resid_pre") if match else -1
    return f"blocks.{block}.mlp.hook_post" if block >= 0 else None


def block_of(hook: str) -> int | None:
    """The block that a hook is in; None for one outside the blocks."""
    block = _BLOCK.fullmatch(hook)
    return int(block[1]) if block else None


def neighbouring(hook: str, n_layers: int) -> list[str]:
    """The same place one layer before and one behind, where there is such a layer; none for a hook outside blocks."""
    block = _BLOCK.fullmatch(hook)
    if not block:
        return []
    layers = [layer for layer in (int(block[1]) - 1, int(block[1]) + 1) if 0 <= layer < n_layers]
    return [f"blocks.{layer}.{block[2]}" for layer in layers]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
