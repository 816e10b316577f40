"""How alike the feature spaces are at one cell: every score beside its null, word lists, and the map of the pairs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diptych.page.blocks import Block, Cell, Figure, Note, Prose, Section, Table, counted, figure_cell, number, p_value
from diptych.similarity import feature_maps, figures
from diptych.similarity import table as similarity_table
from diptych.storage import artifacts

Rows = list[dict[str, Any]]
MEASURES = {
    "svcca": "SVCCA: mean canonical correlation",
    "svcca_lan2024": "SVCCA as published by lan2024: one component",
    "mean_squared_cc": "mean squared canonical correlation",
    "pwcca_a": "PWCCA, weighted by A",
    "pwcca_b": "PWCCA, weighted by B",
    "procrustes": "Procrustes: overlap after the best rotation",
    "cka": "linear CKA",
    "cka_debiased": "linear CKA, debiased",
    "rsa": "RSA: rank correlation of distances",
    "mmcs": "MMCS: mean maximum cosine, A's rows mapped",
    "mean_rho": "mean correlation of paired activations",
}
"""What each measure is called; those of neighbours follow from their k."""
HINTS = {
    "svcca": "99 % of each space's variance; turning and stretching either space changes nothing.",
    "svcca_lan2024": "Random pairs give sqrt(2 / (pi p)) on average; its p leaves out the 1. For comparison only.",
    "procrustes": "Turning and scaling either space as a whole changes nothing.",
    "cka_debiased": "0 in expectation for unrelated spaces, whatever their widths.",
    "mmcs": "Does not change when pairs are mixed; by chance: each found row replaced by its nearest other row.",
    "mean_rho": "Pairs were chosen for it on other documents, so it has a level but no p.",
}
DEGENERATE = {"repeated_rows": "repeated row", "zero_rows": "zero row", "constant_columns": "constant column"}
SUBSPACE_MEASURES = ("rsa", "cka_debiased", "mean_rho")
INTRO = (
    "Features of the two models were paired by how they fire. If both models also arrange them alike, the paired "
    "decoder rows form clouds of the same shape. Every score stands beside what it is when the same rows are paired at "
    "random: a score means something only above that."
)


class Scores:
    """The collected scores of a study, by cell; empty for a study without features."""

    def __init__(self, path: str | Path | None) -> None:
        table = similarity_table.read(path) if path else {}
        columns = [values.tolist() for values in table.values()]
        self._rows: Rows = [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]

    def of(self, name: str, site_a: str | None = None, site_b: str | None = None) -> Rows:
        """The rows of a pair, or of one of its cells."""
        rows = [row for row in self._rows if row["pair"] == name]
        return [row for row in rows if site_a is None or (row["site_a"], row["site_b"]) == (site_a, site_b)]

    def pairing_quality(self, name: str, site_a: str, site_b: str) -> float:
        """Mean held-out correlation of a cell's pairs; below all others where it has none."""
        found = [
            row["value"]
            for row in self.of(name, site_a, site_b)
            if (row["points"], row["subspace"], row["measure"]) == ("features", "all", "mean_rho")
        ]
        return float(found[0]) if found and np.isfinite(found[0]) else -2.0


def called(measure: str) -> str:
    """The name of a measure for a reader."""
    if measure.startswith("knn_"):
        _, kind, k = measure.split("_")
        return f"shared neighbours among the nearest {k}, {'Jaccard' if kind == 'jaccard' else 'share'}"
    return MEASURES[measure]


def section(pair: Mapping[str, Any], scores: Scores, maps: str | Path | None) -> Section:
    """The scores of one cell, its semantic subspaces and its map."""
    rows = scores.of(pair["name"], pair["site_a"], pair["site_b"])
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
    drawn = feature_maps.read(maps, pair["name"], pair["site_a"], pair["site_b"]) if maps else None
    if drawn is not None:
        blocks.append(_map(pair, drawn))
    return Section(f"{pair['id']}-similarity", "Similarity of the feature spaces", blocks)


