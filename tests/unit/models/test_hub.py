"""The hub, as a stub on this machine speaks for it: what failures say, what is retried, what is left."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import stand_ins
from diptych.crosscoder.published import files
from diptych.dictionaries.published import releases
from diptych.dictionaries.published import sources as dictionaries
from diptych.models import adapters, hub, hub_cache, hub_session
from diptych.models import sources as models
from diptych.runtime.errors import DiptychError
from diptych.text.corpora import stage as corpora
from hub_stub import Fault, Hub, hash_of
from tiny_models import make_model

TOKEN = "hf_" + "Secret" * 6
RELEASE = {"release": "gpt2-small-res-jb", "id": "blocks.0.hook_resid_pre"}
SAES = "jbloom/GPT2-Small-SAEs-Reformatted"


def fetch_model(out, revision="main"):
    models.fetch(out, spec={}, source={"kind": "hub", "id": "org/model", "revision": revision})


def fetch_adapter(out, revision="main"):
    adapters.fetch(out, spec={}, source={"id": "org/adapter", "revision": revision})


def fetch_sparsify(out, revision="main"):
    source = {"kind": "sparsify", "id": "org/saes", "hookpoint": "layers.0", "revision": revision, "path": None}
    dictionaries.fetch(out, spec={}, source=source)


def fetch_saelens(out):
    dictionaries.fetch(out, spec={}, source={"kind": "saelens", **RELEASE})


def fetch_crosscoder(out, revision="main"):
    tensors, *_ = files.downloaded("org/crosscoder", revision, "layer-1")
    files.read_tensors(tensors)
    out.mkdir()


def fetch_corpus(out, revision="main", **more):
    source = {"kind": "hub", "id": "org/texts", "revision": revision, "split": "train", **more}
    corpora.fetch(out, spec={}, sources={"x": source})


def fetch_parquet(out, revision="main"):
    source = {"kind": "hub", "id": "org/tables", "revision": revision, "split": "train"}
    corpora.fetch(out, spec={}, sources={"x": source})


FETCHES = {
    "model": (fetch_model, "org/model", "model.safetensors"),
    "adapter": (fetch_adapter, "org/adapter", "adapter_model.safetensors"),
    "sparsify": (fetch_sparsify, "org/saes", "layers.0/sae.safetensors"),
    "saelens": (fetch_saelens, SAES, "blocks.0.hook_resid_pre/sae_weights.safetensors"),
    "crosscoder": (fetch_crosscoder, "org/crosscoder", "layer-1/cc_weights.pt"),
    "jsonl": (fetch_corpus, "org/texts", "train.jsonl"),
    "parquet": (fetch_parquet, "org/tables", "train.parquet"),
}
"""By what is fetched: how, its repository, and its largest file."""
STREAMED = ("jsonl", "parquet")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Directories of what is published, by kind and name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = tmp_path_factory.mktemp("published")
    make_model(place / "model", "llama")
    (place / "adapter").mkdir()
    (place / "adapter" / adapters.CONFIG).write_text(json.dumps({"peft_type": "LORA"}))
    save_file({"lora_A": np.ones((2, 4), np.float32)}, place / "adapter" / adapters.WEIGHTS)
    stand_ins.write_sparsify(place / "saes" / "layers.0", width=8)
    hook = RELEASE["id"]
    stand_ins.write_saelens(place / "saelens" / releases.known()[RELEASE["release"]].saes_map[hook],
                            width=8, hook=hook, model="gpt2-small")  # fmt: skip
    stand_ins.write_crosscoder(place / "crosscoder" / "layer-1", width=8)
    (place / "texts").mkdir()
    stand_ins.write_texts(place / "texts" / "train.jsonl", 300)
    (place / "tables").mkdir()
    pq.write_table(pa.table({"text": [f"Number {n}." for n in range(300)]}), place / "tables" / "train.parquet")
    return place


@pytest.fixture
def hub_stub(published, tmp_path, monkeypatch):
    """A hub that has everything, which this process asks, logged in, with an empty cache."""
    import datasets
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    # Every way to the hub has to start a session that waits: none finds another's.
    monkeypatch.setattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)
    _http.close_session()
    with Hub() as stub:
        for name in ("model", "adapter", "saes", "crosscoder"):
            stub.publish(f"org/{name}", published / name)
        stub.publish(SAES, published / "saelens")
        for name in ("texts", "tables"):
            stub.publish(f"org/{name}", published / name, "datasets")
        monkeypatch.setattr(constants, "ENDPOINT", stub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", stub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", stub.url)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield stub
    _http.close_session()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Seconds that were to be waited, none of which are."""
    seconds = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


