"""The weights of two models on disk: what corresponds, what changed, and what is said of it."""

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import weight_edits
from diptych.candidates import ranking, recovery
from diptych.derive import merge, plant
from diptych.models import adapters, ends, lens, pretrained, sources
from diptych.models.stored_tensors import StoredTensors
from diptych.page.blocks import Note, Prose
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text.tokenizer import Tokenizer
from diptych.weights import stage
from diptych.weights.candidates import PROPOSER
from diptych.weights.comparison import Comparison
from diptych.weights.section import SECTIONS
from random_texts import random_texts, write_tokens
from tiny_models import make_model
from weight_edits import SPEC, edited, in_dtype, low_rank

ARCHITECTURES = ["llama", "gpt2", "neox", "gemma2"]
OUTPUTS = {"llama": "mlp.down_proj", "gpt2": "mlp.c_proj", "neox": "mlp.dense_4h_to_h", "gemma2": "mlp.down_proj"}
INPUTS = {"llama": "mlp.up_proj", "gpt2": "mlp.c_fc", "neox": "mlp.dense_h_to_4h", "gemma2": "mlp.up_proj"}
THRESHOLD = ranking.Threshold(None, 0.001)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    for architecture in ARCHITECTURES:
        make_model(place / architecture, architecture)
    return place


def compared(a, b, place, **settings):
    """The artifact of two models, as the files of a pair."""
    stage.compare(a, b, place / "weights.h5", table=place / "weights.tsv", spec=SPEC, **settings)
    return {"weights": str(place / "weights.h5")}


def table(files, name="tensors"):
    with artifacts.read(files["weights"], "weights") as file:
        return artifacts.read_table(file, name)


def summary(files, name="comparison"):
    with artifacts.read(files["weights"], "weights") as file:
        return artifacts.read_json(file, name)


def by_tensor(files, column):
    columns = table(files)
    return dict(zip(columns["tensor"].tolist(), columns[column].tolist(), strict=True))


def found(files):
    ranked = ranking.rank(PROPOSER.candidates(files), THRESHOLD, PROPOSER.untestable(files))
    return [each.candidate for each in ranked.findings]


def said(files):
    return SECTIONS.opening({"files": files, "a": "base", "b": "tuned"})


def section(files):
    return SECTIONS.of_cell({"files": files, "a": "base", "b": "tuned", "id": "pair"}, None)["where"]


# --- equal ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_and_itself_are_equal_exactly(architecture, models, tmp_path):
    files = compared(models / architecture, models / architecture, tmp_path)
    assert set(by_tensor(files, "verdict").values()) == {"equal"}
    assert set(by_tensor(files, "rank").values()) == {0.0}
    assert not PROPOSER.candidates(files)
    assert [clause.holds for clause in PROPOSER.control(files)] == [True]
    assert said(files) == "The weights of base and tuned are equal."
    assert [type(block) for block in section(files).blocks] == [Prose]
    assert SECTIONS.magnitude({"files": files, "a": "base"}).share == 0
    assert SECTIONS.strip({"files": files}) is None
    assert [clause.holds for clause in PROPOSER.control({})] == [None]


