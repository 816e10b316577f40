"""Activations: the model's own values at the rows' own places, whatever the batches, shards and interruptions."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from diptych.activations import dump as activations
from diptych.activations import shard_sequences, shard_writer
from diptych.activations.sides import StoredSide
from diptych.models import hooks as hooked
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text import tokens
from diptych.text.corpora import stage
from tiny_models import make_model, make_texts, make_tokenizer

torch.set_num_threads(1)
CPU = "cpu"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("activations")
    folder = make_texts(place / "texts", "old", 9, repeats=1)
    for number in range(3):
        (folder / f"old-short-{number}.txt").write_text(f"Peace {number}.")
    stage.fetch(place / "corpus", spec={}, sources={"old": {"kind": "local", "paths": [str(folder / "*.txt")]}})
    make_model(place / "model")
    tokens.prepare(place / "corpus", place / "model", place / "tokens.h5", spec={}, tokens=None, sequence_length=24)
    return place


def dump(place: Path, out: Path, **settings: Any) -> h5py.File:
    chosen = {"sites": ["middle"], "dtype": "float32", "store": "float32", "device": "cpu", "batch_tokens": 100}
    activations.dump(
        settings.pop("model", place / "model"),
        settings.pop("tokens", place / "tokens.h5"),
        out,
        spec={"job": "test"},
        **{**chosen, **settings},
    )
    return artifacts.read(out, "activations")


def exact(place: Path, block: int) -> np.ndarray:
    """Rows after a block, sequence by sequence from transformers' own hidden states."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32).eval()
    with artifacts.read(place / "tokens.h5", "tokens") as file:
        token, start = file["token"][:], file["sequences/start"][:]
    found = []
    with torch.inference_mode():
        for first, last in itertools.pairwise(start):
            ids = torch.tensor(token[first:last].astype(np.int64))[None]
            found.append(model(ids, output_hidden_states=True).hidden_states[block + 1][0].numpy())
    return np.concatenate(found)


