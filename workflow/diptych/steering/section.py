"""The section on steering of one pair: what the models write when they are pushed along what was found."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych import methods
from diptych.page import figures, method_sections
from diptych.page.blocks import (
    Block,
    Cell,
    Figure,
    Note,
    Prose,
    Section,
    Table,
    number,
    number_cell,
    percent,
    prose_number,
    visible,
)
from diptych.page.method_sections import PageData
from diptych.steering import effects
from diptych.steering.effects import Steering

ROLES = {
    "unsteered": "left alone",
    "own": "own",
    "transfer": "carried over",
    "match": "own match",
    "random": "random direction",
    "latent": "random feature",
}
"""Own: the direction in the model it is of. Carried over: mapped into the other model. Own match: the feature of the
other model that it is matched with."""
SHOWN_TEXTS = 2
"""Texts shown of each trial, from different prompts."""
CONTROLS = ("random", "latent")


def section(pair: Mapping[str, Any]) -> Section:
    """What steering did in both models of one pair."""
    done = effects.read(pair["files"]["steering"])
    names = {"A": pair["a"], "B": pair["b"]}
    if not len(done.items["id"]):
        nothing = Note("info", "Nothing was found that could be steered along.")
        return Section(f"{pair['id']}-steering", "Steering", [nothing])
    inner = [
        Section(f"{pair['id']}-steering-effects", "How far each push moves the models", _effects(done, pair, names)),
        Section(f"{pair['id']}-steering-texts", "What they write", [_texts(done, names)]),
        Section(f"{pair['id']}-steering-words", "What the directions say", _words(done, names)),
    ]
    return Section(f"{pair['id']}-steering", "Steering", [Prose(_intro(done, names))], inner)


def _intro(done: Steering, names: Mapping[str, str]) -> str:
    settings = done.settings
    where = (
        "every token they write" if settings["positions"] == "generated" else f"the position {settings['positions']}"
    )
    return (
        f"What was found is added to the activations of {names['A']} and {names['B']} at {where}, "
        f"{' or '.join(prose_number(c) for c in settings['strengths'])} times as long as a typical activation, and the "
        f"models go on from {len(done.prompts)} prompts, {settings['samples']} times each, with the same random "
        "numbers. "
        "A direction that means something to a model moves it further than random directions of the same length, which "
        "are drawn from what the map leaves unexplained."
    )


def _item_name(done: Steering, item: int, names: Mapping[str, str]) -> str:
    method, name = done.items["method"][item], str(done.items["id"][item])
    if method == "matched":
        return f"matched features {name.replace('--', ' ↔ ')}"
    return f"{methods.named(method).kind} {name} of {names[done.items['side'][item]]}"


def _effects(done: Steering, pair: Mapping[str, Any], names: Mapping[str, str]) -> list[Block]:
    blocks: list[Block] = [_causal(done, names)]
    for side in ("A", "B"):
        if (done.trials["model"] == side).any():
            blocks.append(_curve(done, f"{pair['id']}-steering-{side}", side, names))
    blocks.append(_table(done, names))
    if len(done.agreement["item"]):
        blocks.append(_agreement(done, names))
    return blocks


def _causal(done: Steering, names: Mapping[str, str]) -> Note:
    """One sentence on what moves a model more than chance does."""
    text = []
    for item, ratio in enumerate(done.items["causal"]):
        if np.isfinite(ratio):
            text.append(f"{_item_name(done, item, names)} {number(float(ratio), 2)}")
    if not text:
        return Note("info", "No random direction was tried: what a push of this length does anyway is not known.")
    return Note(
        "info",
        f"Effect on its own model, over that of random directions of the same length (1 is no more than chance): "
        f"{', '.join(text)}.",
    )


def _curve(done: Steering, name: str, side: str, names: Mapping[str, str]) -> Figure:
    trials = done.trials
    mine = trials["model"] == side
    series: dict[str, tuple[npt.ArrayLike, npt.ArrayLike]] = {}
    for item in range(len(done.items["id"])):
        for role in ("own", "transfer", "match"):
            at = mine & (trials["item"] == item) & (trials["role"] == role)
            if at.any():
                series[f"{_item_name(done, item, names)}, {ROLES[role]}"] = _mean_by_strength(trials, at)
    for role in CONTROLS:
        at = mine & (trials["role"] == role)
        if at.any():
            series[f"{ROLES[role]}s, mean"] = _mean_by_strength(trials, at)
    return Figure(
        name,
        f"How far {names[side]} moves",
        "Kullback-Leibler divergence of the next token, pushed against left alone, by the length of the push.",
        figures.line_plot(series, x="length of the push (median norms)", y="KL (nats a token)"),
        height=260 + 18 * len(series),
    )


def _mean_by_strength(trials: effects.Columns, at: npt.NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    strengths = sorted(set(trials["strength"][at].tolist()))
    means = [float(trials["kl"][at & (trials["strength"] == c)].mean()) for c in strengths]
    return [0.0, *strengths], [0.0, *means]


def _table(done: Steering, names: Mapping[str, str]) -> Table:
    trials = done.trials
    rows: list[list[str | Cell]] = []
    for t in range(len(trials["role"])):
        role, item, strength = str(trials["role"][t]), int(trials["item"][t]), float(trials["strength"][t])
        rows.append(
            [
                names[trials["model"][t]],
                ROLES[role],
                _item_name(done, item, names) if item >= 0 else str(trials["name"][t]) if role in CONTROLS else "–",
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
        ["model", "pushed", "what", "length", "KL ± error", "perplexity", "own words", "unsteered"],
        rows,
        caption="Every trial: a found direction in its own model, carried over by the map into the other, the other "
        "model's own match, and what the pushes are held against. Click a heading to sort.",
        interactive=True,
        hints=(
            "", "", "", "In median norms of the model's activations.",
            "Nats a token, with the standard error over texts.",
            "Of the texts, under the model left alone: how strange they are to it.",
            "Share of the tokens that are among those on which the direction is strongest.",
            "The same share in the texts of the model left alone.",
        ),
    )  # fmt: skip


def _order(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _agreement(done: Steering, names: Mapping[str, str]) -> Table:
    """Whether a direction means the same when the map carries it over."""
    rows: list[list[str | Cell]] = []
    for k, item in enumerate(done.agreement["item"]):
        between = str(done.agreement["between"][k])
        for side in ("A", "B"):
            between = between.replace(f" in {side}", f" in {names[side]}")
        rows.append(
            [
                _item_name(done, int(item), names),
                between,
                number_cell(float(done.agreement["strength"][k])),
                number_cell(float(done.agreement["cosine"][k])),
                number_cell(float(done.agreement["null"][k])),
            ]
        )
    return Table(
        ["what", "between", "length", "cosine", "random"],
        rows,
        caption="Does a direction mean the same in both models? The cosine between the two changes of the next token's "
        "log-probabilities; beside it the same with random directions.",
    )


def _texts(done: Steering, names: Mapping[str, str]) -> Table:
    trials, texts = done.trials, done.texts
    rows: list[list[str | Cell]] = []
    shown = texts["sample"] == 0
    shown &= texts["prompt"] < SHOWN_TEXTS
    first = {role: str(trials["name"][trials["role"] == role][0]) for role in set(trials["role"])}
    for k in np.flatnonzero(shown):
        t = int(texts["trial"][k])
        role, item = str(trials["role"][t]), int(trials["item"][t])
        if role in CONTROLS and trials["name"][t] != first[role]:
            continue
        prompt = done.prompts[int(texts["prompt"][k])]
        rows.append(
            [
                names[trials["model"][t]],
                ROLES[role],
                _item_name(done, item, names) if item >= 0 else "–",
                number_cell(float(trials["strength"][t])),
                Cell(f"{prompt} ▸ {visible(str(texts['text'][k]))}", tone="quoted"),
            ]
        )
    return Table(
        ["model", "pushed", "what", "length", "prompt ▸ text"],
        rows,
        caption="The first text of the first prompts of every trial (one control of each kind); all are in the file.",
        interactive=True,
    )


def _words(done: Steering, names: Mapping[str, str]) -> list[Block]:
    rows: list[list[str | Cell]] = [
        [
            _item_name(done, int(item), names),
            names[done.lens["model"][k]],
            ROLES[str(done.lens["role"][k])],
            Cell(_tokens(done.lens["promoted"][k]), tone="quoted"),
            Cell(_tokens(done.lens["suppressed"][k]), tone="quoted"),
        ]
        for k, item in enumerate(done.lens["item"])
    ]
    strongest: list[list[str | Cell]] = [
        [_item_name(done, item, names), Cell(_tokens(words), tone="quoted")]
        for item, words in enumerate(done.items["words"])
    ]
    blocks: list[Block] = [
        Table(["what", "strongest on"], strongest, caption="Words of the text on which each is strongest."),
        Table(
            ["what", "model", "direction", "promotes", "suppresses"],
            rows,
            caption="Logit lens: next tokens that the direction alone makes likelier and less likely.",
        ),
    ]
    return [*blocks, _explanations(done, names)]


def _explanations(done: Steering, names: Mapping[str, str]) -> Block:
    if not len(done.explanations["text"]):
        return Note("info", "The models have no chat template, so they were not asked what the directions mean.")
    rows: list[list[str | Cell]] = [
        [
            _item_name(done, int(item), names),
            names[done.explanations["model"][k]],
            number_cell(float(done.explanations["scale"][k])),
            Cell(visible(str(done.explanations["text"][k])), tone="quoted"),
        ]
        for k, item in enumerate(done.explanations["item"])
    ]
    return Table(
        ["what", "model", "length", "its answer"],
        rows,
        caption="The model's own words: asked for the meaning of a word, with the direction in the word's place. Small "
        "models seldom know.",
    )


def _tokens(stored: Any) -> str:
    tokens: Sequence[str] = json.loads(str(stored))
    return " · ".join(visible(token) for token in tokens) or "–"


class Sections(method_sections.Sections):
    """Steering's part of the page."""

    def of_cell(self, cell: Mapping[str, Any], page: PageData) -> Section:
        """What each push did."""
        return section(cell)


SECTIONS = Sections()
