"""Imports and code hashes of Python files from their syntax trees, cached by the files' content.

    syntax.read(Path("workflow/scripts/fit_linear_map.py")).imports      # {"diptych.linear_map", ...}

Parsing the library takes a second, which every dry run and every cluster job would spend again: `use_cache` names a
JSON file that keeps results from one process to the next. Keys are hashes of a file's content: no entry is ever stale.
"""

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from diptych.storage import unfinished

VERSION = 1
"""Changes whenever `_parse` gives another result for the same content."""


class Code(NamedTuple):
    """Imports of one file, as dotted names (`from a import b` counts as `a` and `a.b`), and a hash of its code.

    The hash is the same for code that differs in comments, layout and docstrings.
    """

    imports: frozenset[str]
    sha256: str


class _Cache:
    """Results by hash of a file's content, in memory and, with a path, on disk."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.known: dict[str, tuple[list[str], str]] = {}
        self.is_saved = True


_CACHE = _Cache()


def use_cache(path: Path) -> None:
    """Load the cache from a JSON file, and let `save_cache` write it there; an unreadable one is replaced."""
    _CACHE.path = path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _CACHE.known = content["files"] if content["version"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        _CACHE.known = {}


def save_cache() -> None:
    """Write the cache to the path of `use_cache` if it has new entries."""
    if _CACHE.path is None or _CACHE.is_saved:
        return
    _CACHE.is_saved = True
    _CACHE.path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished.name(_CACHE.path)
    temporary.write_text(json.dumps({"version": VERSION, "files": _CACHE.known}, sort_keys=True), encoding="utf-8")
    temporary.replace(_CACHE.path)


@cache
def read(path: Path) -> Code:
    """Imports and code hash of a file.

    Raises:
        ValueError: an import is relative, so that the code hash could not follow it.
    """
    content = path.read_bytes()
    key = hashlib.sha256(content).hexdigest()
    if key not in _CACHE.known:
        code = _parse(path, content)
        _CACHE.known[key] = (sorted(code.imports), code.sha256)
        _CACHE.is_saved = False
    imports, sha256 = _CACHE.known[key]
    return Code(frozenset(imports), sha256)


def _parse(path: Path, content: bytes) -> Code:
    tree = ast.parse(content, filename=str(path))
    names: set[str] = set()
    for node in _walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or not node.module:
                raise ValueError(f"{path}:{node.lineno}: imports are absolute, so that the code hash can follow them")
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [s for s in node.body if not _is_string(s)] or [ast.Pass()]
    return Code(frozenset(names), hashlib.sha256(ast.unparse(tree).encode()).hexdigest())


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
