"""The files of a model's weights: linked, converted from pickles, named by an index."""

import collections
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from diptych.models import hub, pretrained, sources, weights
from diptych.runtime.errors import ArtifactError, DiptychError
from hub_stub import hash_of
from tiny_models import make_model

IDS = torch.arange(3, 40)[None]
LIBRARY = Path(__file__).parents[3] / "workflow"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture
def source(model, tmp_path):
    shutil.copytree(model, tmp_path / "source")
    return tmp_path / "source"


def fetch(source, out, **settings):
    sources.fetch(out, spec={}, source={"kind": "directory", "path": str(source)} | settings)
    return out


def logits(directory):
    with torch.no_grad():
        return pretrained.load(directory)(IDS).logits


def expected(source):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(source)(IDS).logits


def pickled(source, **how):
    """Replace the safetensors of a directory by what torch pickles."""
    state = load_file(source / weights.SAFETENSORS)
    (source / weights.SAFETENSORS).unlink()
    torch.save(state, source / weights.PICKLED, **how)
    return state


def sharded(source, kind, count=3):
    """Spread the weights of a directory over files with an index, in safetensors or as pickles."""
    state = load_file(source / weights.SAFETENSORS)
    (source / weights.SAFETENSORS).unlink()
    stem, suffix = kind.split(".")
    names = [f"{stem}-{n + 1:05d}-of-{count:05d}.{suffix}" for n in range(count)]
    parts = [dict(sorted(state.items())[n::count]) for n in range(count)]
    for name, part in zip(names, parts, strict=True):
        if suffix == "bin":
            torch.save(part, source / name)
        else:
            save_file(part, source / name, metadata={"format": "pt"})
    of = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    write_index(source / f"{kind}.index.json", of)
    return names


def write_index(path, of):
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": of}))


# --- links --------------------------------------------------------------------------------------------------------


def test_weights_lie_on_disk_once(source, tmp_path):
    (source / weights.SAFETENSORS).chmod(0o600)
    out = fetch(source, tmp_path / "m")
    assert (source / weights.SAFETENSORS).samefile(out / weights.SAFETENSORS)
    assert (source / weights.SAFETENSORS).stat().st_mode & 0o777 == 0o600
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert not (source / name).samefile(out / name)


def test_the_source_of_a_link_stays_as_it_is(source, tmp_path):
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in source.iterdir()}
    out = fetch(source, tmp_path / "m")
    sources.fetch(out, spec={"again": 1}, source={"kind": "directory", "path": str(source)})
    made = pretrained.load(out)
    with pretrained.saving(made, out, tmp_path / "derived", spec={}, dtype="bfloat16"):
        pass
    shutil.rmtree(out)
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in source.iterdir()} == before


def test_a_source_overwritten_in_place_is_one_clear_error(source, tmp_path):
    out = fetch(source, tmp_path / "m")
    with (source / weights.SAFETENSORS).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    with pytest.raises(ArtifactError, match=r"m/model\.safetensors is missing or damaged; delete .* and run again"):
        pretrained.load(out)
    fetch(source, out)
    torch.testing.assert_close(logits(out), expected(source), rtol=0, atol=0)


def test_a_source_replaced_by_another_file_changes_nothing(source, tmp_path):
    out = fetch(source, tmp_path / "m")
    before = logits(out)
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "other").replace(source / weights.SAFETENSORS)
    torch.testing.assert_close(logits(out), before, rtol=0, atol=0)


def test_only_the_weights_that_are_read_are_brought(source, tmp_path):
    save_file({"x": torch.ones(3)}, source / "consolidated.safetensors")
    out = fetch(source, tmp_path / "m")
    assert [file.name for file in out.glob("*.safetensors")] == [weights.SAFETENSORS]


