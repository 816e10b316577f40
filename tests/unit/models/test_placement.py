"""A model spread over devices: what it computes on one, its blocks on several, and values where they are asked for.

Spread over the CPU twice, all of accelerate's hooks are attached and the numbers can be compared. That nothing is
computed from tensors of two devices is tested with torch's fake tensors, which have devices and no values.
"""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from diptych.activations import dump
from diptych.models import hooks, patching, placement, pretrained
from diptych.models.batches import Sequences
from diptych.models.lens import lens
from diptych.outputs import reading, states
from diptych.steering import intervention
from diptych.text import tokens
from diptych.text.corpora import stage
from tiny_models import make_model, make_texts

TWICE = ["cpu", "cpu"]
SITES = ["first", "blocks.2.hook_resid_pre", "last"]
IDS = torch.arange(3, 63).reshape(2, 30)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("placement")
    make_model(place / "model", layers=4)
    folder = make_texts(place / "texts", "old", 5, repeats=1)
    stage.fetch(place / "corpus", spec={}, sources={"old": {"kind": "local", "paths": [str(folder / "*.txt")]}})
    tokens.prepare(place / "corpus", place / "model", place / "tokens.h5", spec={}, tokens=None, sequence_length=24)
    return place


def test_a_spread_model_gives_the_same_activations(place):
    sites = [*SITES, "blocks.3.hook_mlp_out"]  # the last one through TransformerLens
    for wanted in (SITES, sites):
        one = hooks.Loader(place / "model", wanted, "cpu").load("float32")(IDS)
        spread = hooks.Loader(place / "model", wanted, TWICE).load("float32")(IDS)
        assert all(torch.equal(spread[site], one[site]) for site in wanted)


def test_a_spread_model_gives_the_same_dump(place, tmp_path):
    for name, device in (("one", "cpu"), ("spread", ["cpu", "cpu", "cpu"])):
        dump.dump(place / "model", place / "tokens.h5", tmp_path / f"{name}.h5", spec={}, sites=SITES, device=device)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "spread.h5").read_bytes()


def test_a_spread_model_gives_the_same_predictions(place, tmp_path):
    text = reading.spread(Sequences.read(place / "tokens.h5"), None)
    found = []
    for name, device in (("one", "cpu"), ("spread", TWICE)):
        (tmp_path / name).mkdir()
        (side,) = states.read(place / "model", [text], tmp_path / name, dtype="float32", device=device)
        found.append(side.logits(0, len(text)))
    assert torch.equal(*found)
    assert not any(hasattr(part, "_hf_hook") for part in side.head._model.modules()), "the head is on one device"


@pytest.mark.parametrize("hook", ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.3.hook_resid_post"])
def test_a_spread_model_can_be_patched(place, hook):
    one, spread = (patching.load(place / "model", hook, "float32", device) for device in ("cpu", TWICE))
    logits, values = one.clean(IDS)
    for own, same in zip((logits, values), spread.clean(IDS), strict=True):
        assert torch.equal(own, same)
    replacement = values.roll(1, dims=1)
    patched = one.patched(IDS, replacement)
    assert not torch.equal(patched, logits)
    assert torch.equal(spread.patched(IDS, replacement), patched)
    assert torch.equal(spread.clean(IDS)[0], logits), "it is as it was"


def test_a_spread_model_can_be_steered(place):
    rng = np.random.default_rng(0)
    edit = intervention.Edit(torch.from_numpy(rng.standard_normal((3, 32)).astype(np.float32)), 3, None)
    prompt, uniform = np.array([5, 6, 7]), rng.random((3, 4))
    directions = rng.standard_normal((2, 32)).astype(np.float32)
    found = []
    for device in ("cpu", TWICE):
        model = pretrained.load(place / "model", device=device)
        sampled = intervention.sample(model, prompt, uniform, 4, "blocks.2.hook_resid_post", edit)
        found.append((sampled, intervention.measure(model, prompt, sampled).kl, lens(model, directions, 2.0)))
    (one, kl, logits), (spread, spread_kl, spread_logits) = found
    np.testing.assert_array_equal(one.tokens, spread.tokens)
    np.testing.assert_array_equal(kl, spread_kl)
    np.testing.assert_array_equal(logits, spread_logits)


# --- several devices ---------------------------------------------------------------------------------------------


def move(module, name, device, *args, **options):
    """Stands for accelerate's `set_module_tensor_to_device`, which cannot make a parameter of a fake tensor."""
    path, _, name = name.rpartition(".")
    owner = module.get_submodule(path)
    if name in owner._parameters:
        owner._parameters[name] = nn.Parameter(owner._parameters[name].to(device), requires_grad=False)
    elif owner._buffers[name] is not None:
        owner._buffers[name] = owner._buffers[name].to(device)


@pytest.fixture
def spread_over(tmp_path, monkeypatch):
    """A block in which tensors are fake, with a model of six blocks spread over cpu:1, cpu:2 and cpu:3."""
    import accelerate.hooks
    from transformers import AutoConfig, AutoModelForCausalLM

    monkeypatch.setattr(accelerate.hooks, "set_module_tensor_to_device", move)

    @contextmanager
    def load(architecture):
        config = AutoConfig.from_pretrained(make_model(tmp_path / architecture, architecture, layers=6))
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
            yield placement.place(model, ["cpu:1", "cpu:2", "cpu:3"])

    return load


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_blocks_are_on_several_devices_and_no_two_devices_meet(architecture, spread_over):
    with spread_over(architecture) as model:
        where = [{str(parameter.device) for parameter in block.parameters()} for block in hooks.find_blocks(model, 6)]
        assert all(len(devices) == 1 for devices in where), "no block is divided"
        order = [devices.pop() for devices in where]
        assert order == sorted(order)
        assert set(order) == {"cpu:1", "cpu:2", "cpu:3"}
        ids = torch.zeros((2, 30), dtype=torch.int64)
        assert str(model(input_ids=ids, use_cache=False).logits.device) == "cpu"

        def attach(hook, catch):
            hooks.hook_block(hooks.find_blocks(model, 6)[int(hook)], catch, before=False)

        numbers = {str(block): str(block) for block in range(6)}
        hooked = hooks.HookedModel(lambda ids: model.base_model(input_ids=ids, use_cache=False), attach, numbers)
        for device in ("cpu", "cpu:1"):
            values = hooked(ids.to(device))
            assert {str(value.device) for value in values.values()} == {device}


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("block", [0, 2, 6])
def test_rows_are_moved_to_the_site_and_back(block, spread_over):
    with spread_over("llama") as model:
        patched = patching.ResidualModel(model, list(hooks.find_blocks(model, 6)), block)
        ids = torch.zeros((2, 30), dtype=torch.int64, device="cpu:1")
        clean, values = patched.clean.__wrapped__(patched, ids)
        assert (str(clean.device), str(values.device)) == ("cpu:1", "cpu:1")
        assert str(patched.patched.__wrapped__(patched, ids, values).device) == "cpu:1"
