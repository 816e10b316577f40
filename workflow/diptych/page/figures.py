"""Plotly figures as plain dicts; colours are CSS variables, so that one page serves light and dark themes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Plot = dict[str, Any]
DIGITS = 5
"""Significant digits written: finer than a screen resolves, and the page stays small."""
LOGARITHMIC: Plot = {"type": "log", "dtick": 1, "exponentformat": "power", "tickfont": {"size": 11}}
"""An axis with a tick at each power of ten, written as such (10⁻⁴, not 100μ) and by Plotly a quarter larger."""


def numbers(values: npt.ArrayLike) -> list[float | None]:
    """Values as rounded Python floats, flattened; NaN and infinities become None (a gap in the plot)."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in array]


def layout(x: str, y: str, **more: Any) -> Plot:
    """Plotly layout with the page's fonts and colours and titles of both axes; `more` is merged key by key."""
    axis: Plot = {
        "gridcolor": "var(--grid)",
        "zerolinecolor": "var(--grid)",
        "linecolor": "var(--line)",
        "automargin": True,
        "title": {"font": {"size": 13}, "standoff": 8},
    }
    base: Plot = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "var(--ink)"},
        "margin": {"l": 60, "r": 20, "t": 10, "b": 45},
        "meta": {"narrow": {"l": 40, "r": 8}},
        "hoverlabel": {"font": {"family": "system-ui, sans-serif"}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        "bargap": 0.04,
        "dragmode": False,
        "xaxis": {**axis, "title": {**axis["title"], "text": x}},
        "yaxis": {**axis, "title": {**axis["title"], "text": y}},
    }
    for key, value in more.items():
        base[key] = {**base[key], **value} if isinstance(base.get(key), Mapping) else value
    return base


def vertical_line(x: float, label: str, colour: str = "var(--soft)") -> tuple[Plot, Plot]:
    """A dashed line over the full height at x and its label: a Plotly shape and an annotation."""
    shape = {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper",
             "line": {"color": colour, "width": 1.5, "dash": "dash"}}  # fmt: skip
    text = {"x": x, "y": 1, "yref": "paper", "yanchor": "bottom", "text": label, "showarrow": False,
            "font": {"size": 12, "color": colour}}  # fmt: skip
    return shape, text


def histogram(
    edges: npt.ArrayLike,
    series: Mapping[str, tuple[npt.ArrayLike, str]],
    *,
    x: str,
    y: str,
    logarithmic: bool = False,
    overlaid: bool = False,
) -> Plot:
    """Histogram of counted values, its series stacked or overlaid.

    Args:
        edges: of the bins, [bins + 1].
        series: name -> (counts [bins], colour).
        x: title of the axis.
        y: title of the axis.
        logarithmic: counts on a logarithmic axis.
        overlaid: draw the series over each other instead of stacking them.
    """
    bin_edges = np.asarray(edges, dtype=np.float64)
    data = [
        {
            "type": "bar",
            "name": name,
            "x": numbers((bin_edges[1:] + bin_edges[:-1]) / 2),
            "width": numbers(np.diff(bin_edges)),
            "y": numbers(counts),
            "marker": {"color": colour, "line": {"width": 0}},
            "opacity": 0.6 if overlaid else 1,
            "hovertemplate": "%{x:.3f}: %{y:,}<extra>" + name + "</extra>",
        }
        for name, (counts, colour) in series.items()
    ]
    return {
        "data": data,
        "layout": layout(
            x,
            y,
            barmode="overlay" if overlaid else "stack",
            showlegend=len(data) > 1,
            margin={"t": 10},
            yaxis=LOGARITHMIC if logarithmic else {"rangemode": "tozero"},
        ),
    }