# --- pickles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}])
def test_pickled_weights_become_safetensors(source, tmp_path, how):
    state = pickled(source, **how)
    out = fetch(source, tmp_path / "m")
    stored = load_file(out / weights.SAFETENSORS)
    assert set(stored) == set(state)
    assert all(torch.equal(stored[name], state[name]) for name in state)
    assert not list(out.glob("*.bin"))
    torch.testing.assert_close(logits(out), expected(source), rtol=0, atol=0)


def test_safetensors_are_read_before_pickles(source, tmp_path):
    (source / weights.PICKLED).write_bytes(b"broken")
    torch.testing.assert_close(logits(fetch(source, tmp_path / "m")), expected(source), rtol=0, atol=0)


def test_dtypes_views_and_shared_tensors(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    state = collections.OrderedDict(
        embedding=base, head=base, view=base[1:], transposed=base.T, half=base.half(), brain=base.bfloat16(),
        mask=torch.ones(2, dtype=torch.bool), byte=torch.ones(2, dtype=torch.uint8), nothing=torch.empty(0),
        parameter=torch.nn.Parameter(base.clone()), scalar=torch.tensor(3),
    )  # fmt: skip
    torch.save(state, tmp_path / "x.bin")
    sizes = weights.convert(tmp_path / "x.bin", tmp_path / "x.safetensors")
    stored = load_file(tmp_path / "x.safetensors")
    assert set(stored) == set(state)
    for name, tensor in state.items():
        assert stored[name].dtype == tensor.dtype
        assert torch.equal(stored[name], tensor)
        assert sizes[name] == tensor.nbytes


def test_tied_embeddings_of_a_pickle(source, tmp_path):
    made = AutoModelForCausalLM.from_pretrained(source)
    made.lm_head.weight = made.model.embed_tokens.weight
    made.config.tie_word_embeddings = True
    made.config.save_pretrained(source)
    torch.save(made.state_dict(), source / weights.PICKLED)
    (source / weights.SAFETENSORS).unlink()
    out = fetch(source, tmp_path / "m")
    loaded = pretrained.load(out)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    with torch.no_grad():
        torch.testing.assert_close(logits(out), made.eval()(IDS).logits, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [weights.SAFETENSORS, weights.PICKLED])
def test_sharded_weights(kind, source, tmp_path):
    same = expected(source)
    names = sharded(source, kind)
    out = fetch(source, tmp_path / "m")
    torch.testing.assert_close(logits(out), same, rtol=0, atol=0)
    made = [f"model-{n + 1:05d}-of-00003.safetensors" for n in range(3)]
    assert sorted(file.name for file in out.glob("*.safetensors")) == made
    assert set(json.loads((out / "model.safetensors.index.json").read_text())["weight_map"].values()) == set(made)
    assert (source / names[0]).samefile(out / made[0]) == (kind == weights.SAFETENSORS)


def test_one_shard_with_an_index(source, tmp_path):
    same = expected(source)
    sharded(source, weights.PICKLED, count=1)
    torch.testing.assert_close(logits(fetch(source, tmp_path / "m")), same, rtol=0, atol=0)


class Canary:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (torch.save, r"\.bin: holds more than tensors \(io\.open\), and reading that could run code; not read"),
        (lambda value, path: path.write_bytes(pickle.dumps(value)), r"\.bin: cannot be read as tensors alone; fetch"),
    ],
)
@pytest.mark.parametrize("sharding", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(write, message, sharding, source, tmp_path):
    canary = tmp_path / "canary"
    state = load_file(source / weights.SAFETENSORS) | {"canary": Canary(canary)}
    if sharding:
        names = sharded(source, weights.PICKLED)
        write(state, source / names[1])
    else:
        (source / weights.SAFETENSORS).unlink()
        write(state, source / weights.PICKLED)
    with pytest.raises(DiptychError, match=message) as caught:
        fetch(source, tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice to read it all the same
    assert not canary.exists()
    assert not (tmp_path / "m").exists()
    pickle.loads(pickle.dumps(Canary(canary)))  # the canary works
    assert canary.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds list, no tensors by name"),
        ({"weight": torch.ones(1), "step": 3}, "'step' is int, no dense tensor; save the model's state_dict"),
        ({"state_dict": {"weight": torch.ones(1)}}, "'state_dict' is dict, no dense tensor"),
        ({3: torch.ones(1)}, "3 is Tensor, no dense tensor"),
        ({"sparse": torch.eye(3).to_sparse()}, "'sparse' is Tensor, no dense tensor"),
        (b"neither a pickle nor a zip", "cannot be read as tensors alone"),
        (b"", "cannot be read as tensors alone"),
        (b"PK\x03\x04" + bytes(100), "cannot be read as tensors alone"),
        (b"\x80\x02}q\x00.", "cannot be read as tensors alone"),
    ],
)
def test_pickles_that_are_not_tensors_by_name(content, message, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(DiptychError, match=message) as caught:
        weights.convert(path, tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.safetensors").exists()


def test_a_pickle_cut_short(source, tmp_path):
    pickled(source)
    data = (source / weights.PICKLED).read_bytes()
    (source / weights.PICKLED).write_bytes(data[: len(data) // 2])
    with pytest.raises(DiptychError, match="cannot be read as tensors alone"):
        fetch(source, tmp_path / "m")


# --- indices ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [weights.SAFETENSORS, weights.PICKLED])
@pytest.mark.parametrize("name", ["../outside{}", "/etc/outside{}", "a/b{}", "a\\b{}", "..", "", "model.txt", "{}"])
def test_an_index_names_files_of_its_own_directory(name, kind, source, tmp_path):
    suffix = Path(kind).suffix
    names = sharded(source, kind)
    shutil.copy(source / names[0], source.parent / f"outside{suffix}")
    index = source / f"{kind}.index.json"
    of = json.loads(index.read_text())["weight_map"]
    write_index(index, of | {next(iter(of)): name.format(suffix)})
    with pytest.raises(DiptychError, match=r"an index may only name .* files of its own directory") as caught:
        fetch(source, tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()


def test_an_index_may_name_no_link_that_leaves_its_directory(source, tmp_path):
    names = sharded(source, weights.SAFETENSORS)
    (tmp_path / "outside").mkdir()
    shutil.move(source / names[1], tmp_path / "outside" / names[1])
    (source / names[1]).symlink_to(tmp_path / "outside" / names[1])
    with pytest.raises(DiptychError, match="a symbolic link that leaves the directory; put the file itself there"):
        fetch(source, tmp_path / "m")
    (source / names[1]).unlink()
    with pytest.raises(DiptychError, match=f"names '{names[1]}', which is not there"):
        fetch(source, tmp_path / "m")


def test_a_link_inside_the_directory_is_followed(source, tmp_path):
    same = expected(source)
    names = sharded(source, weights.SAFETENSORS)
    (source / names[1]).rename(source / "data.safetensors")
    (source / names[1]).symlink_to("data.safetensors")
    torch.testing.assert_close(logits(fetch(source, tmp_path / "m")), same, rtol=0, atol=0)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"metadata": {}, "weight_map": {}}', '{"weight_map": {"a": "b"}}'])
def test_broken_indices(text, source, tmp_path):
    sharded(source, weights.SAFETENSORS)
    (source / "model.safetensors.index.json").write_text(text)
    with pytest.raises(DiptychError, match="no index of sharded weights"):
        fetch(source, tmp_path / "m")


# --- the hub's cache ----------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FETCH = """
import json, sys
from diptych.models import adapters, sources
from diptych.runtime.errors import DiptychError
source, out = json.loads(sys.argv[1]), sys.argv[2]
try:
    fetch = sources.fetch if "kind" in source else adapters.fetch
    fetch(out, spec={"settings": {"source": source}}, source=source)
except DiptychError as error:
    print(error)
"""


def cached(directory, home, repository="models--org--tiny"):
    """Lay a directory's files out as in the hub's cache: blobs, and a snapshot of links to them."""
    place = home / "hub" / repository
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    (place / "blobs").mkdir()
    for file in sorted(file for file in directory.rglob("*") if file.is_file()):
        blob = place / "blobs" / hash_of(file.read_bytes())
        shutil.copy(file, blob)
        link = place / "snapshots" / COMMIT / file.relative_to(directory)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return place / "snapshots" / COMMIT


def fetch_offline(home, source, out):
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(LIBRARY)}
    command = [sys.executable, "-c", FETCH, json.dumps(source), str(out)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("kind", ["single", weights.SAFETENSORS, weights.PICKLED])
def test_models_of_the_hub_are_linked_from_its_cache(kind, source, tmp_path):
    same = expected(source)
    if kind != "single":
        sharded(source, kind)
    snapshot = cached(source, tmp_path / "home")
    settings = {"kind": "hub", "id": "org/tiny", "revision": "main"}
    assert fetch_offline(tmp_path / "home", settings, tmp_path / "m") == ""
    torch.testing.assert_close(logits(tmp_path / "m"), same, rtol=0, atol=0)
    for file in (tmp_path / "m").glob("*.safetensors"):
        assert not file.is_symlink()
        if kind != weights.PICKLED:
            assert (file).samefile(snapshot / file.name)
    # A directory of the cache may be named as a directory, too.
    torch.testing.assert_close(logits(fetch(snapshot, tmp_path / "n")), same, rtol=0, atol=0)


def test_of_the_hub_only_the_weights_that_are_read_are_asked_for(source, monkeypatch):
    asked = []
    place = source.parent / "snapshots" / COMMIT

    def snapshot(name, revision, patterns):
        asked.append((revision, patterns))
        return place

    monkeypatch.setattr(hub, "snapshot", snapshot)
    place.parent.mkdir()
    source.rename(place)
    sources._snapshot("org/tiny", "main", trust=False)
    assert [revision for revision, _ in asked] == ["main"]
    assert not {"*.safetensors", weights.PICKLED, "*.py"} & set(asked.pop()[1])
    names = sharded(place, weights.SAFETENSORS)
    sources._snapshot("org/tiny", "main", trust=True)
    assert "*.py" in asked[0][1]
    assert asked[1] == (COMMIT, names)
    for file in place.glob("model*"):
        file.unlink()
    asked.clear()
    sources._snapshot("org/tiny", "main", trust=False)
    assert asked[1] == (COMMIT, [weights.PICKLED])


@pytest.mark.parametrize(
    ("subfolder", "name"), [(None, "adapter_model.bin"), ("runs/last", "adapter_model.safetensors")]
)
def test_adapters_of_the_hub(subfolder, name, tmp_path):
    place = tmp_path / "repository" / (subfolder or "")
    place.mkdir(parents=True)
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    factors = {"x.lora_A.weight": torch.ones(4, 3)}
    (save_file if name.endswith("safetensors") else torch.save)(factors, place / name)
    cached(tmp_path / "repository", tmp_path / "home")
    source = {"id": "org/tiny", "revision": "main", "subfolder": subfolder}
    assert fetch_offline(tmp_path / "home", source, tmp_path / "adapter") == ""
    assert torch.equal(
        load_file(tmp_path / "adapter" / "adapter_model.safetensors")["x.lora_A.weight"], torch.ones(4, 3)
    )
    message = fetch_offline(tmp_path / "home", source | {"revision": "v2"}, tmp_path / "none")
    assert message.startswith("adapter org/tiny at revision v2: not in the local cache")
    message = fetch_offline(tmp_path / "home", source | {"subfolder": "../x"}, tmp_path / "none")
    assert message == "subfolder: '../x' is not a folder of the repository; write it as a/b"
