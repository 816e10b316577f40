"""Report section of one cell: similarity scores with their nulls, semantic subspaces, and the map of the pairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.page import method_sections
from diptych.page.blocks import Block, Cell, Figure, Note, Prose, Section, Table, counted, number, number_cell, p_value
from diptych.page.method_sections import Chapters, PageData
from diptych.similarity import feature_maps, figures, grid_section
from diptych.similarity.page_scores import Rows, StudyScores, measure_label, score_cells, sort_key
from diptych.storage import artifacts

HINTS = {
    "svcca": "99 % of each space's variance; invariant to linear maps of either space.",
    "svcca_lan2024": "Random pairs give sqrt(2 / (pi p)) on average; its p does not add 1. For comparison only.",
    "procrustes": "Invariant to rotations and scalings of either space.",
    "cka_debiased": "0 in expectation for unrelated spaces, whatever their widths.",
    "mmcs": "Does not change under re-pairing; by chance: each best row replaced by its nearest other row.",
    "mean_rho": "Pairs were chosen for it on other documents, so it has a level but no p.",
}
DEGENERATE = {"repeated_rows": "repeated row", "zero_rows": "zero row", "constant_columns": "constant column"}
SUBSPACE_MEASURES = ("rsa", "cka_debiased", "mean_rho")
INTRO = (
    "Features of the two models were paired by how they fire. If both models also arrange them alike, the paired "
    "decoder rows form clouds of the same shape. Every score is shown with its null, the score of the same rows paired "
    "at random: only a score above it means something."
)


def section(pair: Mapping[str, Any], scores: StudyScores, maps: str | Path | None) -> Section:
    """Section with the scores of one cell, its semantic subspaces and its map."""
    rows = scores.rows(pair["name"], pair["site_a"], pair["site_b"])
    blocks: list[Block] = [Prose(INTRO)]
    if any(row["circular"] for row in rows):
        blocks.append(
            Note(
                "warn",
                "Circular: these pairs were chosen by the cosine of their decoder rows, so geometric scores repeat "
                "how the pairs were chosen. They carry no p.",
            )
        )
    blocks += _scores(rows)
    blocks.append(_quality(pair))
    if pair["files"].get("lan2024"):
        blocks.append(_published(pair["files"]["lan2024"], rows))
    if any(row["subspace"] != "all" for row in rows):
        blocks.append(_subspaces(rows))
    feature_map = feature_maps.read(maps, pair["name"], pair["site_a"], pair["site_b"]) if maps else None
    if feature_map is not None:
        blocks.append(_map(pair, feature_map))
    lead = "Whether the features that the models share are arranged alike in both, against re-pairing them at random."
    return Section(f"{pair['id']}-similarity", "Similarity of the feature spaces", blocks, lead=lead)


def _scores(rows: Rows) -> list[Block]:
    """Table of all measures with a value, for features and neurons; below it, which measures have none and why."""
    all_pairs = [row for row in rows if row["subspace"] == "all"]
    points = sorted({row["points"] for row in all_pairs})
    by_measure = {(row["points"], row["measure"]): row for row in all_pairs}
    columns = ["measure"]
    for name in points:
        columns += [f"{name} ({_n_pairs(all_pairs, name):,} pairs)", "by chance", "ratio", "z", "p", "q"]
    body: list[list[str | Cell]] = []
    for measure in _ordered([row["measure"] for row in all_pairs if row["points"] == points[0]]):
        if any(np.isfinite(by_measure[name, measure]["value"]) for name in points):
            line: list[str | Cell] = [Cell(measure_label(measure), hint=HINTS.get(measure, ""))]
            body.append(line + [cell for name in points for cell in score_cells(by_measure[name, measure])])
            if measure == "mean_squared_cc":
                body.append(_above_null_row([by_measure[name, measure] for name in points]))
    void: dict[str, list[str]] = {}
    for row in all_pairs:
        if not np.isfinite(row["value"]):
            void.setdefault(f"{row['points']}: {row['reason']}", []).append(
                measure_label(row["measure"]).partition(":")[0]
            )
    table = Table(
        columns,
        body,
        caption="By chance: mean and standard deviation over re-pairings of the same rows, over random ones or (CKA, "
        "mean squared canonical correlation, mean correlation) exactly over all; of MMCS, which re-pairing does not "
        "change, the mean and its standard error with each best row replaced by its nearest other row. q is over all "
        "sites of this pair and all word lists. A dash has its reason on hover.",
    )
    notes = [Prose(f"Not scored ({reason}): {', '.join(names)}.") for reason, names in void.items()]
    return [*([table] if body else []), *notes]


def _quality(pair: Mapping[str, Any]) -> Prose:
    """Counts of degenerate rows among the pairs, which affect every score (METHODS 0.6)."""
    with artifacts.read(pair["files"]["similarity"], "similarity") as file:
        table = artifacts.read_table(file, "quality")
    notes = []
    for k in np.flatnonzero(table["subspace"] == "all").tolist():
        for side in "ab":
            counts = {kind: int(table[f"{kind}_{side}"][k]) for kind in DEGENERATE}
            counts_text = [counted(count, DEGENERATE[kind]) for kind, count in counts.items() if count]
            if counts_text:
                notes.append(f"{table['points'][k]} of {pair[side]}: {', '.join(counts_text)}")
    return Prose(f"Degenerate input: {'; '.join(notes) or 'no repeated or zero row, no constant column'}.")


def _n_pairs(rows: Rows, points: str) -> int:
    """Number of scored pairs of a kind of points."""
    return int(next(row["n_pairs"] for row in rows if row["points"] == points))


def _ordered(measures: list[str]) -> list[str]:
    """Measures in table order, the lan2024 score directly below SVCCA."""
    position = {measure: 2 * i for i, measure in enumerate(measures)}
    if "svcca_lan2024" in position:
        position["svcca_lan2024"] = position["svcca"] + 1
    return sorted(measures, key=lambda measure: position[measure])


def _above_null_row(rows: Rows) -> list[str | Cell]:
    """Table row with (score - null mean) / (1 - null mean) of each kind of points."""
    line: list[str | Cell] = [
        Cell("of what is possible above chance", tone="muted", hint="(score - level) / (1 - level)")
    ]
    for row in rows:
        line += [Cell(number(row["above_null"]), sort_key(row["above_null"])), *(Cell("") for _ in range(5))]
    return line


def _published(path: str, rows: Rows) -> Table:
    """Table of the scores of lan2024's procedure beside those of this study."""
    with artifacts.read(path, "lan2024") as file:
        published = artifacts.read_table(file, "scores")
        counts = artifacts.read_json(file, "counts")
    by_measure = {row["measure"]: row for row in rows if (row["points"], row["subspace"]) == ("features", "all")}
    body: list[list[str | Cell]] = []
    for measure, value, level, p in zip(*(published[name].tolist() for name in published), strict=True):
        study_row = by_measure.get(measure)
        body.append(
            [
                measure_label(measure),
                number_cell(value),
                number_cell(level),
                Cell(p_value(p) if p else "0", sort_key(p)),
                *(score_cells(study_row)[k] if study_row else Cell("–") for k in (0, 1, 4)),
            ]
        )
    return Table(
        ["measure", "lan2024", "its level", "its p", "here", "by chance", "p"],
        body,
        caption=f"The published procedure (compat: lan2024) on {counts['pairs']:,} pairs and {counts['rows']:,} rows, "
        "only for comparison with its printed numbers: the hidden state before the block, padding read as text, "
        "pre-activations, first-occurrence pairs, one component under the name SVCCA, p without adding 1. In print for "
        "Pythia-70m layer 2 and Pythia-160m layer 5: .698, .207, .678.",
    )


