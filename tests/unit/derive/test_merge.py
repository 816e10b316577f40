"""Adapters merged into their parent's weights, against peft's own forward pass and closed forms."""

import json
import warnings

import numpy as np
import peft
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from diptych.derive import merge
from diptych.models import adapters, pretrained, sources
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from tiny_models import make_model
from tolerance import rounding_bound

IDS = torch.arange(3, 60)[None]
TARGETS = {
    "llama": ["q_proj", "down_proj"],
    "gpt2": ["c_attn", "c_fc"],
    "neox": ["query_key_value", "dense_4h_to_h"],
    "gemma2": ["o_proj", "gate_proj"],
}
EPS = np.finfo(np.float32).eps
FLOAT = {"rtol": 1e-5, "atol": 1e-5}


def fetch(source, out, hub_id=None):
    """A model directory as rule fetch_model makes it; `hub_id`: as if it were from the hub."""
    settings = {"kind": "directory", "path": str(source)}
    said = settings if hub_id is None else {"kind": "hub", "id": hub_id, "revision": "main"}
    sources.fetch(out, spec={"settings": {"source": said}}, source=settings)
    return out


def make_parent(place, architecture="llama", *, tied=False, dtype=None):
    make_model(place / "source", architecture)
    if tied or dtype:
        model = AutoModelForCausalLM.from_pretrained(place / "source", tie_word_embeddings=tied)
        if tied:
            model.lm_head.weight = model.model.embed_tokens.weight
            model.config.tie_word_embeddings = True
        model.to(dtype or torch.float32).save_pretrained(place / "source")
    return fetch(place / "source", place / "parent")


def make_adapter(parent, out, **settings):
    """An adapter with all of its weights at random, written by peft."""
    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4} | settings))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if weight.requires_grad and "magnitude" not in name:
                    weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
                elif weight.requires_grad:
                    weight.mul_(1 + 0.2 * torch.rand(weight.shape, generator=generator))
        adapted.save_pretrained(out)
    return out


