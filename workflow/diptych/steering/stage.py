"""The steering stage: steer both models of a pair along the best candidates and record what they generate.

    steer(files, sides, "steering.h5", "steering.tsv", spec=spec, device="cpu", strengths=(0.5, 1.0))

`directions` selects the directions, `writing` generates texts, `record` makes tables of them, and `models.lens` and
`explanation` interpret the directions in words; `effects` reads the artifact.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.candidates.candidate import SIDES, SideName
from diptych.models import lens as logit_lens
from diptych.models.placement import Devices
from diptych.steering import directions, explanation, record, writing
from diptych.steering.directions import Plan
from diptych.steering.effects import to_tsv
from diptych.steering.writing import Loaded, Settings, Side, Written
from diptych.storage import artifacts
from diptych.storage.canonical import canonical_json


def steer(
    files: Mapping[str, Any],
    sides: Mapping[SideName, Side],
    out: str | Path,
    table: str | Path,
    *,
    spec: Mapping[str, Any],
    device: Devices = "cpu",
    top: int = 2,
    matched: int = 1,
    random: int = 4,
    latents: int = 4,
    features_a: Sequence[int] = (),
    features_b: Sequence[int] = (),
    lens: int = 10,
    explain_scales: Sequence[float] = (1.0, 2.0, 4.0),
    explain_length: int = 16,
    **generation: Any,
) -> None:
    """Write an artifact of kind "steering", and its trials as TSV (stage `steer_features`).

    Args:
        files: the pair's artifacts, as for `directions.select`.
        sides: its models.
        out: path of the artifact.
        table: path of the TSV.
        spec: stored with it.
        device: a torch device, or those that each model is spread over.
        top: number of candidates of each method.
        matched: number of matched pairs of features.
        random: number of random directions for each model.
        latents: number of random live latents for each model.
        features_a: further features of A's dictionary that are steered along.
        features_b: the same for B's.
        lens: tokens shown at either end of the logit lens.
        explain_scales: lengths of the direction in the self-explanation prompt, in median norms there; if empty, the
            models are not asked.
        explain_length: tokens of an explanation.
        generation: fields of `Settings`.

    Raises:
        DiptychError: a site outside the residual stream, an unknown position, or prompts longer than the context.
    """
    settings = Settings(**generation)
    features: dict[SideName, Sequence[int]] = {"A": features_a, "B": features_b}
    plan = directions.select(
        files, top=top, matched=matched, random=random, latents=latents, seed=settings.seed, features=features
    )
    written: dict[SideName, Written] = {}
    lenses: list[dict[str, Any]] = []
    explained: list[dict[str, Any]] = []
    for name in SIDES:
        model = Loaded(sides[name], device)
        written[name] = writing.write(model, plan.runs[name], settings)
        lenses += _lens(model, plan, name, lens)
        explained += _explain(model, plan, name, explain_scales, explain_length)
        del model
    same_tokens = files["tokens_a"] == files["tokens_b"]
    with artifacts.create(out, "steering", spec) as writer:
        trials = _save(writer, plan, written, settings, same_tokens)
        writer.table("lens", record.columns(lenses, ("model", "item", "role", "promoted", "suppressed")))
        writer.table("explanations", record.columns(explained, ("model", "item", "scale", "text")))
    artifacts.write_text(table, to_tsv(trials))


def _save(
    writer: artifacts.Writer,
    plan: Plan,
    written: Mapping[SideName, Written],
    settings: Settings,
    same_tokens: bool,
) -> Mapping[str, Any]:
    """Store the steered items and the generated texts; returns the table of trials."""
    trials = record.trial_columns(plan, written)
    writer.table("items", record.item_columns(plan, trials), nan="density: no feature; causal: no random direction")
    writer.table("trials", trials, nan="share: the trial is of no item, or the item has no words")
    writer.array("shares", record.shares(plan.items, written), nan="the item has no words")
    writer.table("texts", record.text_columns(written, settings))
    writer.table("agreement", record.agreement(plan, written, same_tokens), nan="no random direction, or no change")
    writer.strings("prompts", list(settings.prompts))
    for name in SIDES:
        writer.array(f"directions/{name}", np.array([run.direction for run in plan.runs[name]], dtype=np.float32))
    writer.json("settings", {**vars(settings), "same_tokens": same_tokens})
    return trials


def _lens(model: Loaded, plan: Plan, name: SideName, count: int) -> list[dict[str, Any]]:
    """Tokens that each item's directions promote and suppress in one model."""
    runs = [run for run in plan.runs[name] if run.item >= 0]
    if not runs:
        return []
    logits = logit_lens.lens(model.model, np.stack([run.direction for run in runs]), model.median)
    order = np.argsort(-logits, axis=1, kind="stable")
    return [
        {
            "model": name,
            "item": run.item,
            "role": run.role,
            "promoted": canonical_json(model.tokenizer.texts(row[:count].tolist())),
            "suppressed": canonical_json(model.tokenizer.texts(row[::-1][:count].tolist())),
        }
        for run, row in zip(runs, order, strict=True)
    ]


def _explain(model: Loaded, plan: Plan, name: SideName, scales: Sequence[float], length: int) -> list[dict[str, Any]]:
    """The model's explanation of each item's directions; [] without a chat template."""
    runs = [run for run in plan.runs[name] if run.item >= 0 and run.role in ("own", "transfer")]
    if not runs or not scales or not model.tokenizer.has_template:
        return []
    rows = np.stack([run.direction for run in runs])
    texts = explanation.explain(model.model, model.tokenizer, rows, list(scales), length)
    return [
        {"model": name, "item": run.item, "scale": scale, "text": text}
        for run, row in zip(runs, texts, strict=True)
        for scale, text in zip(scales, row, strict=True)
    ]