def test_rows_are_the_models_hidden_states(place: Path, tmp_path: Path) -> None:
    file = dump(place, tmp_path / "a.h5", sites=["first", "middle", "blocks.2.hook_resid_pre"])
    assert artifacts.read_json(file, "hooks") == {
        "first": "blocks.0.hook_resid_post",
        "middle": "blocks.1.hook_resid_post",
        "blocks.2.hook_resid_pre": "blocks.2.hook_resid_pre",
    }
    for site, block in (("first", 0), ("middle", 1), ("blocks.2.hook_resid_pre", 1)):
        stored = file[f"sites/{site}/values"][:]
        truth = exact(place, block)
        np.testing.assert_allclose(stored, truth, rtol=0, atol=2e-5 * np.abs(truth).max())
        np.testing.assert_allclose(file[f"sites/{site}/norm"][:], np.linalg.norm(truth, axis=1), rtol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox", "gemma2", "gemma3"])
def test_plain_hooks_bridge_hooks_and_hidden_states_agree(architecture: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    directory = make_model(tmp_path / architecture, architecture)
    ids = torch.arange(3, 63).reshape(2, 30)
    residual = [f"blocks.{block}.hook_resid_{end}" for block in range(3) for end in ("pre", "post")]
    plain = hooked.Loader(directory, residual, CPU).load("float32")(ids)
    bridge = hooked.Loader(directory, [*residual, "blocks.1.hook_mlp_out"], CPU).load("float32")(ids)
    own = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        hidden = own(ids, output_hidden_states=True).hidden_states
    for site in residual:
        torch.testing.assert_close(plain[site], bridge[site], rtol=1e-4, atol=1e-4)
    for block in range(2):
        torch.testing.assert_close(plain[f"blocks.{block}.hook_resid_post"], hidden[block + 1], rtol=1e-5, atol=1e-5)
    last = plain["blocks.2.hook_resid_post"]
    assert (last - hidden[3]).abs().max() > 0.01, "the last site is before the final norm"
    torch.testing.assert_close(bridge["blocks.1.hook_mlp_out"], _mlp_out(own, architecture, ids), rtol=1e-4, atol=1e-4)


MLP_OUTPUT = {"llama": "down_proj", "gpt2": "c_proj", "neox": "dense_4h_to_h", "gemma2": "down_proj"}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox", "gemma2", "gemma3"])
def test_attention_middle_and_neurons_are_the_models_own(architecture: str, tmp_path: Path) -> None:
    """attn_out is what attention adds to the stream, resid_mid the sum, post what the MLP's output matrix reads."""
    from transformers import AutoModelForCausalLM

    directory = make_model(tmp_path / architecture, architecture)
    ids = torch.arange(3, 63).reshape(2, 30)
    parallel = architecture == "neox"  # attention and MLP read the same stream: there is no middle
    hooks = ["hook_resid_pre", "hook_attn_out", "mlp.hook_post", "hook_mlp_out", "hook_resid_post"]
    hooks += [] if parallel else ["hook_resid_mid"]
    value = hooked.Loader(directory, [f"blocks.1.{hook}" for hook in hooks], CPU).load("float32")(ids)
    own = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    block: Any = hooked.find_blocks(own, 3)[1]
    output = getattr(block.mlp, MLP_OUTPUT.get(architecture, "down_proj"))
    seen: list[torch.Tensor] = []
    output.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.inference_mode():
        own(ids)
    torch.testing.assert_close(value["blocks.1.mlp.hook_post"], seen[0], rtol=1e-4, atol=1e-4)
    before, added = value["blocks.1.hook_resid_pre"], value["blocks.1.hook_attn_out"]
    after = before + added + value["blocks.1.hook_mlp_out"]
    torch.testing.assert_close(after, value["blocks.1.hook_resid_post"], rtol=1e-4, atol=1e-4)
    assert added.abs().max() > 0.01
    if not parallel:
        torch.testing.assert_close(value["blocks.1.hook_resid_mid"], before + added, rtol=1e-4, atol=1e-4)


def _mlp_out(model: Any, architecture: str, ids: torch.Tensor) -> torch.Tensor:
    """What block 1 adds to the stream through its MLP (Gemma: after the norm behind it)."""
    blocks = hooked.find_blocks(model, 3)
    block: Any = blocks[1]
    module = block.post_feedforward_layernorm if architecture.startswith("gemma") else block.mlp
    seen: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _module, _args, output: seen.append(output))
    with torch.inference_mode():
        model(ids)
    handle.remove()
    return seen[0]


def test_the_forward_pass_stops_at_the_deepest_site(place: Path) -> None:
    model = hooked.Loader(place / "model", ["first"], CPU)
    passed: list[int] = []
    original: Callable[..., Any] = hooked.find_blocks

    def watched(module: Any, n_layers: int) -> Any:
        blocks = original(module, n_layers)
        for number, block in enumerate(blocks):
            block.register_forward_pre_hook(lambda *_, number=number: passed.append(number))
        return blocks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooked, "find_blocks", watched)
        model.load("float32")(torch.zeros((1, 4), dtype=torch.int64))
    assert passed == [0]


def test_batches_do_not_matter(place: Path, tmp_path: Path) -> None:
    one = dump(place, tmp_path / "one.h5", batch_tokens=1)["sites/middle/values"][:]
    many = dump(place, tmp_path / "many.h5", batch_tokens=10_000)["sites/middle/values"][:]
    np.testing.assert_allclose(one, many, rtol=0, atol=1e-5 * np.abs(one).max())


def test_shards_join_to_the_whole(place: Path, tmp_path: Path) -> None:
    whole = dump(place, tmp_path / "whole.h5", batch_tokens=1)
    shards = [dump(place, tmp_path / f"{n}.h5", batch_tokens=1, shard=n, shards=3) for n in range(3)]
    starts = [artifacts.read_json(file, "first_row") for file in shards]
    sizes = [len(file["sites/middle/norm"]) for file in shards]
    assert starts == [0, sizes[0], sizes[0] + sizes[1]]
    assert max(sizes) - min(sizes) <= 2 * 24
    joined = np.concatenate([file["sites/middle/values"][:] for file in shards])
    np.testing.assert_array_equal(joined, whole["sites/middle/values"][:])
    side = StoredSide([tmp_path / f"{n}.h5" for n in range(3)], "middle")
    np.testing.assert_array_equal(side.take(np.arange(len(joined))), joined)
    with pytest.raises(DiptychError, match="lower `shards`"):
        dump(place, tmp_path / "x.h5", shard=0, shards=10_000)


