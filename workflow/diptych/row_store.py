"""Rows of one shard on their way to disk: raw files while they come in, one artifact at the end.

HDF5 has no way to go on with a file whose writer was killed. So rows are written to raw files in a hidden directory
beside the output, and a note says how many sequences of the work are in them. A job that is started again under the
same spec goes on from the note; an artifact appears when all rows are in, and the raw files go.
"""

import hashlib
import json
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

from diptych import DiptychError, artifacts, logs
from diptych.hooked import TORCH, DType

IntArray = npt.NDArray[np.int64]
STORED: Mapping[str, type[np.generic]] = {"bfloat16": np.uint16, "float16": np.float16, "float32": np.float32}
FLOAT16_MAX = 65_504.0
COPY_ROWS = 16_384
"""Rows copied at once from the raw files into the artifact."""


class Site(NamedTuple):
    """The raw files of one site: values [n, d] in the storage dtype and norms [n]."""

    values: "np.memmap[Any, Any]"
    norm: "np.memmap[Any, Any]"


@dataclass
class Progress:
    """How far a shard is, kept beside its raw files."""

    fingerprint: str
    """Hash of the spec and the shapes: another job's files are never continued."""
    batch_tokens: int
    sequences: int = 0
    """Sequences of the order that are stored."""
    halved: int = 0
    """How often memory ran out."""
    storage_error: dict[str, float] = field(default_factory=dict)
    """Largest relative error of a row by storing it, by site."""
    compute_error: dict[str, dict[str, float]] = field(default_factory=dict)


class Store:
    """Rows of one shard: raw files while they come in, one artifact at the end."""

    def __init__(
        self, out: Path, spec: Mapping[str, Any], n_rows: int, widths: Mapping[str, int], dtype: DType
    ) -> None:
        self._out = out
        self._spec = spec
        self._n_rows = n_rows
        self._widths = dict(widths)
        self._dtype = dtype
        self._directory = out.with_name(f".{out.name}.resume")
        self._sites: dict[str, Site] = {}
        self.progress = Progress("", 0)

    def open(self, batch_tokens: int) -> None:
        """Continue what a stopped job of the same spec left, or begin; print the size and check the disk.

        Raises:
            DiptychError: the disk has no room for the raw files and the artifact.
        """
        shape = {"rows": self._n_rows, "widths": self._widths, "dtype": self._dtype, "batch_tokens": batch_tokens}
        text = artifacts.canonical_json([self._spec, shape])
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        left = self._left_over(fingerprint)
        if left is None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._require_disk(2 * self._bytes())
            self._directory.mkdir(parents=True)
        else:
            self._require_disk(self._bytes())
            logs.logger.info("resuming after %d sequences", left.sequences)
        self.progress = left or Progress(fingerprint, batch_tokens)
        for site, width in self._widths.items():
            values = self._map(f"{site}.values", (self._n_rows, width), STORED[self._dtype])
            self._sites[site] = Site(values, self._map(f"{site}.norm", (self._n_rows,), np.float32))

    def put(self, site: str, row: IntArray, rows: Tensor, norm: npt.NDArray[np.float32]) -> None:
        """Store rows [k, d] with their norms [k] at the places `row`.

        Raises:
            DiptychError: float16 cannot hold a value.
        """
        if self._dtype == "float16" and float(rows.abs().max()) > FLOAT16_MAX:
            raise DiptychError(
                f"site {site!r}: a value of {float(rows.abs().max()):.0f} does not fit float16; store bfloat16"
            )
        stored = rows.to(TORCH[self._dtype])
        if stored.dtype != rows.dtype:
            error = (stored.float() - rows.float()).norm(dim=-1).cpu().numpy() / np.maximum(norm, 1e-30)
            self.progress.storage_error[site] = max(self.progress.storage_error.get(site, 0.0), float(error.max()))
        bits = stored.view(torch.uint16) if self._dtype == "bfloat16" else stored
        self._sites[site].values[row] = bits.cpu().numpy()
        self._sites[site].norm[row] = norm

    def get(self, site: str, row: IntArray) -> npt.NDArray[np.float32]:
        """Stored rows as float32."""
        values = self._sites[site].values[row]
        return artifacts.from_bfloat16(values) if self._dtype == "bfloat16" else values.astype(np.float32)

    def save(self) -> None:
        """Make what is stored so far outlive the job: first the rows, then the note of how far they are."""
        for site in self._sites.values():
            site.values.flush()
            site.norm.flush()
        artifacts.write_text(self._directory / "progress.json", json.dumps(asdict(self.progress)))

    def finish(self, attributes: Mapping[str, Any]) -> None:
        """Write the artifact and remove the raw files."""
        with artifacts.create(self._out, "activations", self._spec) as writer:
            for site, raw in self._sites.items():
                shape = (self._n_rows, self._widths[site])
                stored = writer.rows(f"sites/{site}/values", shape, STORED[self._dtype])
                stored.attrs["dtype"] = self._dtype
                _copy(raw.values, stored)
                writer.array(f"sites/{site}/norm", raw.norm)
            for name, value in attributes.items():
                writer.json(name, value)
            writer.json("storage_error", {site: self.progress.storage_error.get(site, 0.0) for site in self._sites})
            writer.json("compute_error", self.progress.compute_error)
            writer.json("batch", {"tokens": self.progress.batch_tokens, "halved": self.progress.halved})
        self._sites.clear()
        shutil.rmtree(self._directory)

    def _left_over(self, fingerprint: str) -> Progress | None:
        note = self._directory / "progress.json"
        if not note.is_file():
            return None
        left = Progress(**json.loads(note.read_text(encoding="utf-8")))
        return left if left.fingerprint == fingerprint else None

    def _map(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> "np.memmap[Any, Any]":
        path = self._directory / name
        return np.memmap(path, dtype=dtype, mode="r+" if path.exists() else "w+", shape=shape)

    def _bytes(self) -> int:
        row = sum(self._widths.values()) * np.dtype(STORED[self._dtype]).itemsize + 4 * len(self._widths)
        return self._n_rows * row

    def _require_disk(self, needed: int) -> None:
        self._out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._out.parent).free
        logs.logger.info(
            "%s: %d rows, %.2f GB (twice that while it is written)", self._out, self._n_rows, self._bytes() / 1e9
        )
        if needed > free:
            raise DiptychError(
                f"{self._out}: needs {needed / 1e9:.2f} GB of disk while it is written and {free / 1e9:.2f} GB are "
                "free; make room, use more shards or fewer sites"
            )


def _copy(values: npt.NDArray[Any], stored: h5py.Dataset) -> None:
    for start in range(0, len(values), COPY_ROWS):
        stored[start : start + COPY_ROWS] = values[start : start + COPY_ROWS]
