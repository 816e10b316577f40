"""Writing the activations of one shard: to raw files as they are computed, and to one artifact at the end.

An HDF5 file whose writer was killed cannot be continued. So rows are written to raw files in a hidden directory
beside the output, with a checkpoint of how many sequences are in them. A job that is started again under the same
spec resumes from the checkpoint; once all rows are written, they are copied into the artifact and the raw files are
removed.

Rows are neither memory-mapped nor kept in memory: the memory of a dump does not grow with its tokens. They are rounded
where they were computed (`rounded`) and from there on belong to whatever thread writes them.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.models.hooks import TORCH, DType
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.storage.canonical import canonical_json

IntArray = npt.NDArray[np.int64]
STORED: Mapping[str, type[np.generic]] = {"bfloat16": np.uint16, "float16": np.float16, "float32": np.float32}
FLOAT16_MAX = 65_504.0
SAMPLED: DType = "bfloat16"
"""Dtype of sampled neighbours, whatever that of the sites: bfloat16 has the range for any value."""
COPY_BYTES = 2**22
"""Bytes copied at once from the raw files into the artifact."""


class RawMatrix:
    """A matrix [rows, width] in a raw binary file, written and read by rows."""

    def __init__(self, path: Path, rows: int, width: int, dtype: npt.DTypeLike) -> None:
        self.rows, self.width, self.dtype = rows, width, np.dtype(dtype)
        self._row_bytes = width * self.dtype.itemsize
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(self._descriptor, rows * self._row_bytes)

    def write(self, row: IntArray, values: npt.NDArray[Any]) -> None:
        """Write values [k, width] to the rows `row`, with one write per run of consecutive rows."""
        data = np.ascontiguousarray(values, dtype=self.dtype).reshape(len(row), -1)
        edges = [0, *(np.flatnonzero(np.diff(row) != 1) + 1).tolist(), len(row)]
        for start, end in itertools.pairwise(edges):
            remaining, offset = data[start:end].data.cast("B"), int(row[start]) * self._row_bytes
            while remaining:  # a write may be partial; the next one then raises the error
                written = os.pwrite(self._descriptor, remaining, offset)
                remaining, offset = remaining[written:], offset + written

    def read(self, start: int, end: int) -> npt.NDArray[Any]:
        """The rows [start, end)."""
        data = os.pread(self._descriptor, (end - start) * self._row_bytes, start * self._row_bytes)
        return np.frombuffer(data, dtype=self.dtype).reshape(end - start, self.width)

    def sync(self) -> None:
        """Flush the file to disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Rounded(NamedTuple):
    """Activations of k rows on the host, as they are stored; on a GPU they are complete once `copied` is reached.

    Attributes:
        values: [k, width] in the dtype on disk.
        norm: float32 [k], of the rows before rounding.
        error: float32 [k], norm of what rounding takes.
        copied: event on the GPU's stream.
    """

    values: Tensor
    norm: Tensor
    error: Tensor
    copied: torch.cuda.Event | None


def rounded(rows: Tensor, dtype: DType) -> Rounded:
    """Activations [k, width] rounded to `dtype`, their copies to the host begun but not waited for."""
    stored, exact = rows.to(TORCH[dtype]), rows.float()
    norm = exact.norm(dim=-1)
    error = torch.zeros_like(norm) if stored.dtype == rows.dtype else (stored.float() - exact).norm(dim=-1)
    values, norm, error = (_to_host(part) for part in (stored, norm, error))
    copied = torch.cuda.current_stream(rows.device).record_event() if rows.is_cuda else None
    return Rounded(values, norm, error, copied)


def _to_host(values: Tensor) -> Tensor:
    if not values.is_cuda:
        return values
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


class NotFiniteError(Exception):
    """A row of a site is not finite: the first of them, within the shard."""

    def __init__(self, site: str, row: int) -> None:
        super().__init__(f"site {site!r}: row {row} is not finite")
        self.site, self.row = site, row


class Shape(NamedTuple):
    """Shape of a stored matrix."""

    rows: int
    width: int


