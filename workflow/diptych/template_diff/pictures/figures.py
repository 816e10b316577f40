"""Figures of a template diff as Plotly descriptions: three panels of B against A for each role, and the volcano.

Text inside a plot is a small language of its own (<b>, <br>, <a href>), so every name and token in it is escaped here.
"""

import html
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from diptych.page.blocks import Block, Figure
from diptych.page.figures import Plot, layout, numbers
from diptych.template_diff.pictures.panels import METRIC_WORDS, Panel, Points, View, shown

COLOURS = {"up": "var(--b)", "down": "var(--a)"}
SYMBOLS = {"up": "triangle-up", "down": "triangle-down"}
GAP = 0.07
"""Share of the width between two panels."""


def scatter(view: View, role: str, top: int = 40) -> Plot:
    """Three panels: all_mean, active_mean and density of B against A; `top` listed changes each way are points."""
    panels = view.panels(role, top)
    width = (1.0 - GAP * (len(panels) - 1)) / len(panels)
    data: list[Plot] = []
    axes: Plot = {}
    titles = []
    base = layout(view.names[0], view.names[1])
    for index, panel in enumerate(panels):
        suffix = "" if index == 0 else str(index + 1)
        start = index * (width + GAP)
        data += [
            {**trace, "xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "showlegend": index == 0 and "name" in trace}
            for trace in _traces(view, panel)
        ]
        ticks, labels = panel.axis.ticks()
        own = {"range": list(panel.axis.limits), "tickvals": numbers(ticks), "ticktext": labels, "zeroline": False}
        shared = suffix and panel.axis == panels[0].axis
        axes[f"xaxis{suffix}"] = {**base["xaxis"], **own, "domain": [start, start + width], "anchor": f"y{suffix}"}
        axes[f"yaxis{suffix}"] = {**base["yaxis"], **own, "anchor": f"x{suffix}"}
        if shared:
            axes[f"xaxis{suffix}"]["matches"] = "x"
            axes[f"yaxis{suffix}"]["matches"] = "y"
        if index:
            axes[f"yaxis{suffix}"]["title"] = {"text": ""}
        titles.append(_title(METRIC_WORDS[panel.metric], start + width / 2))
    more = {"annotations": titles, "margin": {"t": 50}, "legend": {"y": 1.1}, "showlegend": True}
    return {"data": data, "layout": {**layout("", "", **more), **axes}}


def volcano(view: View, top: int = 12) -> Plot:
    """Effect against -log10 p of every latent, role and metric."""
    points = view.volcano(top)
    x, y = ((edges[1:] + edges[:-1]) / 2 for edges in (points.x_edges, points.y_edges))
    data = [_bulk(points.counts, x, y), *_points(view, points.points)]
    shapes, notes = [], []
    if np.isfinite(points.line):
        shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": points.line, "y1": points.line,
                       "line": {"color": "var(--soft)", "width": 1.5, "dash": "dash"}})  # fmt: skip
        notes.append({"xref": "paper", "x": 1, "xanchor": "right", "y": points.line, "yanchor": "bottom",
                      "text": "q = .05", "showarrow": False, "font": {"size": 12, "color": "var(--soft)"}})  # fmt: skip
    title = f"effect (mean change / its sd): ← less in {view.names[1]} · more in {view.names[1]} →"
    return {
        "data": data,
        "layout": layout(title, "−log₁₀ p", shapes=shapes, annotations=notes, margin={"t": 30}, showlegend=True),
    }


def _traces(view: View, panel: Panel) -> list[Plot]:
    """The bulk, the line of no change and the listed changes of one panel."""
    at = panel.centres()
    low, high = panel.axis.limits
    diagonal: Plot = {"type": "scatter", "mode": "lines", "x": numbers([low, high]), "y": numbers([low, high]),
                      "line": {"color": "var(--soft)", "width": 1, "dash": "dash"}, "hoverinfo": "skip"}  # fmt: skip
    return [_bulk(panel.counts, at, at), diagonal, *_points(view, panel.points)]


def _bulk(counts: npt.NDArray[np.int64], x: npt.ArrayLike, y: npt.ArrayLike) -> Plot:
    """Counts as shades of grey, logarithmic; empty cells are left out."""
    shade = np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan)
    return {
        "type": "heatmap",
        "x": numbers(x),
        "y": numbers(y),
        "z": [numbers(row) for row in shade],
        "zmin": -0.5,
        "colorscale": [[0.0, "var(--grid)"], [1.0, "var(--both)"]],
        "showscale": False,
        "hoverinfo": "skip",
    }


def _points(view: View, points: Mapping[str, Points]) -> list[Plot]:
    """Listed changes, one trace a direction, with what is said of each on hover."""
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"{'more' if direction == 'up' else 'less'} in {view.names[1]}",
            "x": numbers(found.x),
            "y": numbers(found.y),
            "text": [_hover(view.words(int(row))) for row in found.row],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"color": COLOURS[direction], "size": 7, "symbol": SYMBOLS[direction], "opacity": 0.8},
        }
        for direction, found in points.items()
    ]


def _hover(lines: Sequence[str]) -> str:
    """Lines of plain text as a plot's own markup."""
    return "<br>".join(html.escape(line) for line in lines)


def _title(text: str, x: float) -> Plot:
    return {"text": text, "x": x, "xref": "paper", "xanchor": "center", "y": 1, "yref": "paper", "yanchor": "bottom",
            "showarrow": False, "font": {"size": 13}}  # fmt: skip


def figure_blocks(view: View, prefix: str, top: int) -> list[Block]:
    """The panels of each role and the volcano; `top` listed changes each way are points."""
    a, b = view.names
    blocks: list[Block] = [
        Figure(
            f"{prefix}-{number_}",
            f"Features at {shown(role)}",
            f"Each feature by what it does in {a} (across) and in {b} (up), on logarithmic axes with a place for 0. "
            "Grey: all features that fire at this token, darker where there are more. Triangles: listed changes with "
            "q ≤ .05; hover for numbers. On the dashed line nothing has changed.",
            scatter(view, role, top),
            height=370,
        )
        for number_, role in enumerate(view.roles)
    ]
    blocks.append(
        Figure(
            f"{prefix}-volcano",
            "Size and certainty of every change",
            "Every feature, token and metric: its change in standard deviations over prompts, and how sure it is. "
            f"Right: more in {b}. The dashed line is q = .05 over all of them.",
            volcano(view, max(4, top // 4)),
            height=340,
        )
    )
    return blocks