def test_shards_are_even_and_never_empty() -> None:
    even = np.arange(0, 101 * 24, 24)
    assert shard_sequences.shard_edges(even, 4).tolist() == [0, 25, 50, 75, 100]
    uneven = np.array([0, 1000, 1001, 1002, 1003])
    assert shard_sequences.shard_edges(uneven, 4).tolist() == [0, 1, 2, 3, 4]


def test_a_killed_dump_goes_on_and_gives_the_same_bytes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump(place, tmp_path / "whole" / "0.h5").close()
    monkeypatch.setattr(activations, "CHECKPOINT_SECONDS", 0.0)
    read: list[int] = []
    original = hooked.HookedModel.__call__

    def dies(self: hooked.HookedModel, ids: torch.Tensor, sites: Any = None) -> dict[str, torch.Tensor]:
        read.append(len(ids))
        if len(read) == 5:
            raise KeyboardInterrupt
        return original(self, ids, sites)

    monkeypatch.setattr(hooked.HookedModel, "__call__", dies)
    out = tmp_path / "killed" / "0.h5"
    with pytest.raises(KeyboardInterrupt):
        dump(place, out)
    assert not out.exists()
    before = sum(read[1:4])
    dump(place, out).close()
    with artifacts.read(place / "tokens.h5", "tokens") as file:
        assert sum(read[6:]) == len(file["sequences/document"]) - before, "no sequence is read twice"
    assert out.read_bytes() == (tmp_path / "whole" / "0.h5").read_bytes()
    assert list(out.parent.iterdir()) == [out]