def _subspaces(rows: Rows) -> Block:
    body: list[list[str | Cell]] = []
    for row in rows:
        is_listed = row["measure"] in SUBSPACE_MEASURES or row["measure"].startswith("knn_jaccard")
        if row["subspace"] == "all" or not is_listed or not np.isfinite(row["value"]):
            continue
        random_subsets = (
            f"{number(row['subset_mean'])} ± {number(row['subset_sd'])}" if np.isfinite(row["subset_mean"]) else "–"
        )
        body.append(
            [
                row["subspace"] if row["points"] == "features" else f"{row['subspace']} ({row['points']})",
                measure_label(row["measure"]),
                number_cell(row["n_pairs"]),
                number_cell(row["value"]),
                Cell(random_subsets, sort_key(row["subset_mean"]), "muted"),
                Cell(p_value(row["p"]), sort_key(row["p"]), "", row["reason"]),
                Cell(p_value(row["q"]), sort_key(row["q"]), "", row["reason"]),
            ]
        )
    too_few = sorted({row["subspace"] for row in rows if row["subspace"] != "all"} - {str(line[0]) for line in body})
    left_out = f" Too few pairs to score: {', '.join(too_few)}." if too_few else ""
    if not body:
        return Prose(f"Semantic subspaces: too few pairs with a top token in any word list ({', '.join(too_few)}).")
    return Table(
        ["word list", "measure", "pairs", "score", "random subsets", "p", "q"],
        body,
        caption="Semantic subspaces: the pairs with a top token in a word list. Random subsets of as many pairs, with "
        f"random partners, for comparison.{left_out}",
        interactive=len(body) > 6,
    )


