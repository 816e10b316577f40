"""The tensors of a model on disk, read one by one and never all together.

    stored = StoredTensors("results/models/base")
    stored.keys                                  # ["embed_tokens.weight", "layers.0.mlp.down_proj.weight", ...]
    with stored.tensor("embed_tokens.weight") as weight:
        weight[:4]                               # only the pages that are read come into memory

A key is the tensor's name without that of the trunk ("model.", "transformer."), which checkpoints of one architecture
have or lack, depending on who saved them.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from diptych.models import weights
from diptych.runtime.errors import DiptychError, first_line

TRUNKS = re.compile(r"(?:model|transformer|gpt_neox|backbone)\.")
"""What transformers calls the trunk of a model, at the beginning of a tensor's name."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""Floating-point types as safetensors names them."""


class Stored(NamedTuple):
    """Where a tensor is stored, its name there, its shape and its dtype (None: no floating-point numbers)."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None


def key_of(name: str) -> str:
    """The key of a tensor's name.

    >>> key_of("model.layers.3.mlp.down_proj.weight")
    'layers.3.mlp.down_proj.weight'
    """
    return TRUNKS.sub("", name, count=1) if TRUNKS.match(name) else name


class StoredTensors:
    """The tensors in the safetensors files of a model's directory, by key.

    Raises:
        DiptychError: no safetensors there, or a broken file.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        found = weights.find(self.directory)
        if found is None or found.pickled:
            raise DiptychError(f"{directory}: holds no safetensors; make the model again")
        self._stored: dict[str, Stored] = {}
        for shard in found.shards:
            with _opened(shard) as file:
                for name in file.keys():  # noqa: SIM118, no dictionary
                    part = file.get_slice(name)
                    dtype = DTYPES.get(part.get_dtype())
                    self._stored[key_of(name)] = Stored(shard, name, tuple(part.get_shape()), dtype)

    @property
    def keys(self) -> list[str]:
        """The keys of all tensors, sorted."""
        return sorted(self._stored)

    def __contains__(self, key: str) -> bool:
        return key in self._stored

    def __getitem__(self, key: str) -> Stored:
        return self._stored[key]

    @contextmanager
    def tensor(self, key: str) -> Iterator[torch.Tensor]:
        """One tensor, mapped from its file: its pages are read when they are used, and given back at the end."""
        stored = self._stored[key]
        with _opened(stored.file) as file:
            tensor: torch.Tensor = file.get_tensor(stored.name)
            yield tensor


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise DiptychError(
            f"{path}: cannot be read as safetensors ({first_line(error)}); make the model again"
        ) from error
