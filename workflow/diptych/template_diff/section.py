"""The section on template tokens: what changed in a dictionary's features there, how surely, and on which prompts."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.page import method_sections
from diptych.page.blocks import (
    Block,
    Cell,
    ContextList,
    Item,
    Items,
    Note,
    Prose,
    Section,
    Table,
    counted,
    listed,
    number,
    number_cell,
    p_value,
    percent,
    prose_number,
)
from diptych.page.method_sections import PageData
from diptych.template_diff.candidates import UNINFORMATIVE
from diptych.template_diff.pictures import panels
from diptych.template_diff.pictures.figures import figure_blocks
from diptych.template_diff.pictures.panels import METRIC_WORDS, View, shown
from diptych.text.contexts import Codes, Text

LISTED = 5
"""Rows of the page's tables for each role, metric and direction; the CSV has them all."""
ITEMS = 4
"""Features of each direction shown with prompts."""
POORLY = 1.0
"""FVU above which a role's own mean describes its rows better than the dictionary does."""


def section(pair: Mapping[str, Any], contexts: int, standing: Collection[str]) -> Section:
    """All template diffs of a pair; `standing` holds "side id" of the features that are findings."""
    runs = pair["files"]["template_diffs"]
    title = "Features at the chat template's own tokens"
    if len(runs) == 1:
        return Section(f"{pair['id']}-template", title, *_run(pair, runs[0], contexts, standing, ""))
    parts = [
        Section(f"{pair['id']}-template-{run['name']}", run["name"], *_run(pair, run, contexts, standing, run["name"]))
        for run in runs
    ]
    return Section(f"{pair['id']}-template", title, [], parts)


def _run(
    pair: Mapping[str, Any], run: Mapping[str, Any], contexts: int, standing: Collection[str], name: str
) -> tuple[list[Block], list[Section]]:
    """Blocks and subsections of one template diff; `name` begins the ids of its findings where there are several."""
    view = panels.read(run["diff"])
    place = f"{pair['id']}-template-{run['name']}"
    prefix = f"{name} " if name else ""
    parts = [
        Section(f"{place}-figures", "B against A", figure_blocks(view, place, 40)),
        Section(f"{place}-tables", "Ranked gains", _tables(view, run["name"])),
        Section(f"{place}-prompts", "On which prompts", _items(view, run, contexts, standing, prefix)),
    ]
    if view.targets is not None:
        parts.append(Section(f"{place}-targets", "Features of the target prompts alone", _targets(view, run["name"])))
    return [_intro(view), _domain(view), *_domain_notes(view)], parts


def _intro(view: View) -> Prose:
    summary = view.summary
    left_out = [
        f"{counted(summary[key], 'prompt')} {words}"
        for key, words in (("merged", "repeated another one's tokens"), ("absent", "did not hold the token"))
        if summary[key]
    ]
    planted = summary["planted"]
    known = (
        f" To know whether this comparison would see a change, one of {prose_number(planted['size'])} median norms was "
        f"planted in half of the prompts in a copy of {view.names[0]}'s activations, along one feature at each token; "
        "the summary says whether it was found."
        if planted
        else ""
    )
    left = f" {'; '.join(left_out)}." if left_out else ""
    return Prose(
        f"The same {counted(summary['prompts'], 'prompt')} with the same template were read by {view.names[0]} and "
        f"{view.names[1]}, and one dictionary was read on both at {listed([shown(role) for role in view.roles])}. "
        f"{counted(summary['tests'], 'test')}, {summary['significant']:,} with q ≤ .05 and "
        f"{summary['significant_family']:,} certain in the family of all of them (sign flips).{left}{known}"
    )


# --- does the dictionary describe these tokens --------------------------------------------------------------------


def _domain(view: View) -> Table:
    rows: list[list[str | Cell]] = []
    for role in view.roles:
        numbers = view.summary["roles"][role]
        rows.append(
            [
                shown(role),
                number_cell(numbers["fvu_a"]),
                number_cell(numbers["fvu_b"]),
                number_cell(numbers["fvu_ratio"]),
                number_cell(numbers["change_unexplained"]),
                Cell(*{"yes": ("shifted", None, "warn"), "no": ("no", None, "pass")}.get(
                    numbers["domain_shift"], ("unknown", None, "muted"))),
                number_cell(numbers["eligible"]),
                number_cell(numbers["never_fires"]),
            ]
        )  # fmt: skip
    unexplained = [f"unexplained {name}" for name in view.names]
    return Table(
        [
            "token",
            *unexplained,
            "ratio",
            "of the change",
            "domain shift",
            "features compared",
            "features that never fire",
        ],
        rows,
        caption="Share of the variance at each token that the dictionary leaves unexplained (FVU), the larger over the "
        "smaller one, and the share of the change between the models that its features do not describe (1: they say "
        "nothing of it).",
    )