@dataclass
class Progress:
    """Checkpoint of a shard, stored beside its raw files."""

    fingerprint: str
    """Hash of the spec and the shapes: only files of the same job are resumed."""
    batch_tokens: int
    sequences: int = 0
    """Number of sequences stored so far, in reading order."""
    halved: int = 0
    """Number of times that memory ran out."""
    storage_error: dict[str, dict[str, float]] = field(default_factory=dict)
    """Relative error of a row by rounding to the stored dtype, by site: `sum` over the rows and `max`."""
    compute_error: dict[str, dict[str, float]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    """Sampled hooks that are left out because of non-finite values."""
    unmeasured: str | None = None
    """Why `compute_error` could not be measured, if it was to be."""


class ShardWriter:
    """Writer of one shard's activations, resumable until `finish` writes the artifact.

    Args:
        out: path of the artifact.
        spec: what it depends on.
        sites: shape of each site's matrix, which holds every row of the shard and is stored with its norms.
        dtype: on disk.
        sample: shape of the matrices that hold the sampled rows only, by hook (see `dump`).
        others: number of rows of the other shards of the same dump, by path: those still to be written need disk too.
    """

    def __init__(
        self,
        out: Path,
        spec: Mapping[str, Any],
        sites: Mapping[str, Shape],
        dtype: DType,
        sample: Mapping[str, Shape] | None = None,
        others: Mapping[Path, int] | None = None,
    ) -> None:
        self._out = out
        self._spec = spec
        self._sites = dict(sites)
        self._sample = dict(sample or {})
        self._dtype = dtype
        self._others = dict(others or {})
        self._directory = _resume_directory(out)
        self._raw: dict[str, RawMatrix] = {}
        self.progress = Progress("", 0)

    def open(self, batch_tokens: int) -> None:
        """Resume what a stopped job of the same spec wrote, or begin; log the size and check the disk space.

        Raises:
            DiptychError: the disk has no room for all shards that are not written yet and the raw files of one.
        """
        shape = {"sites": self._sites, "sample": self._sample, "dtype": self._dtype, "batch_tokens": batch_tokens}
        text = canonical_json([self._spec, shape])
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        checkpoint = self._read_checkpoint(fingerprint)
        if checkpoint is None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._require_disk()
        if checkpoint is None:
            self._directory.mkdir(parents=True)
        else:
            logs.logger.info("resuming after %d sequences", checkpoint.sequences)
        self.progress = checkpoint or Progress(fingerprint, batch_tokens)
        for site, (rows, width) in self._sites.items():
            self._raw[f"{site}.values"] = self._open(f"{site}.values", rows, width, STORED[self._dtype])
            self._raw[f"{site}.norm"] = self._open(f"{site}.norm", rows, 1, np.float32)
        for hook, (rows, width) in self._sample.items():
            self._raw[f"sample.{hook}"] = self._open(f"sample.{hook}", rows, width, STORED[SAMPLED])

    def put(self, site: str, row: IntArray, rows: Rounded) -> None:
        """Write activations of k rows and their norms to the shard's rows `row`.

        Raises:
            NotFiniteError: a row is not finite.
            DiptychError: float16 cannot hold a value.
        """
        norm = _arrived(rows).norm.numpy()
        if not np.isfinite(norm).all():
            raise NotFiniteError(site, int(row[int(np.argmin(np.isfinite(norm)))]))
        values = _bits(rows.values)
        if self._dtype == "float16" and np.isinf(values).any():
            raise DiptychError(f"site {site!r}: a value above {FLOAT16_MAX:,.0f} does not fit float16; store bfloat16")
        error = rows.error.numpy() / np.maximum(norm, 1e-30)
        seen = self.progress.storage_error.setdefault(site, {"sum": 0.0, "max": 0.0})
        seen["sum"] += float(error.sum(dtype=np.float64))
        seen["max"] = max(seen["max"], float(error.max()))
        self._raw[f"{site}.values"].write(row, values)
        self._raw[f"{site}.norm"].write(row, norm)

    def put_sample(self, hook: str, row: IntArray, rows: Rounded) -> None:
        """Write activations of k rows to the rows `row` of a sampled hook; it is dropped if they are not finite."""
        if not bool(_arrived(rows).values.isfinite().all()) and hook not in self.progress.dropped:
            self.progress.dropped.append(hook)
            logs.logger.warning("%s: values are not finite; no dictionary is compared with this neighbour", hook)
        self._raw[f"sample.{hook}"].write(row, _bits(rows.values))

    def get(self, site: str, row: IntArray) -> npt.NDArray[np.float32]:
        """Read stored rows as float32."""
        raw = self._raw[f"{site}.values"]
        values = np.concatenate([raw.read(int(position), int(position) + 1) for position in row])
        return artifacts.from_bfloat16(values) if self._dtype == "bfloat16" else values.astype(np.float32)

    def save(self) -> None:
        """Write a checkpoint: flush the rows to disk first, then store the progress."""
        for raw in self._raw.values():
            raw.sync()
        artifacts.write_text(self._directory / "progress.json", json.dumps(asdict(self.progress)))

    def finish(
        self, attributes: Mapping[str, Any], *, sample_row: IntArray | None = None, token_row: IntArray | None = None
    ) -> None:
        """Write the artifact and remove the raw files.

        Args:
            attributes: stored as JSON.
            sample_row: int64 [k], token rows of the sample.
            token_row: int64 [n], token rows of the shard's rows where these are not a span of the token file.
        """
        with artifacts.create(self._out, "activations", self._spec) as writer:
            for site, (rows, _) in self._sites.items():
                self._copy(writer, f"{site}.values", f"sites/{site}/values", self._dtype)
                writer.array(f"sites/{site}/norm", self._raw[f"{site}.norm"].read(0, rows)[:, 0])
            for hook in self._sample:
                if hook not in self.progress.dropped:
                    self._copy(writer, f"sample.{hook}", f"sample/{hook}", SAMPLED)
            for name, rows_of in (("sample_row", sample_row), ("token_row", token_row)):
                if rows_of is not None:
                    writer.array(name, rows_of)
            for name, value in attributes.items():
                writer.json(name, value)
            writer.json("storage_error", {site: self._storage_error(site) for site in self._sites})
            writer.json("compute_error", self.progress.compute_error)
            writer.json("compute_unmeasured", self.progress.unmeasured)
            writer.json("batch", {"tokens": self.progress.batch_tokens, "halved": self.progress.halved})
        for raw in self._raw.values():
            raw.close()
        self._raw.clear()
        shutil.rmtree(self._directory)

    def _storage_error(self, site: str) -> dict[str, float]:
        error = self.progress.storage_error.get(site, {"sum": 0.0, "max": 0.0})
        return {"mean": error["sum"] / max(1, self._sites[site].rows), "max": error["max"]}

    def _read_checkpoint(self, fingerprint: str) -> Progress | None:
        path = self._directory / "progress.json"
        if not path.is_file():
            return None
        checkpoint = Progress(**json.loads(path.read_text(encoding="utf-8")))
        return checkpoint if checkpoint.fingerprint == fingerprint else None

    def _open(self, name: str, rows: int, width: int, dtype: npt.DTypeLike) -> RawMatrix:
        return RawMatrix(self._directory / name, rows, width, dtype)

    def _copy(self, writer: artifacts.Writer, name: str, dataset: str, dtype: DType) -> None:
        raw = self._raw[name]
        stored: h5py.Dataset = writer.rows(dataset, (raw.rows, raw.width), raw.dtype)
        stored.attrs["dtype"] = dtype
        step = max(1, COPY_BYTES // (raw.width * raw.dtype.itemsize))
        for start in range(0, raw.rows, step):
            end = min(raw.rows, start + step)
            stored[start:end] = raw.read(start, end)

    def _bytes(self, shard_rows: int | None = None) -> int:
        """Size in bytes of the artifact of a shard with `shard_rows` rows; of this shard by default."""
        size = np.dtype(STORED[self._dtype]).itemsize
        sites = sum((shard_rows or rows) * (width * size + 4) for rows, width in self._sites.values())
        return sites + sum(rows * width * np.dtype(STORED[SAMPLED]).itemsize for rows, width in self._sample.values())

    def _require_disk(self) -> None:
        """Log the size of the dump and check that the disk has room for all shards to come and the raw files of one."""
        self._out.parent.mkdir(parents=True, exist_ok=True)
        rows = max(shape.rows for shape in self._sites.values())
        to_come = {self._out: rows, **{path: rows for path, rows in self._others.items() if not path.exists()}}
        total = sum(self._bytes(rows) for rows in to_come.values())
        allocated = sum(_allocated(_resume_directory(path)) for path in to_come)
        needed = max(0, total + self._bytes() - allocated)
        free = shutil.disk_usage(self._out.parent).free
        description = f"{len(to_come)} of {len(self._others) + 1} shards to come, {total / 1e9:.2f} GB"
        logs.logger.info(
            "%s: %d rows, %.2f GB (twice that while it is written); %s",
            self._out,
            rows,
            self._bytes() / 1e9,
            description,
        )
        if needed > free:
            raise DiptychError(
                f"{self._out}: needs {needed / 1e9:.2f} GB of disk ({description}, and a working copy of one) and "
                f"{free / 1e9:.2f} GB are free; make room, or use fewer sites or tokens"
            )


def _resume_directory(out: Path) -> Path:
    """Directory of the raw files of an unfinished artifact."""
    return out.with_name(f".{out.name}.resume")


def _allocated(directory: Path) -> int:
    """Bytes allocated on disk to the files of a directory, which have their final length from the start."""
    return sum(file.stat().st_blocks * 512 for file in directory.glob("*"))


def _bits(stored: Tensor) -> npt.NDArray[Any]:
    """The values as a NumPy array; bfloat16 as its uint16 bit pattern."""
    bits: npt.NDArray[Any] = (stored.view(torch.uint16) if stored.dtype == torch.bfloat16 else stored).numpy()
    return bits


def _arrived(rows: Rounded) -> Rounded:
    """The rows, once they are on the host."""
    if rows.copied is not None:
        rows.copied.synchronize()
    return rows