def test_another_spec_begins_anew(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = shard_writer.ShardWriter(tmp_path / "0.h5", {"seed": 0}, {"middle": shard_writer.Shape(10, 4)}, "float32")
    store.open(16)
    store.progress.sequences = 3
    store.save()
    for spec, sequences in (({"seed": 0}, 3), ({"seed": 1}, 0)):
        again = shard_writer.ShardWriter(tmp_path / "0.h5", spec, {"middle": shard_writer.Shape(10, 4)}, "float32")
        again.open(16)
        assert again.progress.sequences == sequences


def test_running_out_of_memory_halves_the_batch_and_says_so(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dump(place, tmp_path / "whole.h5")["sites/middle/values"][:]
    original = hooked.HookedModel.__call__

    def small(self: hooked.HookedModel, ids: torch.Tensor, sites: Any = None) -> dict[str, torch.Tensor]:
        if ids.numel() > 24:
            raise torch.OutOfMemoryError
        return original(self, ids, sites)

    monkeypatch.setattr(hooked.HookedModel, "__call__", small)
    file = dump(place, tmp_path / "halved.h5")
    assert artifacts.read_json(file, "batch") == {"tokens": 24, "halved": 2}
    np.testing.assert_allclose(file["sites/middle/values"][:], whole, rtol=0, atol=1e-5 * np.abs(whole).max())

    def none(self: hooked.HookedModel, ids: torch.Tensor, sites: Any = None) -> dict[str, torch.Tensor]:
        if ids.shape[1] > 2:
            raise torch.OutOfMemoryError
        return original(self, ids, sites)

    monkeypatch.setattr(hooked.HookedModel, "__call__", none)
    with pytest.raises(DiptychError, match="out of memory with a single sequence of 24 tokens"):
        dump(place, tmp_path / "x.h5")


@pytest.mark.parametrize(("store", "least", "most"), [("bfloat16", 1e-3, 4e-3), ("float16", 1e-4, 5e-4)])
def test_storage_precision_is_kept_and_measured(
    place: Path, tmp_path: Path, store: str, least: float, most: float
) -> None:
    truth = dump(place, tmp_path / "a.h5")["sites/middle/values"][:]
    file = dump(place, tmp_path / "b.h5", store=store)
    stored = StoredSide([tmp_path / "b.h5"], "middle").take(np.arange(len(truth)))
    error = (np.linalg.norm(stored - truth, axis=1) / np.linalg.norm(truth, axis=1)).max()
    assert least < error < most
    assert artifacts.read_json(file, "storage_error")["middle"]["max"] == pytest.approx(error, rel=1e-3)


def test_compute_precision_is_measured_against_float32(place: Path, tmp_path: Path) -> None:
    truth = dump(place, tmp_path / "a.h5")["sites/middle/values"][:]
    file = dump(place, tmp_path / "b.h5", dtype="bfloat16", store="bfloat16")
    measured = artifacts.read_json(file, "compute_error")["middle"]
    stored = artifacts.from_bfloat16(file["sites/middle/values"][:])
    every = activations.relative_error(truth, stored)
    assert 1e-3 < measured["median"] < 0.1
    assert measured["median"] == pytest.approx(every["median"], rel=0.5)
    assert artifacts.read_json(file, "storage_error")["middle"] == {"mean": 0.0, "max": 0.0}


@pytest.mark.parametrize("fails", ["load", "forward"])
def test_precision_that_memory_does_not_allow_is_not_measured(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    load, to, call = hooked.Loader.load, torch.nn.Module.to, hooked.HookedModel.__call__
    full: list[str] = []

    def marked(self: hooked.Loader, dtype: Any) -> hooked.HookedModel:
        full[:] = [fails] if dtype == "float32" else []
        return load(self, dtype)

    def no_room(self: Any, *given: Any, **more: Any) -> Any:
        if full == [{"to": "load", "__call__": "forward"}[more.pop("what")]]:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return (to if isinstance(self, torch.nn.Module) else call)(self, *given, **more)

    monkeypatch.setattr(hooked.Loader, "load", marked)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *a, **k: no_room(self, *a, what="to", **k))
    monkeypatch.setattr(hooked.HookedModel, "__call__", lambda self, *a, **k: no_room(self, *a, what="__call__", **k))
    file = dump(place, tmp_path / "a.h5", dtype="bfloat16", store="bfloat16")
    assert artifacts.read_json(file, "compute_error") == {}
    assert artifacts.read_json(file, "compute_unmeasured") == "out of memory in float32"
    monkeypatch.undo()
    assert artifacts.read_json(dump(place, tmp_path / "b.h5", dtype="bfloat16"), "compute_unmeasured") is None


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_cpu_and_gpu_agree_to_the_precision(place: Path, tmp_path: Path, dtype: str, tolerance: float) -> None:
    cpu, gpu = (
        dump(place, tmp_path / f"{device}.h5", device=device, dtype=dtype)["sites/middle/values"][:]
        for device in ("cpu", "cuda")
    )
    assert activations.relative_error(cpu, gpu)["max"] < tolerance


# --- bad input ------------------------------------------------------------------------------------------------


def test_another_tokenizer_is_refused(place: Path, tmp_path: Path) -> None:
    other = make_tokenizer(tmp_path / "other", vocabulary=300)
    tokens.prepare(place / "corpus", other, tmp_path / "other.h5", spec={}, tokens=None, sequence_length=24)
    with pytest.raises(DiptychError, match="its tokenizer is not the one"):
        dump(place, tmp_path / "x.h5", tokens=tmp_path / "other.h5")


def test_context_and_vocabulary_must_hold_the_tokens(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match="24 tokens are longer than the model's context of 16"):
        dump(place, tmp_path / "x.h5", model=make_model(tmp_path / "short", context=16))
    loader = hooked.Loader(place / "model", ["middle"], CPU)
    with pytest.raises(DiptychError, match="token id 400 is outside the model's vocabulary of 400"):
        loader.check(400, 4)


def test_unknown_hooks_get_the_nearest_name(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match=r"did you mean 'blocks\.1\.hook_mlp_out'"):
        dump(place, tmp_path / "x.h5", sites=["blocks.1.hook_mlp_ot"])
    with pytest.raises(DiptychError, match="blocks 0 to 2"):
        dump(place, tmp_path / "x.h5", sites=["blocks.3.hook_resid_post"])


def test_values_that_are_not_finite_name_layer_and_token(place: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(place / "model", tmp_path / "bad")
    weights = load_file(tmp_path / "bad" / "model.safetensors")
    with artifacts.read(place / "tokens.h5", "tokens") as file:
        token, first = file["token"][:], file["sequences/start"][:]
    planted = int(token[37])
    # Every later row is bad, and every earlier one of the sequence (0 times NaN is NaN): the first cause is named.
    sequence = int(np.searchsorted(first, np.flatnonzero(token == planted)[0], side="right")) - 1
    bad = int(first[sequence] + np.argmax(token[first[sequence] :] == planted))
    weights["model.embed_tokens.weight"][planted, 3] = float("nan")
    save_file(weights, tmp_path / "bad" / "model.safetensors", metadata={"format": "pt"})
    said = rf"blocks\.1\.hook_resid_post.*first after the embedding at token row {bad} \(token id {planted}, "
    with pytest.raises(DiptychError, match=said):
        dump(place, tmp_path / "x.h5", model=tmp_path / "bad")
    assert not (tmp_path / "x.h5").exists()
    weights["model.embed_tokens.weight"][planted, 3] = 0.0
    weights["model.layers.1.mlp.down_proj.weight"][:] = float("inf")
    save_file(weights, tmp_path / "bad" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DiptychError, match="first after block 1 at token row"):
        dump(place, tmp_path / "x.h5", model=tmp_path / "bad")


def test_too_little_disk_is_an_error_before_the_first_row(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import collections

    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shard_writer.shutil, "disk_usage", lambda _path: usage(10, 10, 1000))
    with pytest.raises(DiptychError, match=r"needs 0\.00 GB of disk .* make room"):
        dump(place, tmp_path / "x.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sites", [["middle"], ["blocks.1.hook_mlp_out"]])
def test_truncated_weights_are_one_line(place: Path, tmp_path: Path, sites: list[str]) -> None:
    import shutil

    shutil.copytree(place / "model", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DiptychError, match=r"cut: cannot be loaded \(.*\); make the model again") as caught:
        dump(place, tmp_path / "x.h5", model=tmp_path / "cut", sites=sites)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sites", [["middle"], ["blocks.1.hook_mlp_out"]])
def test_a_model_that_does_not_fit_the_memory_is_one_line(
    place: Path, tmp_path: Path, sites: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any, **_more: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(DiptychError, match="model: out of memory while the model is loaded; set its `dtype`") as caught:
        dump(place, tmp_path / "x.h5", sites=sites)
    assert "\n" not in str(caught.value)


def test_the_disk_must_hold_all_shards_to_come(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import collections

    usage = collections.namedtuple("usage", "total used free")
    free = [0]
    monkeypatch.setattr(shard_writer.shutil, "disk_usage", lambda _path: usage(10, 10, free[0]))
    others = {tmp_path / "1.h5": 30_000, tmp_path / "2.h5": 20_000}
    row = 4 * 32 + 4
    own = shard_writer.ShardWriter(
        tmp_path / "0.h5", {}, {"middle": shard_writer.Shape(10_000, 32)}, "float32", None, others
    )
    free[0] = (60_000 + 10_000) * row - 1
    said = r"0\.h5: needs 0\.01 GB of disk \(3 of 3 shards to come, 0\.01 GB, and a working copy of one\) and 0\.01 GB"
    with pytest.raises(DiptychError, match=said) as caught:
        own.open(16)
    assert "more shards" not in str(caught.value)
    (tmp_path / "1.h5").touch()
    free[0] = (30_000 + 10_000) * row - 1
    with pytest.raises(DiptychError, match="2 of 3 shards to come"):
        own.open(16)
    free[0] += 1
    caplog.set_level("INFO", "diptych")
    own.open(16)
    assert "2 of 3 shards to come, 0.00 GB" in caplog.text
    own.save()
    values = torch.ones((10_000, 32))
    own.put("middle", np.arange(10_000), shard_writer.rounded(values, "float32"))
    own.save()
    free[0] -= 10_000 * row  # what it has written is not asked for again
    again = shard_writer.ShardWriter(
        tmp_path / "0.h5", {}, {"middle": shard_writer.Shape(10_000, 32)}, "float32", None, others
    )
    again.open(16)


def test_a_dump_asks_for_the_room_of_its_other_shards(place: Path, tmp_path: Path) -> None:
    whole = shard_sequences.ShardSequences.of_shard(place / "tokens.h5", 0, 1)
    work = shard_sequences.ShardSequences.of_shard(place / "tokens.h5", 1, 3)
    assert list(work.others) == [0, 2]
    assert sum(work.others.values()) + work.n_rows == whole.n_rows
    assert whole.others == {}


def scaled_layer(place: Path, out: Path, factor: float) -> Path:
    """The model with block 2's MLP output scaled: what is behind the middle changes, the middle does not."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(place / "model", out)
    weights = load_file(out / "model.safetensors")
    weights["model.layers.2.mlp.down_proj.weight"] *= factor
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_neighbours_are_sampled_in_a_dtype_that_holds_them(place: Path, tmp_path: Path) -> None:
    model = scaled_layer(place, tmp_path / "big", 1e7)
    file = dump(place, tmp_path / "a.h5", model=model, store="float16")
    sampled = file["sample/blocks.2.hook_resid_post"]
    assert (file["sites/middle/values"].dtype, sampled.attrs["dtype"]) == (np.float16, "bfloat16")
    values = artifacts.from_bfloat16(sampled[:])
    assert np.isfinite(values).all()
    assert np.abs(values).max() > 65_504


def test_a_neighbour_that_is_not_finite_is_left_out(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = scaled_layer(place, tmp_path / "nan", float("nan"))
    file = dump(place, tmp_path / "a.h5", model=model)
    assert artifacts.read_json(file, "neighbours") == {"middle": ["blocks.0.hook_resid_post"]}
    assert list(file["sample"]) == ["blocks.0.hook_resid_post"]
    assert "blocks.2.hook_resid_post: values are not finite" in caplog.text


def test_float16_overflow_is_refused(tmp_path: Path) -> None:
    store = shard_writer.ShardWriter(tmp_path / "0.h5", {}, {"middle": shard_writer.Shape(2, 4)}, "float16")
    store.open(16)
    with pytest.raises(DiptychError, match="does not fit float16"):
        store.put("middle", np.arange(2), shard_writer.rounded(torch.full((2, 4), 7e4), "float16"))


def test_the_first_rows_are_those_of_the_whole(place: Path, tmp_path: Path) -> None:
    sites = ["first", "blocks.2.hook_resid_pre"]
    whole = dump(place, tmp_path / "whole" / "0.h5", sites=sites)
    with artifacts.read(place / "tokens.h5", "tokens") as file:
        position, start = file["position"][:], file["sequences/start"][:]
    shards = [dump(place, tmp_path / f"{n}.h5", sites=sites, first=3, shard=n, shards=2) for n in range(2)]
    token_row = np.concatenate([file["token_row"][:] for file in shards])
    np.testing.assert_array_equal(token_row, np.flatnonzero(position < 3))
    assert start[-1] == len(position)
    for site in sites:
        full = whole[f"sites/{site}/values"][:]
        side = StoredSide([tmp_path / f"{n}.h5" for n in range(2)], site)
        np.testing.assert_array_equal(side.covers(len(position)), position < 3)
        some = token_row[1::2]
        np.testing.assert_allclose(side.take(some), full[some], rtol=0, atol=1e-5 * np.abs(full).max())
    assert not any("sample" in name for name in shards[0] if name != "sample_row")
    assert len(shards[0]["sample_row"]) == 0


def test_only_the_first_tokens_are_read(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    original = hooked.HookedModel.__call__

    def measured(self: hooked.HookedModel, ids: torch.Tensor, sites: Any = None) -> dict[str, torch.Tensor]:
        lengths.append(ids.shape[1])
        return original(self, ids, sites)

    monkeypatch.setattr(hooked.HookedModel, "__call__", measured)
    dump(place, tmp_path / "first.h5", first=5)
    assert max(lengths) == 5
