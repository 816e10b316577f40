"""The section on the crosscoder of one pair: reconstruction, and which latents are exclusive to one model."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from diptych.candidates.candidate import id_in_run
from diptych.crosscoder import latents_section
from diptych.page import figures, method_sections
from diptych.page.blocks import Block, Cell, Figure, Note, Prose, Section, Table, listed, number, number_cell, percent
from diptych.page.cards import more_than
from diptych.page.method_sections import Chapters, Evidence, Finding, PageData
from diptych.storage import artifacts
from diptych.storage.canonical import canonical_json
from diptych.text.contexts import Text

EXTRAPOLATION = 0.1
"""Relative distance by which a curve is extended beyond the L0 of its runs (METHODS 5: L0 may be 10 % off)."""
CURVE_SETTINGS = ("seed", "k", "penalty")
"""Settings in which the runs of one curve may differ."""


def chapters(pair: Mapping[str, Any], text: Text, contexts: int, finding_ids: Collection[str]) -> Chapters:
    """Reconstruction, relative norms and the most one-sided latents; `finding_ids` holds "side id" of findings."""
    runs = pair["files"]["crosscoders"]
    reconstruction = Section(
        f"{pair['id']}-reconstruction",
        "How well the crosscoder reconstructs",
        _reconstruction(pair, runs, text.sources),
        lead="How much of either model's activations the crosscoder misses, and what that costs the model.",
    )
    return {"trust": reconstruction, **latents_section.chapters(pair, runs[0], text, contexts, finding_ids)}


def of_many(described: Mapping[str, Any], text: Text, contexts: int) -> Section:
    """The section on a crosscoder of more than two models, which belongs to no pair."""
    models, runs = described["models"], described["runs"]
    slug = "".join(character if character.isalnum() else "-" for character in described["name"])
    named = {**described, "id": f"crosscoder-{slug}"}
    intro = Prose(
        "One dictionary for all of these models: each latent writes to each model with a decoder row of its own, and a "
        "latent that writes to one model alone is a candidate for something that only that model has."
    )
    parts = [
        Section(
            f"{named['id']}-reconstruction", "How well it reconstructs", _reconstruction(named, runs, text.sources)
        ),
        *latents_section.of_many(named, runs[0], text, contexts),
    ]
    title = f"{described['name']}: {listed(models)} at {described['site']}"
    return Section(named["id"], title, [intro], parts, lead="One crosscoder of several models: what each has alone.")


# --- reconstruction -----------------------------------------------------------------------------------------------


def _reconstruction(pair: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> list[Block]:
    rows: list[list[str | Cell]] = []
    warnings: list[Block] = []
    for run in runs:
        with artifacts.read(run["evaluation"], "evaluation") as file:
            numbers = artifacts.read_json(file, "summary")
        with artifacts.read(run["weights"], "crosscoder") as file:
            training = artifacts.read_json(file, "summary")
        rows.append(_run_row(run, numbers, training, len(models_of(pair))))
        if numbers["l0_off"]:
            active, k = number(numbers["l0_mean"]), numbers["k"]
            which = f"{run['name']}, seed {run['seed']}"
            text = f"{which}: {active} latents are active on held-out text where {k} are asked for"
            warnings.append(Note("warn", f"{text}: more tokens are needed."))
    unexplained = [f"unexplained {model}" for model in models_of(pair)]
    table = Table(
        ["run", "steps", "learning rate", "distinct rows", "k", "active (L0)", *unexplained, "together", "dead"],
        rows,
        caption="Share of variance unexplained (FVU) on held-out documents, for each model and for all together; of "
        "x_B − x_A for a dictionary on the difference, which no model's share is.",
    )
    return [
        table,
        *warnings,
        *_splicing(pair, runs),
        *_matched(pair, runs),
        _by_source(pair, runs[0], sources),
        *_loss(pair, runs),
    ]


def models_of(pair: Mapping[str, Any]) -> list[str]:
    """Names of the models that a crosscoder reads."""
    return list(pair.get("models") or (pair["a"], pair["b"]))


def _run_row(
    run: Mapping[str, Any], numbers: Mapping[str, Any], training: Mapping[str, Any], n_models: int
) -> list[str | Cell]:
    fvu = numbers["fvu"] if len(numbers["fvu"]) == n_models else [None] * n_models
    return [
        f"{run['name']}, seed {run['seed']}",
        number_cell(training["steps"]),
        number_cell(training.get("learning_rate")),  # published weights have none
        number_cell(training["rows_seen"]),
        number_cell(numbers["k"] or None),
        number_cell(numbers["l0_mean"]),
        *(number_cell(value) for value in fvu),
        number_cell(numbers["fvu_total"]),
        Cell(percent(numbers["dead_share"]), order=numbers["dead_share"]),
    ]


def _splicing(pair: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Table of the models' losses with the reconstruction in place of their activations."""
    rows: list[list[str | Cell]] = []
    for run in runs:
        with artifacts.read(run["evaluation"], "evaluation") as file:
            losses = artifacts.read_json(file, "splicing")
        for model, loss in zip(models_of(pair), losses, strict=False):
            names = ("clean", "spliced", "mean", "zero", "recovered_mean", "recovered_zero", "kl")
            rows.append([f"{run['name']}, seed {run['seed']}", model, *(number_cell(loss[name]) for name in names),
                         number_cell(int(loss["n"]))])  # fmt: skip
    if not rows:
        return []
    columns = ["run", "model", "loss", "spliced", "set to mean", "set to 0", "recovered (mean)", "recovered (0)", "KL",
               "predictions"]  # fmt: skip
    hints = ("", "", "Cross-entropy of the model as it is, nats per token.", "With reconstructions in place.", "", "",
             "1: nothing is lost; 0: no better than the mean.", "1: nothing is lost; 0: no better than nothing.",
             "KL(clean || spliced), nats per token.", "")  # fmt: skip
    caption = (
        "The loss of each model on held-out text when its activations are replaced by the crosscoder's reconstruction, "
        "by their mean, or by 0. Small models can be hurt by little unexplained variance: this is what it costs."
    )
    return [Table(columns, rows, caption=caption, hints=hints)]


