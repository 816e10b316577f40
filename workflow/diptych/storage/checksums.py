"""Checksums of HDF5 artifacts: a flipped bit or a lost page is an error that names file and dataset, never a number.

    seal(file)                      # at the end of writing, on a flushed file
    file = Sealed("map.h5")         # reading: an h5py.File whose datasets are checked as they are read

Numeric datasets lie contiguously in the file; each block of `BLOCK` bytes has a 64-bit xxh3 in the dataset `checksums`,
checked when a row in it is read for the first time. A dataset of strings is one block. Names, shapes, dtypes,
attributes and `checksums` itself are under one digest, the root attribute `digest`, checked when the file is opened.
HDF5's own metadata is checksummed by the library (file format of HDF5 1.10). What a process has checked of a file it
does not check again, while size and times of the file are the same.

An artifact holds all of its data itself: links (soft, external, a second name) and datasets whose values lie elsewhere
(external storage, virtual datasets) are refused before anything is read through them.
"""

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from diptych.runtime.errors import ArtifactError

BLOCK = 2**21
"""Bytes under one checksum."""
SETTLED_S = 2.0
"""Seconds after which a file's times tell of a further write: coarser ones than any file system has."""
LARGEST_VECTOR = 1024
"""Arrays that one call may fill (IOV_MAX)."""
CHECKSUMS, DIGEST = "checksums", "digest"
Sums = dict[str, tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]]
"""Of each dataset the checksums of its blocks, and which blocks have been checked."""
_known: dict[tuple[int, ...] | None, Sums] = {}
"""The files that this process has checked, by `_identity`."""
READ_ERRORS = (OSError, RuntimeError)
"""Exceptions that h5py raises where data cannot be read."""
STRUCTURE_ERRORS = (*READ_ERRORS, KeyError, ValueError, TypeError, MemoryError)
"""Exceptions that it raises on damaged names, types and attributes."""


def seal(file: h5py.File) -> None:
    """Store the checksums of an artifact open for writing, after everything else."""
    if CHECKSUMS in file:
        del file[CHECKSUMS]
    file.flush()
    datasets = [item for _, item in _objects(file) if isinstance(item, h5py.Dataset)]
    parts = [np.array(list(_checksums(dataset)), dtype=np.uint64) for dataset in datasets]
    file.create_dataset(CHECKSUMS, data=np.concatenate([np.zeros(0, dtype=np.uint64), *parts]))
    file.attrs[DIGEST] = _digest(file, _objects(file), file[CHECKSUMS][:])
    file.flush()


class Sealed(h5py.File):  # type: ignore[misc]
    """An artifact open for reading; what is read from its datasets is checked."""

    def __init__(self, path: str | Path) -> None:
        """Open without a lock, and check all but the data.

        Raises:
            ArtifactError: the file is not HDF5, or what `digest` covers has changed.
        """
        self._sums: Sums = {}
        try:
            super().__init__(path, "r", locking=False)
        except OSError as error:
            raise ArtifactError(f"{path}: cut short or not HDF5 ({error}); delete it and run again") from error
        identity = _identity(self.id.get_vfd_handle())
        if identity in _known:
            self._sums = _known[identity]
            return
        try:
            with _damage(str(path), STRUCTURE_ERRORS):
                objects = _objects(self)
                _refuse_elsewhere(self, dict(objects))
                self._sums = self._check(objects)
        except ArtifactError:
            self.close()
            raise
        if identity is not None:
            _known[identity] = self._sums

    def _check(self, objects: list[tuple[str, Any]]) -> Sums:
        if DIGEST not in self.attrs or CHECKSUMS not in self:
            return {}  # an unfinished file, or one of another format: `artifacts.read` says which
        checksums = super().__getitem__(CHECKSUMS)[:]
        if _digest(self, objects, checksums) != self.attrs[DIGEST]:
            raise ArtifactError(
                f"{self.filename}: damaged (its names or attributes have changed); delete it and run again"
            )
        sums: Sums = {}
        start = 0
        for name, item in objects:
            if isinstance(item, h5py.Dataset) and name != CHECKSUMS:
                stop = start + _n_blocks(item)
                sums[name] = checksums[start:stop], np.zeros(stop - start, dtype=np.bool_)
                start = stop
        return sums

    def __getitem__(self, name: Any) -> Any:
        """A dataset or group of the file, checked as it is read."""
        if not self._sums or isinstance(name, bytes | h5py.h5r.Reference):
            return super().__getitem__(name)
        return _checked(super().__getitem__(name), self._sums)