def _scores(rows: Rows) -> list[Block]:
    """All measures that have a value; neurons beside features where both were scored. What has none is said below."""
    whole = [row for row in rows if row["subspace"] == "all"]
    points = sorted({row["points"] for row in whole})
    by = {(row["points"], row["measure"]): row for row in whole}
    columns = ["measure"]
    for name in points:
        columns += [f"{name} ({_n_pairs(whole, name):,} pairs)", "by chance", "ratio", "z", "p", "q"]
    body: list[list[str | Cell]] = []
    for measure in _ordered([row["measure"] for row in whole if row["points"] == points[0]]):
        if any(np.isfinite(by[name, measure]["value"]) for name in points):
            line: list[str | Cell] = [Cell(called(measure), hint=HINTS.get(measure, ""))]
            body.append(line + [cell for name in points for cell in score_cells(by[name, measure])])
            if measure == "mean_squared_cc":
                body.append(_above([by[name, measure] for name in points]))
    void: dict[str, list[str]] = {}
    for row in whole:
        if not np.isfinite(row["value"]):
            void.setdefault(f"{row['points']}: {row['reason']}", []).append(called(row["measure"]).partition(":")[0])
    table = Table(
        columns,
        body,
        caption="By chance: mean and standard deviation over re-pairings of the same rows, over random ones or (CKA, "
        "mean squared canonical correlation, mean correlation) exactly over all; of MMCS, which re-pairing does not "
        "change, the mean and its standard error with each found row replaced by its nearest other row. q is over all "
        "sites of this pair and all word lists. A dash has its reason on hover.",
    )
    notes = [Prose(f"Not scored ({why}): {', '.join(names)}.") for why, names in void.items()]
    return [*([table] if body else []), *notes]


def _quality(pair: Mapping[str, Any]) -> Prose:
    """Degenerate rows among the pairs, counted: they weigh on every score (METHODS 0.6)."""
    with artifacts.read(pair["files"]["similarity"], "similarity") as file:
        table = artifacts.read_table(file, "quality")
    found = []
    for k in np.flatnonzero(table["subspace"] == "all").tolist():
        for side in "ab":
            counts = {what: int(table[f"{what}_{side}"][k]) for what in DEGENERATE}
            said = [counted(count, DEGENERATE[what]) for what, count in counts.items() if count]
            if said:
                found.append(f"{table['points'][k]} of {pair[side]}: {', '.join(said)}")
    return Prose(f"Degenerate input: {'; '.join(found) or 'no repeated or zero row, no constant column'}.")


def _n_pairs(rows: Rows, points: str) -> int:
    """How many pairs of a kind of points were scored."""
    return int(next(row["n_pairs"] for row in rows if row["points"] == points))


def _ordered(measures: list[str]) -> list[str]:
    """The published score stands under the right one."""
    place = {measure: 2 * i for i, measure in enumerate(measures)}
    if "svcca_lan2024" in place:
        place["svcca_lan2024"] = place["svcca"] + 1
    return sorted(measures, key=lambda measure: place[measure])


def score_cells(row: Mapping[str, Any]) -> list[Cell]:
    """Value, level, ratio, z, p and q of one score."""
    level = f"{number(row['null_mean'])} ± {number(row['null_sd'], 4)}" if np.isfinite(row["null_mean"]) else "–"
    tone = "found" if row["q"] <= 0.05 else ""
    return [
        Cell(number(row["value"]), _order(row["value"]), tone, row["reason"]),
        Cell(level, _order(row["null_mean"]), "muted", row["reason"]),
        Cell(number(row["ratio"]), _order(row["ratio"]), "", row["reason"]),
        Cell(number(row["z"]), _order(row["z"]), "", row["reason"]),
        Cell(p_value(row["p"]), _order(row["p"]), "", row["reason"]),
        Cell(p_value(row["q"]), _order(row["q"]), "", row["reason"]),
    ]


def _above(rows: Rows) -> list[str | Cell]:
    """The share of what a score could exceed its level by that it does, for each kind of points."""
    line: list[str | Cell] = [
        Cell("of what is possible above chance", tone="muted", hint="(score - level) / (1 - level)")
    ]
    for row in rows:
        line += [Cell(number(row["above_null"]), _order(row["above_null"])), *(Cell("") for _ in range(5))]
    return line


