import doctest

import pytest

from diptych.weights import names

KINDS = {
    "layers.15.mlp.down_proj.weight": (15, "mlp.down_proj", "MLP output", "writes"),
    "layers.0.self_attn.o_proj.weight": (0, "self_attn.o_proj", "attention output", "writes"),
    "layers.3.self_attn.k_proj.bias": (3, "self_attn.k_proj.bias", "", ""),
    "layers.3.input_layernorm.weight": (3, "input_layernorm", "", ""),
    "layers.0.mlp.experts.7.down_proj.weight": (0, "mlp.experts.*.down_proj", "MLP output", "writes"),
    "h.11.attn.c_proj.weight": (11, "attn.c_proj", "attention output", "writes"),
    "h.11.mlp.c_proj.weight": (11, "mlp.c_proj", "MLP output", "writes"),
    "h.11.mlp.c_fc.weight": (11, "mlp.c_fc", "MLP input", "reads"),
    "layers.2.attention.dense.weight": (2, "attention.dense", "attention output", "writes"),
    "layers.2.mlp.dense_4h_to_h.weight": (2, "mlp.dense_4h_to_h", "MLP output", "writes"),
    "layers.2.mlp.dense_h_to_4h.weight": (2, "mlp.dense_h_to_4h", "MLP input", "reads"),
    "embed_tokens.weight": (-1, "embed_tokens", "embedding", "embeds"),
    "lm_head.weight": (-1, "lm_head", "unembedding", "unembeds"),
    "ln_f.bias": (-1, "ln_f.bias", "", ""),
}


@pytest.mark.parametrize("key", KINDS)
def test_kinds_and_roles(key):
    block, kind, label, part = KINDS[key]
    assert names.place_of(key) == (block, kind)
    assert names.role_of(kind) == (label, part)


def test_what_is_stored_as_inputs_by_outputs():
    assert names.is_transposed(-1, "wte", "gpt2")
    assert names.is_transposed(-1, "embed_tokens", "llama")
    assert names.is_transposed(3, "mlp.c_fc", "gpt2")
    assert not names.is_transposed(3, "mlp.c_fc", "gpt_bigcode")
    assert not names.is_transposed(-1, "lm_head", "gpt2")


def test_examples():
    assert doctest.testmod(names).failed == 0
