"""The manifest of a directory: what it is, what it was made from, and size and hashes of every file in it.

manifest.write(directory, "model", spec)            # at the end of writing
manifest.check(directory, "*.json")                 # before some of its files are read
"""

import fnmatch
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from diptych.runtime.errors import ArtifactError
from diptych.storage.canonical import as_json, canonical_json

NAME = "manifest.json"
READ_BYTES = 2**20


def write(directory: Path, kind: str, spec: Mapping[str, Any], version: int) -> None:
    """Write the manifest of everything in `directory`."""
    files = {
        str(member.relative_to(directory)): {
            "bytes": member.stat().st_size,
            "sha256": sha256(member),
            "xxh3": _xxh3(member),
        }
        for member in sorted(directory.rglob("*"))
        if member.is_file()
    }
    values = {"format": kind, "format_version": version, "spec": as_json(spec), "files": files}
    values["digest"] = _digest(values)
    (directory / NAME).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read(directory: str | Path) -> dict[str, Any]:
    """The manifest of a directory.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    path = Path(directory) / NAME
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        digest = values.pop("digest")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{path} is missing or damaged; delete {directory} and run again") from error
    if digest != _digest(values):
        raise ArtifactError(f"{path} is damaged (its digest differs); delete {directory} and run again")
    return values


def check(directory: str | Path, *patterns: str) -> None:
    """Check the files of a directory whose names match a pattern (all for none); a directory without manifest has none.

    Raises:
        ArtifactError: a file is missing, or is not what was written.
    """
    directory = Path(directory)
    if not (directory / NAME).is_file():
        return
    for name, file in read(directory)["files"].items():
        if patterns and not any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            continue
        path = directory / name
        if not path.is_file() or path.stat().st_size != file["bytes"] or _xxh3(path) != file["xxh3"]:
            raise ArtifactError(f"{path} is missing or damaged; delete {directory} and run again")


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _xxh3(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _digest(values: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(canonical_json(values).encode())
