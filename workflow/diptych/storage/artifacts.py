"""Writing and reading of HDF5 files and directories that are either complete or absent.

An artifact is written under a temporary name beside its place, checked, synced and renamed, so that a reader
never meets half of one. Every HDF5 artifact says at its root what it is and what it was made from:

    with artifacts.create("map.h5", "linear_map", spec) as out:
        out.array("slope", slope)
    with artifacts.read("map.h5", "linear_map") as file:
        slope = file["slope"][:]

This is the only module that opens an HDF5 file for writing.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from diptych.runtime.errors import ArtifactError
from diptych.storage import checksums, manifest, unfinished
from diptych.storage.canonical import canonical_json
from diptych.storage.checksums import Sealed

FORMAT_VERSION = 2
LIBVER = ("v110", "v110")
"""Of HDF5's file format: the first that checksums all of its metadata."""


class Writer:
    """An artifact being written."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file

    def array(self, name: str, values: npt.ArrayLike, *, nan: str | None = None, **attributes: Any) -> None:
        """Store one array.

        Args:
            name: path of the dataset inside the file.
            values: any shape; bool, integer or float.
            nan: why NaN may stand here. Without a reason a non-finite value is an error.
            attributes: stored with the dataset.

        Raises:
            ArtifactError: a value is infinite, or NaN without a reason.
        """
        array = np.asarray(values)
        if array.dtype.kind == "f":
            check_finite(array, name, nan_allowed=nan is not None)
        dataset = self._file.create_dataset(name, data=array)
        if nan is not None:
            dataset.attrs["nan"] = nan
        for key in sorted(attributes):
            dataset.attrs[key] = attributes[key]

    def rows(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike, **attributes: Any) -> h5py.Dataset:
        """Preallocate a dataset of `shape`, to be filled by slices of its first axis."""
        dataset = self._file.create_dataset(name, shape=shape, dtype=dtype)
        for key in sorted(attributes):
            dataset.attrs[key] = attributes[key]
        return dataset

    def strings(self, name: str, values: Sequence[str]) -> None:
        """Store a list of strings as variable-length UTF-8."""
        self._file.create_dataset(name, data=np.array(values, dtype=object), dtype=h5py.string_dtype())

    def table(self, name: str, columns: Mapping[str, npt.ArrayLike], *, nan: str | None = None) -> None:
        """Store equally long columns as datasets of one group; `read_table` reads them back in this order."""
        group = self._file.create_group(name)
        group.attrs["columns"] = json.dumps(list(columns))
        for column, values in columns.items():
            array = np.asarray(values)
            if array.dtype.kind in "OU":
                self.strings(f"{name}/{column}", [str(value) for value in array])
            else:
                self.array(f"{name}/{column}", array, nan=nan)

    def json(self, name: str, value: Any) -> None:
        """Store a JSON-able value as a root attribute; NaN becomes null."""
        self._file.attrs[name] = canonical_json(value)


@contextmanager
def create(path: str | Path, kind: str, spec: Mapping[str, Any]) -> Iterator[Writer]:
    """Write the artifact `path` of format `kind`; it appears only if the block ends without an exception."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished.name(path)
    try:
        with _open(temporary) as file:
            file.attrs["format"] = kind
            file.attrs["format_version"] = FORMAT_VERSION
            file.attrs["spec"] = canonical_json(spec)
            yield Writer(file)
            file.attrs["complete"] = True
            checksums.seal(file)
        read(temporary, kind).close()
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file, flushed and closed at the end; after an error it is closed without touching the disk.

    HDF5 crashes the process when it cannot write the rest of a file while closing it, as on a full disk.
    """
    # A lock where the file system has them; a parallel one may not, and the file's name is this process' alone.
    file = h5py.File(path, "w", libver=LIBVER, locking="best-effort")
    try:
        yield file
        file.flush()
    except BaseException:
        if hasattr(os, "memfd_create"):
            nowhere = os.memfd_create("abandoned")
            os.dup2(nowhere, file.id.get_vfd_handle())
            os.close(nowhere)
        raise
    finally:
        file.close()


def read(path: str | Path, kind: str | None) -> Sealed:
    """Open a whole artifact of format `kind`, or of any for None, for reading, without a lock.

    Its data are checked as they are read (`checksums`).

    Raises:
        ArtifactError: it is missing, cut short, damaged, incomplete or of another kind or version.
    """
    if not Path(path).is_file():
        raise ArtifactError(f"{path}: no such file; run the rule that makes it")
    file = Sealed(path)
    format_found = file.attrs.get("format")
    if kind is not None and format_found != kind:
        file.close()
        raise ArtifactError(f"{path}: holds {format_found!r} where {kind!r} is expected; delete it and run again")
    if file.attrs.get("format_version") != FORMAT_VERSION:
        version = file.attrs.get("format_version")
        file.close()
        raise ArtifactError(
            f"{path}: format version {version}, this code reads {FORMAT_VERSION}; delete it and run again"
        )
    if not file.attrs.get("complete", False) or not {"spec", checksums.DIGEST} <= set(file.attrs):
        file.close()
        raise ArtifactError(f"{path}: its writer did not finish; delete it and run again")
    return file


def spec_of(path: str | Path) -> dict[str, Any]:
    """The spec of an artifact, or of a directory by its manifest."""
    if str(path).endswith(".json"):
        spec: dict[str, Any] = manifest.read(Path(path).parent)["spec"]
    else:
        with read(path, None) as file:
            spec = read_json(file, "spec")
    return spec


def read_json(file: h5py.File, name: str) -> Any:
    """The JSON root attribute `name` of an open artifact."""
    return json.loads(file.attrs[name])


def read_strings(file: h5py.File, name: str) -> list[str]:
    """The strings of a dataset written by `Writer.strings`."""
    return [str(value) for value in file[name].asstr()[:]]


def read_table(file: h5py.File, name: str) -> dict[str, npt.NDArray[Any]]:
    """The columns of a table written by `Writer.table`, in their order; strings as object arrays."""
    group = file[name]
    columns = json.loads(group.attrs["columns"])
    return {
        column: group[column].asstr()[:] if h5py.check_string_dtype(group[column].dtype) else group[column][:]
        for column in columns
    }


@contextmanager
def create_directory(path: str | Path, kind: str, spec: Mapping[str, Any]) -> Iterator[Path]:
    """A fresh directory that takes the place of `path` when the block ends without an exception.

    Its `manifest.json` holds the format, the spec, and size and SHA-256 of every other file: it stands for the
    directory where rules depend on it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished.name(path)
    temporary.mkdir()
    temporary.chmod(0o755)
    try:
        yield temporary
        manifest.write(temporary, kind, spec, FORMAT_VERSION)
        for member in sorted(temporary.rglob("*")):
            _sync(member)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


