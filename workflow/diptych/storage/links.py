"""A file in a second place without a second copy of its data, where the file system can.

    links.link(Path("~/.cache/huggingface/.../model.safetensors"), Path("results/models/base/model.safetensors"))

A hard link shares the data with the source for good: who writes into one of the two in place changes both. Artifacts
are never written in place, and their manifests notice it when the source is.
"""

import os
import shutil
from pathlib import Path
from typing import Literal

FICLONE = 0x40049409
"""Linux's request to let a file share another one's blocks until either is written (Btrfs, XFS, bcachefs)."""

LinkKind = Literal["hard link", "reflink", "copy"]


def link(source: Path, target: Path) -> LinkKind:
    """Make `target` hold what `source` holds: as a hard link, else a reflink, else a copy; how it was done.

    Args:
        source: a file, or a symbolic link to one: the file itself is linked.
        target: does not exist yet.
    """
    file = source.resolve(strict=True)
    try:
        os.link(file, target)
    except OSError:  # another file system, one without hard links, or somebody else's file
        return _copy(file, target)
    return "hard link"


def _copy(file: Path, target: Path) -> LinkKind:
    """Copy a file, by sharing its blocks where the file system can."""
    if _share_blocks(file, target):
        return "reflink"
    shutil.copyfile(file, target)
    return "copy"


def _share_blocks(file: Path, target: Path) -> bool:
    """Whether `target` could be made from the blocks of `file`; it is left empty or absent if not."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return False
    with file.open("rb") as read, target.open("wb") as written:
        try:
            fcntl.ioctl(written, FICLONE, read.fileno())
        except OSError:
            return False
    return True
