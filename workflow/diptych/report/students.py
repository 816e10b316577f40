"""Distilled models on the page: how a student was made, and how far it is from its teacher on held-out text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.page.blocks import Block, Cell, Table, counted, listed, number_cell, prose_number

LOSSES = {"kl": "KL", "jacobian": "the Jacobian loss", "hidden": "the distance of the hidden states"}
"""Loss of a distillation -> what it is called in a sentence."""


def origin(model: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Summary of a distillation: blocks and initial weights of the student, its losses and budget."""
    layers = _record(model)["layers"]
    start = "random weights" if settings["init"] == "random" else f"blocks {listed([str(layer) for layer in layers])}"
    weights = [
        f"{prose_number(settings['loss'][name])} x {title}" for name, title in LOSSES.items() if settings["loss"][name]
    ]
    return (
        f"a student of {settings['parent']}: {counted(len(layers), 'block')} from {start}, distilled on "
        f"{settings['corpus']} by {' + '.join(weights)} in {counted(settings['steps'], 'step')} of "
        f"{counted(settings['batch_sequences'], 'sequence')}; its token embedding is the teacher's, untrained"
    )


def distances(model: Mapping[str, Any]) -> list[Block]:
    """A student's held-out KL and Jacobian loss by source, before and after; [] for other models."""
    if not (Path(model["directory"]) / "training.json").is_file():
        return []
    before, after = (_record(model)[when] for when in ("before", "after"))
    if "jacobian" not in after:
        return []
    rows: list[list[str | Cell]] = [
        [source, *(number_cell(when[name][source]) for name in ("kl", "jacobian") for when in (before, after))]
        for source in after["kl"]
    ]
    columns = [f"{title} {when}" for title in ("KL", "Jacobian loss") for when in ("before", "after")]
    caption = (
        f"{model['name']} against its teacher on held-out text: KL(teacher || student) in nats a position, and the "
        "squared difference of their Jacobians (log-probabilities by input embeddings) relative to the teacher's; "
        "0 is the teacher."
    )
    return [Table(["source", *columns], rows, caption=caption)]


def _record(model: Mapping[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((Path(model["directory"]) / "training.json").read_text(encoding="utf-8"))
    return record
