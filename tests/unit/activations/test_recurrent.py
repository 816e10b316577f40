"""Mamba models: rows are the stream behind a block, whose index in transformers' hidden states is another one."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from diptych.activations import dump
from diptych.models import hooks, patching, pretrained
from diptych.storage import artifacts
from diptych.text import tokens
from diptych.text.corpora import stage
from tiny_models import make_model, make_texts

CPU = "cpu"
RECURRENT = ["mamba", "mamba2", "falcon_mamba"]
LAYERS = 2
STREAM = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
"""The stream before, between and behind the blocks of a model of two."""


def own_stream(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """What enters the first block and what each block returns, by hooks on transformers' own blocks."""
    seen: list[torch.Tensor] = []
    blocks = model.backbone.layers
    blocks[0].register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone()))
    for block in blocks:
        block.register_forward_hook(lambda _module, _args, output: seen.append(output.clone()))
    with torch.inference_mode():
        model(ids, use_cache=False)
    return seen


@pytest.mark.parametrize("architecture", RECURRENT)
def test_hidden_states_of_a_recurrent_model_are_one_index_lower(architecture: str, tmp_path: Path) -> None:
    directory = make_model(tmp_path / architecture, architecture, layers=LAYERS)
    ids = torch.arange(3, 63).reshape(2, 30)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        hidden = model(ids, output_hidden_states=True, use_cache=False).hidden_states
    _, first, last = own_stream(model, ids)
    assert len(hidden) == LAYERS + 1
    assert torch.equal(hidden[0], first), "hidden_states[i] is behind block i: the embedding is not among them"
    assert torch.equal(hidden[1], last)
    with torch.inference_mode():
        assert torch.equal(hidden[2], model.backbone.norm_f(last)), "the final norm's output comes after them"
    assert (hidden[1] - first).abs().max() > 0.1, "index i + 1 is another block's"


@pytest.mark.parametrize("architecture", RECURRENT)
def test_plain_and_bridge_hooks_are_the_stream_of_a_recurrent_model(architecture: str, tmp_path: Path) -> None:
    directory = make_model(tmp_path / architecture, architecture, layers=LAYERS)
    ids = torch.arange(3, 63).reshape(2, 30)
    stream = own_stream(AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval(), ids)
    plain = hooks.Loader(directory, STREAM, CPU).load("float32")(ids)
    bridge = hooks.Loader(directory, [*STREAM, "blocks.0.mixer.hook_in"], CPU).load("float32")(ids)
    for site, expected in zip(STREAM, stream, strict=True):
        assert torch.equal(plain[site], expected)
        assert torch.equal(bridge[site], expected)


@pytest.mark.parametrize("architecture", RECURRENT)
def test_padding_behind_a_sequence_leaves_its_recurrent_state_alone(architecture: str, tmp_path: Path) -> None:
    model = hooks.Loader(make_model(tmp_path / "m", architecture, layers=LAYERS), STREAM[1:], CPU).load("float32")
    ids = torch.arange(3, 63).reshape(2, 30)
    padded = ids.clone()
    padded[0, 17:] = 0
    alone, beside = model(ids[:1, :17]), model(padded)
    for site, value in alone.items():
        torch.testing.assert_close(beside[site][:1, :17], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", RECURRENT)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dumped_rows_are_the_stream_of_a_recurrent_model(architecture: str, dtype: Any, tmp_path: Path) -> None:
    texts = make_texts(tmp_path / "texts", "old", 5, repeats=1)
    stage.fetch(tmp_path / "corpus", spec={}, sources={"old": {"kind": "local", "paths": [str(texts / "*.txt")]}})
    directory = make_model(tmp_path / "model", architecture, layers=LAYERS)
    tokens.prepare(tmp_path / "corpus", directory, tmp_path / "t.h5", spec={}, tokens=None, sequence_length=24)
    dump.dump(
        directory,
        tmp_path / "t.h5",
        tmp_path / "a.h5",
        spec={},
        sites=["first", "last"],
        dtype=dtype,
        store="float32",
        device="cpu",
        batch_tokens=24,  # one sequence a batch, as here
    )
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
    with artifacts.read(tmp_path / "t.h5", "tokens") as file:
        token, start = torch.from_numpy(file["token"][:].astype(np.int64)), file["sequences/start"][:]
    streams = [own_stream(model, token[None, first:last])[-LAYERS:] for first, last in itertools.pairwise(start)]
    with artifacts.read(tmp_path / "a.h5", "activations") as file:
        for block, site in enumerate(("first", "last")):
            exact = torch.cat([stream[block][0] for stream in streams])
            assert exact.dtype == torch.float32, "the stream stays float32 between blocks of lower precision"
            np.testing.assert_array_equal(file[f"sites/{site}/values"][:], exact.numpy())


@pytest.mark.parametrize("architecture", RECURRENT)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_recurrent_models_own_activations_change_nothing(architecture: str, dtype: Any, tmp_path: Path) -> None:
    directory = make_model(tmp_path / architecture, architecture, layers=LAYERS)
    ids = torch.arange(3, 63).reshape(2, 30)
    for hook in STREAM:
        model = patching.load(directory, hook, dtype, CPU)
        logits, values = model.clean(ids)
        assert torch.equal(model.patched(ids, values), logits)
        assert (model.patched(ids, torch.zeros_like(values)) - logits).abs().max() > 0.1


def test_a_recurrent_model_has_no_longest_sequence(tmp_path: Path) -> None:
    shape = pretrained.describe(make_model(tmp_path / "m", "mamba", layers=LAYERS))
    assert shape["context"] == pretrained.NO_LIMIT
    assert (shape["n_layers"], shape["width"], shape["architecture"]) == (LAYERS, 32, "mamba")
