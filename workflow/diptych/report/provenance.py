"""Where everything on the page comes from: code, packages, models and text."""

from collections.abc import Iterable, Mapping
from typing import Any

from diptych import methods
from diptych.page.blocks import Block, Cell, Prose, Section, Table
from diptych.report.setting import manifest
from diptych.storage import artifacts

HASH_SHOWN = 12
"""Characters of a hash that are shown; the whole stands in the artifact."""
KINDS = {"models": "model", "corpora": "corpus", "dictionaries": "dictionary"}
HASHED = (".safetensors", ".jsonl", ".bin")
"""Files of a directory whose hashes are its content."""


def section(inputs: Mapping[str, Any], spec: Mapping[str, Any]) -> Section:
    """Models and text by content hash, and the code and packages that made each result."""
    specs = [*_specs(inputs), ("this page", dict(spec))]
    blocks: list[Block] = [
        Prose("The same inputs, code and packages give the same results; the page itself carries no clock."),
        Table(
            ["what", "file", "SHA-256"],
            [row for kind in KINDS for row in _contents(kind, inputs)],
            caption="Content of what was read.",
        ),
        Table(
            ["result", "code", "settings"],
            [[name, _code(given.get("code")), _settings(given)] for name, given in specs],
            caption="Code is a hash over the script of the stage and every module that it imports.",
        ),
        _packages(specs),
    ]
    return Section("provenance", "Provenance", blocks)


def _contents(kind: str, inputs: Mapping[str, Any]) -> list[list[str | Cell]]:
    """Content hashes of the directories of one kind."""
    rows: list[list[str | Cell]] = []
    for entry in inputs[kind]:
        for name, file in manifest(entry["directory"])["files"].items():
            if name.endswith(HASHED):
                rows.append([f"{KINDS[kind]} {entry['name']}", name, _code(file["sha256"])])
    return rows


def _specs(inputs: Mapping[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    """What each result was made from."""
    for kind, name in KINDS.items():
        for entry in inputs[kind]:
            yield f"{name} {entry['name']}", manifest(entry["directory"])["spec"]
    for corpus in inputs["corpora"]:
        yield f"tokens of {corpus['name']}", artifacts.spec_of(corpus["tokens"])
    for pair in inputs["pairs"]:
        for key, path in _artifacts(pair["files"]):
            yield f"{pair['name']}: {key}", artifacts.spec_of(path)
    yield "findings", artifacts.spec_of(inputs["findings"])


def _artifacts(files: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The artifacts of all methods on a cell, named; of several runs, one each."""
    for key in dict.fromkeys(key for method in methods.METHODS for key in (*method.made_from, method.file)):
        value, name = files.get(key), key.replace("_", " ")
        if isinstance(value, str) and value.endswith(".h5"):
            yield name, value
        elif isinstance(value, list):
            for run in value:
                own = f"{name.removesuffix('s')} {run['name']}" + (f", seed {run['seed']}" if "seed" in run else "")
                yield own, next(path for path in run.values() if str(path).endswith(".h5"))


def _code(value: str | None) -> Cell:
    return Cell(value[:HASH_SHOWN] if value else "–", tone="code", hint=value or "")


def _settings(spec: Mapping[str, Any]) -> Cell:
    settings = {**spec.get("reads", {}), **spec.get("settings", {})}
    settings = {key: value for key, value in settings.items() if not _nested(value)}
    return Cell(", ".join(f"{key} {_written(value)}" for key, value in settings.items()) or "–", tone="code")


def _written(value: Any) -> str:
    """A setting as text: lists in brackets, descriptions in braces, numbers without needless digits."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} {_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_written(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _nested(value: Any) -> bool:
    """Whether a setting is a description of other things rather than a value to be read."""
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _packages(specs: Iterable[tuple[str, Mapping[str, Any]]]) -> Table:
    """Versions of every package that decided a number; more than one version is shown as such."""
    versions: dict[str, set[str]] = {}
    for _, spec in specs:
        for package, version in spec.get("packages", {}).items():
            versions.setdefault(package, set()).add(str(version))
    rows: list[list[str | Cell]] = [
        [package, ", ".join(sorted(versions_of))] for package, versions_of in sorted(versions.items())
    ]
    return Table(["package", "version"], rows, caption="Packages that decide numbers.")