def test_a_changed_model_breaks_the_control(models, tmp_path):
    def edit(tensors):
        tensors["model.norm.weight"][0] += 1e-6

    files = compared(models / "llama", edited(models / "llama", tmp_path / "b", edit), tmp_path)
    assert [clause.holds for clause in PROPOSER.control(files)] == [False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_copy_in_half_precision_is_rounding_and_no_finding(dtype, models, tmp_path):
    copy = in_dtype(models / "llama", tmp_path / "copy", dtype)
    for a, b in ((models / "llama", copy), (copy, models / "llama")):
        files = compared(a, b, tmp_path)
        assert set(by_tensor(files, "verdict").values()) <= {"rounding", "equal"}  # norms of ones are equal
        assert max(by_tensor(files, "relative").values()) > 1e-4
        assert not PROPOSER.candidates(files)
        assert "differ by rounding alone" in said(files)
        assert str(dtype).removeprefix("torch.") in said(files)
        assert section(files).blocks


# --- a planted edit, adapters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox"])
def test_a_planted_edit_is_named_with_its_rank_and_direction(architecture, models, tmp_path):
    parent = models / architecture
    tokens = write_tokens(tmp_path / "tokens.h5", parent, random_texts(120, 0))
    plant.plant(parent, tokens, tmp_path / "planted", spec=SPEC, layer=1, concept=["Congress"], size=0.5)
    files = compared(parent, tmp_path / "planted", tmp_path)
    (candidate,) = found(files)
    assert candidate.id == f"{OUTPUTS[architecture]}: block 1 alone, rank 1"
    assert candidate.side == "B"
    changed = [key for key, verdict in by_tensor(files, "verdict").items() if verdict != "equal"]
    assert len(changed) == 1
    assert f"layers.1.{OUTPUTS[architecture]}" in changed[0].replace("h.1.", "layers.1.")
    assert f"only {changed[0].removesuffix('.weight')} moved" in said(files)
    assert "by a matrix of rank 1" in said(files)
    truth = recovery.read_truth(tmp_path / "planted" / "truth.h5")
    recovered = recovery.recovery(ranking.rank([candidate], THRESHOLD), truth)
    assert recovered.written
    assert recovered.cosine > 0.99
    assert section(files).blocks


def with_adapter(parent, place, dtype, **settings):
    """A merged LoRA of rank 4 with all of its weights at random."""
    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32)
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, **settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    adapted.save_pretrained(place / "saved")
    source = {"path": str(place / "saved")}
    adapters.fetch(place / "adapter", spec={"settings": {"source": source}}, source=source)
    merge.merge(parent, place / "adapter", place / "merged", spec=SPEC)
    assert pretrained.stored_dtype(place / "merged") == dtype
    return place / "merged"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox"])
def test_a_merged_adapter_shows_its_rank_on_every_adapted_tensor(architecture, dtype, models, tmp_path):
    copy = in_dtype(models / architecture, tmp_path / "copy", getattr(torch, dtype))
    weight_edits.set_config(copy, dtype=dtype)
    parent, source = tmp_path / "parent", {"kind": "directory", "path": str(copy)}
    sources.fetch(parent, spec={"settings": {"source": source}}, source=source)
    modules = [OUTPUTS[architecture].split(".")[-1], INPUTS[architecture].split(".")[-1]]
    if architecture == "gpt2":
        modules[0] = "mlp.c_proj"
    merged = with_adapter(parent, tmp_path, dtype, target_modules=modules, fan_in_fan_out=architecture == "gpt2")
    files = compared(parent, merged, tmp_path)
    kinds = {OUTPUTS[architecture], INPUTS[architecture]}
    ranks = dict(zip(zip(table(files)["tensor"], table(files)["kind"], strict=True), table(files)["rank"], strict=True))
    assert {rank for (_, kind), rank in ranks.items() if kind in kinds} == {4.0}
    assert {rank for (_, kind), rank in ranks.items() if kind not in kinds} == {0.0}
    assert {candidate.id for candidate in found(files)} == {f"{kind}: all 3 blocks, rank 4" for kind in kinds}
    assert " 6 of " in said(files)
    assert "by matrices of rank 4, as an adapter moves them; most of all the MLP " in said(files)