def peft_logits(parent, adapter):
    """What peft says with the adapter beside the weights."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32)
        return PeftModel.from_pretrained(model, adapter).eval()(IDS).logits


def logits(directory):
    with torch.no_grad():
        return pretrained.load(directory)(IDS).logits


def merged(parent, adapter, place, name="merged", **source):
    source = {"path": str(adapter)} | source
    adapters.fetch(place / f"{name}.adapter", spec={"settings": {"source": source}}, source=source)
    merge.merge(parent, place / f"{name}.adapter", place / name, spec={"seed": 0})
    return place / name, json.loads((place / name / merge.RECORD).read_text())


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_parent(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("architecture", sorted(TARGETS))
def test_the_merged_model_says_what_the_parent_with_its_adapter_says(architecture, dora, tmp_path):
    parent = make_parent(tmp_path, architecture)
    adapter = make_adapter(
        parent, tmp_path / "adapter", target_modules=TARGETS[architecture], use_dora=dora,
        fan_in_fan_out=architecture == "gpt2",
    )  # fmt: skip
    out, record = merged(parent, adapter, tmp_path)
    torch.testing.assert_close(logits(out), peft_logits(parent, adapter), **FLOAT)
    assert (logits(out) - logits(parent)).abs().max() > 0.1
    assert record["kind"] == ("DoRA" if dora else "LoRA")
    assert record["logit_difference"] < 1e-5
    assert record["rounding"] == {"relative": 0, "of_change": 0, "largest": 0, "lost": 0}
    names = {name.split(".")[-2] for name in record["weights"]}
    assert names == set(TARGETS[architecture])


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 3},
        {"target_modules": r".*layers\.[02]\..*(q|v)_proj"},
        {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 32}},
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
        {"target_modules": ["embed_tokens"], "use_dora": True},
        {"target_modules": ["q_proj"], "trainable_token_indices": [5, 9]},
        {"target_modules": ["q_proj"], "task_type": None},
        {"target_modules": ["q_proj"], "init_lora_weights": "pissa"},
        {"target_modules": ["q_proj"], "init_lora_weights": "olora"},
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_what_adapters_may_hold(settings, tied, tmp_path):
    parent = make_parent(tmp_path, tied=tied)
    adapter = make_adapter(parent, tmp_path / "adapter", **settings)
    out, record = merged(parent, adapter, tmp_path)
    torch.testing.assert_close(logits(out), peft_logits(parent, adapter), **FLOAT)
    assert record["logit_difference"] < 1e-5
    assert bool(record["notes"]) == ("init_lora_weights" in settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ],
)
def test_embeddings_that_an_adapter_keeps_tied_stay_tied(settings, tmp_path):
    parent = make_parent(tmp_path, tied=True)
    adapter = make_adapter(parent, tmp_path / "adapter", **settings)
    out, _ = merged(parent, adapter, tmp_path)
    torch.testing.assert_close(logits(out), peft_logits(parent, adapter), **FLOAT)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"]
    assert "lm_head.weight" not in load_file(out / "model.safetensors")


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_were_trained(bias, tmp_path):
    parent = make_parent(tmp_path, "neox")
    adapter = make_adapter(parent, tmp_path / "adapter", target_modules=TARGETS["neox"], bias=bias)
    out, record = merged(parent, adapter, tmp_path)
    torch.testing.assert_close(logits(out), peft_logits(parent, adapter), **FLOAT)
    assert any(name.endswith(".bias") for name in record["weights"])


def test_the_closed_form_of_lora_and_its_rounding(tmp_path):
    parent = make_parent(tmp_path, dtype=torch.bfloat16)
    adapter = make_adapter(parent, tmp_path / "adapter", target_modules=["q_proj"], r=4, lora_alpha=8)
    out, record = merged(parent, adapter, tmp_path)
    before, after = (load_file(place / "model.safetensors") for place in (parent, out))
    factors = load_file(adapter / "adapter_model.safetensors")
    squares = {"rounding": 0.0, "merged": 0.0, "change": 0.0, "parent": 0.0}
    lost = 0
    for layer in range(3):
        name = f"model.layers.{layer}.self_attn.q_proj"
        A, B = (factors[f"base_model.model.{name}.lora_{factor}.weight"].double() for factor in "AB")
        W, stored = (weights[f"{name}.weight"].double() for weights in (before, after))
        exact = W + 2 * B @ A
        assert after[f"{name}.weight"].dtype == torch.bfloat16
        assert ((stored - exact).abs() <= 2**-8 * exact.abs() + 1e-7).all()
        squares["rounding"] += float((stored - exact).square().sum())
        squares["merged"] += float(exact.square().sum())
        squares["parent"] += float(W.square().sum())
        squares["change"] += float((exact - W).square().sum())
        lost += int((stored == W).sum())
    assert record["stored_dtype"] == "bfloat16"
    assert record["change"] == pytest.approx((squares["change"] / squares["parent"]) ** 0.5, rel=1e-4)
    assert record["rounding"]["relative"] == pytest.approx((squares["rounding"] / squares["merged"]) ** 0.5, rel=1e-3)
    assert record["rounding"]["of_change"] == pytest.approx((squares["rounding"] / squares["change"]) ** 0.5, rel=1e-3)
    assert record["rounding"]["lost"] == pytest.approx(lost / (3 * 32 * 32), abs=1e-3)
    assert lost > 0
    untouched = [name for name in before if "q_proj" not in name]
    assert all(torch.equal(before[name], after[name]) for name in untouched)
    assert set(before) == set(after)


@pytest.mark.parametrize("dora", [False, True])
def test_the_closed_form_in_float32(dora, llama, tmp_path):
    adapter = make_adapter(llama, tmp_path / "adapter", target_modules=["up_proj"], r=4, lora_alpha=6, use_dora=dora)
    out, _ = merged(llama, adapter, tmp_path)
    before, after = (load_file(place / "model.safetensors") for place in (llama, out))
    factors = load_file(adapter / "adapter_model.safetensors")
    for layer in range(3):
        name = f"model.layers.{layer}.mlp.up_proj"
        A, B = (factors[f"base_model.model.{name}.lora_{factor}.weight"].double().numpy() for factor in "AB")
        W = before[f"{name}.weight"].double().numpy()
        exact = W + 1.5 * B @ A
        # Of the product in float32, of the sum, and (DoRA) of the norm over 32 entries and a quotient.
        bound = rounding_bound(np.float32(1.5 * B), np.float32(A)) + 4 * EPS * (np.abs(W) + np.abs(1.5 * B @ A))
        if dora:
            magnitude = factors[f"base_model.model.{name}.lora_magnitude_vector"].double().numpy()
            scale = (magnitude / np.linalg.norm(exact, axis=1))[:, None]
            # An error of the direction moves the norm as well: at most twice the whole row's.
            exact, bound = (
                scale * exact,
                scale * (bound + np.linalg.norm(bound, axis=1)[:, None]) + 40 * EPS * np.abs(scale * exact),
            )
        assert (np.abs(after[f"{name}.weight"].double().numpy() - exact) <= bound).all()


def test_an_adapter_that_changes_nothing_gives_its_parent(llama, tmp_path):
    adapter = make_adapter(llama, tmp_path / "adapter", target_modules=["q_proj"])
    factors = load_file(adapter / "adapter_model.safetensors")
    save_file({name: values * ("lora_A" in name) for name, values in factors.items()}, adapter / adapters.WEIGHTS)
    out, record = merged(llama, adapter, tmp_path)
    assert torch.equal(logits(out), logits(llama))
    assert (record["change"], record["weights"]) == (0, {})


def test_the_same_adapter_gives_the_same_bytes(llama, tmp_path):
    adapter = make_adapter(llama, tmp_path / "adapter", target_modules=["q_proj"])
    one, _ = merged(llama, adapter, tmp_path, "one")
    two, _ = merged(llama, adapter, tmp_path, "two")
    assert {file.name: file.read_bytes() for file in one.iterdir()} == {
        file.name: file.read_bytes() for file in two.iterdir()
    }


def test_the_adapters_chat_template_takes_the_place_of_the_parents(llama, tmp_path):
    from diptych.text.tokenizer import Tokenizer

    adapter = make_adapter(llama, tmp_path / "adapter", target_modules=["q_proj"])
    plain, _ = merged(llama, adapter, tmp_path, "plain")
    assert Tokenizer(plain).template == Tokenizer(llama).template
    (adapter / "tokenizer_config.json").write_text(json.dumps({"chat_template": [
        {"name": "default", "template": "{{ messages }}"}, {"name": "rag", "template": "rag {{ messages }}"},
    ]}))  # fmt: skip
    out, _ = merged(llama, adapter, tmp_path, "own", chat_template="rag")
    assert Tokenizer(out).template == "rag {{ messages }}"
    with pytest.raises(DiptychError, match=r"no chat template is called 'rga' \(it has default, rag\)"):
        merged(llama, adapter, tmp_path, "unknown", chat_template="rga")


def test_pickled_adapters_are_read_as_tensors_alone(llama, tmp_path):
    adapter = make_adapter(llama, tmp_path / "adapter", target_modules=["q_proj"])
    expected = peft_logits(llama, adapter)
    factors = load_file(adapter / adapters.WEIGHTS)
    (adapter / adapters.WEIGHTS).unlink()
    torch.save(factors, adapter / adapters.PICKLED)
    out, _ = merged(llama, adapter, tmp_path)
    torch.testing.assert_close(logits(out), expected, **FLOAT)


# --- what is refused ----------------------------------------------------------------------------------------------


def change_config(adapter, **values):
    path = adapter / adapters.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is neither LoRA nor DoRA"),
        ({"peft_type": None}, "peft_type None is neither LoRA nor DoRA"),
        ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS', where a causal language model's adapter"),
        (
            {"auto_mapping": {"base_model_class": "X", "parent_library": "transformers_modules.x"}},
            r"auto_mapping names code of its own \(transformers_modules.x\), which is not run",
        ),
        ({"layer_replication": [[0, 2]]}, "makes a model with more blocks than its parent"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            r"in a way that cannot be repeated \(init_lora_weights 'pissa_niter_4'",
        ),
        ({"init_lora_weights": "lora_ga"}, "save it with path_initial_model_for_weight_conversion"),
        ({"target_modules": ["nothing"]}, "does not fit its parent .*nothing"),
        ({"target_modules": ["q_proj", "k_proj"]}, "weights that it lacks: '.*k_proj.lora_A.*' and 5 more"),
        ({"target_modules": ["v_proj"]}, "weights that it lacks: '.*v_proj.lora_A.*' and 5 more"),
        ({"r": 2}, "does not fit its parent .size mismatch"),
        ({"layers_to_transform": [0]}, "weights that have no place in the parent: '.*layers.1.*q_proj.*' and 3 more"),
        ({"alora_invocation_tokens": [1, 2]}, "does not fit its parent .*aLoRA does not support"),
    ],
)
def test_adapters_that_cannot_be_merged(values, message, llama, tmp_path):
    adapter = make_adapter(llama, tmp_path / "adapter", target_modules=["q_proj"])
    change_config(adapter, **values)
    with pytest.raises(DiptychError, match=message) as caught:
        merged(llama, adapter, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "merged").exists()


def test_an_adapter_of_another_shape_is_refused(llama, tmp_path):
    other = make_parent(tmp_path, "gemma2")
    adapter = make_adapter(other, tmp_path / "adapter", target_modules=["q_proj", "mlp.up_proj"])
    factors = load_file(adapter / adapters.WEIGHTS)
    wide = {name: values.repeat(2, 1) if "lora_B" in name else values for name, values in factors.items()}
    save_file(wide, adapter / adapters.WEIGHTS)
    with pytest.raises(DiptychError, match=r"does not fit its parent \(size mismatch for .*torch.Size.*check `parent`"):
        merged(llama, adapter, tmp_path)


def test_code_that_transformers_itself_has_is_no_custom_code(llama, tmp_path):
    adapter = make_adapter(llama, tmp_path / "adapter", target_modules=["q_proj"], task_type=None)
    change_config(adapter, auto_mapping={"base_model_class": "X", "parent_library": "transformers.models.llama"})
    merged(llama, adapter, tmp_path)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (adapters.CONFIG, "holds no adapter_config.json; not a PEFT adapter"),
        (adapters.WEIGHTS, "holds neither adapter_model.safetensors nor adapter_model.bin"),
    ],
)
def test_directories_without_an_adapter(missing, message, llama, tmp_path):
    adapter = make_adapter(llama, tmp_path / "adapter", target_modules=["q_proj"])
    (adapter / missing).unlink()
    with pytest.raises(DiptychError, match=message):
        merged(llama, adapter, tmp_path)


def test_an_adapter_is_no_model(llama, tmp_path):
    adapter = make_adapter(llama, tmp_path / "adapter", target_modules=["q_proj"])
    with pytest.raises(DiptychError, match=r"holds no config\.json; it is an adapter: use `kind: adapter`"):
        sources.fetch(tmp_path / "m", spec={}, source={"kind": "directory", "path": str(adapter)})


# --- what it was trained on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "note"),
    [
        ("org/base", None),
        ("Org/Base", None),
        ("/home/somebody/base", None),
        ("./base", None),
        (None, None),
        ("unsloth/base-bnb-4bit", "was trained on unsloth/base-bnb-4bit, and its parent here is org/base"),
    ],
)
def test_another_base_is_noted(base, note, tmp_path):
    make_model(tmp_path / "source")
    parent = fetch(tmp_path / "source", tmp_path / "parent", hub_id="org/base")
    adapter = make_adapter(parent, tmp_path / "adapter", target_modules=["q_proj"])
    change_config(adapter, base_model_name_or_path=base)
    _, record = merged(parent, adapter, tmp_path)
    assert record["notes"] == ([] if note is None else [note])
    assert record["base"] == base


def test_keys_of_a_later_peft_are_noted(llama, tmp_path):
    adapter = make_adapter(llama, tmp_path / "adapter", target_modules=["q_proj"])
    change_config(adapter, use_later=True, other_later=None)
    _, record = merged(llama, adapter, tmp_path)
    assert record["notes"] == [
        f"its config has keys that peft {peft.__version__} does not know, which are ignored: use_later"
    ]


def test_a_merged_model_is_whole(llama, tmp_path):
    adapter = make_adapter(llama, tmp_path / "adapter", target_modules=["q_proj"])
    out, _ = merged(llama, adapter, tmp_path)
    assert artifacts.spec_of(out / "manifest.json") == {"seed": 0}
    assert not (out / adapters.CONFIG).exists()
    assert np.isfinite(logits(out).numpy()).all()


def test_a_merge_that_changes_the_logits_is_refused(llama, tmp_path, monkeypatch):
    adapter = make_adapter(llama, tmp_path / "adapter", target_modules=["q_proj"])
    monkeypatch.setattr(peft.tuners.lora.LoraModel, "merge_and_unload", lambda model, **_: model.unload())
    with pytest.raises(DiptychError, match="it gives other logits than beside its parent's weights"):
        merged(llama, adapter, tmp_path)
    assert not (tmp_path / "merged").exists()


def test_what_float16_cannot_hold_is_refused(tmp_path):
    parent = make_parent(tmp_path, dtype=torch.float16)
    adapter = make_adapter(parent, tmp_path / "adapter", target_modules=["q_proj"])
    change_config(adapter, lora_alpha=1e7)
    with pytest.raises(DiptychError, match=r"q_proj\.weight: the merged weight exceeds what float16 can hold"):
        merged(parent, adapter, tmp_path)