def _identity(descriptor: int) -> tuple[int, ...] | None:
    """What changes with a file's content; None if it is so new that a further write may leave its times as they are."""
    status = os.fstat(descriptor)
    if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED_S:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _refuse_elsewhere(file: h5py.File, objects: dict[str, Any]) -> None:
    """Raise `ArtifactError` if a name in a file leads out of it, or its values are not stored in it."""

    def problem(name: str, link: Any) -> str | None:
        if not isinstance(link, h5py.HardLink) or name not in objects:
            return f"{name} is a link to another place"
        return f"{name} is stored in another place" if _is_elsewhere(objects[name]) else None

    if found := file.visititems_links(problem):
        raise ArtifactError(
            f"{file.filename}: {found}, which no artifact of Diptych's has; do not trust it: delete it and run again"
        )


def _is_elsewhere(item: Any) -> bool:
    if not isinstance(item, h5py.Dataset):
        return False
    properties = item.id.get_create_plist()
    return bool(properties.get_layout() != h5py.h5d.CONTIGUOUS or properties.get_external_count() > 0)


class _Group(h5py.Group):  # type: ignore[misc]
    """A group of a sealed file."""

    def __init__(self, group: h5py.Group, sums: Sums) -> None:
        super().__init__(group.id)
        self._sums = sums

    def __getitem__(self, name: Any) -> Any:
        return _checked(super().__getitem__(name), self._sums)


class _Dataset(h5py.Dataset):  # type: ignore[misc]
    """A dataset of a sealed file: rows are checked before they are returned."""

    def __init__(self, dataset: h5py.Dataset, blocks: "_Blocks") -> None:
        super().__init__(dataset.id)
        self._blocks = blocks

    def __getitem__(self, args: Any, new_dtype: Any = None) -> Any:
        self._blocks.check(_touched(args, self.shape))
        with _damage(self._blocks.name):
            return super().__getitem__(args, new_dtype)

    def read_direct(self, dest: Any, source_sel: Any = None, dest_sel: Any = None) -> None:
        """Read into an array, as `h5py.Dataset.read_direct` does."""
        self._blocks.check(_touched(() if source_sel is None else source_sel, self.shape))
        with _damage(self._blocks.name):
            super().read_direct(dest, source_sel, dest_sel)

    def read_spans(self, first: int, targets: Sequence[npt.NDArray[Any]]) -> None:
        """Read the rows from `first` on into several arrays, one after another, in one pass over the file."""
        n = sum(len(target) for target in targets)
        self._blocks.check(slice(first, first + n))
        row_bytes = _bytes(self) // self.shape[0]
        with _damage(self._blocks.name):
            _preadv(self.file.id.get_vfd_handle(), targets, self.id.get_offset() + first * row_bytes)


