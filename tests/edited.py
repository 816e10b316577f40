"""A finished artifact changed by a test, with checksums that fit again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from diptych.storage import checksums


@contextmanager
def edited(path: Path) -> Iterator[h5py.File]:
    with h5py.File(path, "r+") as file:
        yield file
        checksums.seal(file)