def _domain_notes(view: View) -> list[Block]:
    notes: list[Block] = []
    for worse, fvu in ((view.names[1], "fvu_b"), (view.names[0], "fvu_a")):
        summaries = {role: view.summary["roles"][role] for role in view.roles}
        shifted = {
            role: float(summary["fvu_ratio"])
            for role, summary in summaries.items()
            if summary["domain_shift"] == "yes" and summary[fvu] == max(summary["fvu_a"], summary["fvu_b"])
        }
        if shifted:
            times = listed([f"{number(ratio)} times at {shown(role)}" for role, ratio in shifted.items()])
            notes.append(
                Note(
                    "warn",
                    f"The dictionary leaves more unexplained in {worse} than in the other model, {times}. A gain there "
                    "may be the dictionary leaving its domain; findings there are marked.",
                )
            )
    mute = [role for role in view.roles if (view.summary["roles"][role]["change_unexplained"] or 0.0) >= UNINFORMATIVE]
    if mute:
        notes.append(
            Note(
                "warn",
                f"At {listed([shown(role) for role in mute])} the change of the features does not describe the change "
                "of the activations at all (unexplained 1 or more): something changed, but not what these features "
                "stand for. Nothing there is written down as a finding.",
            )
        )
    poor = [role for role in view.roles if _worst(view, role) > POORLY]
    if poor:
        notes.append(
            Note(
                "warn",
                f"At {listed([shown(role) for role in poor])} the dictionary describes the activations of at least one "
                "model worse than their mean would (FVU above 1): its features are a poor name for what differs from "
                "prompt to prompt there.",
            )
        )
    return notes


def _worst(view: View, role: str) -> float:
    values = [view.summary["roles"][role][name] for name in ("fvu_a", "fvu_b")]
    return max((value for value in values if value is not None), default=0.0)


# --- pictures -----------------------------------------------------------------------------------------------------


# --- tables -------------------------------------------------------------------------------------------------------


def _tables(view: View, name: str) -> list[Block]:
    b = view.names[1]
    file = f"template_diffs/{name}/gains.csv"
    return [
        _ranked(view, "up", f"More in {b}: the {LISTED} largest gains of each token and metric. All: {file}."),
        _ranked(view, "down", f"Less in {b}: the {LISTED} largest losses of each token and metric."),
    ]


def _ranked(view: View, direction: str, caption: str) -> Block:
    table = view.ranked
    chosen = np.flatnonzero((table["direction"] == direction) & (table["rank"] <= LISTED))
    if not len(chosen):
        return Prose("No gain is larger than 0." if direction == "up" else "No feature lost anything.")
    columns = [
        "feature", "token", "metric", *view.names, "gain", "95 %", "ratio", "effect", "p", "q", "p family",
        "domain shift",
    ]  # fmt: skip
    hints = [
        "", "", "", "", "", f"{view.names[1]} less {view.names[0]}.", "Of the gain; bootstrap over prompts.",
        f"{view.names[1]} over {view.names[0]}.", "Mean change over its standard deviation over prompts.",
        "Exact or saddlepoint, labels swapped within prompts.", "Benjamini-Hochberg over features, tokens, metrics.",
        "Largest statistic of the whole family under shared sign flips.",
        "Whether the dictionary describes one model much worse than the other at this token.",
    ]  # fmt: skip
    return Table(columns, [_row(table, int(k)) for k in chosen], caption=caption, interactive=True, hints=hints)


def _row(table: Mapping[str, npt.NDArray[Any]], k: int) -> list[str | Cell]:
    values = {name: float(table[name][k]) for name in ("a", "b", "gain", "ratio", "effect", "p", "q", "p_family")}
    interval = f"{number(float(table['gain_lo'][k]))} to {number(float(table['gain_hi'][k]))}"
    return [
        Cell(str(table["latent"][k]), order=float(table["latent"][k]), href=str(table["link"][k])),
        shown(str(table["role"][k])),
        METRIC_WORDS[str(table["metric"][k])],
        *(number_cell(values[name]) for name in ("a", "b", "gain")),
        Cell(interval, order=float(table["gain_lo"][k])),
        *(number_cell(values[name]) for name in ("ratio", "effect")),
        *(Cell(p_value(values[name]), order=values[name]) for name in ("p", "q", "p_family")),
        str(table["domain_shift"][k]),
    ]