class _Blocks:
    """The blocks of one dataset, and which of them have been checked."""

    def __init__(
        self, dataset: h5py.Dataset, checksums: npt.NDArray[np.uint64], is_checked: npt.NDArray[np.bool_]
    ) -> None:
        self._dataset, self._checksums, self._is_checked = dataset, checksums, is_checked

    @property
    def name(self) -> str:
        """The dataset's, with its file's."""
        return f"{self._dataset.file.filename}: {self._dataset.name[1:]}"

    def check(self, rows: slice | npt.NDArray[np.int64]) -> None:
        """Check the blocks that hold these rows.

        Raises:
            ArtifactError: a block is not what was written.
        """
        if self._is_checked.all():
            return
        blocks = self._of_rows(rows)
        for block in blocks[~self._is_checked[blocks]].tolist():
            with _damage(self.name):
                checksum = _block_checksum(self._dataset, block)
            if checksum != int(self._checksums[block]):
                raise ArtifactError(f"{self.name} is damaged (its checksum differs); delete the file and run again")
            self._is_checked[block] = True

    def _of_rows(self, rows: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if len(self._checksums) == 1 or not self._dataset.shape:
            return np.arange(len(self._checksums))
        row_bytes = _bytes(self._dataset) // self._dataset.shape[0]
        if isinstance(rows, slice):
            return np.arange(rows.start * row_bytes // BLOCK, -(-rows.stop * row_bytes // BLOCK))
        first, last = rows * row_bytes // BLOCK, ((rows + 1) * row_bytes - 1) // BLOCK
        span = int((last - first).max(initial=0))
        return np.unique(np.minimum(first[:, None] + np.arange(span + 1), last[:, None]))


def _checked(item: Any, sums: Sums) -> Any:
    if isinstance(item, h5py.Dataset):
        name = item.name[1:]
        return _Dataset(item, _Blocks(item, *sums[name])) if name in sums else item
    return _Group(item, sums) if isinstance(item, h5py.Group) else item


def _touched(args: Any, shape: tuple[int, ...]) -> slice | npt.NDArray[np.int64]:
    """Rows of the first axis that an index reads: a slice with start <= stop, or their numbers."""
    n = shape[0] if shape else 1
    first = args[0] if isinstance(args, tuple) and args else args
    if isinstance(first, int | np.integer):
        row = int(first) % max(n, 1)
        return slice(row, row + 1)
    if isinstance(first, slice):
        start, stop, _ = first.indices(n)
        return slice(start, max(start, stop))
    if isinstance(first, np.ndarray | list) and len(first):
        rows = np.asarray(first)
        return np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64) % max(n, 1)
    return slice(0, n)


def _objects(file: h5py.File) -> list[tuple[str, Any]]:
    """All groups and datasets of a file, by name."""
    found: list[tuple[str, Any]] = []
    file.visititems(lambda name, item: found.append((name, item)))
    return sorted(found, key=lambda entry: entry[0])


def _digest(file: h5py.File, objects: list[tuple[str, Any]], checksums: npt.NDArray[np.uint64]) -> str:
    """Digest of names, shapes, dtypes, attributes and checksums, 32 hexadecimal digits."""
    digest = xxhash.xxh3_128(checksums.tobytes())
    for name, item in [("", file), *objects]:
        if name == CHECKSUMS:
            continue
        if isinstance(item, h5py.Dataset):
            offset = "" if _is_text(item) else item.id.get_offset()
            digest.update(f"{name}\0{item.dtype.str}{item.shape}\0{offset}\0".encode())
        else:
            digest.update(f"{name}\0group\0".encode())
        for key in sorted(item.attrs):
            if (name, key) != ("", DIGEST):
                value = np.asarray(item.attrs[key])
                content = str(value).encode() if value.dtype.kind in "OSU" else value.tobytes()
                digest.update(f"{key}\0{value.dtype.str}{value.shape}\0".encode())
                digest.update(content)
    return digest.hexdigest()


def _checksums(dataset: h5py.Dataset) -> Iterator[int]:
    for block in range(_n_blocks(dataset)):
        yield _block_checksum(dataset, block)


def _n_blocks(dataset: h5py.Dataset) -> int:
    return int(dataset.size > 0) if _is_text(dataset) else -(-_bytes(dataset) // BLOCK)


def _bytes(dataset: h5py.Dataset) -> int:
    return int(dataset.size) * int(dataset.dtype.itemsize)


def _is_text(dataset: h5py.Dataset) -> bool:
    return h5py.check_string_dtype(dataset.dtype) is not None


def _block_checksum(dataset: h5py.Dataset, block: int) -> int:
    """xxh3 of one block: of its bytes in the file, or of all strings, each after its length."""
    if _is_text(dataset):
        digest = xxhash.xxh3_64()
        for value in np.asarray(dataset[()], dtype=object).ravel():
            digest.update(f"{len(value)}\0".encode())
            digest.update(value)
        return digest.intdigest()
    offset = dataset.id.get_offset()
    if offset is None:
        raise ArtifactError(f"{dataset.file.filename}: {dataset.name[1:]} was never written")
    size = min(BLOCK, _bytes(dataset) - block * BLOCK)
    return xxhash.xxh3_64_intdigest(_pread(dataset.file.id.get_vfd_handle(), size, offset + block * BLOCK))


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    """`size` bytes of a file, which one call need not return."""
    data = os.pread(descriptor, size, offset)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            raise OSError("the file ends before the dataset does")
        data += more
    return data


def _preadv(descriptor: int, targets: Sequence[npt.NDArray[Any]], offset: int) -> None:
    """Fill contiguous arrays one after another from a file, which one call need not do."""
    views = deque(target.data.cast("B") for target in targets)
    while views:
        read = os.preadv(descriptor, [*islice(views, LARGEST_VECTOR)], offset)
        if not read:
            raise OSError("the file ends before the dataset does")
        offset += read
        while views and read >= len(views[0]):
            read -= len(views.popleft())
        if read:
            views[0] = views[0][read:]


@contextmanager
def _damage(name: str, errors: tuple[type[Exception], ...] = READ_ERRORS) -> Iterator[None]:
    """Turn what h5py raises on a damaged file into one line."""
    try:
        yield
    except errors as error:
        raise ArtifactError(f"{name} is damaged ({error}); delete the file and run again") from error
