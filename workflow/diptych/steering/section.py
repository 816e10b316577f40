"""The section on steering of one pair: what the models generate when steered along the candidates."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych import methods
from diptych.candidates.candidate import id_in_run
from diptych.page import figures, method_sections
from diptych.page.blocks import (
    Block,
    Cell,
    Figure,
    Item,
    Note,
    Prose,
    Sample,
    Section,
    Table,
    number,
    number_cell,
    percent,
    prose_number,
    visible,
)
from diptych.page.method_sections import Chapters, Evidence, Finding, PageData
from diptych.steering import effects
from diptych.steering.effects import Steering

ROLES = {
    "unsteered": "unsteered",
    "own": "own",
    "transfer": "mapped",
    "match": "own match",
    "random": "random direction",
    "latent": "random feature",
}
"""Labels. Own: the direction in its own model. Mapped: by the linear map into the other model. Own match: the feature
of the other model that it is matched with."""
SHOWN_TEXTS = 2
"""Texts shown of each trial, from different prompts."""
CONTROLS = ("random", "latent")


def section(pair: Mapping[str, Any]) -> Section:
    """The section on steering in both models of one pair."""
    steering = effects.read(pair["files"]["steering"])
    names = {"A": pair["a"], "B": pair["b"]}
    section_id, lead = f"{pair['id']}-steering", "What the models write when they are pushed along what was found."
    if not len(steering.items["id"]):
        empty = Note("info", "There is no candidate that can be steered along.")
        return Section(section_id, "Steering", [empty], lead=lead)
    inner = [
        Section(f"{section_id}-effects", "Effect of each direction", _effects(steering, pair, names)),
        Section(f"{section_id}-texts", "Generated texts", [_texts(steering, names)]),
        Section(f"{section_id}-words", "The directions in words", _words(steering, names)),
    ]
    return Section(section_id, "Steering", [Prose(_intro(steering, names))], inner, lead=lead)


def evidence(pair: Mapping[str, Any], findings: Sequence[Finding]) -> Evidence:
    """What the models write when steered along findings, unsteered beside it, and what the directions promote."""
    steering = effects.read(pair["files"]["steering"])
    names = {"A": pair["a"], "B": pair["b"]}
    keys = zip(steering.items["method"], steering.items["side"], steering.items["id"], strict=True)
    item_of = {key: item for item, key in enumerate(keys)}
    items = {}
    for finding in findings:
        if (item := item_of.get((finding.method, finding.side, id_in_run(finding.id, finding.run)))) is not None:
            ratio = float(steering.items["causal"][item])
            facts = [("steered, over random directions", number(ratio, 2))] if np.isfinite(ratio) else []
            words = _promoted(steering, item, names)
            items[finding] = Item("", facts, (), finding.side, words=words, samples=_samples(steering, item, names))
    return items


def _promoted(steering: Steering, item: int, names: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Tokens that the direction promotes and suppresses in the model that has it, through the logit lens."""
    lens = steering.lens
    at = np.flatnonzero((lens["item"] == item) & (lens["role"] == "own"))
    return [
        (f"{end} in {names[str(lens['model'][k])]} (lens)", json.loads(str(lens[end][k])))
        for k in at
        for end in ("promoted", "suppressed")
    ]


def _samples(steering: Steering, item: int, names: Mapping[str, str]) -> list[Sample]:
    """The first continuation of the first prompt without steering and at each length along an item."""
    trials, texts, samples = steering.trials, steering.texts, []
    first = (texts["sample"] == 0) & (texts["prompt"] == 0)
    for k in np.flatnonzero(first):
        t = int(texts["trial"][k])
        is_own = trials["role"][t] == "own" and int(trials["item"][t]) == item
        side = str(trials["model"][t])
        if is_own or (trials["role"][t] == "unsteered" and side == str(steering.items["side"][item])):
            length = prose_number(float(trials["strength"][t]))
            what = f"steered by {length} typical lengths" if is_own else "unsteered"
            label = f"{names[side]}, {what}"
            samples.append(Sample(label, steering.prompts[0], str(texts["text"][k]), "A" if side == "A" else "B"))
    return samples


def _intro(steering: Steering, names: Mapping[str, str]) -> str:
    settings = steering.settings
    where = (
        "every token they write" if settings["positions"] == "generated" else f"the position {settings['positions']}"
    )
    return (
        f"Each direction is added to the activations of {names['A']} and {names['B']} at {where}, "
        f"{' or '.join(prose_number(c) for c in settings['strengths'])} times as long as a typical activation, and the "
        f"models continue {len(steering.prompts)} prompts, {settings['samples']} times each, with the same random "
        "numbers. "
        "A direction that a model uses changes its predictions more than random directions of the same length, which "
        "are drawn from what the map leaves unexplained."
    )


