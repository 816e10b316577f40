"""Figures of feature spaces: heat maps over a grid of sites, lines along sites, and two linked maps."""

import html
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from diptych.page.blocks import number, visible
from diptych.page.figures import COLOURS, DASHES, Plot, layout, numbers

SCALE = [[0, "var(--panel)"], [1, "var(--b)"]]
"""Colours of a heat map, from nothing to much."""
LEAST_SPAN = 0.05
"""Values closer together than this look alike: the last digit is no news."""
RHO_SCALE = [[0, "var(--grid)"], [1, "var(--a)"]]


def hover_lines(*lines: str) -> str:
    """Lines of a hover text. Plotly reads some markup in it: what comes from the corpus is escaped."""
    return "<br>".join(html.escape(visible(line), quote=False) for line in lines)


def _panels(n: int, gap: float) -> list[tuple[float, float]]:
    width = (1 - gap * (n - 1)) / n
    return [(i * (width + gap), i * (width + gap) + width) for i in range(n)]


def _title(text: str, panel: tuple[float, float]) -> Plot:
    return {
        "x": sum(panel) / 2, "y": 1, "xref": "paper", "yref": "paper", "yanchor": "bottom", "showarrow": False,
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
    """Matrices [rows, columns] side by side, each coloured by its own range; values written into the cells.

    Args:
        panels: title -> matrix; NaN is a gap, and a matrix of nothing else is left out.
        rows: labels, the first on top.
        columns: labels.
        marked: cells that get a dot.
        x: title of the axes.
        y: title of the first axis.
    """
    panels = {title: matrix for title, matrix in panels.items() if np.isfinite(matrix).any()}
    panels_at = _panels(len(panels), 0.06)
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
                "zmin": low, "zmax": max(high, low + LEAST_SPAN),
                "colorscale": SCALE, "showscale": False, "hoverongaps": False,
                "hovertemplate": "%{y} by %{x}: %{z:.4g}<extra>" + title + "</extra>",
            }
        )  # fmt: skip
        shown = {"type": "category", "showgrid": False}
        plot["layout"][f"xaxis{axis}"] = (
            plot["layout"]["xaxis"] | shown | {"domain": list(panels_at[i]), "anchor": f"y{axis}"}
        )
        plot["layout"][f"yaxis{axis}"] = (
            plot["layout"]["yaxis"]
            | shown
            | {"autorange": "reversed", "anchor": f"x{axis}", "showticklabels": i == 0}
            | ({} if i == 0 else {"title": {"text": ""}})
        )
        plot["layout"]["annotations"].append(_title(title, panels_at[i]))
    return plot


def by_site(sites: Sequence[str], series: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]], *, x: str, y: str) -> Plot:
    """For each series a line of its values along sites, in their order, and a thin one of their level by chance."""
    data = []
    for i, (name, (values, level)) in enumerate(series.items()):
        shown, colour = html.escape(name, quote=False), COLOURS[i % len(COLOURS)]
        dash = DASHES[i // len(COLOURS) % len(DASHES)]
        for label, heights, mode, line in (
            (shown, values, "lines+markers", {"width": 2, "dash": dash}),
            (f"{shown} by chance", level, "lines", {"width": 1, "dash": "dot"}),
        ):
            if np.isfinite(np.asarray(heights, dtype=np.float64)).any():
                trace = {"x": list(sites), "y": numbers(heights), "line": {"color": colour, **line}}
                data.append({"type": "scatter", "mode": mode, "name": label, **trace})
    return {
        "data": data,
        "layout": layout(x, y, xaxis={"type": "category"}, showlegend=len(data) > 1, margin={"t": 24}),
    }


def two_panels(
    left: npt.ArrayLike, right: npt.ArrayLike, colour: npt.ArrayLike, texts: Sequence[str], *, titles: tuple[str, str]
) -> Plot:
    """Two maps [p, 2] of the same p things; pointing at a thing on one rings it on both (`meta.linked`, page.js)."""
    panels_at = _panels(2, 0.04)
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
    bare = {"showgrid": False, "zeroline": False, "showticklabels": False, "title": {"text": ""}}
    plot = layout(
        "", "", margin={"l": 10, "r": 10, "t": 26, "b": 10}, meta={"linked": True}, showlegend=False,
        hovermode="closest",
        annotations=[_title(title, xy) for title, xy in zip(titles, panels_at, strict=True)],
    )  # fmt: skip
    for i, axis in enumerate(("", "2")):
        plot[f"xaxis{axis}"] = plot["xaxis"] | bare | {"domain": list(panels_at[i]), "anchor": f"y{axis}"}
        plot[f"yaxis{axis}"] = plot["yaxis"] | bare | {"anchor": f"x{axis}"}
    return {"data": data, "layout": plot}
