"""What a result depends on beside its inputs: the code that makes it and the packages under that code.

Snakemake sees neither the modules a script imports nor a package upgrade. Each rule therefore carries one
parameter, its spec, which holds the stage's settings and the two values made here:

    fingerprint.spec("workflow/scripts/fit_linear_map.py", {"job": {"pair": "tuned"}, "settings": {...}})
    # {"job": ..., "settings": ..., "code": "9f0c...", "packages": {"numpy": "2.4.6", "scipy": "1.17.1"}}

The code hash is of the syntax tree without docstrings, so that comments, layout and documentation re-run nothing,
over the script and every first-party module that it imports, directly or not.
"""

import ast
import hashlib
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from diptych.storage import manifest

LIBRARY = Path(__file__).parents[1]
OUTSIDE = {
    "diptych.config", "diptych.storage.fingerprint", "diptych.storage.unfinished", "diptych.runtime.logs",
    "diptych.crosscoder.training.tracking",
}  # fmt: skip
"""Modules that decide no number; stages never import the first two (a test holds that)."""
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
        for module in imports(path):
            waiting.extend(_files(module))
    return tuple(sorted(visited))


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names imported anywhere in a file; `from a import b` counts as `a` and `a.b`."""
    names: set[str] = set()
    for node in _walk(_tree(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or not node.module:
                raise ValueError(f"{path}:{node.lineno}: imports are absolute, so that the code hash can follow them")
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


@cache
def code_hash(modules: tuple[Path, ...]) -> str:
    """SHA-256 over names and syntax of files; equal for code that differs in comments, layout and docstrings."""
    digest = hashlib.sha256()
    for path in modules:
        digest.update(path.name.encode() + b"\0" + _statements(path).encode() + b"\0")
    return digest.hexdigest()


@cache
def package_versions(modules: tuple[Path, ...]) -> dict[str, str]:
    """Versions, without local parts such as `+cpu`, of the third-party packages that the files import."""
    roots = {name.split(".")[0] for path in modules for name in imports(path)}
    outside = roots - set(sys.stdlib_module_names) - {"diptych"} - NOT_NUMBERS
    distributions = {DISTRIBUTIONS.get(root, root.replace("_", "-")) for root in outside}
    return {name: importlib.metadata.version(name).split("+")[0] for name in sorted(distributions)}


def _files(module: str) -> list[Path]:
    """The files that importing `module` runs inside the library: its packages' `__init__` and itself."""
    parts = module.split(".")
    prefixes = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    if parts[0] != "diptych" or OUTSIDE.intersection(prefixes):
        return []
    files = []
    for prefix in prefixes:
        path = LIBRARY.joinpath(*prefix.split(".")[1:])
        if (path / "__init__.py").is_file():
            files.append(path / "__init__.py")
        elif path.with_suffix(".py").is_file():
            files.append(path.with_suffix(".py"))
    return files


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def _statements(path: Path) -> str:
    """A file's code in one layout, without comments and docstrings."""
    tree = _tree(path)
    for node in _walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [s for s in node.body if not _is_string(s)] or [ast.Pass()]
    return ast.unparse(tree)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """A node and the statements inside it, without their expressions: `ast.walk` takes ten times as long."""
    yield node
    for block in ("body", "handlers", "cases", "orelse", "finalbody"):
        for inner in getattr(node, block, ()):
            yield from _walk(inner)


def _is_string(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    return value