def _item_name(steering: Steering, item: int, names: Mapping[str, str]) -> str:
    method, name = steering.items["method"][item], str(steering.items["id"][item])
    if method == "matched":
        return f"matched features {name.replace('--', ' ↔ ')}"
    if method == "named":
        return f"feature {name} of {names[steering.items['side'][item]]}, named in the config"
    return f"{methods.named(method).kind} {name} of {names[steering.items['side'][item]]}"


def _effects(steering: Steering, pair: Mapping[str, Any], names: Mapping[str, str]) -> list[Block]:
    blocks: list[Block] = [_causal(steering, names)]
    for side in ("A", "B"):
        if (steering.trials["model"] == side).any():
            blocks.append(_curve(steering, f"{pair['id']}-steering-{side}", side, names))
    blocks.append(_table(steering, names))
    if len(steering.agreement["item"]):
        blocks.append(_agreement(steering, names))
    return blocks


def _causal(steering: Steering, names: Mapping[str, str]) -> Note:
    """The effect of each item relative to random directions, in one sentence."""
    text = []
    for item, ratio in enumerate(steering.items["causal"]):
        if np.isfinite(ratio):
            text.append(f"{_item_name(steering, item, names)} {number(float(ratio), 2)}")
    if not text:
        return Note("info", "There are no random directions to compare the effects with.")
    return Note(
        "info",
        f"Effect on its own model relative to random directions of the same length (1: no larger): {', '.join(text)}.",
    )


def _curve(steering: Steering, name: str, side: str, names: Mapping[str, str]) -> Figure:
    trials = steering.trials
    mine = trials["model"] == side
    series: dict[str, tuple[npt.ArrayLike, npt.ArrayLike]] = {}
    for item in range(len(steering.items["id"])):
        for role in ("own", "transfer", "match"):
            at = mine & (trials["item"] == item) & (trials["role"] == role)
            if at.any():
                series[f"{_item_name(steering, item, names)}, {ROLES[role]}"] = _mean_by_strength(trials, at)
    for role in CONTROLS:
        at = mine & (trials["role"] == role)
        if at.any():
            series[f"{ROLES[role]}s, mean"] = _mean_by_strength(trials, at)
    return Figure(
        name,
        f"Effect of steering on {names[side]}",
        "Kullback-Leibler divergence of the next token, steered from unsteered, by the length of the added vector.",
        figures.line_plot(series, x="length of the added vector (median norms)", y="KL (nats per token)"),
        height=260 + 18 * len(series),
    )


