"""The files that hold a model's weights: which they are, and how they come into a directory of ours.

    weights.find(Path("pythia-70m"))    # Weights(shards=(.../model.safetensors,), index=None)

Weights are in one file or in several with an index that says which tensor is where, as safetensors or, in old
checkpoints, pickled by torch. Safetensors are linked, not copied; pickled tensors are converted to safetensors one file
at a time. A pickle can run code when it is read, so it is read as tensors alone and refused if it holds anything else.
"""

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.models import hub_cache
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError, first_line
from diptych.storage import links

if TYPE_CHECKING:
    import torch

INDEX = ".index.json"
"""End of the name of an index of sharded weights."""
SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
"""Names that transformers gives the weights, in the order in which it looks for them."""


@dataclass(frozen=True)
class Weights:
    """The files of a model's weights, and the index of these where they are several."""

    shards: tuple[Path, ...]
    index: Path | None = None

    @property
    def pickled(self) -> bool:
        """Whether torch pickled them."""
        return self.shards[0].suffix == ".bin"


def find(directory: Path) -> Weights | None:
    """The weights in a directory, safetensors first; None where there are none.

    Raises:
        DiptychError: an index is broken, or names a file outside of the directory or one that is not there.
    """
    for name in (SAFETENSORS, PICKLED):
        if (directory / name).is_file():
            return Weights((directory / name,))
        if (directory / f"{name}{INDEX}").is_file():
            index = directory / f"{name}{INDEX}"
            names = shard_names(index)
            return Weights(tuple(_shard(directory, name, index) for name in names), index)
    return None


def shard_names(index: Path) -> list[str]:
    """Names of the files that an index of sharded weights lists, each once, in order.

    Raises:
        DiptychError: it is no index, or a name is a path or has another ending than the index.
    """
    try:
        values = json.loads(index.read_text(encoding="utf-8"))
        names = sorted({str(name) for name in values["weight_map"].values()})
        known = isinstance(values["metadata"], dict) and bool(names)
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise DiptychError(
            f"{index}: no index of sharded weights (`metadata`, and a `weight_map` from tensors to files)"
        )
    suffix = Path(index.name.removesuffix(INDEX)).suffix
    for name in names:
        if re.search(r"[/\\\0]", name) or not name.endswith(suffix) or name == suffix:
            raise DiptychError(
                f"{index}: names {name!r}; an index may only name {suffix} files of its own directory; fetch the "
                "model again, or mend the index"
            )
    return names


def place(weights: Weights, directory: Path) -> None:
    """Bring the weights into `directory` as safetensors: linked, or converted if they are pickled.

    Raises:
        DiptychError: a pickle holds more than tensors, or is broken.
    """
    if weights.pickled:
        _convert_all(weights, directory)
        return
    for shard in weights.shards:
        kind = links.link(shard, directory / shard.name)
        logs.logger.info("%s: %s of %s", shard.name, kind, shard)
    if weights.index is not None:
        (directory / weights.index.name).write_bytes(weights.index.read_bytes())


def _convert_all(weights: Weights, directory: Path) -> None:
    """Write pickled weights as safetensors, with an index if they had one."""
    total, file_of = 0, dict[str, str]()
    for shard in weights.shards:
        name = f"{shard.stem.removeprefix('pytorch_')}.safetensors"
        sizes = convert(shard, directory / name)
        if twice := sorted(set(sizes) & set(file_of)):
            raise DiptychError(f"{shard}: holds {twice[0]!r}, and so does another file; fetch the model again")
        file_of |= dict.fromkeys(sizes, name)
        total += sum(sizes.values())
    if weights.index is not None:
        values = {"metadata": {"total_size": total}, "weight_map": dict(sorted(file_of.items()))}
        text = json.dumps(values, indent=2) + "\n"
        (directory / f"{SAFETENSORS}{INDEX}").write_text(text, encoding="utf-8")


def convert(file: Path, target: Path) -> dict[str, int]:
    """Write the tensors of a pickled file as safetensors; their names, and bytes of each.

    A tensor keeps its name, dtype and values; tensors that share memory are stored one by one.

    Args:
        file: as `torch.save` writes tensors by name.
        target: the new file.

    Raises:
        DiptychError: the file is broken, or holds anything but tensors by name.
    """
    from safetensors.torch import save_file

    logs.logger.info("converting %s (%.0f MB) to safetensors", file.name, file.stat().st_size / 1e6)
    tensors = _independent(read_pickled(file))
    save_file(tensors, target, metadata={"format": "pt"})
    return {name: tensor.nbytes for name, tensor in tensors.items()}


def read_pickled(file: Path) -> "dict[str, torch.Tensor]":
    """The tensors by name that `torch.save` wrote into a file; nothing else in it is executed or returned.

    Raises:
        DiptychError: it is broken, or holds anything but tensors by name.
    """
    import torch

    try:
        # Only the zip format can be mapped into memory; checkpoints of before 2020 are in another one.
        values = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a broken pickle raises whatever its reader stumbles over
        raise DiptychError(f"{file}: {_refusal(error)}") from error
    if not isinstance(values, dict):
        raise DiptychError(f"{file}: holds {type(values).__name__}, no tensors by name; save the model's state_dict")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            raise DiptychError(
                f"{file}: {name!r} is {type(value).__name__}, no dense tensor; save the model's state_dict"
            )
    return dict(values)


def _refusal(error: BaseException) -> str:
    """torch's message on an unsafe pickle, without its advice to load it anyway."""
    if forbidden := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"holds more than tensors ({forbidden[1]}), and reading that could run code; not read: get the weights as "
            "safetensors, or convert them yourself if you trust their source"
        )
    reason = "" if isinstance(error, pickle.UnpicklingError) else f" ({first_line(error)})"
    return f"cannot be read as tensors alone{reason}; fetch it again, or get the weights as safetensors"


def _independent(tensors: "Mapping[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """The tensors, each with memory of its own and nothing else in it, as safetensors wants them."""
    independent, seen = {}, set[int]()
    for name, tensor in tensors.items():
        whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        shared = tensor.untyped_storage().data_ptr() in seen
        independent[name] = tensor.detach() if whole and not shared else tensor.detach().clone().contiguous()
        seen.add(tensor.untyped_storage().data_ptr())
    return independent


def _shard(directory: Path, name: str, index: Path) -> Path:
    """A file that an index names; in the hub's cache it is a symbolic link to a blob of the same repository."""
    path = directory / name
    if not path.is_file():
        raise DiptychError(f"{index}: names {name!r}, which is not there; fetch the model again")
    place = directory.resolve()
    inside = [place, *[hub_cache.blobs(place)] * hub_cache.is_snapshot(place)]
    if path.resolve().parent not in inside:
        raise DiptychError(
            f"{index}: names {name!r}, a symbolic link that leaves the directory; put the file itself there"
        )
    return path