def dot_plot(
    labels: Sequence[str],
    series: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike, str]],
    *,
    x: str,
    vertical_lines: Sequence[tuple[float, str]] = (),
    lowest: float = -0.1,
) -> Plot:
    """Dot plot with horizontal error bars: one row per label, the first on top.

    Args:
        labels: of the rows.
        series: name -> (values, half widths of the error bars, colour).
        x: title of the axis.
        vertical_lines: (x, label) of dashed vertical lines.
        lowest: lower end of the axis; dots below it are drawn at the edge, with their value on hover.
    """
    data: list[Plot] = []
    low = 1.0
    for name, (values, errors, colour) in series.items():
        value = np.asarray(values, dtype=np.float64)
        low = min(low, float(np.nanmin(value))) if np.isfinite(value).any() else low
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "y": list(labels),
                "x": numbers(np.maximum(value, lowest)),
                "customdata": numbers(value),
                "error_x": {"type": "data", "array": numbers(errors), "color": colour, "thickness": 1.5, "width": 4},
                "marker": {"color": colour, "size": 11, "symbol": "circle" if len(data) == 0 else "diamond-open"},
                "hovertemplate": "%{y}: %{customdata:.4f}<extra>" + name + "</extra>",
            }
        )
    marks = [vertical_line(max(at, lowest), label) for at, label in vertical_lines]
    low = max(lowest, min([low, *(at for at, _ in vertical_lines)]))
    return {
        "data": data,
        "layout": layout(
            x,
            "",
            yaxis={"autorange": "reversed", "type": "category"},
            xaxis={"range": [low - 0.04, 1.03]},
            margin={"t": 50 if vertical_lines else 30},
            legend={"y": 1.12 if vertical_lines else 1.02},
            shapes=[shape for shape, _ in marks],
            annotations=[text for _, text in marks],
        ),
    }


def scatter(
    series: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike, Sequence[str], str]],
    *,
    x: str,
    y: str,
    vertical_at: float | None = None,
    horizontal_at: float | None = None,
) -> Plot:
    """Scatter plot with the points' names on hover and up to two dashed reference lines.

    Args:
        series: name -> (x, y, names of the points, colour).
        x: title of the axis.
        y: title of the axis.
        vertical_at: x of a vertical line.
        horizontal_at: y of a horizontal line.
    """
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": numbers(at),
            "y": numbers(values),
            "text": list(names),
            "marker": {"color": colour, "size": 7, "opacity": 0.7},
            "hovertemplate": "%{text}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
        }
        for name, (at, values, names, colour) in series.items()
    ]
    dashed = {"color": "var(--soft)", "width": 1.5, "dash": "dash"}
    shapes: list[Plot] = []
    if vertical_at is not None:
        shapes.append(
            {"type": "line", "x0": vertical_at, "x1": vertical_at, "y0": 0, "y1": 1, "yref": "paper", "line": dashed}
        )
    if horizontal_at is not None:
        shapes.append(
            {
                "type": "line",
                "x0": 0,
                "x1": 1,
                "xref": "paper",
                "y0": horizontal_at,
                "y1": horizontal_at,
                "line": dashed,
            }
        )
    return {"data": data, "layout": layout(x, y, showlegend=len(data) > 1, margin={"t": 24}, shapes=shapes)}


COLOURS = ("var(--b)", "var(--a)", "var(--both)", "var(--pass)", "var(--warn)", "var(--fail)")
DASHES = ("solid", "dash", "dot")


def line_plot(
    series: Mapping[str, tuple[npt.ArrayLike, ...]], *, x: str, y: str, logarithmic: bool = False, markers: bool = False
) -> Plot:
    """Line plot, one line per series (name -> (x, y)), with its points marked if `markers`."""
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers" if markers else "lines",
            "name": name,
            "x": numbers(at),
            "y": numbers(values),
            "line": {"color": COLOURS[i % len(COLOURS)], "width": 2, "dash": DASHES[i // len(COLOURS) % len(DASHES)]},
            "hovertemplate": "%{x}: %{y:.4g}<extra>" + name + "</extra>",
        }
        for i, (name, (at, values)) in enumerate(series.items())
    ]
    axis = LOGARITHMIC if logarithmic else {}
    return {"data": data, "layout": layout(x, y, yaxis=axis, showlegend=len(data) > 1, margin={"t": 24})}
