"""The subsections on a crosscoder's latents: their class, latent scaling, and the contexts where they fire."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from diptych.crosscoder.candidates import PROPOSER
from diptych.page import figures
from diptych.page.blocks import (
    Block,
    Cell,
    ContextList,
    Figure,
    Item,
    Items,
    Note,
    Prose,
    Section,
    SideName,
    Table,
    counted,
    number,
    number_cell,
    p_value,
    percent,
)
from diptych.page.method_sections import Chapters, Evidence, Finding
from diptych.storage import artifacts
from diptych.text.contexts import Shade, Text

Columns = Mapping[str, npt.NDArray[Any]]
R_EDGES = np.linspace(0.0, 1.0, 51)
COLOURS = {"A-only": "var(--a)", "B-only": "var(--b)", "shared": "var(--both)", "other": "var(--warn)"}
SHOWN_LATENTS = 4
"""Latents of each side that are shown with contexts."""
SCALED_LATENTS = 20
"""One-sided latents of each side in the table of latent scaling."""
LISTED_DUPLICATES = 20
"""Pairs of duplicates that are listed."""


def chapters(
    pair: Mapping[str, Any], run: Mapping[str, Any], text: Text, contexts: int, finding_ids: Collection[str]
) -> Chapters:
    """Sections on the latents of one run; `finding_ids` are "side id" or "side run id"."""
    finding_ids = {entry.replace(f" {run['name']} ", " ", 1) for entry in finding_ids}
    with artifacts.read(run["latents"], "latents") as file:
        columns = artifacts.read_table(file, "latents")
        classes = artifacts.read_json(file, "classes")
        recovered = _recovered(run)
        if len(artifacts.read_json(file, "widths")) == 1:
            return {"what": _of_differences(pair, file, columns, text, contexts)}
        blocks = [_exclusive(pair, file, columns, side, text, contexts, finding_ids, recovered) for side in ("B", "A")]
        parts = [Section(f"{pair['id']}-norms", "Whose latents", _norms(pair, run, file, columns, classes, recovered))]
        if "nu/err" in file:
            scaling = _scaling(pair, file, columns, recovered)
            parts.append(Section(f"{pair['id']}-scaling", "Is it really absent from the other model?", scaling))
    return {
        "what": Section(
            f"{pair['id']}-latents",
            "The crosscoder's most one-sided latents",
            blocks,
            lead="One dictionary for both models: these latents write to one of them more than to the other.",
        ),
        "different": Section(
            f"{pair['id']}-crosscoder",
            "How much the crosscoder shares",
            [],
            parts,
            lead=f"Each latent by how much of it is in {pair['a']} and in {pair['b']}.",
        ),
    }


def evidence(pair: Mapping[str, Any], text: Text, contexts: int, findings: Sequence[Finding]) -> Evidence:
    """Each latent with its norms, its density, its nu, and where it fires on held-out documents."""
    runs = PROPOSER.runs(pair["files"])
    items = {}
    for finding in findings:
        name, _, latent = finding.id.rpartition(" ")
        run = runs[name or next(iter(runs))][finding.run - 1]["crosscoders"][0]
        with artifacts.read(run["latents"], "latents") as file:
            columns = artifacts.read_table(file, "latents")
            of_latent = (int(latent), finding.side, text, contexts, frozenset[str](), _recovered(run))
            items[finding] = _latent(pair, file, columns, *of_latent)
    return items


def of_many(described: Mapping[str, Any], run: Mapping[str, Any], text: Text, contexts: int) -> list[Section]:
    """Subsections on a crosscoder of several models: classes of its latents, and those exclusive to each model."""
    models = described["models"]
    with artifacts.read(run["latents"], "latents") as file:
        columns = artifacts.read_table(file, "latents")
        counts = artifacts.read_json(file, "counts")
        shared = artifacts.read_json(file, "sharedness")
        aligned = artifacts.read_json(file, "alignment")
        class_labels = {f"{chr(ord('A') + index)}-only": f"only {model}" for index, model in enumerate(models)}
        classes: list[list[str | Cell]] = [
            [class_labels.get(name, name).replace("other", "in between"), number_cell(count)]
            for name, count in counts.items()
        ]
        pairs: list[list[str | Cell]] = []
        widths = artifacts.read_json(file, "widths")
        for key, values in aligned.items():
            first, second = (models[int(part)] for part in key.split("-"))
            pairs.append([f"{first}, {second}", number_cell(values["value"]), number_cell(values["null"])])
        class_blocks: list[Block] = [
            Table(["class", "latents"], classes),
            Prose(f"Sharedness {number(shared['activation'])} (1: every latent is equally in all models)."),
            Table(["models", "alignment of their decoders", "of unrelated rows"], pairs),
        ]
        if len(set(widths)) > 1:
            note = "Models of unequal width cannot start from the same values, which alone lowers their alignment: "
            class_blocks.append(Note("warn", f"{note}no verdict. A crosscoder of two of them can have a `ceiling`."))
        own = [_own(file, columns, index, model, text, contexts) for index, model in enumerate(models)]
    return [
        Section(f"{described['id']}-norms", "Whose latents", class_blocks),
        Section(f"{described['id']}-latents", "Each model's own latents", own),
    ]


def _own(file: h5py.File, columns: Columns, model_index: int, model: str, text: Text, contexts: int) -> Block:
    """The latents with the largest share of their decoder norm in one model."""
    share = columns[f"share_{model_index}"]
    live = np.flatnonzero((columns["density_selection"] > 0) & np.isfinite(share))
    items = []
    for latent in live[np.argsort(-share[live], kind="stable")][:SHOWN_LATENTS]:
        exclusive = "yes" if bool(file["nu/exclusive"][latent, model_index]) else "no"
        facts = [
            ("share", number(float(share[latent]))),
            ("fires on", percent(float(columns["density_held_out"][latent]))),
            ("exclusive by latent scaling", exclusive),
        ]
        items.append(Item(f"latent {latent}", facts, _readings(file, columns, int(latent), text, contexts, "both")))
    return Items(f"The latents with the largest share of their decoder norm in {model}.", items)


def _of_differences(pair: Mapping[str, Any], file: h5py.File, columns: Columns, text: Text, contexts: int) -> Section:
    """Subsection on the most active latents of a dictionary on differences."""
    order = np.argsort(-columns["mean_held_out"], kind="stable")[: 2 * SHOWN_LATENTS]
    items = []
    for latent in order:
        facts = [
            ("fires on", percent(float(columns["density_held_out"][latent]))),
            ("mean", number(float(columns["mean_held_out"][latent]))),
            ("largest", number(float(columns["max_held_out"][latent]))),
        ]
        items.append(Item(f"latent {latent}", facts, _readings(file, columns, int(latent), text, contexts, "both")))
    caption = (
        f"A dictionary on what {pair['b']}'s rows have more than {pair['a']}'s: its latents belong to no model. Those "
        "that are active most."
    )
    lead = f"A dictionary of what {pair['b']}'s activations have more than {pair['a']}'s."
    return Section(f"{pair['id']}-latents", "Latents of the difference", [Items(caption, items)], lead=lead)


Recovered = tuple[npt.NDArray[np.int64], int] | None
"""Number of runs in which each latent is recovered, and number of runs; None for a single run."""


def _recovered(run: Mapping[str, Any]) -> Recovered:
    if not run.get("seeds"):
        return None
    with artifacts.read(run["seeds"], "seeds") as file:
        return file[f"recovered/{run['seed']}"][:], int(artifacts.read_json(file, "summary")["runs"])


# --- relative norms -----------------------------------------------------------------------------------------------


def _norms(
    pair: Mapping[str, Any], run: Mapping[str, Any], file: h5py.File, columns: Columns, classes: Sequence[str],
    recovered: Recovered,
) -> list[Block]:  # fmt: skip
    code, r = columns["class"], columns["r"]
    series = {
        _class_words(name, pair): (np.histogram(r[code == classes.index(name)], R_EDGES)[0], colour)
        for name, colour in COLOURS.items()
    }
    shared = artifacts.read_json(file, "sharedness")
    return [
        Figure(
            f"{pair['id']}-relative-norms",
            "Relative decoder norm of the latents",
            f"Each live latent by the share of its decoder norm that is in {pair['b']}: 0 is only in {pair['a']}, 1 "
            f"only in {pair['b']}, .5 equally in both. Counts are logarithmic.",
            figures.histogram(R_EDGES, series, x="relative norm r", y="latents", logarithmic=True),
            height=280,
        ),
        _classes(pair, code, classes, recovered),
        Prose(
            f"Sharedness {number(shared['activation'])} (1: every latent is equally in both; weighted by activation), "
            f"{number(shared['unweighted'])} unweighted."
        ),
        _alignment(pair, run, file),
    ]


def _classes(pair: Mapping[str, Any], code: npt.NDArray[Any], classes: Sequence[str], recovered: Recovered) -> Table:
    """Table of latents by class, and of how many runs they are recovered in."""
    columns, rows = ["class", "latents"], []
    if recovered is not None:
        count, runs = recovered
        columns += [f"in {n} of {runs} runs" for n in range(1, runs + 1)]
    for name in (*COLOURS, "dead"):
        mine = code == classes.index(name)
        row: list[str | Cell] = [_class_words(name, pair), number_cell(int(mine.sum()))]
        if recovered is not None:
            row += [number_cell(int((count[mine] == n).sum())) for n in range(1, runs + 1)]
        rows.append(row)
    caption = "" if recovered is None else (
        "A latent is found in another run if one there has nearly the same decoder rows (cosine above .7), one to one; "
        "the runs differ in nothing but their seed."
    )  # fmt: skip
    return Table(columns, rows, caption=caption)


def _class_words(name: str, pair: Mapping[str, Any]) -> str:
    return {"A-only": f"only {pair['a']} (A)", "B-only": f"only {pair['b']} (B)", "other": "in between"}.get(name, name)


def _alignment(pair: Mapping[str, Any], run: Mapping[str, Any], file: h5py.File) -> Block:
    """Alignment of the decoders, compared with unrelated rows and, for unequal widths, with its ceiling."""
    aligned = artifacts.read_json(file, "alignment")["0-1"]
    if aligned["value"] is None:
        return Prose(
            f"Alignment of the two decoders is not given: too few latents are live ({aligned['n_live']:,.0f})."
        )
    text = (
        f"Alignment of the two decoders {number(aligned['value'])}; unrelated rows would give "
        f"{number(aligned['null'])}."
    )
    if run.get("ceiling"):
        with artifacts.read(run["ceiling"], "latents") as ceiling:
            best = artifacts.read_json(ceiling, "alignment")["0-1"]["value"]
        text += (
            f" {pair['a']} with itself, trained as long from independent initial values, reaches {number(best)}: that "
            "is what identical models would show here."
        )
        return Prose(text)
    if len(set(artifacts.read_json(file, "widths"))) > 1:
        return Note(
            "warn",
            f"{text} The models differ in width and cannot start from the same values, which alone lowers alignment: "
            "this number is no verdict. Set `ceiling: true` for the crosscoder to see what is possible.",
        )
    return Prose(text)


# --- latent scaling and duplicates --------------------------------------------------------------------------------


def _scaling(pair: Mapping[str, Any], file: h5py.File, columns: Columns, recovered: Recovered) -> list[Block]:
    """Table of nu of the one-sided latents with intervals, and duplicates."""
    rows: list[list[str | Cell]] = []
    points: dict[str, tuple[Any, Any, list[str], str]] = {}
    kinds = artifacts.read_json(file, "classes")
    for side, own in (("B", 1), ("A", 0)):
        mine = np.flatnonzero(columns["class"] == kinds.index(f"{side}-only"))
        mine = mine[np.argsort(-columns["mean_held_out"][mine], kind="stable")]
        rows += [_scaled(pair, file, columns, int(latent), own, recovered) for latent in mine[:SCALED_LATENTS]]
        nu = [file[f"nu/{name}"][:][mine, own, 1 - own] for name in ("err", "rec")]
        if np.isfinite(nu[0]).any():
            names = [f"latent {latent}" for latent in mine]
            points[f"only {pair['b'] if own else pair['a']}"] = (nu[0], nu[1], names, COLOURS[f"{side}-only"])
    if not rows:
        return [Prose("No latent is in one model alone by its decoder norms.")]
    columns_ = ["latent", "only in", "ν error", "95 %", "ν reconstruction", "95 %", "fires on (held out)", "exclusive"]
    if recovered is not None:
        columns_.append("seeds")
    table = Table(
        columns_,
        rows,
        caption="The one-sided latents that fire most. ν says how much of a latent the other model has after all: in "
        "the crosscoder's error, and in what other latents reconstruct (0: none, 1: as much). Exclusive: below .2 and "
        "below .5. No value: it fires too seldom on held-out text, or its own side is not seen for sure.",
        interactive=True,
    )
    blocks: list[Block] = [table]
    if points:
        blocks.append(_scaling_figure(pair, points))
    return [*blocks, *_duplicates(pair, file)]


def _scaled(
    pair: Mapping[str, Any], file: h5py.File, columns: Columns, latent: int, own: int, recovered: Recovered
) -> list[str | Cell]:
    cells: list[str | Cell] = [Cell(str(latent), order=float(latent)), pair["b"] if own else pair["a"]]
    for name in ("err", "rec"):
        value, lo, hi = (float(file[f"nu/{part}"][latent, own, 1 - own]) for part in (name, f"{name}_lo", f"{name}_hi"))
        cells += [number_cell(value), f"{number(lo)} to {number(hi)}" if np.isfinite(lo) else "–"]
    exclusive = bool(file["nu/exclusive"][latent, own])
    known = np.isfinite(float(file["nu/err"][latent, own, 1 - own]))
    density = float(columns["density_held_out"][latent])
    cell = Cell("yes", tone="pass") if exclusive else Cell("no" if known else "–", tone="muted")
    cells += [Cell(percent(density), order=density), cell]
    if recovered is not None:
        cells.append(f"{recovered[0][latent]}/{recovered[1]}")
    return cells


def _scaling_figure(pair: Mapping[str, Any], points: Mapping[str, tuple[Any, Any, list[str], str]]) -> Figure:
    return Figure(
        f"{pair['id']}-nu",
        "Latent scaling of the one-sided latents",
        "Each one-sided latent by how much of it the other model has in the crosscoder's error (across) and in its "
        "reconstruction (up). Those in the lower left corner, inside the dashed lines, are truly one model's own.",
        figures.scatter(points, x="ν error", y="ν reconstruction", vertical_at=0.2, horizontal_at=0.5),
        height=300,
    )


def _duplicates(pair: Mapping[str, Any], file: h5py.File) -> list[Block]:
    """Table of pairs of latents that split one concept, one for each model."""
    if "twins/0-1/a" not in file or not len(file["twins/0-1/a"]):
        return []
    duplicates = artifacts.read_table(file, "twins/0-1")
    order = np.argsort(-duplicates["cosine"], kind="stable")[:LISTED_DUPLICATES]
    rows: list[list[str | Cell]] = [
        [str(duplicates["a"][i]), str(duplicates["b"][i]), number_cell(float(duplicates["cosine"][i])),
         Cell(percent(float(duplicates["overlap"][i])), order=float(duplicates["overlap"][i]))]
        for i in order
    ]  # fmt: skip
    n = len(duplicates["a"])
    return [
        Table(
            [f"only {pair['a']}", f"only {pair['b']}", "cosine", "fire together"],
            rows,
            caption=f"{counted(n, 'pair')} of duplicates among the one-sided latents: one concept split in two, one "
            "latent for each model. Neither is a difference between the models.",
        )
    ]


# --- the most one-sided latents -----------------------------------------------------------------------------------


def _exclusive(
    pair: Mapping[str, Any], file: h5py.File, columns: Columns, side: SideName, text: Text, contexts: int,
    finding_ids: Collection[str], recovered: Recovered,
) -> Block:  # fmt: skip
    r = columns["r"]
    live = np.flatnonzero((columns["density_selection"] > 0) & np.isfinite(r))
    model = pair["b"] if side == "B" else pair["a"]
    towards = r[live] if side == "B" else 1 - r[live]
    order = live[np.argsort(-towards, kind="stable")][:SHOWN_LATENTS]
    if not len(order) or float(towards.max()) <= 0.5:
        return Prose(f"No latent has more than half of its decoder norm in {model}.")
    items = [
        _latent(pair, file, columns, int(latent), side, text, contexts, finding_ids, recovered) for latent in order
    ]
    return Items(
        f"The latents with the largest share of their decoder norm in {model}. Effect compares how much a latent "
        "fires with the models as they are "
        "and with their rows exchanged; ν is how much of the latent the other model has after all, in the "
        "crosscoder's "
        "error and in its reconstruction (0: none, 1: as much). The code is read from both models at once, so its "
        "contexts are those of both.",
        items,
    )


def _latent(
    pair: Mapping[str, Any], file: h5py.File, columns: Columns, latent: int, side: SideName, text: Text, contexts: int,
    finding_ids: Collection[str], recovered: Recovered,
) -> Item:  # fmt: skip
    own = 1 if side == "B" else 0
    facts = [
        ("r", number(float(columns["r"][latent]))),
        ("cosine of its two rows", number(float(columns["cosine_0_1"][latent]))),
        ("fires on", percent(float(columns["density_held_out"][latent]))),
        ("mean", number(float(columns["mean_held_out"][latent]))),
        ("largest", number(float(columns["max_held_out"][latent]))),
        ("ν error", number(float(file["nu/err"][latent, own, 1 - own]))),
        ("ν reconstruction", number(float(file["nu/rec"][latent, own, 1 - own]))),
    ]
    if "p" in columns:
        facts.insert(1, ("effect", number(float(columns["effect_held_out"][latent]))))
        facts.insert(2, ("p", p_value(float(columns["p"][latent]))))
    if recovered is not None:
        facts.append(("found in", f"{recovered[0][latent]} of {recovered[1]} runs"))
    tag = "finding" if f"{side} {latent}" in finding_ids else ""
    return Item(f"latent {latent}", facts, _readings(file, columns, latent, text, contexts, side), side, tag)


def _readings(
    file: h5py.File, columns: Columns, latent: int, text: Text, contexts: int, side: SideName
) -> list[ContextList]:
    """Contexts in which a latent is largest, in held-out documents and in those it was trained on."""
    readings = []
    for name, title in (("held_out", "held-out documents"), ("selection", "documents it was trained on")):
        rows, values = file[f"top/{name}/token_row"][0, latent], file[f"top/{name}/value"][latent]
        order = np.argsort(rows, kind="stable")
        shade = Shade(rows[order], values[order], scale=float(columns[f"max_{name}"][latent]))
        readings.append(ContextList(title, text.contexts(rows, values, shade, count=max(2, contexts // 2)), side))
    return readings