def _matched(pair: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Comparison of variants at the same L0, since FVU falls with more active latents."""
    curves = _curves(runs)
    if sum(len(points) for points in curves.values()) < 2 or len({run["name"] for run in runs}) < 2:
        return []
    at = matched_l0(curves)
    rows: list[list[str | Cell]] = []
    for name, points in curves.items():
        active = [point[0] for point in points]
        spread = number(active[0]) if len(points) == 1 else f"{number(active[0])} to {number(active[-1])}"
        rows.append([name, number_cell(len(points)), spread, number_cell(unexplained_at(points, at))])
    plot = figures.line_plot(
        {name: tuple(zip(*points, strict=True)) for name, points in curves.items()}, x="active latents (L0)",
        y="unexplained", markers=True,
    )  # fmt: skip
    caption = (
        f"Unexplained share of held-out variance (FVU, both models) read off each curve at L0 = {number(at)}, linear "
        "in log L0; none for a curve that does not reach it. Runs that differ in k, penalty or seed make one curve."
    )
    return [
        Table(["variant", "points", "L0", f"unexplained at L0 {number(at)}"], rows, caption=caption),
        Figure(
            f"{pair['id']}-matched",
            "Variants at matched L0",
            "Each point is one setting of k or penalty (mean over seeds): further down is better at the same number of "
            "active latents.",
            plot,
            height=280,
        ),
    ]


Point = tuple[float, float]
"""L0 and unexplained share."""


def _curves(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """The points of each variant by increasing L0; runs that differ only in the seed are averaged.

    Published weights have no settings of a training, and are a variant of their own.
    """
    curves: dict[str, dict[str, list[Point]]] = {}
    settings = {}
    for run in runs:
        with artifacts.read(run["weights"], "crosscoder") as file:
            settings[run["weights"]] = artifacts.read_json(file, "spec")["settings"]
    trained = [values for values in settings.values() if "objective" in values]
    differing = sorted(
        key for key in (trained[0] if trained else ())
        if key not in CURVE_SETTINGS and len({canonical_json(values.get(key)) for values in trained}) > 1
    )  # fmt: skip
    for run in runs:
        values = settings[run["weights"]]
        name = f"{run['name']} (published weights)"
        if "objective" in values:
            name = ", ".join(f"{key} {values[key]}" for key in differing) or "all"
        if values.get("objective") == "diff":
            continue  # the difference's variance is not the models'
        with artifacts.read(run["evaluation"], "evaluation") as file:
            numbers = artifacts.read_json(file, "summary")
        point = (float(numbers["l0_mean"]), float(numbers["fvu_total"]))
        curves.setdefault(name, {}).setdefault(run["name"], []).append(point)
    return {
        name: sorted((float(np.mean([p[0] for p in points])), float(np.mean([p[1] for p in points])))
                     for points in members.values())
        for name, members in curves.items()
    }  # fmt: skip


def matched_l0(curves: Mapping[str, Sequence[Point]]) -> float:
    """The L0 of a run that most curves cover; the median one if there are several."""
    reached = sorted(point[0] for points in curves.values() for point in points if point[0] > 0)
    covered = [sum(not np.isnan(unexplained_at(points, l0)) for points in curves.values()) for l0 in reached]
    best = [l0 for l0, count in zip(reached, covered, strict=True) if count == max(covered)]
    return best[len(best) // 2]


def unexplained_at(points: Sequence[Point], l0: float) -> float:
    """Unexplained share of a curve at an L0, interpolated in log L0; NaN more than 10 % beyond its ends."""
    active, unexplained = (np.array(part) for part in zip(*points, strict=True))
    if not active[0] * (1 - EXTRAPOLATION) <= l0 <= active[-1] * (1 + EXTRAPOLATION):
        return float("nan")
    return float(np.interp(np.log(l0), np.log(np.maximum(active, 1e-9)), unexplained))


def _by_source(pair: Mapping[str, Any], run: Mapping[str, Any], sources: Sequence[str]) -> Table:
    with artifacts.read(run["evaluation"], "evaluation") as file:
        fvu = file["fvu_source"][:]
    names = models_of(pair) if fvu.shape[1] > 1 else ["the difference"]
    rows: list[list[str | Cell]] = [
        [source, *(number_cell(float(value)) for value in values)] for source, values in zip(sources, fvu, strict=False)
    ]
    return Table(["source of the text", *(f"unexplained {name}" for name in names)], rows)


def _loss(pair: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Loss curves of the runs that were trained in this study."""
    lines = {}
    for run in runs:
        with artifacts.read(run["weights"], "crosscoder") as file:
            if "series" in file:
                lines[f"{run['name']}, seed {run['seed']}"] = (file["series/step"][:], file["series/loss"][:])
    if not lines:
        return []
    return [
        Figure(
            f"{pair['id']}-loss",
            "Loss while it was trained",
            "Reconstruction loss over the run (logarithmic). A curve that still falls at the end says that more "
            "training would show more.",
            figures.line_plot(lines, x="step", y="loss", logarithmic=True),
            height=220,
        )
    ]


CLASSES = {"only_a": "A-only", "only_b": "B-only", "shared": "shared"}
"""Class of latents by the quantity that counts it."""


def published_number(ours: Mapping[str, Any], page: PageData) -> Cell:
    """The quantity of a run that a published number stands beside."""
    runs = [run for pair in page.inputs["pairs"] for run in pair["files"].get("crosscoders", ())]
    of_name = [run for run in runs if run["name"] == ours["crosscoder"]]
    run = next(run for run in of_name if ours["seed"] in (None, run["seed"]))
    quantity = ours["quantity"]
    with artifacts.read(run["evaluation"], "evaluation") as file:
        summary = artifacts.read_json(file, "summary")
    with artifacts.read(run["latents"], "latents") as file:
        counts = artifacts.read_json(file, "counts")
        has_spaces = "sharedness" in file.attrs
        sharedness = artifacts.read_json(file, "sharedness")["activation"] if has_spaces else None
        alignment = artifacts.read_json(file, "alignment")["0-1"]["value"] if has_spaces else None
    match quantity:
        case "l0":
            return number_cell(summary["l0_mean"])
        case "explained_variance":
            return number_cell(1 - summary["fvu_total"])
        case "dead_share":
            return number_cell(summary["dead_share"])
        case "sharedness":
            return number_cell(sharedness)
        case "alignment":
            return number_cell(alignment)
    return number_cell(counts.get(CLASSES[quantity]))


class Sections(method_sections.Sections):
    """The crosscoders' sections of the page."""

    def of_cell(self, cell: Mapping[str, Any], page: PageData) -> Chapters:
        """Reconstruction and latents of a pair's crosscoders."""
        return chapters(cell, page.texts["a"], page.n_contexts, page.finding_ids)

    def claim(self, cell: Mapping[str, Any], finding: Finding) -> str:
        """Whose latent it is."""
        own = cell["a"] if finding.side == "A" else cell["b"]
        times = more_than(abs(finding.effect))
        return (
            f"Latent {id_in_run(finding.id, finding.run)} is {own}'s: it fires {times} as with the two models exchanged"
        )

    def evidence(self, cell: Mapping[str, Any], page: PageData, findings: Sequence[Finding]) -> Evidence:
        """Where each latent fires, its norms, and how much of it the other model has after all."""
        return latents_section.evidence(cell, page.texts["a"], page.n_contexts, findings)

    def number_of(self, ours: Mapping[str, Any], page: PageData) -> Cell:
        """A number of one run of a crosscoder of two models."""
        return published_number(ours, page)

    def of_study(self, page: PageData) -> list[Section]:
        """The crosscoders of more than two models."""
        many = page.inputs.get("crosscoders", ())
        return [of_many(crosscoder, Text(crosscoder["tokens"]), page.n_contexts) for crosscoder in many]


SECTIONS = Sections()
