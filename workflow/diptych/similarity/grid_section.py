"""Report section of a pair compared at several sites: heat maps over a grid, or scores along layers, and a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.page.blocks import Block, Cell, Figure, Prose, Section, Table, number_cell
from diptych.similarity import figures
from diptych.similarity.page_scores import Rows, StudyScores, measure_label, score_cells

TITLE = "Similarity, site by site"
LEAD = "How alike the shared features are arranged at each compared site."


def is_grid(cells: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a pair compares different sites and has scores there."""
    return any(cell["site_a"] != cell["site_b"] for cell in cells) and any(
        cell["files"].get("similarity") for cell in cells
    )


def is_layerwise(cells: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a pair has scores at several sites, each compared with the same site of the other model."""
    scored = sum(bool(cell["files"].get("similarity")) for cell in cells)
    return scored > 1 and all(cell["site_a"] == cell["site_b"] for cell in cells)


def layers_section(cells: Sequence[Mapping[str, Any]], scores: StudyScores) -> Section:
    """Section of the scores of one pair along its sites."""
    first = cells[0]
    rows = [row for row in scores.rows(first["name"]) if row["subspace"] == "all"]
    sites = list(dict.fromkeys(row["site_a"] for row in rows))
    series = {points: (points, [(site, site) for site in sites]) for points in sorted({row["points"] for row in rows})}
    slug = "".join(character if character.isalnum() else "-" for character in first["name"])
    blocks: list[Block] = [Prose("Each site compared with the same one of the other model; q is over all of them.")]
    blocks += _lines(slug, rows, sites, series, x="site", caption="Dotted: the level by chance.")
    blocks.append(_grid_table(rows))
    return Section(f"grid-{slug}", TITLE, blocks, lead=LEAD)


def grid_section(cells: Sequence[Mapping[str, Any]], scores: StudyScores, n_full_cells: int) -> Section:
    """Section of the scores of all sites of A by all sites of B of one pair."""
    first = cells[0]
    rows = [row for row in scores.rows(first["name"]) if row["subspace"] == "all"]
    sites_a, sites_b = (list(dict.fromkeys(row[f"site_{side}"] for row in rows)) for side in ("a", "b"))
    blocks: list[Block] = [
        Prose(
            f"Every listed site of {first['a']} by every listed site of {first['b']}. A dot marks q ≤ .05 over the "
            f"whole grid. {min(n_full_cells, len(cells))} of {len(cells)} cells, those whose features pair best, are "
            "shown in full below."
        )
    ]
    slug = "".join(character if character.isalnum() else "-" for character in first["name"])
    for points in sorted({row["points"] for row in rows}):
        for measure in dict.fromkeys(row["measure"] for row in rows if row["points"] == points):
            measure_rows = [row for row in rows if (row["points"], row["measure"]) == (points, measure)]
            if np.isfinite([row["value"] for row in measure_rows]).any():
                blocks.append(
                    _heat_maps(f"{slug}-{points}-{measure}", points, measure, measure_rows, sites_a, sites_b, first)
                )
    blocks += _grid_lines(slug, rows, sites_a, sites_b, first)
    blocks.append(_grid_table(rows))
    return Section(f"grid-{slug}", TITLE, blocks, lead=LEAD)


def _matrix(rows: Rows, sites_a: Sequence[str], sites_b: Sequence[str], column: str) -> npt.NDArray[np.float64]:
    by_sites = {(row["site_a"], row["site_b"]): row[column] for row in rows}
    return np.array([[by_sites.get((a, b), np.nan) for b in sites_b] for a in sites_a], dtype=np.float64)


def _heat_maps(
    slug: str, points: str, measure: str, rows: Rows, sites_a: list[str], sites_b: list[str], pair: Mapping[str, Any]
) -> Figure:
    value, ratio, q = (_matrix(rows, sites_a, sites_b, name) for name in ("value", "ratio", "q"))
    logarithm = np.log10(value, out=np.full_like(value, np.nan), where=value > 0)
    logarithm = np.asarray(np.round(logarithm, 4) + 0.0, dtype=np.float64)
    return Figure(
        f"grid-{slug}",
        f"{measure_label(measure)} ({points})",
        "Score, its logarithm (base 10), and the score over its level by chance (none where that level is about 0).",
        figures.heat_maps(
            {"score": value, "log score": logarithm, "ratio to chance": ratio},
            rows=sites_a, columns=sites_b, marked=q <= 0.05, x=f"site of {pair['b']}", y=f"site of {pair['a']}",
        ),
        height=110 + 44 * len(sites_a),
    )  # fmt: skip


def _grid_lines(slug: str, rows: Rows, sites_a: list[str], sites_b: list[str], pair: Mapping[str, Any]) -> list[Block]:
    """Figures of each measure along the sites of the model with more sites, one line per site of the other model."""
    along, other = ("a", "b") if len(sites_a) >= len(sites_b) else ("b", "a")
    sites, other_sites = (sites_a, sites_b) if along == "a" else (sites_b, sites_a)
    if len(sites) < 2:
        return []
    series = {
        other_site: ("features", [(site, other_site) if along == "a" else (other_site, site) for site in sites])
        for other_site in other_sites
    }
    caption = f"One line for each site of {pair[other]}; dotted, its level by chance."
    return _lines(slug, rows, sites, series, x=f"site of {pair[along]}", caption=caption)


def _lines(
    slug: str,
    rows: Rows,
    sites: Sequence[str],
    series: Mapping[str, tuple[str, Sequence[tuple[str, str]]]],
    *,
    x: str,
    caption: str,
) -> list[Block]:
    """A figure of each measure along `sites`; a series has one kind of points and a cell (site of A, of B) per site."""
    blocks: list[Block] = []
    for measure in dict.fromkeys(row["measure"] for row in rows):
        by_cell = {(row["points"], row["site_a"], row["site_b"]): row for row in rows if row["measure"] == measure}
        lines = {
            name: (_column(by_cell, points, cells, "value"), _column(by_cell, points, cells, "null_mean"))
            for name, (points, cells) in series.items()
        }
        if np.isfinite([values for values, _ in lines.values()]).any():
            title = f"{measure_label(measure)} by {x}"
            plot = figures.by_site(sites, lines, x=x, y="score")
            blocks.append(Figure(f"lines-{slug}-{measure}", title, caption, plot, height=260))
    return blocks


def _column(
    by_cell: Mapping[tuple[str, str, str], Mapping[str, Any]], points: str, cells: Sequence[tuple[str, str]], key: str
) -> list[float]:
    return [by_cell[points, *cell][key] if (points, *cell) in by_cell else float("nan") for cell in cells]


def _grid_table(rows: Rows) -> Table:
    body: list[list[str | Cell]] = [
        [
            row["site_a"],
            row["site_b"],
            row["points"],
            measure_label(row["measure"]),
            number_cell(row["n_pairs"]),
            *score_cells(row),
        ]
        for row in rows
    ]
    columns = ["site of A", "site of B", "of", "measure", "pairs", "score", "by chance", "ratio", "z", "p", "q"]
    return Table(columns, body, caption="Every score of the grid.", interactive=True)
