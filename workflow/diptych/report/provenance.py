"""Provenance of the page's results: content hashes of models and text, code hashes, settings and package versions."""

from collections.abc import Iterable, Mapping
from typing import Any

from diptych import methods
from diptych.page.blocks import Block, Cell, Section, Table
from diptych.storage import artifacts, manifest

HASH_CHARACTERS = 12
"""Characters of a hash on the page; the artifact has all of them, and so has the text on hover."""
KINDS = {"models": "model", "corpora": "corpus", "dictionaries": "dictionary"}
"""Kinds of directories among the page's inputs -> their name in the tables."""
CONTENT_SUFFIXES = (".safetensors", ".jsonl", ".bin")
"""Files of a directory whose hashes identify its content."""


def section(inputs: Mapping[str, Any], spec: Mapping[str, Any], section_id: str) -> Section:
    """Content hashes of models and text, then code hash and settings of each result, and package versions."""
    specs = [*_specs(inputs), ("this page", dict(spec))]
    blocks: list[Block] = [
        Table(
            ["what", "file", "SHA-256"],
            [row for kind in KINDS for row in _content_rows(kind, inputs)],
            caption="Content of what was read.",
        ),
        Table(
            ["result", "code", "settings"],
            [[name, _hash(result.get("code")), _settings(result)] for name, result in specs],
            caption="Code is a hash over the script of the stage and every module that it imports.",
        ),
        _packages(specs),
    ]
    lead = "Contents, code, settings and versions: the same ones give the same results, byte for byte."
    return Section(section_id, "Provenance", blocks, lead=lead)


def _content_rows(kind: str, inputs: Mapping[str, Any]) -> list[list[str | Cell]]:
    """One row per content file of the directories of one kind: directory, file, hash."""
    rows: list[list[str | Cell]] = []
    for entry in inputs[kind]:
        for name, file in manifest.read(entry["directory"])["files"].items():
            if name.endswith(CONTENT_SUFFIXES):
                rows.append([f"{KINDS[kind]} {entry['name']}", name, _hash(file["sha256"])])
    return rows


def _specs(inputs: Mapping[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Name and spec (code, settings, packages) of every input of the page."""
    for kind, name in KINDS.items():
        for entry in inputs[kind]:
            yield f"{name} {entry['name']}", manifest.read(entry["directory"])["spec"]
    for corpus in inputs["corpora"]:
        yield f"tokens of {corpus['name']}", artifacts.spec_of(corpus["tokens"])
    for pair in inputs["pairs"]:
        for key, path in _artifacts(pair["files"]):
            yield f"{pair['name']}: {key}", artifacts.spec_of(path)
    yield "findings", artifacts.spec_of(inputs["findings"])


def _artifacts(files: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Name and path of each method's artifacts on a cell; of several runs, one artifact each."""
    for key in dict.fromkeys(key for method in methods.METHODS for key in (*method.settings_files, method.file)):
        value, name = files.get(key), key.replace("_", " ")
        if isinstance(value, str) and value.endswith(".h5"):
            yield name, value
        elif isinstance(value, list):
            for run in value:
                seed = f", seed {run['seed']}" if "seed" in run else ""
                path = next(path for path in run.values() if str(path).endswith(".h5"))
                yield f"{name.removesuffix('s')} {run['name']}{seed}", path


def _hash(digest: str | None) -> Cell:
    return Cell(digest[:HASH_CHARACTERS] if digest else "–", tone="code", hint=digest or "")


def _settings(spec: Mapping[str, Any]) -> Cell:
    settings = {**spec.get("reads", {}), **spec.get("settings", {})}
    texts = [f"{key} {_setting_text(value)}" for key, value in settings.items() if not _is_list_of_mappings(value)]
    return Cell(", ".join(texts) or "–", tone="code")


def _setting_text(value: Any) -> str:
    """A setting as text: lists in brackets, mappings in braces, floats without trailing zeros."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} {_setting_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_setting_text(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_list_of_mappings(value: Any) -> bool:
    """Whether a setting is a list with mappings (such as the jobs that a stage reads), too long for the table."""
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _packages(specs: Iterable[tuple[str, Mapping[str, Any]]]) -> Table:
    """Table of the package versions in all specs, with every version where results were made with several."""
    versions_of: dict[str, set[str]] = {}
    for _, spec in specs:
        for package, version in spec.get("packages", {}).items():
            versions_of.setdefault(package, set()).add(str(version))
    rows: list[list[str | Cell]] = [
        [package, ", ".join(sorted(versions))] for package, versions in sorted(versions_of.items())
    ]
    return Table(["package", "version"], rows, caption="Packages that decide numbers.")