def _map(pair: Mapping[str, Any], feature_map: feature_maps.FeatureMap) -> Figure:
    texts = [
        figures.hover_lines(
            f"{pair['a']} {i}: {', '.join(tokens_a)}",
            f"{pair['b']} {j}: {', '.join(tokens_b)}",
            f"correlation {rho:.3f}",
        )
        for i, j, tokens_a, tokens_b, rho in zip(
            feature_map.latent_a.tolist(),
            feature_map.latent_b.tolist(),
            feature_map.tokens_a,
            feature_map.tokens_b,
            feature_map.rho.tolist(),
            strict=True,
        )
    ]
    return Figure(
        f"{pair['id']}-feature-map",
        f"Paired features of {pair['a']} (left) and {pair['b']} (right), laid out by their decoder rows",
        f"Each point on the left is paired with one on the right ({len(texts):,} pairs); pointing at one rings "
        "both and shows the tokens on which they fire most. Darker pairs fire more alike. UMAP, each side by itself: "
        "points close together have similar decoder rows, but distances and empty space mean little.",
        figures.linked_maps(feature_map.a, feature_map.b, feature_map.rho, texts, titles=(pair["a"], pair["b"])),
        height=420,
    )


class Sections(method_sections.Sections):
    """The report sections of the similarity method."""

    def of_cell(self, cell: Mapping[str, Any], page: PageData) -> Chapters:
        """The section of one cell: scores with their nulls, subspaces, map."""
        return {"different": section(cell, StudyScores(page.inputs.get("similarity")), page.inputs.get("maps"))}

    def number_of(self, ours: Mapping[str, Any], page: PageData) -> Cell:
        """A score of one cell, over all paired features, by our procedure or a published one."""
        site_b = ours["site_b"] or ours["site"]
        if ours["compat"]:
            files = method_sections.files_of(page, ours["pair"], ours["site"], site_b)
            if ours["compat"] not in files:
                return Cell("–", hint=f"{ours['compat']} is not run on it: similarity.compat")
            with artifacts.read(files[ours["compat"]], ours["compat"]) as file:
                table = artifacts.read_table(file, "scores")
            values = table["value"][table["measure"] == ours["measure"]].tolist()
            return number_cell(values[0]) if values else Cell("–", hint=f"{ours['compat']} has no such score")
        scores = StudyScores(page.inputs["similarity"])
        rows = [
            row
            for row in scores.rows(ours["pair"], ours["site"], site_b)
            if (row["points"], row["subspace"], row["measure"]) == ("features", "all", ours["measure"])
        ]
        return score_cells(rows[0])[0] if rows else Cell("–", hint="not among similarity.measures")

    def of_pair(self, cells: Sequence[Mapping[str, Any]], page: PageData) -> Chapters:
        """The section of the scores over a grid of sites, or along layers."""
        scores = StudyScores(page.inputs.get("similarity"))
        if grid_section.is_grid(cells):
            return {"different": grid_section.grid_section(cells, scores, page.n_full_cells)}
        if grid_section.is_layerwise(cells):
            return {"different": grid_section.layers_section(cells, scores)}
        return {}

    def best_cells(self, cells: Sequence[Mapping[str, Any]], page: PageData) -> Sequence[Mapping[str, Any]]:
        """The cells of highest mean held-out correlation of matched features."""
        if not grid_section.is_grid(cells):
            return cells
        scores = StudyScores(page.inputs.get("similarity"))
        order = sorted(cells, key=lambda cell: -scores.pairing_quality(cell["name"], cell["site_a"], cell["site_b"]))
        return order[: page.n_full_cells]


SECTIONS = Sections()
