"""The files of a published crosscoder: one with tensors, and the configs beside it that say how they are used.

    files = files_of("crosscoders/gemma-2-2b-L13-k100")     # model.safetensors, config.json, trainer_config.json
    tensors = read_tensors(files[0])                        # torch tensors by name
    configs = read_configs(files[1:])                       # {"config.json": {...}, "trainer_config.json": {...}}

torch is imported where tensors are read, not by this module: a plan only needs the names. Nothing is unpickled but
tensors, and of YAML nothing is made but plain values.
"""

import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from diptych.models import hub
from diptych.runtime.errors import DiptychError, first_line

if TYPE_CHECKING:
    from torch import Tensor

TENSOR_FILES = ("model.safetensors", "model.pt", "model_final.pt", "ae.pt", "cc_weights.pt")
"""Names under which libraries save a crosscoder in a directory, the preferred one first."""
CONFIG_FILES = ("config.json", "trainer_config.json", "model_cfg.yaml", "experiment_config.yaml")
"""Configs beside it; crosscode keeps experiment_config.yaml one directory above."""
COMPILED = "_orig_mod."
"""Prefix that torch.compile adds to the name of every tensor."""


def files_of(weights: str | Path) -> list[Path]:
    """The file with the tensors, and the configs that lie beside it.

    Args:
        weights: that file, or the directory that holds one of `TENSOR_FILES`.

    Returns:
        The file first; `weights` alone if there is no such file (then `read_tensors` says what is missing).
    """
    path = Path(weights)
    if path.is_dir():
        path = next((path / name for name in TENSOR_FILES if (path / name).is_file()), path)
    config_paths = [path.parent / name for name in CONFIG_FILES]
    config_paths.append(path.parent.parent / CONFIG_FILES[-1])
    return [path, *(config for config in config_paths if config.is_file())] if path.is_file() else [path]


def downloaded(name: str, revision: str, folder: str | None = None) -> list[Path]:
    """The files of a crosscoder on the hub, as `files_of` gives them, out of the hub's cache or downloaded into it.

    Args:
        name: owner/name on the hub.
        revision: commit, tag or branch.
        folder: the crosscoder's, if it is not at the repository's top.

    Raises:
        DiptychError: as `hub.snapshot`, or no such file is there.
    """
    patterns = [f"{folder}/{name}" if folder else name for name in (*TENSOR_FILES, *CONFIG_FILES)]
    snapshot = hub.snapshot(name, revision, patterns, what="crosscoder")
    found = files_of(snapshot / folder if folder else snapshot)
    if not found[0].is_file():
        where = f"crosscoder {name} at revision {revision}, folder {folder or '.'}"
        raise DiptychError(f"{where}: holds none of {', '.join(TENSOR_FILES)}; check the folder")
    return found


def read_tensors(path: str | Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors or .pt file by name, without torch.compile's prefix.

    Raises:
        DiptychError: the file is missing, or holds anything but tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch import Tensor, load

    if Path(path).is_dir():
        raise DiptychError(f"{path}: holds none of {', '.join(TENSOR_FILES)}; give the crosscoder's file")
    if not Path(path).is_file():
        raise DiptychError(f"{path}: no such file; give the crosscoder's safetensors or .pt file")
    try:
        saved_by_torch = zipfile.is_zipfile(path)
        state = load(path, map_location="cpu", weights_only=True) if saved_by_torch else load_file(path)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError) as error:
        raise DiptychError(f"{path}: holds no plain tensors ({first_line(error)}); save them as safetensors") from None
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise DiptychError(f"{path}: holds no plain tensors by name, but a {type(state).__name__}; save its state_dict")
    return {str(name).removeprefix(COMPILED): value for name, value in state.items() if isinstance(value, Tensor)}


def read_configs(paths: Sequence[str | Path]) -> dict[str, Mapping[str, Any]]:
    """The configs by file name.

    Raises:
        DiptychError: a file is neither JSON nor YAML, or holds no keys.
    """
    configs: dict[str, Mapping[str, Any]] = {}
    for path in map(Path, paths):
        text = path.read_text(encoding="utf-8")
        try:
            values = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=_PlainLoader)  # noqa: S506
        except (ValueError, yaml.YAMLError) as error:
            raise DiptychError(f"{path}: cannot be read ({first_line(error)}); take it away, or mend it") from error
        if not isinstance(values, dict):
            raise DiptychError(f"{path}: holds no keys; take it away, or mend it")
        configs[path.name] = values
    return configs


class _PlainLoader(yaml.SafeLoader):
    """YAML's safe loader, to which a Python object (crosscode writes a dtype and tuples) is null."""


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def name_of_model(model: str) -> str:
    """A model's name without its owner, in lower case: libraries name the same model with and without."""
    return model.rpartition("/")[2].lower()
