"""Temporary names of unfinished artifacts, and removal of those that killed processes left behind.

A writer that is killed outright (`kill -9`, no memory) leaves its unfinished file or directory behind. Its name says
what it was to become and whose it is, `.map.h5.5d1f0c9a3b7e.4711.part`, so that the next writer of the same artifact
deletes it:

    unfinished.name(Path("map.h5"))

What a stage needs on disk while it works lies beside its result under such a name too:

    with unfinished.scratch(Path("outputs.h5")) as directory: ...

Only where nobody can be writing it: the process must have been one of this boot of this machine, in this space of
process numbers (a container has its own), and its number must be nobody's. Another node's is never touched.
"""

import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

BOOT, PROCESSES = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
"""Files in which Linux names this boot and this namespace of process numbers."""


def clear(path: Path) -> None:
    """Delete the unfinished files of dead processes for `path`."""
    for left in path.parent.glob(".*.part"):
        if _is_leftover(left.name, path.name):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def name(path: Path) -> Path:
    """Temporary path for this process to write `path` to, after deleting those of dead processes."""
    clear(path)
    return path.with_name(f".{path.name}.{_machine()}.{os.getpid()}.part")


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """An empty directory beside `path` for the time of a block, after deleting those of dead processes."""
    directory = name(path.with_name(f"{path.name}.scratch"))
    directory.mkdir(parents=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _is_leftover(name: str, artifact: str) -> bool:
    """Whether a name is an unfinished `artifact` of a dead process of this machine (or of this process itself)."""
    process = re.fullmatch(rf"\.{re.escape(artifact)}\.{_machine()}\.(\d+)\.part", name)
    return process is not None and (int(process[1]) == os.getpid() or not _lives(int(process[1])))


@cache
def _machine() -> str:
    """Id of the namespace in which process numbers are unique; a new one each time where the system does not tell."""
    if not (BOOT.is_file() and PROCESSES.is_symlink()):
        return secrets.token_hex(6)
    identity = f"{socket.gethostname()} {BOOT.read_text()} {PROCESSES.readlink()}"
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