def _order(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _published(path: str, rows: Rows) -> Table:
    """The procedure of lan2024 beside ours."""
    with artifacts.read(path, "lan2024") as file:
        theirs = artifacts.read_table(file, "scores")
        counts = artifacts.read_json(file, "counts")
    ours = {row["measure"]: row for row in rows if (row["points"], row["subspace"]) == ("features", "all")}
    body: list[list[str | Cell]] = []
    for measure, value, level, p in zip(*(theirs[name].tolist() for name in theirs), strict=True):
        mine = ours.get(measure)
        body.append(
            [
                called(measure),
                figure_cell(value),
                figure_cell(level),
                Cell(p_value(p) if p else "0", _order(p)),
                *(score_cells(mine)[k] if mine else Cell("–") for k in (0, 1, 4)),
            ]
        )
    return Table(
        ["measure", "lan2024", "its level", "its p", "here", "by chance", "p"],
        body,
        caption=f"The published procedure (compat: lan2024) on {counts['pairs']:,} pairs and {counts['rows']:,} rows, "
        "to compare with printed numbers and not to believe: the hidden state before the block, padding read as text, "
        "pre-activations, first-seen pairs, one component under the name SVCCA, p without the 1. In print for "
        "Pythia-70m layer 2 and Pythia-160m layer 5: .698, .207, .678.",
    )


def _subspaces(rows: Rows) -> Block:
    body: list[list[str | Cell]] = []
    for row in rows:
        shown = row["measure"] in SUBSPACE_MEASURES or row["measure"].startswith("knn_jaccard")
        if row["subspace"] == "all" or not shown or not np.isfinite(row["value"]):
            continue
        drawn = f"{number(row['subset_mean'])} ± {number(row['subset_sd'])}" if np.isfinite(row["subset_mean"]) else "–"
        body.append(
            [
                row["subspace"] if row["points"] == "features" else f"{row['subspace']} ({row['points']})",
                called(row["measure"]),
                figure_cell(row["n_pairs"]),
                figure_cell(row["value"]),
                Cell(drawn, _order(row["subset_mean"]), "muted"),
                Cell(p_value(row["p"]), _order(row["p"]), "", row["reason"]),
                Cell(p_value(row["q"]), _order(row["q"]), "", row["reason"]),
            ]
        )
    few = sorted({row["subspace"] for row in rows if row["subspace"] != "all"} - {str(line[0]) for line in body})
    left_out = f" Too few pairs to score: {', '.join(few)}." if few else ""
    if not body:
        return Prose(f"Semantic subspaces: too few pairs with a top token in any word list ({', '.join(few)}).")
    return Table(
        ["word list", "measure", "pairs", "score", "random subsets", "p", "q"],
        body,
        caption="Semantic subspaces: the pairs with a top token in a word list. Random subsets of as many pairs, with "
        f"random partners, stand beside them.{left_out}",
        interactive=len(body) > 6,
    )


def _map(pair: Mapping[str, Any], drawn: feature_maps.FeatureMap) -> Figure:
    texts = [
        figures.hover_lines(
            f"{pair['a']} {i}: {', '.join(tokens_a)}",
            f"{pair['b']} {j}: {', '.join(tokens_b)}",
            f"correlation {rho:.3f}",
        )
        for i, j, tokens_a, tokens_b, rho in zip(
            drawn.latent_a.tolist(), drawn.latent_b.tolist(), drawn.tokens_a, drawn.tokens_b, drawn.rho.tolist(),
            strict=True,
        )
    ]  # fmt: skip
    return Figure(
        f"{pair['id']}-feature-map",
        f"Paired features of {pair['a']} (left) and {pair['b']} (right), laid out by their decoder rows",
        f"Each point on the left is paired with one on the right ({len(texts):,} pairs); pointing at one rings "
        "both and shows the tokens on which they fire most. Darker pairs fire more alike. UMAP, each side by itself: "
        "what lies together belongs together, but distances and empty space mean little.",
        figures.two_panels(drawn.a, drawn.b, drawn.rho, texts, titles=(pair["a"], pair["b"])),
        height=420,
    )
