"""What a report's cards show of features at template tokens: a claim in words, and prompts read by both models.

claim(cell, finding)        # 'Feature 142 fires on fewer prompts at "assistant" in tuned'
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.candidates.candidate import id_in_run
from diptych.page.blocks import ContextList, Item, number, p_value, percent, visible
from diptych.page.method_sections import Evidence, Finding
from diptych.template_diff.candidates import PROPOSER, label
from diptych.template_diff.pictures import panels
from diptych.template_diff.pictures.panels import METRIC_LABELS, View, role_label
from diptych.text.contexts import Codes, Text

VERBS = {
    "all mean": ("fires more strongly", "fires less strongly"),
    "active mean": ("fires more strongly where it fires", "fires less strongly where it fires"),
    "density": ("fires on more prompts", "fires on fewer prompts"),
}
"""Metric, as an id says it -> what more and less of it is."""


def claim(cell: Mapping[str, Any], finding: Finding) -> str:
    """Whether a feature does more or less at a template token in B."""
    place, _, metric = finding.id.rpartition(", ")
    latent, _, role = place.partition(" at ")
    verb = VERBS[metric][0 if finding.effect > 0 else 1]
    return f"Feature {id_in_run(latent, finding.run)} {verb} at “{visible(role)}” in {cell['b']}"


def evidence(cell: Mapping[str, Any], contexts: int, findings: Sequence[Finding]) -> Evidence:
    """The prompts on which each feature changed most, in both models."""
    items: dict[Finding, Item] = {}
    runs = PROPOSER.runs(cell["files"])
    for name, of_name in runs.items():
        prefix = f"{name} " if len(runs) > 1 else ""
        for run, files in enumerate(of_name, start=1):
            asked = [finding for finding in findings if finding.run == run]
            items |= _of_run(files["template_diffs"][0], prefix, contexts, asked) if asked else {}
    return items


def _of_run(run: Mapping[str, Any], prefix: str, contexts: int, findings: Sequence[Finding]) -> dict[Finding, Item]:
    """The findings of one run of a template diff, whose ids begin with a prefix."""
    view, text = panels.read(run["diff"]), Text(run["tokens"])
    codes = [Codes(run["features_a"]), Codes(run["features_b"])]
    names = zip(*(view.ranked[column] for column in ("latent", "role", "metric")), strict=True)
    row_of = {
        f"{prefix}{label(int(latent), str(role), str(metric))}": k for k, (latent, role, metric) in enumerate(names)
    }
    items = {}
    for finding in findings:
        if (k := row_of.get(finding.id)) is not None:
            at = view.prompts[k][view.prompts[k] >= 0][:contexts]
            items[finding] = item(view, k, at, text, codes, "")
    return items


def item(view: View, k: int, at: npt.NDArray[np.int64], text: Text, codes: Sequence[Codes], tag: str) -> Item:
    """A feature at a template token: its numbers in both models, and prompts shaded by its activation in each."""
    table = view.ranked
    latent, prompts = int(table["latent"][k]), view.summary["prompts"]
    side = "B" if str(table["direction"][k]) == "up" else "A"
    scale = max(float(model_codes.maximum[latent]) for model_codes in codes)
    facts = [
        ("at", role_label(str(table["role"][k]))),
        (METRIC_LABELS[str(table["metric"][k])], f"{number(float(table['a'][k]))} → {number(float(table['b'][k]))}"),
        ("effect", number(float(table["effect"][k]))),
        ("q", p_value(float(table["q"][k]))),
        ("fires on", f"{percent(table['n_active_a'][k] / prompts)} → {percent(table['n_active_b'][k] / prompts)}"),
    ]
    readings = [
        ContextList(
            f"in {name}",
            [
                text.context(
                    int(row), float(model_codes.values(latent, np.array([row]))[0]), model_codes.shade(latent, scale)
                )
                for row in at
            ],
            "A" if name_side == "a" else "B",
        )
        for name, model_codes, name_side in zip(view.names, codes, "ab", strict=True)
    ]
    return Item(f"feature {latent}", facts, readings, "B" if side == "B" else "A", tag, href=str(table["link"][k]))