def test_all_weights_moved(models, tmp_path):
    def edit(tensors):
        generator = torch.Generator().manual_seed(0)
        for name, tensor in tensors.items():
            size = 0.3 if "layers.2.mlp" in name else 0.01
            tensor += size * tensor.norm() / tensor.numel() ** 0.5 * torch.randn(tensor.shape, generator=generator)

    files = compared(models / "llama", edited(models / "llama", tmp_path / "b", edit), tmp_path)
    assert summary(files)["changed"] == summary(files)["tensors"]
    assert "every matrix moved" in said(files)
    assert "and by matrices of high rank, as training all weights does" in said(files)
    ids = [candidate.id for candidate in found(files)]
    assert "mlp.down_proj: all 3 blocks, most in block 2, full rank" in ids
    assert "lm_head: full rank" in ids
    assert "norm" in ids
    blocks = table(files, "blocks")
    assert blocks["block"].tolist() == [0, 1, 2, -1]
    assert blocks["share"].argmax() == 2
    for name in ("tensors", "kinds", "blocks"):
        assert table(files, name)["share"].sum() == pytest.approx(1, rel=1e-9)
    kinds = table(files, "kinds")
    assert kinds["effect"].tolist() == sorted(kinds["effect"], reverse=True)
    lines = (tmp_path / "weights.tsv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == summary(files)["tensors"] + 1


def test_the_effect_of_a_kind_and_its_least_size(models, tmp_path):
    norms = {}

    def edit(tensors, size):
        for name, tensor in tensors.items():
            if "up_proj" in name:
                norms[name] = float(tensor.double().norm())
        tensors["model.layers.0.mlp.up_proj.weight"][0, 0] += size

    total = None
    for size in (1.0, 1e-3):
        files = compared(
            models / "llama",
            edited(models / "llama", tmp_path / f"b{size}", lambda t, size=size: edit(t, size)),
            tmp_path,
        )
        total = sum(norm**2 for norm in norms.values()) ** 0.5
        (candidate,) = PROPOSER.candidates(files)
        assert candidate.effect == pytest.approx(size / total, rel=1e-4)
        assert bool(found(files)) == (size / total >= THRESHOLD.min_effect)
    assert total is not None
    assert 1e-3 / total < THRESHOLD.min_effect < 1 / total


# --- what directions write and read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_lens_of_the_ends_is_that_of_the_whole_model(architecture, models):
    directions = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    whole, part = pretrained.load(models / architecture), ends.load(models / architecture)
    expected = lens.lens(whole, directions, 10.0)
    np.testing.assert_allclose(lens.lens(part, directions, 10.0), expected, atol=1e-5 * np.abs(expected).max())
    assert torch.equal(part.get_input_embeddings().weight, whole.get_input_embeddings().weight)
    loaded = sum(parameter.numel() for parameter in part.parameters() if not parameter.is_meta)
    assert loaded < 2 * 400 * 32 + 100


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_written_and_read_is_named(architecture, models, tmp_path):
    """An edit that writes what promotes one token, where the stream holds the embedding of another."""
    whole = pretrained.load(models / architecture)
    unembedding = whole.get_output_embeddings().weight.detach()
    embedding = whole.get_input_embeddings().weight.detach()
    written, read = unembedding[300] - unembedding.mean(0), embedding[310]

    def edit(tensors):
        out = next(name for name in tensors if f"1.{OUTPUTS[architecture]}.weight" in name)
        into = next(name for name in tensors if f"1.{INPUTS[architecture]}.weight" in name)
        turned = architecture == "gpt2"
        for name, left, right in (
            (out, written, torch.linspace(-1, 2, tensors[out].shape[0 if turned else 1])),
            (into, torch.linspace(-1, 2, tensors[into].shape[1 if turned else 0]), read),
        ):
            change = 0.5 * torch.outer(left, right)
            tensors[name] += change.T if turned else change

    files = compared(models / architecture, edited(models / architecture, tmp_path / "b", edit), tmp_path, vectors=1)
    directions, words = table(files, "directions"), table(files, "words/b")
    texts = Tokenizer(models / architecture).texts([300, 310])
    assert sorted(directions["part"]) == ["reads", "writes"]
    for k, part in enumerate(directions["part"]):
        token = texts[0] if part == "writes" else texts[1]
        assert token in (json_first(words["up"][k]), json_first(words["down"][k]))
    with artifacts.read(files["weights"], "weights") as file:
        residual = file["directions/residual"][:]
    for row, part in zip(residual, directions["part"], strict=True):
        truth = (written if part == "writes" else read).numpy()
        assert abs(row @ truth) / np.linalg.norm(truth) == pytest.approx(1, abs=1e-4)


def json_first(text):
    return artifacts.json.loads(text)[0]


def test_rows_of_an_embedding_name_themselves(models, tmp_path):
    def edit(tensors):
        tensors["transformer.wte.weight"][320] *= 3

    files = compared(models / "gpt2", edited(models / "gpt2", tmp_path / "b", edit), tmp_path)
    words, text = table(files, "words/b"), Tokenizer(models / "gpt2").texts([320])[0]
    assert text in (json_first(words["rows_up"][0]), json_first(words["rows_down"][0]))
    assert table(files, "directions")["part"].tolist() == ["embeds"]


# --- other files, other shapes --------------------------------------------------------------------------------------


def test_sharded_files_and_names_without_the_trunk(models, tmp_path):
    changed = edited(models / "llama", tmp_path / "b", lambda tensors: {
        name: low_rank(tensor) if "o_proj" in name else tensor for name, tensor in tensors.items()
    })  # fmt: skip
    whole = compared(models / "llama", changed, tmp_path)
    expected = table(whole)
    parts = weight_edits.sharded(changed, tmp_path / "sharded")
    bare = edited(models / "llama", tmp_path / "bare", lambda tensors: {
        name.removeprefix("model."): tensor for name, tensor in tensors.items()
    })  # fmt: skip
    (tmp_path / "again").mkdir()
    again = table(compared(bare, parts, tmp_path / "again"))
    for column, values in expected.items():
        np.testing.assert_array_equal(again[column], values)
    assert {rank for rank in expected["rank"] if rank} == {weight_edits.RANK}


def test_missing_tensors_and_resized_embeddings_are_said(models, tmp_path):
    def edit(tensors):
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = torch.cat([tensors[name], torch.ones(2, 32)])
        tensors["model.embed_tokens.weight"][5] += 1
        tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"][:40]
        tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(32)
        tensors["model.layers.0.steps"] = torch.arange(3)
        del tensors["model.layers.1.mlp.gate_proj.weight"]

    larger = weight_edits.set_config(edited(models / "llama", tmp_path / "b", edit), vocab_size=402)
    files = compared(models / "llama", larger, tmp_path)
    assert summary(files, "uncompared") == {
        "only_a": ["layers.1.mlp.gate_proj.weight"],
        "only_b": ["layers.0.self_attn.q_proj.bias", "layers.0.steps"],
        "other": ["layers.0.mlp.up_proj.weight"],
        "resized": [
            "embed_tokens.weight: 400 and 402 rows; the first 400 of both",
            "lm_head.weight: 400 and 402 rows; the first 400 of both",
        ],
    }
    assert by_tensor(files, "verdict")["lm_head.weight"] == "equal"
    assert by_tensor(files, "rank")["embed_tokens.weight"] == 1
    texts = [block.text for block in section(files).blocks if isinstance(block, Note)]
    assert "Not compared: 1 tensor that only base has (layers.1.mlp.gate_proj.weight)." in texts
    assert len(texts) == 5


@pytest.mark.parametrize("stores", ["a", "b"])
def test_an_unembedding_that_one_model_has_tied(stores, models, tmp_path):
    def tie(tensors):
        del tensors["lm_head.weight"]

    def equal(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["lm_head.weight"][7] *= 2

    tied = weight_edits.set_config(edited(models / "llama", tmp_path / "tied", tie), tie_word_embeddings=True)
    own = edited(models / "llama", tmp_path / "own", equal)
    pair = (own, tied) if stores == "a" else (tied, own)
    files = compared(*pair, tmp_path)
    assert summary(files, "uncompared") == {"only_a": [], "only_b": [], "other": [], "resized": []}
    assert [key for key, verdict in by_tensor(files, "verdict").items() if verdict == "changed"] == ["lm_head.weight"]
    assert by_tensor(files, "rank")["lm_head.weight"] == 1
    assert table(files, "directions")["part"].tolist() == ["unembeds"]


def test_models_that_cannot_be_compared_are_untested(models, tmp_path):
    make_model(tmp_path / "deep", "llama", layers=4)
    reasons = {
        "gpt2": "the models are of different architectures, llama and gpt2",
        "deep": "the models have different shapes, 3 and 4 blocks",
    }
    for name, reason in reasons.items():
        other = tmp_path / "deep" if name == "deep" else models / name
        files = compared(models / "llama", other, tmp_path)
        assert summary(files)["reason"] == PROPOSER.untestable(files) == reason
        assert ranking.rank(PROPOSER.candidates(files), THRESHOLD, reason).untestable == reason
        assert said(files) == f"The weights of base and tuned were not compared: {reason}."
        assert section(files).blocks
        assert [clause.holds for clause in PROPOSER.control(files)] == [False]


def test_matrices_beyond_the_limit_have_no_rank(models, tmp_path):
    changed = edited(models / "llama", tmp_path / "b", lambda tensors: {
        name: low_rank(tensor) if "down_proj" in name else tensor for name, tensor in tensors.items()
    })  # fmt: skip
    files = compared(models / "llama", changed, tmp_path, max_side=31)
    assert np.isnan(table(files)["rank"]).sum() == 3
    assert [candidate.id for candidate in found(files)] == ["mlp.down_proj: all 3 blocks"]
    assert said(files).endswith("of the norm of all weights; most of all the MLP output (mlp.down_proj, 10 %).")
    assert section(files).blocks


def test_a_tensor_of_three_axes_has_the_rank_of_its_last_axis_by_the_others(tmp_path):
    make_model(tmp_path / "mamba", "mamba")
    kernel = "backbone.layers.1.mixer.conv1d.weight"

    def edit(tensors):
        channels, _, width = tensors[kernel].shape
        tensors[kernel] += torch.outer(torch.arange(1.0, channels + 1), torch.arange(1.0, width + 1))[:, None] / 99

    files = compared(tmp_path / "mamba", edited(tmp_path / "mamba", tmp_path / "b", edit), tmp_path)
    assert {name: rank for name, rank in by_tensor(files, "rank").items() if rank} == {kernel.split(".", 1)[1]: 1.0}
    assert [candidate.id for candidate in found(files)] == ["mixer.conv1d: block 1 alone, rank 1"]
    assert not len(table(files, "directions")["key"])


def test_damaged_files_are_refused(models, tmp_path):
    broken = edited(models / "llama", tmp_path / "b", lambda tensors: None)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(DiptychError, match=r"model.safetensors: cannot be read as safetensors"):
        compared(models / "llama", broken, tmp_path)
    (broken / "model.safetensors").unlink()
    with pytest.raises(DiptychError, match="holds no safetensors"):
        compared(models / "llama", broken, tmp_path)
    assert not (tmp_path / "weights.h5").exists()


def test_the_same_models_give_the_same_bytes(models, tmp_path):
    changed = edited(models / "llama", tmp_path / "b", lambda tensors: {
        name: low_rank(tensor) if tensor.ndim > 1 else tensor for name, tensor in tensors.items()
    })  # fmt: skip
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files = compared(models / "llama", changed, tmp_path / name)
        written.append(artifacts.Path(files["weights"]).read_bytes())
    assert written[0] == written[1]


def test_every_floating_point_tensor_is_compared(models):
    for architecture in ARCHITECTURES:
        stored = StoredTensors(models / architecture)
        pair = Comparison(stored, stored)
        assert len(pair.counterparts) == len(load_file(models / architecture / "model.safetensors"))
        assert not any(pair.uncompared.values())