def _targets(view: View, name: str) -> list[Block]:
    """Latents that fire on target prompts and on no control prompt."""
    table = view.targets or {}
    count = len(table["latent"])
    certain = int((table["q"] <= panels.CERTAIN).sum())
    words = (
        f"{counted(count, 'feature')} (by model and token) fire on target prompts and on no control prompt; "
        f"{certain:,} of them more than chance would give (q ≤ .05)."
    )
    if not count:
        return [Prose("No feature fires on target prompts alone.")]
    rows: list[list[str | Cell]] = [
        [
            view.names["ab".index(str(table["side"][k]))],
            Cell(str(table["latent"][k]), order=float(table["latent"][k]), href=str(table["link"][k])),
            shown(str(table["role"][k])),
            *(number_cell(int(table[column][k])) for column in ("n_target", "n_target_other", "n_control_other")),
            Cell(p_value(float(table["q"][k])), order=float(table["q"][k])),
        ]
        for k in range(min(count, 2 * LISTED))
    ]
    columns = ["model", "feature", "token", "targets", "targets, other model", "controls, other model", "q"]
    caption = f"Those that fire on most targets. All: template_diffs/{name}/targets.csv."
    return [Prose(words), Table(columns, rows, caption=caption, interactive=True)]


# --- prompts ------------------------------------------------------------------------------------------------------


def _items(view: View, run: Mapping[str, Any], contexts: int, standing: Collection[str], prefix: str) -> list[Block]:
    """The features that changed most in either direction, on the prompts that show it, in both models."""
    text = Text(run["tokens"])
    codes = [Codes(run["features_a"]), Codes(run["features_b"])]
    blocks: list[Block] = []
    for direction, side in (("up", "B"), ("down", "A")):
        rows = _strongest(view, direction)
        if not len(rows):
            blocks.append(Prose(f"No feature is certain to do {'more' if side == 'B' else 'less'} in {view.names[1]}."))
            continue
        items = []
        for k in rows:
            table = view.ranked
            latent = int(table["latent"][k])
            at = view.prompts[k][view.prompts[k] >= 0][: max(2, contexts // 2)]
            written = any(name.startswith(f"{side} {prefix}{latent} at ") for name in standing)
            items.append(_item(view, int(k), at, text, codes, "finding" if written else ""))
        way = "more" if side == "B" else "less"
        blocks.append(
            Items(
                f"Features that do {way} in {view.names[1]}, the largest effects first: prompts on which they changed "
                "most, shaded by the feature's activation in each model, on one scale.",
                items,
            )
        )
    return blocks


def _strongest(view: View, direction: str) -> Sequence[int]:
    """Rows of the ranked table with the largest certain effects, one a feature."""
    table = view.ranked
    certain = np.flatnonzero((table["direction"] == direction) & (table["q"] <= panels.CERTAIN))
    order = certain[np.argsort(-np.abs(table["effect"][certain]), kind="stable")]
    strongest: dict[int, int] = {}
    for row in order:
        strongest.setdefault(int(table["latent"][row]), int(row))
    return list(strongest.values())[:ITEMS]


def _item(view: View, k: int, at: npt.NDArray[np.int64], text: Text, codes: Sequence[Codes], tag: str) -> Item:
    table = view.ranked
    latent, prompts = int(table["latent"][k]), view.summary["prompts"]
    side = "B" if str(table["direction"][k]) == "up" else "A"
    scale = max(float(one.maximum[latent]) for one in codes)
    facts = [
        ("at", shown(str(table["role"][k]))),
        (METRIC_WORDS[str(table["metric"][k])], f"{number(float(table['a'][k]))} → {number(float(table['b'][k]))}"),
        ("effect", number(float(table["effect"][k]))),
        ("q", p_value(float(table["q"][k]))),
        ("fires on", f"{percent(table['n_active_a'][k] / prompts)} → {percent(table['n_active_b'][k] / prompts)}"),
    ]
    readings = [
        ContextList(
            f"in {name}",
            [
                text.context(int(row), float(one.values(latent, np.array([row]))[0]), one.shade(latent, scale))
                for row in at
            ],
            "A" if name_side == "a" else "B",
        )
        for name, one, name_side in zip(view.names, codes, "ab", strict=True)
    ]
    return Item(f"feature {latent}", facts, readings, "B" if side == "B" else "A", tag)


class Sections(method_sections.Sections):
    """The template diffs' part of the page."""

    def of_cell(self, cell: Mapping[str, Any], page: PageData) -> Section:
        """What changed at the template's tokens."""
        return section(cell, page.n_contexts, page.finding_ids)


SECTIONS = Sections()
