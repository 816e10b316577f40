"""Tiny models that differ from a parent in a known way."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

RANK = 4
SPEC = {"seed": 0}


def edited(parent: Path, out: Path, edit) -> Path:
    """A copy of a model after `edit` has changed its tensors by name, in place or by returning new ones."""
    shutil.copytree(parent, out)
    tensors = load_file(out / "model.safetensors")
    tensors = edit(tensors) or tensors
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, out / "model.safetensors", {"format": "pt"}
    )
    return out


def in_dtype(parent: Path, out: Path, dtype: torch.dtype) -> Path:
    """A copy of a model whose weights are stored in another precision."""
    return edited(parent, out, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})


def sharded(parent: Path, out: Path) -> Path:
    """A copy of a model whose weights are stored in two files with an index."""
    shutil.copytree(parent, out)
    tensors = load_file(out / "model.safetensors")
    (out / "model.safetensors").unlink()
    file_of = {name: f"model-{1 + i % 2:05d}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(file_of.values()):
        save_file({name: tensors[name] for name in tensors if file_of[name] == file}, out / file, {"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": file_of}
    (out / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return out


def set_config(directory: Path, **values) -> Path:
    """Change keys of config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")
    return directory


def low_rank(weight: torch.Tensor, rank: int = RANK, seed: int = 0) -> torch.Tensor:
    """A weight with a change of this rank, a tenth as large."""
    generator = torch.Generator().manual_seed(seed)
    m, n = weight.shape
    change = torch.randn((m, rank), generator=generator) @ torch.randn((rank, n), generator=generator)
    changed: torch.Tensor = (weight.float() + 0.1 * weight.float().norm() * change / change.norm()).to(weight.dtype)
    return changed