DIRECTORY_KEYS = ("directory", "truth")
"""Keys of a description whose value is a place; so is every value that ends in .h5 or .json."""


def below(root: str | Path, description: Any, key: str = "") -> Any:
    """A description of inputs with every relative place in it put below `root`."""
    if isinstance(description, Mapping):
        return {name: below(root, item, name) for name, item in description.items()}
    if isinstance(description, list):
        return [below(root, item, key) for item in description]
    is_path = isinstance(description, str) and (key in DIRECTORY_KEYS or description.endswith((".h5", ".json")))
    return str(Path(root) / description) if is_path else description


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished.name(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_finite(values: npt.NDArray[Any], what: str, *, nan_allowed: bool = False) -> None:
    """Raise `ArtifactError` naming `what` and the first bad row if `values` holds an infinity, or a NaN not allowed."""
    bad = np.isinf(values) if nan_allowed else ~np.isfinite(values)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ArtifactError(f"{what}: {int(bad.sum())} non-finite values, the first at index {where}")


def to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round float32 to the nearest bfloat16 (ties to even), returned as its 16 bits."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)


def from_bfloat16(bits: npt.NDArray[np.uint16], out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
    """The float32 values of bfloat16 given as its 16 bits, in one pass, into `out` if given."""
    values = np.empty(bits.shape, dtype=np.float32) if out is None else out
    np.left_shift(bits, np.uint32(16), out=values.view(np.uint32), dtype=np.uint32)
    return values


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
