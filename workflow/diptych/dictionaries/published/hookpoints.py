"""TransformerLens hooks by the names that other libraries give the same places."""

import re

_MODULE = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)(\.mlp)?")
_SUBMODULE = re.compile(r"(resid|attn|attention|mlp)(?:_(pre|mid|post|in|out))?_?layer_?(\d+)")
_KINDS = {
    "resid_pre": "resid_pre",
    "resid_mid": "resid_mid",
    "resid_post": "resid_post",
    "resid_out": "resid_post",
    "attn_out": "attn_out",
    "attention_out": "attn_out",
    "mlp_out": "mlp_out",
}


def hook_of(name: str) -> str | None:
    """The hook that another library calls `name`: a module whose output is read, or a submodule; None if unknown.

    >>> hook_of("gpt_neox.layers.3.mlp"), hook_of("resid_post_layer_8"), hook_of("mlp_out_layer2"), hook_of("trainer_0")
    ('blocks.3.hook_mlp_out', 'blocks.8.hook_resid_post', 'blocks.2.hook_mlp_out', None)
    """
    if module := _MODULE.fullmatch(name):
        return f"blocks.{module[1]}.hook_{'mlp_out' if module[2] else 'resid_post'}"
    submodule = _SUBMODULE.fullmatch(name)
    kind = _KINDS.get(f"{submodule[1]}_{submodule[2] or 'out'}") if submodule else None
    return f"blocks.{submodule[3]}.hook_{kind}" if submodule and kind else None
