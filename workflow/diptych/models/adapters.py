"""PEFT adapters (LoRA and DoRA) from a directory or the hub; `derive.merge` adds one to its parent's weights.

    fetch("results/adapters/tuned", spec=spec, source={"id": "owner/adapter", "revision": "main"})

The result is a directory with adapter_config.json as it was, adapter_model.safetensors, and the chat template that the
adapter was trained with if it brings one.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.models import chat_templates, hub, hub_cache, weights
from diptych.runtime.errors import DiptychError, first_line
from diptych.storage import artifacts, links

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
UNREPEATABLE = ("pissa_niter", "loftq", "corda", "lora_ga")
"""Initialisations that change the base's own weights by a draw, or by data that the adapter does not bring."""


def fetch(out_dir: str | Path, *, spec: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """Bring an adapter from its source into `out_dir`.

    Args:
        out_dir: the adapter's directory, written whole or not at all.
        spec: what the result depends on.
        source: `path` of a directory, or `id` and `revision` on the hub with the `subfolder` it is in; `chat_template`,
            name of the one that is kept.

    Raises:
        DiptychError: the source is missing, or is no LoRA or DoRA adapter with its weights.
    """
    directory = Path(source["path"]) if source.get("path") else _snapshot(source)
    description = source.get("path") or f"{source['id']} at {source['revision']}"
    read_config(directory, description)
    with artifacts.create_directory(out_dir, "adapter", spec) as out:
        shutil.copyfile(directory / CONFIG, out / CONFIG)
        if (directory / WEIGHTS).is_file():
            links.link(directory / WEIGHTS, out / WEIGHTS)
        elif (directory / PICKLED).is_file():
            weights.convert(directory / PICKLED, out / WEIGHTS)
        else:
            raise DiptychError(f"{description}: holds neither {WEIGHTS} nor {PICKLED}; save it with save_pretrained")
        if template := chat_templates.choose(directory, source.get("chat_template", chat_templates.DEFAULT)):
            (out / chat_templates.FILE).write_text(template, encoding="utf-8")


def read_config(directory: Path, description: str) -> dict[str, Any]:
    """The adapter's adapter_config.json.

    Args:
        directory: the adapter's.
        description: what messages call it.

    Raises:
        DiptychError: there is none, it is broken, or what it describes cannot be merged into its parent's weights.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise DiptychError(f"{description}: holds no {CONFIG}; not a PEFT adapter")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DiptychError(f"{description}: its {CONFIG} is not JSON ({first_line(error)}); get it again") from error
    if not isinstance(config, dict):
        raise DiptychError(f"{description}: its {CONFIG} is no JSON object; get it again")
    if problem := _problem(config):
        raise DiptychError(f"{description}: {problem}")
    return config


def _problem(config: Mapping[str, Any]) -> str | None:
    """Why an adapter of this config cannot be merged, or None."""
    if (kind := config.get("peft_type")) != "LORA":
        return f"peft_type {kind!r} is neither LoRA nor DoRA; merge it yourself and give the model as `kind: directory`"
    if (task := config.get("task_type")) not in (None, "CAUSAL_LM"):
        return f"task_type {task!r}, where a causal language model's adapter (CAUSAL_LM) is needed"
    library = (config.get("auto_mapping") or {}).get("parent_library") or "transformers"
    if library.partition(".")[0] not in ("transformers", "peft"):
        return f"auto_mapping names code of its own ({library}), which is not run; merge it yourself, or take it out"
    if config.get("layer_replication"):
        return "layer_replication makes a model with more blocks than its parent; merge it yourself"
    if str(start := config.get("init_lora_weights")).lower().startswith(UNREPEATABLE):
        return (
            "its training began by changing the base's own weights in a way that cannot be repeated "
            f"(init_lora_weights {start!r}); save it with path_initial_model_for_weight_conversion"
        )
    return None


def _snapshot(source: Mapping[str, Any]) -> Path:
    """Directory of the hub's cache that holds an adapter."""
    folder = PurePosixPath(source.get("subfolder") or ".")
    if folder.is_absolute() or ".." in folder.parts:
        raise DiptychError(f"subfolder: {str(folder)!r} is not a folder of the repository; write it as a/b")
    names = (CONFIG, chat_templates.CONFIG, chat_templates.FILE, f"{chat_templates.DIRECTORY}/*.jinja", WEIGHTS)
    snapshot = hub.snapshot(source["id"], source["revision"], [str(folder / name) for name in names], what="adapter")
    if not (snapshot / folder / WEIGHTS).is_file():
        commit = snapshot.name if hub_cache.is_snapshot(snapshot) else source["revision"]
        snapshot = hub.snapshot(source["id"], commit, [str(folder / PICKLED)], what="adapter")
    return snapshot / folder
