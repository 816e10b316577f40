"""Figures of feature-space similarity: heat maps over a grid of sites, scores along sites, two linked maps."""

import html
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from diptych.page.blocks import number, visible
from diptych.page.figures import COLOURS, DASHES, Plot, layout, numbers

SCALE = [[0, "var(--panel)"], [1, "var(--b)"]]
"""Colours of a heat map, from low to high."""
MIN_SPAN = 0.05
"""Smallest range of a colour scale, so that differences smaller than this look small."""
RHO_SCALE = [[0, "var(--grid)"], [1, "var(--a)"]]


def hover_lines(*lines: str) -> str:
    """A hover text of several lines, escaped because Plotly interprets some markup in it."""
    return "<br>".join(html.escape(visible(line), quote=False) for line in lines)


def _panel_domains(n: int, gap: float) -> list[tuple[float, float]]:
    width = (1 - gap * (n - 1)) / n
    return [(i * (width + gap), i * (width + gap) + width) for i in range(n)]


def _title(text: str, domain: tuple[float, float]) -> Plot:
    return {
        "x": sum(domain) / 2, "y": 1, "xref": "paper", "yref": "paper", "yanchor": "bottom", "showarrow": False,
        "text": html.escape(text, quote=False), "font": {"size": 13, "color": "var(--soft)"},
    }  # fmt: skip


def heat_maps(
    panels: Mapping[str, npt.NDArray[np.float64]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    marked: npt.NDArray[np.bool_],
    x: str,
    y: str,
) -> Plot:
    """Heat maps of matrices [rows, columns] side by side, each with its own colour range and its values as text.

    Args:
        panels: title -> matrix; NaN entries are blank, and a matrix of NaN alone is left out.
        rows: row labels, the first on top.
        columns: column labels.
        marked: cells that get a dot.
        x: title of every x axis.
        y: title of the first y axis.
    """
    panels = {title: matrix for title, matrix in panels.items() if np.isfinite(matrix).any()}
    domains = _panel_domains(len(panels), 0.06)
    plot: Plot = {"data": [], "layout": layout(x, y, margin={"t": 26}, annotations=[])}
    for i, (title, matrix) in enumerate(panels.items()):
        axis = "" if i == 0 else str(i + 1)
        low, high = float(np.nanmin(matrix)), float(np.nanmax(matrix))
        text = [
            [("•" if dot else "") + number(value) for value, dot in zip(line, dots, strict=True)]
            for line, dots in zip(matrix.tolist(), marked.tolist(), strict=True)
        ]
        plot["data"].append(
            {
                "type": "heatmap", "z": [numbers(line) for line in matrix], "x": list(columns), "y": list(rows),
                "text": text, "texttemplate": "%{text}", "xaxis": f"x{axis}", "yaxis": f"y{axis}", "xgap": 2, "ygap": 2,
                "zmin": low, "zmax": max(high, low + MIN_SPAN),
                "colorscale": SCALE, "showscale": False, "hoverongaps": False,
                "hovertemplate": "%{y} by %{x}: %{z:.4g}<extra>" + title + "</extra>",
            }
        )  # fmt: skip
        category_axis = {"type": "category", "showgrid": False}
        plot["layout"][f"xaxis{axis}"] = (
            plot["layout"]["xaxis"] | category_axis | {"domain": list(domains[i]), "anchor": f"y{axis}"}
        )
        plot["layout"][f"yaxis{axis}"] = (
            plot["layout"]["yaxis"]
            | category_axis
            | {"autorange": "reversed", "anchor": f"x{axis}", "showticklabels": i == 0}
            | ({} if i == 0 else {"title": {"text": ""}})
        )
        plot["layout"]["annotations"].append(_title(title, domains[i]))
    return plot


def by_site(sites: Sequence[str], series: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]], *, x: str, y: str) -> Plot:
    """Line plot of each series (values, null means) along sites; the null means dotted."""
    data = []
    for i, (name, (values, null_means)) in enumerate(series.items()):
        label, colour = html.escape(name, quote=False), COLOURS[i % len(COLOURS)]
        dash = DASHES[i // len(COLOURS) % len(DASHES)]
        for trace_label, heights, mode, line in (
            (label, values, "lines+markers", {"width": 2, "dash": dash}),
            (f"{label} by chance", null_means, "lines", {"width": 1, "dash": "dot"}),
        ):
            if np.isfinite(np.asarray(heights, dtype=np.float64)).any():
                trace = {"x": list(sites), "y": numbers(heights), "line": {"color": colour, **line}}
                data.append({"type": "scatter", "mode": mode, "name": trace_label, **trace})
    return {
        "data": data,
        "layout": layout(x, y, xaxis={"type": "category"}, showlegend=len(data) > 1, margin={"t": 24}),
    }


def linked_maps(
    left: npt.ArrayLike, right: npt.ArrayLike, colour: npt.ArrayLike, texts: Sequence[str], *, titles: tuple[str, str]
) -> Plot:
    """Scatter plots of two maps [p, 2] of the same p pairs; hovering rings a pair on both (`meta.linked`, page.js)."""
    domains = _panel_domains(2, 0.04)
    data = []
    for i, points in enumerate((left, right)):
        xy = np.asarray(points, dtype=np.float64)
        axis = "" if i == 0 else "2"
        data.append(
            {
                "type": "scatter", "mode": "markers", "x": numbers(xy[:, 0]), "y": numbers(xy[:, 1]),
                "xaxis": f"x{axis}", "yaxis": f"y{axis}", "text": list(texts),
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"color": numbers(colour), "colorscale": RHO_SCALE, "size": 7,
                           "line": {"width": 0.5, "color": "var(--soft)"}},
            }
        )  # fmt: skip
    for axis in ("", "2"):
        ring = {"color": "var(--b)", "symbol": "circle-open", "size": 16, "line": {"width": 3}}
        data.append({"type": "scatter", "mode": "markers", "x": [], "y": [], "xaxis": f"x{axis}", "yaxis": f"y{axis}",
                     "hoverinfo": "skip", "marker": ring})  # fmt: skip
    no_axis = {"showgrid": False, "zeroline": False, "showticklabels": False, "title": {"text": ""}}
    plot = layout(
        "", "", margin={"l": 10, "r": 10, "t": 26, "b": 10}, meta={"linked": True}, showlegend=False,
        hovermode="closest",
        annotations=[_title(title, domain) for title, domain in zip(titles, domains, strict=True)],
    )  # fmt: skip
    for i, axis in enumerate(("", "2")):
        plot[f"xaxis{axis}"] = plot["xaxis"] | no_axis | {"domain": list(domains[i]), "anchor": f"y{axis}"}
        plot[f"yaxis{axis}"] = plot["yaxis"] | no_axis | {"anchor": f"x{axis}"}
    return {"data": data, "layout": plot}
