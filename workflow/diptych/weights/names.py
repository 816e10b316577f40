"""Kinds of matrices: the tensors of an architecture grouped by their names without the number of the block.

    place_of("layers.15.mlp.down_proj.weight")      # Place(block=15, kind="mlp.down_proj")
    role_of("mlp.down_proj")                        # Role("MLP output", "writes")

What a kind is for is known from the names that the common architectures give it; for other names it is unknown, and
their changes are measured all the same.
"""

import re
from typing import Literal, NamedTuple

OUTSIDE = -1
"""Block of a tensor that is in none."""

Part = Literal["writes", "reads", "embeds", "unembeds", ""]
"""What a matrix does with the residual stream: writes to it, reads from it, writes what a token is, reads which token
comes next, or neither or unknown."""


class Place(NamedTuple):
    """The block of a tensor (`OUTSIDE`: none) and its kind."""

    block: int
    kind: str


class Role(NamedTuple):
    """What matrices of a kind are called ("": unknown), and their part in the residual stream."""

    label: str
    part: Part


UNKNOWN = Role("", "")
ROLES = {
    "embed_tokens": Role("embedding", "embeds"),
    "wte": Role("embedding", "embeds"),
    "embed_in": Role("embedding", "embeds"),
    "embeddings": Role("embedding", "embeds"),
    "lm_head": Role("unembedding", "unembeds"),
    "embed_out": Role("unembedding", "unembeds"),
    "wpe": Role("position embedding", ""),
    "q_proj": Role("attention queries", "reads"),
    "k_proj": Role("attention keys", "reads"),
    "v_proj": Role("attention values", "reads"),
    "c_attn": Role("attention queries, keys and values", "reads"),
    "query_key_value": Role("attention queries, keys and values", "reads"),
    "o_proj": Role("attention output", "writes"),
    "attn.c_proj": Role("attention output", "writes"),
    "attention.dense": Role("attention output", "writes"),
    "gate_proj": Role("MLP gate", "reads"),
    "up_proj": Role("MLP input", "reads"),
    "c_fc": Role("MLP input", "reads"),
    "dense_h_to_4h": Role("MLP input", "reads"),
    "down_proj": Role("MLP output", "writes"),
    "mlp.c_proj": Role("MLP output", "writes"),
    "dense_4h_to_h": Role("MLP output", "writes"),
}
"""Role by the end of a kind's name."""
TRANSPOSED = ("gpt2", "openai-gpt")
"""Architectures (transformers' model type) that store a block's matrices as [inputs, outputs]."""


def place_of(key: str) -> Place:
    """The block and the kind of a tensor: the first number in its key is the block, further ones (experts) become `*`.

    >>> place_of("h.3.mlp.c_proj.bias")
    Place(block=3, kind='mlp.c_proj.bias')
    >>> place_of("layers.0.mlp.experts.7.w1.weight").kind
    'mlp.experts.*.w1'
    >>> place_of("norm.weight")
    Place(block=-1, kind='norm')
    """
    name = key.removesuffix(".weight")
    in_block = re.fullmatch(r"[^\d]*?\.(\d+)\.(.+)", name)
    block, kind = (int(in_block[1]), in_block[2]) if in_block else (OUTSIDE, name)
    return Place(block, ".".join("*" if part.isdigit() else part for part in kind.split(".")))


def role_of(kind: str) -> Role:
    """The role of a kind of matrices, by the longest end of its name that is known."""
    parts = kind.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((ROLES[end] for end in ends if end in ROLES), UNKNOWN)


def is_transposed(block: int, kind: str, architecture: str) -> bool:
    """Whether a matrix is stored as [inputs, outputs]: embeddings [V, d] (inputs are tokens), and those of GPT-2."""
    return role_of(kind).part == "embeds" or (block != OUTSIDE and architecture in TRANSPOSED)