def contents(directory):
    """Names and bytes of a directory's files."""
    return {file.name: file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def failure(fetch, out, **more):
    """The one line that a fetch ends with, after a look that it left nothing."""
    with pytest.raises(DiptychError) as caught:
        fetch(out, **more)
    message = str(caught.value)
    assert "\n" not in message
    assert TOKEN not in message
    assert not out.exists()
    return message


@pytest.mark.parametrize("kind", FETCHES)
def test_what_is_there_is_fetched(kind, hub_stub, tmp_path, waits):
    fetch, *_ = FETCHES[kind]
    fetch(tmp_path / "out")
    assert waits == []
    assert hub_stub.count("GET .*/resolve/")
    assert {r for r, headers in hub_stub.requests if headers.get("authorization") != f"Bearer {TOKEN}"} == set()
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in written if TOKEN.encode() in file.read_bytes()]


# --- refusals -------------------------------------------------------------------------------------------------------

RESOLVE = "(GET|HEAD) .*/resolve/"
REFUSALS = {
    "invalid token": (
        Fault(".*", 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, f"Bearer {TOKEN}?"),
        r"the hub does not accept the token \(401\); log in with `hf auth login` again$",
    ),
    "forbidden": (
        Fault(RESOLVE + "|.*auth-check", 403, body=f"no {TOKEN}"),
        r"the token may not read it \(403\); log in with `hf auth login` with one that may$",
    ),
    "too many requests": (
        Fault(".*", 429, {"Retry-After": "3"}),
        r"the hub takes no more requests for now \(429\); log in with `hf auth login` for a higher limit, or run again",
    ),
    "a wait of a day": (Fault(".*", 429, {"Retry-After": "86400"}), r"the hub takes no more requests for now \(429\)"),
    "broken": (Fault(".*", 503), r"the hub fails \(503\), also when asked again; run again later$"),
    "broken storage": (
        Fault("GET .*/resolve/", 500),
        r"the hub fails \(500\), also when asked again; run again later$",
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("kind", FETCHES)
def test_what_the_hub_refuses_is_one_line(kind, refusal, hub_stub, tmp_path, waits):
    fetch, repository, _ = FETCHES[kind]
    fault, message = REFUSALS[refusal]
    hub_stub.faults.append(fault)
    found = failure(fetch, tmp_path / "out")
    assert re.search(message, found), found
    assert f"{repository} at revision main" in found
    assert sum(waits) <= 8 * sum(hub_session.PAUSES)
    if fault.status in (401, 403) or "86400" in fault.headers.values():
        assert waits == []


@pytest.mark.parametrize("kind", FETCHES)
def test_a_gated_repository_is_one_line_with_its_page(kind, hub_stub, tmp_path):
    fetch, repository, _ = FETCHES[kind]
    hub_stub.gated.add(repository)
    page = f"{hub_stub.url}/{'datasets/' * (kind in STREAMED)}{repository}"
    assert f"gated; accept its terms at {page} and log in with `hf auth login`" in failure(fetch, tmp_path / "out")


@pytest.mark.parametrize("kind", FETCHES)
def test_a_repository_that_is_not_there_is_one_line(kind, hub_stub, tmp_path):
    fetch, *_ = FETCHES[kind]
    hub_stub.files = {}
    what = {"sparsify": "dictionary", "saelens": "dictionary"}.get(kind, "dataset" if kind in STREAMED else kind)
    expected = f"no such {what} on the hub, or it is private; check the id, or log in with `hf auth login`"
    assert failure(fetch, tmp_path / "out").endswith(expected)


@pytest.mark.parametrize("kind", sorted(FETCHES.keys() - {"saelens"}))
def test_a_revision_that_is_not_there_is_one_line(kind, hub_stub, tmp_path):
    fetch, repository, _ = FETCHES[kind]
    found = failure(fetch, tmp_path / "out", revision="v9")
    assert f"{repository} at revision v9" in found
    assert found.endswith("has no such revision; use a commit, tag or branch of it")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("model", "org/model at main: holds no weights (model.safetensors or"),
        ("adapter", "org/adapter at main: holds neither adapter_model.safetensors nor"),
        ("sparsify", "(org/saes layers.0): holds no sae.safetensors"),
        ("saelens", "file blocks.0.hook_resid_pre/sae_weights.safetensors: not in the repository; check the name"),
        ("crosscoder", "crosscoder org/crosscoder at revision main, folder layer-1: holds none of model.safetensors"),
        ("jsonl", "check id, revision, files, subset and split"),
        ("parquet", "check id, revision, files, subset and split"),
    ],
)
def test_a_file_that_is_not_there_is_one_line(kind, message, hub_stub, tmp_path):
    fetch, repository, file = FETCHES[kind]
    del hub_stub.files["datasets" if kind in STREAMED else "models", repository][file]
    found = failure(fetch, tmp_path / "out")
    assert message in found


