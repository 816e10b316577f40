"""Plotly figures of a template diff: three panels of B against A per role, and the volcano plot.

Plotly interprets some markup in text (<b>, <br>, <a href>), so every name and token in it is escaped here.
"""

import html
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from diptych.page.blocks import Block, Figure
from diptych.page.figures import Plot, layout, numbers
from diptych.template_diff.pictures.panels import METRIC_LABELS, Panel, Points, View, role_label

COLOURS = {"up": "var(--b)", "down": "var(--a)"}
SYMBOLS = {"up": "triangle-up", "down": "triangle-down"}
GAP = 0.07
"""Share of the width between two panels."""


def scatter(view: View, role: str, top: int = 40) -> Plot:
    """Three panels: all_mean, active_mean and density of B against A; `top` listed changes per direction are points."""
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
        axis = {"range": list(panel.axis.limits), "tickvals": numbers(ticks), "ticktext": labels, "zeroline": False}
        is_shared = suffix and panel.axis == panels[0].axis
        axes[f"xaxis{suffix}"] = {**base["xaxis"], **axis, "domain": [start, start + width], "anchor": f"y{suffix}"}
        axes[f"yaxis{suffix}"] = {**base["yaxis"], **axis, "anchor": f"x{suffix}"}
        if is_shared:
            axes[f"xaxis{suffix}"]["matches"] = "x"
            axes[f"yaxis{suffix}"]["matches"] = "y"
        if index:
            axes[f"yaxis{suffix}"]["title"] = {"text": ""}
        titles.append(_title(METRIC_LABELS[panel.metric], start + width / 2))
    options = {"annotations": titles, "margin": {"t": 50}, "legend": {"y": 1.1}, "showlegend": True}
    return {"data": data, "layout": {**layout("", "", **options), **axes}}


def volcano(view: View, top: int = 12) -> Plot:
    """Volcano plot: effect against -log10 p of every latent, role and metric."""
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
    """Traces of one panel: histogram of all features, line of no change, listed changes."""
    centres = panel.centres()
    low, high = panel.axis.limits
    diagonal: Plot = {"type": "scatter", "mode": "lines", "x": numbers([low, high]), "y": numbers([low, high]),
                      "line": {"color": "var(--soft)", "width": 1, "dash": "dash"}, "hoverinfo": "skip"}  # fmt: skip
    return [_bulk(panel.counts, centres, centres), diagonal, *_points(view, panel.points)]


def _bulk(counts: npt.NDArray[np.int64], x: npt.ArrayLike, y: npt.ArrayLike) -> Plot:
    """Heat map of a histogram in logarithmic shades of grey; empty bins are blank."""
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
    """Listed changes with hover text, one trace per direction."""
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"{'more' if direction == 'up' else 'less'} in {view.names[1]}",
            "x": numbers(listed.x),
            "y": numbers(listed.y),
            "text": [_hover(view.hover_lines(int(row))) for row in listed.row],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"color": COLOURS[direction], "size": 7, "symbol": SYMBOLS[direction], "opacity": 0.8},
        }
        for direction, listed in points.items()
    ]


def _hover(lines: Sequence[str]) -> str:
    """Lines of plain text as escaped Plotly markup."""
    return "<br>".join(html.escape(line) for line in lines)


def _title(text: str, x: float) -> Plot:
    return {"text": text, "x": x, "xref": "paper", "xanchor": "center", "y": 1, "yref": "paper", "yanchor": "bottom",
            "showarrow": False, "font": {"size": 13}}  # fmt: skip


def figure_blocks(view: View, prefix: str, top: int) -> list[Block]:
    """Figures of the panels of each role and of the volcano; `top` listed changes per direction are points."""
    a, b = view.names
    blocks: list[Block] = [
        Figure(
            f"{prefix}-{index}",
            f"Features at {role_label(role)}",
            f"Each feature by what it does in {a} (across) and in {b} (up), on logarithmic axes that include 0. "
            "Grey: all features that fire at this token, darker where there are more. Triangles: listed changes with "
            "q ≤ .05; hover for numbers. On the dashed line nothing has changed.",
            scatter(view, role, top),
            height=370,
        )
        for index, role in enumerate(view.roles)
    ]
    blocks.append(
        Figure(
            f"{prefix}-volcano",
            "Size and significance of every change",
            "Every feature, token and metric: its change in standard deviations over prompts, and its p. "
            f"Right: more in {b}. The dashed line is q = .05 over all of them.",
            volcano(view, max(4, top // 4)),
            height=340,
        )
    )
    return blocks
