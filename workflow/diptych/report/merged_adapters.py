"""Merged adapters on the page: which adapter made a model, how much storing it rounded, and what was noted."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.page.blocks import Block, Note, percent


def origin(model: Mapping[str, Any], parent: str) -> str:
    """Summary of an adapter's merge into its parent: sizes of the change and of its rounding (merge.json)."""
    record = _record(model)
    rounding = record["rounding"]
    return (
        f"{parent} with the {record['kind']} adapter {record['adapter']} (rank {record['rank']}) merged in: "
        f"{len(record['weights'])} weights move by {percent(record['change'])} of their norm; storing them as "
        f"{record['stored_dtype']} rounds that by {percent(rounding['of_change'])} and takes back "
        f"{percent(rounding['lost'])} of the changed entries"
    )


def notes(model: Mapping[str, Any]) -> list[Block]:
    """A warning for each thing that was noted when an adapter was merged; [] for other models."""
    if not (Path(model["directory"]) / "merge.json").is_file():
        return []
    record = _record(model)
    return [Note("warn", f"{model['name']}: the adapter {record['adapter']}: {note}.") for note in record["notes"]]


def _record(model: Mapping[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((Path(model["directory"]) / "merge.json").read_text(encoding="utf-8"))
    return record