# --- the way there --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FETCHES)
def test_no_network_is_one_line(kind, hub_stub, tmp_path, monkeypatch):
    import datasets
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as free:
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", nowhere)
    found = failure(FETCHES[kind][0], tmp_path / "out")
    assert re.search(r"the hub cannot be reached \(.+\); check the network, proxy and HF_ENDPOINT$", found), found


@pytest.mark.parametrize("kind", FETCHES)
def test_offline_takes_what_is_cached_and_else_is_one_line(kind, hub_stub, tmp_path, monkeypatch):
    import datasets
    from huggingface_hub import constants

    fetch, *_ = FETCHES[kind]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    expected = "and HF_HUB_OFFLINE is set; unset it, or download it where there is a network"
    assert failure(fetch, tmp_path / "out").endswith(expected)
    assert hub_stub.requests == []
    if kind not in STREAMED:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        fetch(tmp_path / "first")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        asked = len(hub_stub.requests)
        fetch(tmp_path / "again")
        assert len(hub_stub.requests) == asked


@pytest.mark.parametrize(("kind", "status"), [*((kind, 429) for kind in FETCHES), ("model", 503)])
def test_a_busy_hub_is_asked_again_after_the_time_that_it_says(kind, status, hub_stub, tmp_path, waits):
    fetch, *_ = FETCHES[kind]
    hub_stub.faults.append(Fault(".*", status, {"Retry-After": "7"}, times=2))
    fetch(tmp_path / "out")
    assert waits == [7, 7]


@pytest.mark.parametrize("kind", FETCHES)
def test_a_transfer_that_is_cut_again_and_again_is_one_line(kind, hub_stub, tmp_path):
    fetch, _, file = FETCHES[kind]
    hub_stub.faults.append(Fault(f"GET .*{file}$", cut=100))
    assert "the transfer was cut and did not go on" in failure(fetch, tmp_path / "out")
    left = [path for path in (tmp_path / "cache").rglob("*") if path.name.endswith(".incomplete") or not path.exists()]
    assert left == []
    hub_stub.faults.clear()
    fetch(tmp_path / "out")


@pytest.mark.parametrize("kind", FETCHES)
def test_a_cut_transfer_goes_on_where_it_was_cut(kind, hub_stub, tmp_path, monkeypatch):
    fetch, _, file = FETCHES[kind]
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 64)
    fetch(tmp_path / "whole")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    hub_stub.faults.append(Fault(f"GET .*{file}$", cut=100, times=1))
    fetch(tmp_path / "out")
    if kind not in STREAMED:
        ranges = [headers.get("range") for request, headers in hub_stub.requests if request.endswith(file)]
        assert ranges[-1] == "bytes=64-"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("kind", sorted(FETCHES.keys() - set(STREAMED)))
def test_a_file_with_another_hash_is_one_line(kind, hub_stub, tmp_path):
    fetch, _, file = FETCHES[kind]
    wrong = "d" * 64
    hub_stub.claims[file] = wrong
    found = failure(fetch, tmp_path / "out")
    assert f"{Path(file).name} is not the file that the hub has (its sha256 is " in found
    blob = next((tmp_path / "cache").rglob(wrong))
    assert found.endswith(f"the hub says {wrong[:12]}...); remove {blob} and run again")
    failure(fetch, tmp_path / "out")
    del hub_stub.claims[file]
    blob.unlink()
    fetch(tmp_path / "out")


@pytest.mark.parametrize("kind", STREAMED)
def test_a_stream_that_is_cut_while_it_is_read_is_one_line(kind, hub_stub, tmp_path):
    fetch, _, file = FETCHES[kind]
    first = Fault(f"GET .*{file}$", after=10**6)
    hub_stub.faults.append(first)
    fetch(tmp_path / "whole")
    hub_stub.faults.append(Fault(f"GET .*{file}$", cut=100, after=first.matched - 1))
    found = failure(fetch, tmp_path / "out")
    assert "split train: the transfer was cut and did not go on" in found


# --- the cache ------------------------------------------------------------------------------------------------------


def test_a_small_file_with_another_hash_is_one_line(hub_stub, tmp_path):
    hub_stub.claims["config.json"] = "e" * 40
    assert "config.json is not the file that the hub has (its git sha1 is " in failure(fetch_model, tmp_path / "out")


def test_a_cache_that_was_cut_short_is_one_line(hub_stub, tmp_path):
    fetch_model(tmp_path / "first")
    weights = next((tmp_path / "cache").rglob("model.safetensors")).resolve()
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "model.safetensors is not the file that the hub has" in failure(fetch_model, tmp_path / "out")


