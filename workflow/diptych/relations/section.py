"""The section on the relations of a study: one table by depth, figures over depth, and what other losses keep than KL.

section("results/relations.h5")
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.page import figures
from diptych.page.blocks import Block, Cell, Figure, Note, Prose, Section, Table, counted, listed, number, p_value
from diptych.relations import stage
from diptych.relations.measures import MEASURES, R_EDGES, Measure, named

Row = dict[str, Any]
TOLD_APART = 0.05
"""Largest q of a difference that is told apart from none."""
NOT_TOLD, TOO_SMALL = "not told apart", "less than counts"
"""Verdicts where chance may be all, and where a certain difference is too small."""
DEPTH_MEASURES = tuple(measure for measure in MEASURES if measure.of == "depth")
MODEL_MEASURES = tuple(measure for measure in MEASURES if measure.of == "models")

READING = (
    "Sharedness: 1 if every latent is equally in both models, 0 if each is in one alone. It is the binary entropy of a "
    "latent's relative norm, weighted by its mean activation; also unweighted, and weighted by energy (squared "
    "activation times squared decoder norms). The paper that proposed it prints n log n of the norms instead, which "
    "cannot give its own table: a latent that is equally in both models would have .5 and not 1. "
    "The entropy can, and is what stands here. "
    "Alignment: 1 if the decoders of both models span one space of latents. Unrelated decoders have its level, and two "
    "runs on A alone from independent initial values its ceiling. Above its ceiling it shows that decoders of equal "
    "widths start alike and have moved little: then it orders relations, and only that. Cosine: of the two decoder "
    "rows of latents that are equally in both models, through a linear map where widths differ. Unexplained: share of "
    "each model's held-out variance (FVU). Dead latents are counted and left out of all of these."
)


def section(path: str | Path) -> Section:
    """The section, from the artifact of `stage.collect`."""
    relations = stage.read(path)
    depths, measured = _records(relations.depths), _records(relations.measures)
    by_depth: list[Block] = [
        Prose(READING),
        _depth_table(depths, measured),
        *_model_table(depths, measured),
        *_unjudged(depths),
    ]
    drawn: list[Block] = [*_over_depth(depths, measured), *_norms(depths, relations.histograms)]
    lead = "Measures over depth and relative norms at each, a line for each relation."
    parts = [Section("relations-figures", "In figures", drawn, lead=lead)]
    differences = _records(relations.differences)
    if differences:
        lead = "Students of other losses against those of KL alone, from the same start and with the same budget."
        title = "What other losses keep than KL"
        parts.insert(0, Section("relations-losses", title, _losses(differences), lead=lead, is_open=True))
    lead = "What the models of each relation share at every compared depth: how many latents, and how alike."
    return Section("relations", "Relations by depth", by_depth, parts, lead=lead)


def _records(table: Mapping[str, Any]) -> list[Row]:
    """The rows of a table."""
    return [
        dict(zip(table, row, strict=True)) for row in zip(*(values.tolist() for values in table.values()), strict=True)
    ]


# --- tables -------------------------------------------------------------------------------------------------------


def _depth_table(depths: Sequence[Row], measured: Sequence[Row]) -> Table:
    at = {(row["relation"], row["site"], row["measure"]): row for row in measured}
    rows: list[list[str | Cell]] = []
    for depth in depths:
        place = (depth["relation"], depth["site"])
        cells: list[str | Cell] = [depth["relation"], depth["site"]]
        for measure in DEPTH_MEASURES:
            cell = _estimate(at.get((*place, measure.name)))
            unjudged = measure.name == "alignment" and depth["unequal"] and not np.isfinite(depth["ceiling"])
            cells.append(Cell("no verdict", None, "muted", cell.text) if unjudged else cell)
            if measure.name == "alignment":
                cells += [_value(depth[name]) for name in ("level", "ceiling")]
        rows.append([*cells, *(_count(depth[name]) for name in ("live", "dead"))])
    columns = ["relation", "depth"]
    for measure in DEPTH_MEASURES:
        columns += [measure.title, *(("its level", "its ceiling") if measure.name == "alignment" else ())]
    caption = (
        "Means over runs; in brackets 95 % intervals over documents, on hover the smallest and the largest run. "
        "Alignment is of decoders alone, which no document enters."
    )
    return Table([*columns, "live latents", "dead"], rows, caption=caption, interactive=True)


def _model_table(depths: Sequence[Row], measured: Sequence[Row]) -> list[Block]:
    """Table of the models as a whole; [] if nothing was measured of them."""
    at = {(row["relation"], row["measure"]): row for row in measured if not row["site"]}
    names = dict.fromkeys(depth["relation"] for depth in depths)
    rows: list[list[str | Cell]] = [
        [name, *(_estimate(at.get((name, measure.name))) for measure in MODEL_MEASURES)]
        for name in names
        if any((name, measure.name) in at for measure in MODEL_MEASURES)
    ]
    caption = (
        "B against A on held-out text: KL(A || B), B's next-token loss less A's, and for students the squared "
        "difference of the Jacobians of their log-probabilities by the input embeddings, relative to the teacher's. "
        "There 0 is the teacher, and 1 a model whose output does not depend on its input."
    )
    return [Table(["relation", *(measure.title for measure in MODEL_MEASURES)], rows, caption=caption)] if rows else []


def _estimate(row: Row | None) -> Cell:
    """A value with its interval over documents, and its runs on hover."""
    if row is None or not np.isfinite(row["value"]):
        return Cell("–")
    text = number(row["value"])
    if np.isfinite(row["lo"]):
        text += f" [{number(row['lo'])}, {number(row['hi'])}]"
    runs = counted(row["runs"], "run")
    hint = f"{runs}: {number(row['least'])} to {number(row['most'])}" if row["runs"] > 1 else runs
    return Cell(text, row["value"], hint=hint)


def _count(value: float) -> Cell:
    return Cell(f"{value:,.0f}", value) if np.isfinite(value) else Cell("–")


def _value(value: float) -> Cell:
    return Cell(number(value), value if np.isfinite(value) else None)


def _unjudged(depths: Sequence[Row]) -> list[Block]:
    """A warning for relations whose alignment is given no verdict."""
    names = dict.fromkeys(
        depth["relation"] for depth in depths if depth["unequal"] and not np.isfinite(depth["ceiling"])
    )
    if not names:
        return []
    return [
        Note(
            "warn",
            f"{listed(list(names))}: the models differ in width and cannot start from the same values, which alone "
            "lowers alignment. Without `ceiling: true` for their crosscoders there is no verdict.",
        )
    ]


# --- figures ------------------------------------------------------------------------------------------------------


def _over_depth(depths: Sequence[Row], measured: Sequence[Row]) -> list[Block]:
    """A figure for each measure over depth, a line for each relation; none of a single depth, which the table has."""
    sites = list(dict.fromkeys(depth["site"] for depth in depths))
    if len(sites) < 2:
        return []
    blocks: list[Block] = []
    for measure in DEPTH_MEASURES:
        rows = [row for row in measured if row["measure"] == measure.name and np.isfinite(row["value"])]
        lines = {}
        for relation in dict.fromkeys(depth["relation"] for depth in depths):
            of_relation = {row["site"]: row["value"] for row in rows if row["relation"] == relation}
            if of_relation:
                lines[relation] = ([sites.index(site) for site in of_relation], list(of_relation.values()))
        if lines:
            plot = figures.line_plot(lines, x="depth", y=measure.title, markers=True)
            plot["layout"]["xaxis"] |= {"tickvals": list(range(len(sites))), "ticktext": sites}
            caption = f"{measure.title[0].upper()}{measure.title[1:]} of every relation, mean over runs."
            blocks.append(Figure(f"relations-{measure.name}", f"{measure.title} by depth", caption, plot, height=300))
    return blocks


def _norms(depths: Sequence[Row], histograms: Any) -> list[Block]:
    """The histogram of relative norms at every depth, a line for each relation."""
    middle = (R_EDGES[1:] + R_EDGES[:-1]) / 2
    blocks: list[Block] = []
    for place, site in enumerate(dict.fromkeys(depth["site"] for depth in depths)):
        lines = {
            depth["relation"]: (middle, np.where(counts > 0, counts / max(counts.sum(), 1), np.nan))
            for depth, counts in zip(depths, histograms, strict=True)
            if depth["site"] == site
        }
        plot = figures.line_plot(lines, x="relative norm r", y="share of live latents", logarithmic=True, markers=True)
        caption = "Live latents by the share of their decoder norm that is in B: 0 only A, 1 only B, .5 both alike."
        blocks.append(Figure(f"relations-norms-{place}", f"relative norms at {site}", caption, plot, height=300))
    return blocks


# --- losses -------------------------------------------------------------------------------------------------------


def _losses(differences: Sequence[Row]) -> list[Block]:
    """What students of other losses keep more and less of than those of KL, in words and numbers."""
    blocks: list[Block] = []
    for relation, reference in dict.fromkeys((row["relation"], row["reference"]) for row in differences):
        rows = [row for row in differences if (row["relation"], row["reference"]) == (relation, reference)]
        blocks.append(Prose(answer(relation, reference, rows)))
    if not all(row["repeated"] for row in differences):
        text = (
            "What is marked `one run` was not repeated: its interval is over documents alone, and another seed may "
            "differ by more."
        )
        blocks.append(Note("warn", text))
    cells: list[list[str | Cell]] = [
        [
            row["relation"], row["site"] or "models", named(row["measure"]).title, _signed(row),
            f"{number(row['lo'])} to {number(row['hi'])}" if np.isfinite(row["lo"]) else "–",
            Cell(p_value(row["q"]), row["q"] if np.isfinite(row["q"]) else None),
            _verdict(row) + ("" if row["repeated"] else ", one run"),
        ]
        for row in differences
    ]  # fmt: skip
    caption = (
        "Differences from the students of KL: same blocks, initial weights, text and steps. The interval (95 %) is "
        "over documents and over runs; q is over all of the table, and a difference is told apart at q of at most "
        f"{number(TOLD_APART, 2)}. It counts from {_least()} on."
    )
    columns = ["relation", "depth", "measure", "difference", "95 %", "q", "keeps"]
    return [*blocks, Table(columns, cells, caption=caption, interactive=True)]


def answer(relation: str, reference: str, rows: Sequence[Row]) -> str:
    """What one loss keeps more of, less of, and as much of as far as can be told, in a few sentences."""
    judged = [row for row in rows if named(row["measure"]).kept]
    told = {verdict: [row for row in judged if _verdict(row) == verdict] for verdict in ("more", "less")}
    start = f"Students {relation} against those {reference}, from the same start and with the same budget:"
    if not told["more"] and not told["less"]:
        none = f"no difference in what is kept of A is certain and counts, in any of {counted(len(judged), 'measure')}."
        return f"{start} {none}{_by_title('They differ by less than counts by', judged, TOO_SMALL)}"
    words = [
        f"they keep {verdict} of A by {listed([_in_words(row) for row in rows_told])}"
        if rows_told
        else f"they keep {verdict} of A by no measure"
        for verdict, rows_told in told.items()
    ]
    alike = _by_title("They differ by less than counts by", judged, TOO_SMALL)
    return f"{start} {words[0]}; {words[1]}.{alike}{_by_title('They cannot be told apart by', judged, NOT_TOLD)}"


def _by_title(start: str, rows: Iterable[Row], verdict: str) -> str:
    """A sentence with the measures of a verdict, each with its depths; "" if there are none."""
    sites: dict[str, list[str]] = {}
    for row in rows:
        if _verdict(row) == verdict:
            sites.setdefault(named(row["measure"]).title, []).append(row["site"])
    names = [f"{title} ({listed(where)})" if any(where) else title for title, where in sites.items()]
    return f" {start} {listed(names)}." if names else ""


def _least() -> str:
    """The smallest differences that count, as "1 of this (that, ...)"."""
    by_size: dict[float, list[str]] = {}
    for measure in MEASURES:
        by_size.setdefault(measure.least, []).append(measure.title)
    return listed([f"{number(size)} ({', '.join(titles)})" for size, titles in by_size.items()])


def _in_words(row: Row) -> str:
    where = f" at {row['site']}" if row["site"] else ""
    interval = f"{_signed(row)}, {number(row['lo'])} to {number(row['hi'])}"
    return f"{named(row['measure']).title}{where} ({interval}{'' if row['repeated'] else ', one run'})"


def _signed(row: Row) -> str:
    sign = "+" if row["value"] > 0 else ""
    return f"{sign}{number(row['value'])}"


def _verdict(row: Row) -> str:
    """Whether more or less of A is kept than by the reference, if a difference is certain and counts."""
    measure: Measure = named(row["measure"])
    if not row["q"] <= TOLD_APART:
        return NOT_TOLD
    if abs(row["value"]) < measure.least:
        return TOO_SMALL
    if not measure.kept:
        return "differs"
    return "more" if row["value"] * measure.kept > 0 else "less"
