"""Report section on template tokens: changes of a dictionary's features there, their tests, and example prompts."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.page import method_sections
from diptych.page.blocks import (
    Block,
    Cell,
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
    prose_number,
)
from diptych.page.method_sections import Chapters, Evidence, Finding, PageData
from diptych.template_diff import evidence
from diptych.template_diff.candidates import UNINFORMATIVE
from diptych.template_diff.pictures import panels
from diptych.template_diff.pictures.figures import figure_blocks
from diptych.template_diff.pictures.panels import METRIC_LABELS, View, role_label
from diptych.text.contexts import Codes, Text

TABLE_ROWS = 5
"""Rows per role, metric and direction in the report's tables; the CSV has all."""
ITEMS = 4
"""Features per direction shown with prompts."""
POOR_FVU = 1.0
"""FVU above which the mean of a role's rows describes them better than the dictionary does."""


def chapters(pair: Mapping[str, Any], contexts: int, finding_ids: Collection[str]) -> Chapters:
    """Sections of all template diffs of a pair; `finding_ids` are "side id" of the features that are findings."""
    runs = pair["files"]["template_diffs"]
    what: list[Section] = []
    where: list[Block] = []
    trust: list[Block] = []
    for run in runs:
        view = panels.read(run["diff"])
        section_id, prefix = f"{pair['id']}-template-{run['name']}", f"{run['name']}: " if len(runs) > 1 else ""
        what += _tables_and_prompts(view, run, section_id, prefix, contexts, finding_ids)
        where += figure_blocks(view, section_id, 40)
        trust += [_intro(view), _domain(view), *_domain_notes(view)]
    section_id, title = f"{pair['id']}-template", "Features at the chat template's tokens"
    return {
        "what": Section(
            section_id,
            title,
            [],
            what,
            lead="Which features fire more or less where the assistant's turn opens, and on which prompts.",
        ),
        "where": Section(
            f"{section_id}-where", title, where, lead="Every feature by what it does in either model, token by token."
        ),
        "trust": Section(
            f"{section_id}-trust",
            "Does the dictionary describe the template's tokens?",
            trust,
            lead="A change of features means little where the dictionary does not describe the activations.",
        ),
    }


def _tables_and_prompts(
    view: View, run: Mapping[str, Any], section_id: str, prefix: str, contexts: int, finding_ids: Collection[str]
) -> list[Section]:
    """Ranked gains, prompts and target features of one template diff; `prefix` tells several apart."""
    id_prefix = f"{run['name']} " if prefix else ""
    parts = [
        Section(f"{section_id}-tables", f"{prefix}Ranked gains", _tables(view, run["name"])),
        Section(
            f"{section_id}-prompts", f"{prefix}On which prompts", _items(view, run, contexts, finding_ids, id_prefix)
        ),
    ]
    if view.targets is not None:
        targets = _targets(view, run["name"])
        parts.append(Section(f"{section_id}-targets", f"{prefix}Features of the target prompts alone", targets))
    return parts


def _intro(view: View) -> Prose:
    summary = view.summary
    omitted = [
        f"{counted(summary[key], 'prompt')} {words}"
        for key, words in (("merged", "repeated another's tokens"), ("absent", "did not contain the token"))
        if summary[key]
    ]
    planted = summary["planted"]
    positive_control = (
        f" To know whether this comparison would see a change, one of {prose_number(planted['size'])} median norms was "
        f"planted in half of the prompts in a copy of {view.names[0]}'s activations, along one feature at each token; "
        "the summary says whether it was found."
        if planted
        else ""
    )
    omissions = f" {'; '.join(omitted)}." if omitted else ""
    return Prose(
        f"The same {counted(summary['prompts'], 'prompt')} with the same template were read by {view.names[0]} and "
        f"{view.names[1]}, and one dictionary was read on both at {listed([role_label(role) for role in view.roles])}. "
        f"{counted(summary['tests'], 'test')}, {summary['significant']:,} with q ≤ .05 and "
        f"{summary['significant_family']:,} with family-wise p ≤ .05 (sign flips).{omissions}{positive_control}"
    )


# --- does the dictionary describe these tokens --------------------------------------------------------------------