def test_a_cache_that_holds_only_a_part_is_one_line(hub_stub, tmp_path, monkeypatch):
    fetch_model(tmp_path / "first")
    next((tmp_path / "cache").rglob("model.safetensors")).unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    expected = "only partly in the local cache (model.safetensors), and HF_HUB_OFFLINE is set"
    assert expected in failure(fetch_model, tmp_path / "out")


@pytest.mark.parametrize("kind", sorted(FETCHES.keys() - set(STREAMED)))
def test_what_is_cached_is_taken_while_the_hub_fails(kind, hub_stub, tmp_path):
    fetch, *_ = FETCHES[kind]
    fetch(tmp_path / "first")
    hub_stub.faults.append(Fault(".*", 503))
    fetch(tmp_path / "out")


def test_only_links_to_blobs_named_by_a_hash_are_compared(tmp_path):
    """A blob may be a link itself, called by another hash in a store that several caches share."""
    for place in ("blobs", "store", "snapshots/main"):
        (tmp_path / place).mkdir(parents=True)
    content = b"weights"
    blob = tmp_path / "blobs" / hash_of(content)
    (tmp_path / "store" / ("f" * 64)).write_bytes(content)
    blob.symlink_to(Path("..") / "store" / ("f" * 64))
    file = tmp_path / "snapshots" / "main" / "shared.bin"
    file.symlink_to(Path("../..") / "blobs" / blob.name)
    copy = file.with_name("copy.bin")
    copy.write_bytes(b"anything")
    hub_cache.verify([file, copy], "here")
    (tmp_path / "store" / ("f" * 64)).write_bytes(b"other")
    with pytest.raises(DiptychError, match=r"^here: shared.bin is not the file that the hub has"):
        hub_cache.verify([file, copy], "here")


# --- waiting and logs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "12"}, 12),
        ({"RateLimit": '"api";r=0;t=55', "Retry-After": "12"}, 55),
        ({"RateLimit": '"api";r=9;t=55'}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({}, None),
    ],
)
def test_the_time_that_an_answer_asks_to_wait(headers, seconds):
    import httpx2

    assert hub_session.asked_wait(httpx2.Response(429, headers=headers)) == seconds


def test_a_hub_that_says_no_time_is_asked_at_growing_intervals(hub_stub, tmp_path, waits):
    hub_stub.faults.append(Fault("GET /api/models/", 502, times=4))
    hub.snapshot("org/model", "main", ["config.json"])
    assert waits == [1, 2, 4, 8]


def test_a_full_disk_keeps_its_own_line(hub_stub, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(OSError, match="No space left"):
        hub.snapshot("org/model", "main", ["config.json"])


JOB = """
import runpy, sys
from types import SimpleNamespace as Namespace
script, out, log = sys.argv[1:]
source = {"kind": "hub", "id": "org/model", "revision": "main"}
job = Namespace(log=[log], output=[out + "/config.json"], resources=Namespace(wheels="wheels"),
                params=Namespace(spec={"settings": {"source": source}}))
runpy.run_path(script, init_globals={"snakemake": job}, run_name="__main__")
"""


def test_a_dataset_that_brings_code_is_not_run(hub_stub, tmp_path):
    (tmp_path / "scripted").mkdir()
    code = f"import datasets, pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    (tmp_path / "scripted" / "texts.py").write_text(code)
    hub_stub.publish("org/texts", tmp_path / "scripted", "datasets")
    assert "org/texts" in failure(fetch_corpus, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("debug", ["0", "1"])
def test_a_job_ends_with_one_line_and_never_says_the_token(debug, hub_stub, tmp_path):
    """Also where the hub repeats it, and with the debug output of the hub's client on."""
    hub_stub.faults.append(Fault(RESOLVE, 403, body=f"no access for Bearer {TOKEN}"))
    script = Path(models.__file__).parents[2] / "scripts" / "fetch_model.py"
    environment = {"HF_ENDPOINT": hub_stub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_DEBUG": debug}
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(script), str(tmp_path / "out"), str(tmp_path / "job.log")],
        env={**os.environ, "PYTHONPATH": str(script.parents[1]), **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    log = (tmp_path / "job.log").read_text()
    errors = log.splitlines() if debug == "0" else re.findall(".* ERROR .*", log)
    assert len(errors) == 1
    assert re.search(
        r" ERROR model org/model at revision main: file \S+: the token may not read it \(403\);", errors[0]
    )
    assert not (tmp_path / "out").exists()
    assert hub_stub.count(RESOLVE)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]
    assert TOKEN not in done.stdout + done.stderr
