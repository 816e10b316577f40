"""Hash of a job's code and versions of its packages: what a result depends on besides inputs and settings.

Snakemake sees neither the modules a script imports nor a package upgrade. Each rule therefore carries one
parameter, its spec, which holds the stage's settings and the two values made here:

    fingerprint.spec("workflow/scripts/fit_linear_map.py", {"job": {"pair": "tuned"}, "settings": {...}})
    # {"job": ..., "settings": ..., "code": "9f0c...", "packages": {"numpy": "2.4.6", "scipy": "1.17.1"}}

The code hash is of the syntax trees without docstrings, so that comments, layout and documentation re-run nothing,
over the script and every first-party module that it imports, directly or not.
"""

import hashlib
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from diptych.storage import manifest, syntax

LIBRARY = Path(__file__).parents[1]
OUTSIDE = {
    "diptych.config", "diptych.storage.fingerprint", "diptych.storage.syntax", "diptych.storage.unfinished",
    "diptych.runtime.logs", "diptych.crosscoder.training.tracking",
}  # fmt: skip
"""Modules that decide no number; stages never import the first three (a test holds that)."""
DISTRIBUTIONS = {"yaml": "PyYAML", "umap": "umap-learn", "sklearn": "scikit-learn"}
"""Import names that differ from the name of the distribution (underscores aside)."""
NOT_NUMBERS = {"tqdm"}
"""Packages that decide no number."""


def spec(
    script: str | Path, stage: Mapping[str, Any], files: Sequence[Path] = (), modules: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything that may change the result of one job of the rule that runs `script`, key-sorted.

    Args:
        script: path of the rule's script.
        stage: the job's resolved settings, JSON-able, and all that tells two jobs of the rule apart.
        files: what the stage reads beside code and inputs, such as templates and word lists.
        modules: dotted names of what the stage imports by name, beside what the script imports.
    """
    code = first_party(Path(script), tuple(modules))
    known = {**stage, "code": code_hash(code), "packages": package_versions(code)}
    syntax.save_cache()
    if files:
        known["files"] = {path.name: manifest.sha256(path) for path in files}
    return dict(_sorted(known))


@cache
def first_party(script: Path, modules: tuple[str, ...] = ()) -> tuple[Path, ...]:
    """The script and the files of all modules of the library that it or `modules` import, directly or not; sorted."""
    visited: set[Path] = set()
    waiting = [script, *(file for module in modules for file in _files(module))]
    while waiting:
        path = waiting.pop()
        if path in visited:
            continue
        visited.add(path)
        for module in syntax.read(path).imports:
            waiting.extend(_files(module))
    return tuple(sorted(visited))


@cache
def code_hash(modules: tuple[Path, ...]) -> str:
    """SHA-256 over names and syntax of files; equal for code that differs in comments, layout and docstrings."""
    digest = hashlib.sha256()
    for path in modules:
        digest.update(f"{path.name}\0{syntax.read(path).sha256}\0".encode())
    return digest.hexdigest()


@cache
def package_versions(modules: tuple[Path, ...]) -> dict[str, str]:
    """Versions, without local parts such as `+cpu`, of the third-party packages that the files import."""
    roots = {name.split(".")[0] for path in modules for name in syntax.read(path).imports}
    outside = roots - set(sys.stdlib_module_names) - {"diptych"} - NOT_NUMBERS
    distributions = {DISTRIBUTIONS.get(root, root.replace("_", "-")) for root in outside}
    return {name: _version(name) for name in sorted(distributions)}


@cache
def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution).split("+")[0]


@cache
def _files(module: str) -> tuple[Path, ...]:
    """The files that importing `module` runs inside the library: its packages' `__init__` and itself."""
    parts = module.split(".")
    prefixes = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    if parts[0] != "diptych" or OUTSIDE.intersection(prefixes):
        return ()
    files = []
    for prefix in prefixes:
        path = LIBRARY.joinpath(*prefix.split(".")[1:])
        if (path / "__init__.py").is_file():
            files.append(path / "__init__.py")
        elif path.with_suffix(".py").is_file():
            files.append(path.with_suffix(".py"))
    return tuple(files)


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    return value
