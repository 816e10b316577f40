"""Checkpoints from which a killed job continues: one file beside its artifact.

checkpoint = Checkpoint.beside("weights.h5", spec)
state = checkpoint.load("cpu")        # None if there is none, or it is of another spec
checkpoint.save({"step": 100, "optimizer": optimizer.state_dict()})
checkpoint.remove()                   # the artifact is there
"""

import hashlib
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diptych.runtime import logs
from diptych.storage import unfinished
from diptych.storage.canonical import canonical_json


@dataclass(frozen=True)
class Checkpoint:
    """A file with a job's state.

    Attributes:
        path: the file.
        key: what the state was made from; a file with another key is not read.
    """

    path: Path
    key: str

    @classmethod
    def beside(cls, artifact: str | Path, spec: Mapping[str, Any]) -> "Checkpoint":
        """The checkpoint of the artifact or directory that will be made from `spec`."""
        path = Path(artifact)
        key = hashlib.sha256(canonical_json(spec).encode()).hexdigest()
        return cls(path.with_name(f".{path.name}.checkpoint"), key)

    def save(self, state: Mapping[str, Any]) -> None:
        """Put tensors, numbers, strings, lists and dicts of them in the place of what was saved before."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = unfinished.name(self.path)
        try:
            with temporary.open("wb") as file:
                torch.save({"key": self.key, "state": dict(state)}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, device: str) -> dict[str, Any] | None:
        """The last saved state with tensors on `device`; None if there is none of this spec, or it cannot be read."""
        if not self.path.is_file():
            return None
        try:
            stored = torch.load(self.path, map_location=device, weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError):
            logs.logger.warning("%s is damaged and cannot be read; starting afresh", self.path)
            return None
        if stored["key"] != self.key:
            logs.logger.info("%s is of another spec; starting afresh", self.path)
            return None
        state: dict[str, Any] = stored["state"]
        return state

    def remove(self) -> None:
        """Delete it, and what a process killed while saving it left."""
        self.path.unlink(missing_ok=True)
        unfinished.clear(self.path)