def _domain(view: View) -> Table:
    rows: list[list[str | Cell]] = []
    for role in view.roles:
        numbers = view.summary["roles"][role]
        rows.append(
            [
                role_label(role),
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
        "smaller one, and the share of the change between the models that its features do not explain (1: "
        "nothing of it is explained).",
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
            times = listed([f"{number(ratio)} times at {role_label(role)}" for role, ratio in shifted.items()])
            notes.append(
                Note(
                    "warn",
                    f"The dictionary leaves more unexplained in {worse} than in the other model, {times}. A gain there "
                    "may be the dictionary leaving its domain; findings there are marked.",
                )
            )
    undescribed = [
        role for role in view.roles if (view.summary["roles"][role]["change_unexplained"] or 0.0) >= UNINFORMATIVE
    ]
    if undescribed:
        notes.append(
            Note(
                "warn",
                f"At {listed([role_label(role) for role in undescribed])} the change of the features does not describe "
                "the change of the activations at all (unexplained 1 or more): something changed that these features "
                "do not describe. Nothing there is written down as a finding.",
            )
        )
    poor = [role for role in view.roles if _larger_fvu(view, role) > POOR_FVU]
    if poor:
        notes.append(
            Note(
                "warn",
                f"At {listed([role_label(role) for role in poor])} the dictionary describes the activations of at "
                "least one model worse than their mean would (FVU above 1): its features describe badly what differs "
                "between prompts there.",
            )
        )
    return notes


def _larger_fvu(view: View, role: str) -> float:
    values = [view.summary["roles"][role][name] for name in ("fvu_a", "fvu_b")]
    return max((value for value in values if value is not None), default=0.0)


# --- tables -------------------------------------------------------------------------------------------------------


def _tables(view: View, name: str) -> list[Block]:
    b = view.names[1]
    file = f"template_diffs/{name}/gains.csv"
    return [
        _ranked(view, "up", f"More in {b}: the {TABLE_ROWS} largest gains of each token and metric. All: {file}."),
        _ranked(view, "down", f"Less in {b}: the {TABLE_ROWS} largest losses of each token and metric."),
    ]


def _ranked(view: View, direction: str, caption: str) -> Block:
    table = view.ranked
    rows = np.flatnonzero((table["direction"] == direction) & (table["rank"] <= TABLE_ROWS))
    if not len(rows):
        return Prose("No gain is larger than 0." if direction == "up" else "No loss is larger than 0.")
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
    return Table(columns, [_row(table, int(k)) for k in rows], caption=caption, interactive=True, hints=hints)


def _row(table: Mapping[str, npt.NDArray[Any]], k: int) -> list[str | Cell]:
    values = {name: float(table[name][k]) for name in ("a", "b", "gain", "ratio", "effect", "p", "q", "p_family")}
    interval = f"{number(float(table['gain_lo'][k]))} to {number(float(table['gain_hi'][k]))}"
    return [
        Cell(str(table["latent"][k]), order=float(table["latent"][k]), href=str(table["link"][k])),
        role_label(str(table["role"][k])),
        METRIC_LABELS[str(table["metric"][k])],
        *(number_cell(values[name]) for name in ("a", "b", "gain")),
        Cell(interval, order=float(table["gain_lo"][k])),
        *(number_cell(values[name]) for name in ("ratio", "effect")),
        *(Cell(p_value(values[name]), order=values[name]) for name in ("p", "q", "p_family")),
        str(table["domain_shift"][k]),
    ]


def _targets(view: View, name: str) -> list[Block]:
    """Blocks on the latents that fire on target prompts and on no control prompt."""
    table = view.targets or {}
    count = len(table["latent"])
    n_significant = int((table["q"] <= panels.MAX_Q).sum())
    intro = (
        f"{counted(count, 'feature')} (by model and token) fire on target prompts and on no control prompt; "
        f"{n_significant:,} of them more than chance would give (q ≤ .05)."
    )
    if not count:
        return [Prose("No feature fires on target prompts alone.")]
    rows: list[list[str | Cell]] = [
        [
            view.names["ab".index(str(table["side"][k]))],
            Cell(str(table["latent"][k]), order=float(table["latent"][k]), href=str(table["link"][k])),
            role_label(str(table["role"][k])),
            *(number_cell(int(table[column][k])) for column in ("n_target", "n_target_other", "n_control_other")),
            Cell(p_value(float(table["q"][k])), order=float(table["q"][k])),
        ]
        for k in range(min(count, 2 * TABLE_ROWS))
    ]
    columns = ["model", "feature", "token", "targets", "targets, other model", "controls, other model", "q"]
    caption = f"Those that fire on most targets. All: template_diffs/{name}/targets.csv."
    return [Prose(intro), Table(columns, rows, caption=caption, interactive=True)]


# --- prompts ------------------------------------------------------------------------------------------------------


def _items(view: View, run: Mapping[str, Any], contexts: int, finding_ids: Collection[str], prefix: str) -> list[Block]:
    """Features that changed most in either direction, with the prompts on which they changed, in both models."""
    text = Text(run["tokens"])
    codes = [Codes(run["features_a"]), Codes(run["features_b"])]
    blocks: list[Block] = []
    for direction, side in (("up", "B"), ("down", "A")):
        rows = _strongest(view, direction)
        if not len(rows):
            blocks.append(
                Prose(f"No feature fires significantly {'more' if side == 'B' else 'less'} in {view.names[1]}.")
            )
            continue
        items = []
        for k in rows:
            table = view.ranked
            latent = int(table["latent"][k])
            at = view.prompts[k][view.prompts[k] >= 0][: max(2, contexts // 2)]
            is_finding = any(name.startswith(f"{side} {prefix}{latent} at ") for name in finding_ids)
            items.append(evidence.item(view, int(k), at, text, codes, "finding" if is_finding else ""))
        comparative = "more" if side == "B" else "less"
        blocks.append(
            Items(
                f"Features that fire {comparative} in {view.names[1]}, the largest effects first: prompts on which "
                "they changed most, shaded by the feature's activation in each model, on one scale.",
                items,
            )
        )
    return blocks


def _strongest(view: View, direction: str) -> Sequence[int]:
    """Rows of the ranked table with the largest significant effects, one per feature."""
    table = view.ranked
    significant = np.flatnonzero((table["direction"] == direction) & (table["q"] <= panels.MAX_Q))
    order = significant[np.argsort(-np.abs(table["effect"][significant]), kind="stable")]
    strongest: dict[int, int] = {}
    for row in order:
        strongest.setdefault(int(table["latent"][row]), int(row))
    return list(strongest.values())[:ITEMS]


class Sections(method_sections.Sections):
    """The report sections of template diffs."""

    def number_of(self, ours: Mapping[str, Any], page: PageData) -> Cell:
        """A feature's statistic at a template token in both models, as `A → B`."""
        diffs = [diff for pair in page.inputs["pairs"] for diff in pair["files"].get("template_diffs", ())]
        view = panels.read(next(diff["diff"] for diff in diffs if diff["name"] == ours["template_diff"]))
        if ours["role"] not in view.values:
            return Cell("–", hint=f"not compared there, but at {listed([role_label(role) for role in view.roles])}")
        a, b = view.values[ours["role"]][ours["metric"]]
        if ours["latent"] >= len(a):
            return Cell("–", hint=f"the dictionary has {len(a):,} features")
        before, after = (float(values[ours["latent"]]) for values in (a, b))
        return Cell(f"{number(before)} → {number(after)}", order=after - before if after == after else None)

    def of_cell(self, cell: Mapping[str, Any], page: PageData) -> Chapters:
        """The sections of the template diffs of one cell."""
        return chapters(cell, page.n_contexts, page.finding_ids)

    def claim(self, cell: Mapping[str, Any], finding: Finding) -> str:
        """Whether a feature fires more or less at a template token, by which metric."""
        return evidence.claim(cell, finding)

    def evidence(self, cell: Mapping[str, Any], page: PageData, findings: Sequence[Finding]) -> Evidence:
        """The prompts on which each feature changed most, in both models."""
        return evidence.evidence(cell, page.n_contexts, findings)


SECTIONS = Sections()
