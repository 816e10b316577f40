"""Compare two results directories value for value.

    python tests/compare_results.py OLD NEW [--ignore PATTERN ...]

Every file of either directory must be in both with equal content: all datasets and attributes of HDF5 files, tensors of
safetensors, values of JSON, figures of HTML pages, bytes of any other file (tables included). What may differ between
two versions of the code is ignored: the hash of the code and the versions of packages in a spec, the wording of pages,
logs and benchmarks. Prints one line per difference and exits with 1 if there is any.
"""

import argparse
import fnmatch
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from safetensors import safe_open

FILE_KEYS = {"checksums", "digest", "format_version"}
"""What an HDF5 file says of itself."""
IGNORED = ("logs/*", "benchmarks/*", "README.md", ".snakemake-id")
CODE_KEYS = {"code", "packages"}
"""Keys of a spec that record the version of the code, not settings."""
FIGURES = re.compile(r'<script type="application/json" id="figures">(.*?)</script>', re.DOTALL)


def differences(old: Path, new: Path, ignore: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield one line per difference between two results directories."""
    old_files, new_files = (_files(directory, (*IGNORED, *ignore)) for directory in (old, new))
    for name in sorted(old_files | new_files):
        if name not in new_files:
            yield f"{name}: only in {old}"
        elif name not in old_files:
            yield f"{name}: only in {new}"
        else:
            for difference in _compare(old / name, new / name):
                yield f"{name}: {difference}"


def _files(directory: Path, ignore: tuple[str, ...]) -> set[str]:
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    return {name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in ignore)}


def _compare(old: Path, new: Path) -> Iterator[str]:
    match old.suffix:
        case ".h5":
            with h5py.File(old, locking=False) as a, h5py.File(new, locking=False) as b:
                yield from _compare_hdf5(a, b)
        case ".safetensors":
            with safe_open(old, "numpy") as a, safe_open(new, "numpy") as b:
                yield from _compare_tensors(a, b)
        case ".json":
            a, b = (json.loads(path.read_bytes()) for path in (old, new))
            if old.name == "manifest.json":  # the files that it lists are compared by content
                for values, key in itertools.product((a, b), ("files", "digest")):
                    values.pop(key, None)
            yield from _compare_json(a, b)
        case ".html":
            a, b = (FIGURES.findall(path.read_text("utf-8")) for path in (old, new))
            yield from _compare_json([json.loads(text) for text in a], [json.loads(text) for text in b])
        case _:
            if old.read_bytes() != new.read_bytes():
                yield "the bytes differ"


def _compare_hdf5(old: h5py.File, new: h5py.File) -> Iterator[str]:
    a, b = (_objects(file) for file in (old, new))
    for name in sorted((a.keys() ^ b.keys()) - FILE_KEYS):
        yield f"{name} is only in the {'old' if name in a else 'new'} file"
    for name in sorted((a.keys() & b.keys()) - FILE_KEYS):
        yield from _compare_attributes(name, dict(a[name].attrs), dict(b[name].attrs))
        if isinstance(a[name], h5py.Dataset) and isinstance(b[name], h5py.Dataset):
            yield from _compare_arrays(name, a[name][()], b[name][()])


def _objects(file: h5py.File) -> dict[str, Any]:
    objects = {"/": file}
    file.visititems(lambda name, item: objects.update({name: item}))
    return objects


def _compare_attributes(name: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for key in sorted((old.keys() ^ new.keys()) - FILE_KEYS):
        yield f"attribute {name}@{key} is only in the {'old' if key in old else 'new'} file"
    for key in sorted((old.keys() & new.keys()) - FILE_KEYS):
        if isinstance(old[key], str) and old[key][:1] in ("{", "["):
            yield from _compare_json(json.loads(old[key]), json.loads(new[key]), f"{name}@{key}")
        else:
            yield from _compare_arrays(f"attribute {name}@{key}", np.asarray(old[key]), np.asarray(new[key]))


def _compare_tensors(old: Any, new: Any) -> Iterator[str]:
    a, b = set(old.keys()), set(new.keys())
    for name in sorted(a | b):
        if name in a & b:
            yield from _compare_arrays(name, old.get_tensor(name), new.get_tensor(name))
        else:
            yield f"tensor {name} is only in one of the files"


def _compare_arrays(name: str, old: Any, new: Any) -> Iterator[str]:
    a, b = np.asarray(old), np.asarray(new)
    if a.dtype != b.dtype or a.shape != b.shape:
        yield f"{name}: {a.dtype} {a.shape} became {b.dtype} {b.shape}"
    elif a.dtype.hasobject:
        if a.tolist() != b.tolist():
            yield f"{name}: texts differ"
    elif a.tobytes() != b.tobytes():
        unequal = (a != b) & ~((a != a) & (b != b))
        yield f"{name}: {int(unequal.sum())} of {a.size} values differ"


def _compare_json(old: Any, new: Any, path: str = "$") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        is_spec = "code" in old and "settings" in old
        for key in sorted((old.keys() | new.keys()) - (CODE_KEYS if is_spec else set())):
            if key in old and key in new:
                yield from _compare_json(old[key], new[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is only in the {'old' if key in old else 'new'} file"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _compare_json(a, b, f"{path}[{index}]")
    elif type(old) is not type(new) or (old != new and not (old != old and new != new)):
        yield f"{path}: {str(old)[:60]!r} became {str(new)[:60]!r}"


def main() -> None:
    """Compare the two directories of the command line."""
    parser = argparse.ArgumentParser(description="Compare two results directories value for value.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--ignore", nargs="*", default=[], metavar="PATTERN", help="files to leave out")
    arguments = parser.parse_args()
    for directory in (arguments.old, arguments.new):
        if not directory.is_dir():
            parser.error(f"{directory} is no directory")
    lines = list(differences(arguments.old, arguments.new, tuple(arguments.ignore)))
    print("\n".join(lines) or "equal")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