def _mean_by_strength(trials: effects.Columns, at: npt.NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    strengths = sorted(set(trials["strength"][at].tolist()))
    means = [float(trials["kl"][at & (trials["strength"] == c)].mean()) for c in strengths]
    return [0.0, *strengths], [0.0, *means]


def _table(steering: Steering, names: Mapping[str, str]) -> Table:
    trials = steering.trials
    rows: list[list[str | Cell]] = []
    for t in range(len(trials["role"])):
        role, item, strength = str(trials["role"][t]), int(trials["item"][t]), float(trials["strength"][t])
        rows.append(
            [
                names[trials["model"][t]],
                ROLES[role],
                _item_name(steering, item, names) if item >= 0 else str(trials["name"][t]) if role in CONTROLS else "–",
                number_cell(strength),
                Cell(
                    f"{number(float(trials['kl'][t]))} ± {number(float(trials['kl_error'][t]))}" if strength else "0",
                    order=float(trials["kl"][t]),
                ),
                number_cell(float(trials["perplexity"][t])),
                Cell(percent(float(trials["share"][t])), order=_order(trials["share"][t])),
                Cell(percent(float(trials["share_unsteered"][t])), order=_order(trials["share_unsteered"][t])),
            ]
        )
    return Table(
        ["model", "direction", "of", "length", "KL ± error", "perplexity", "own words", "unsteered"],
        rows,
        caption="Every trial: a direction in its own model, mapped into the other model, the feature matched with it "
        "there, and the controls. Click a heading to sort.",
        interactive=True,
        hints=(
            "", "", "", "In median norms of the model's activations.",
            "Nats per token, with the standard error over texts.",
            "Of the texts under the unsteered model: how unlikely they are for it.",
            "Share of the tokens that are among those on which the direction is strongest.",
            "The same share in the texts of the unsteered model.",
        ),
    )  # fmt: skip


def _order(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _agreement(steering: Steering, names: Mapping[str, str]) -> Table:
    """Table of how similarly a direction and its image under the map act."""
    rows: list[list[str | Cell]] = []
    for k, item in enumerate(steering.agreement["item"]):
        between = str(steering.agreement["between"][k])
        for side in ("A", "B"):
            between = between.replace(f" in {side}", f" in {names[side]}")
        rows.append(
            [
                _item_name(steering, int(item), names),
                between,
                number_cell(float(steering.agreement["strength"][k])),
                number_cell(float(steering.agreement["cosine"][k])),
                number_cell(float(steering.agreement["null"][k])),
            ]
        )
    return Table(
        ["direction", "between", "length", "cosine", "random"],
        rows,
        caption="Does a direction have the same effect in both models? The cosine between the two changes of the "
        "next token's log-probabilities; beside it the same with random directions.",
    )


def _texts(steering: Steering, names: Mapping[str, str]) -> Table:
    trials, texts = steering.trials, steering.texts
    rows: list[list[str | Cell]] = []
    shown = texts["sample"] == 0
    shown &= texts["prompt"] < SHOWN_TEXTS
    first = {role: str(trials["name"][trials["role"] == role][0]) for role in set(trials["role"])}
    for k in np.flatnonzero(shown):
        t = int(texts["trial"][k])
        role, item = str(trials["role"][t]), int(trials["item"][t])
        if role in CONTROLS and trials["name"][t] != first[role]:
            continue
        prompt = steering.prompts[int(texts["prompt"][k])]
        rows.append(
            [
                names[trials["model"][t]],
                ROLES[role],
                _item_name(steering, item, names) if item >= 0 else "–",
                number_cell(float(trials["strength"][t])),
                Cell(f"{prompt} ▸ {visible(str(texts['text'][k]))}", tone="quoted"),
            ]
        )
    return Table(
        ["model", "direction", "of", "length", "prompt ▸ text"],
        rows,
        caption="The first text of the first prompts of every trial (one control of each kind); all are in the file.",
        interactive=True,
    )


def _words(steering: Steering, names: Mapping[str, str]) -> list[Block]:
    rows: list[list[str | Cell]] = [
        [
            _item_name(steering, int(item), names),
            names[steering.lens["model"][k]],
            ROLES[str(steering.lens["role"][k])],
            Cell(_tokens(steering.lens["promoted"][k]), tone="quoted"),
            Cell(_tokens(steering.lens["suppressed"][k]), tone="quoted"),
        ]
        for k, item in enumerate(steering.lens["item"])
    ]
    strongest: list[list[str | Cell]] = [
        [_item_name(steering, item, names), Cell(_tokens(words), tone="quoted")]
        for item, words in enumerate(steering.items["words"])
    ]
    blocks: list[Block] = [
        Table(["direction", "strongest on"], strongest, caption="Words of the text on which each is strongest."),
        Table(
            ["direction", "model", "role", "promotes", "suppresses"],
            rows,
            caption="Logit lens: next tokens that the direction alone makes more and less likely.",
        ),
    ]
    return [*blocks, _explanations(steering, names)]


def _explanations(steering: Steering, names: Mapping[str, str]) -> Block:
    if not len(steering.explanations["text"]):
        return Note("info", "The models have no chat template, so they were not asked what the directions mean.")
    rows: list[list[str | Cell]] = [
        [
            _item_name(steering, int(item), names),
            names[steering.explanations["model"][k]],
            number_cell(float(steering.explanations["scale"][k])),
            Cell(visible(str(steering.explanations["text"][k])), tone="quoted"),
        ]
        for k, item in enumerate(steering.explanations["item"])
    ]
    return Table(
        ["direction", "model", "length", "its answer"],
        rows,
        caption="The model's own words: asked for the meaning of a word, with the direction in the word's place. Small "
        "models seldom know.",
    )


def _tokens(stored: Any) -> str:
    tokens: Sequence[str] = json.loads(str(stored))
    return " · ".join(visible(token) for token in tokens) or "–"


class Sections(method_sections.Sections):
    """The steering section of the page."""

    def of_cell(self, cell: Mapping[str, Any], page: PageData) -> Chapters:
        """The effects of steering along each direction."""
        return {"what": section(cell)}

    def evidence_of_others(self, cell: Mapping[str, Any], page: PageData, findings: Sequence[Finding]) -> Evidence:
        """What the models write when they are steered along findings."""
        return evidence(cell, findings)


SECTIONS = Sections()
