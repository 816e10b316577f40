"""The hub's cache on disk: `models--owner--name/snapshots/<commit>/file`, each file a link to `blobs/<its hash>`.

The hub calls a file by its hash (SHA-256 if it is in large file storage, git's SHA-1 else), and the client takes that
name for the blob without looking at the bytes. Here they are looked at.
"""

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from diptych.runtime.errors import DiptychError
from diptych.storage import manifest

BLOBS = "blobs"
HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
"""Names that say what a blob holds: git's SHA-1, or SHA-256."""
READ_BYTES = 2**20


def is_snapshot(directory: Path) -> bool:
    """Whether a directory is one of the hub's cache: called by its commit, its files links to blobs beside it."""
    return directory.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", directory.name) is not None


def blobs(directory: Path) -> Path:
    """Directory of the files that a snapshot in the hub's cache links to."""
    return directory.parents[1] / BLOBS


def matching(directory: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """The files of a snapshot whose paths in it match a pattern (shell style, `*` crosses `/`), sorted."""
    wanted = list(patterns)
    for file in sorted(directory.rglob("*")):
        path = file.relative_to(directory).as_posix()
        if file.is_file() and any(fnmatch.fnmatch(path, pattern) for pattern in wanted):
            yield file


def verify(files: Iterable[Path], where: str) -> None:
    """Compare files of snapshots with the hashes by which the hub calls them.

    Args:
        files: of snapshots; one that is no link to a blob named by a hash is not compared.
        where: what messages begin with.

    Raises:
        DiptychError: a file holds something else.
    """
    for file in files:
        if (blob := _blob(file)) is None:
            continue
        kind, found = ("sha256", manifest.sha256(blob)) if len(blob.name) == 64 else ("git sha1", _git_sha1(blob))
        if found != blob.name:
            raise DiptychError(
                f"{where}: {file.name} is not the file that the hub has (its {kind} is {found[:12]}..., the hub says "
                f"{blob.name[:12]}...); remove {blob} and run again"
            )


def _blob(file: Path) -> Path | None:
    """The blob that a file of a snapshot links to; it may itself be a link, into a store that several caches share."""
    if not file.is_symlink():
        return None
    target = file.readlink()
    if target.parent.name != BLOBS or not HASH.fullmatch(target.name):
        return None
    return (file.parent / target.parent).resolve() / target.name


def _git_sha1(path: Path) -> str:
    """The SHA-1 by which git calls a file's contents."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()
