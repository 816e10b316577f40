"""Figures of a template diff as PNG and SVG files, drawn by matplotlib.

    draw("template_diff.h5", scatter=["scatter.png", "scatter.svg"], volcano=["volcano.png", "volcano.svg"])

The panels are those of the report (`panels`). The files contain no date and no random name, so that the same artifact
gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diptych.template_diff.pictures.panels import METRIC_LABELS, Panel, Points, View, read, role_label

COLOURS = {"up": "#b4532a", "down": "#2b6a99"}
SYMBOLS = {"up": "^", "down": "v"}
LOOK: dict[Any, Any] = {
    "svg.hashsalt": "diptych",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}
INK, GREY = "#565e69", "Greys"
DPI = 150


def draw(diff: str | Path, *, scatter: Sequence[str | Path], volcano: Sequence[str | Path], top: int = 100) -> None:
    """Draw the panels and the volcano, and write them to every path, in the format of its suffix.

    Args:
        diff: artifact of kind "template_diff".
        scatter: paths of the panels, one row of three for each role.
        volcano: paths of the volcano.
        top: listed changes drawn as points per role, metric and direction.
    """
    view = read(diff)
    with mpl.rc_context(LOOK):
        _save(_scatter(view, top), scatter)
        _save(_volcano(view, top), volcano)


def _scatter(view: View, top: int) -> Figure:
    figure = Figure(figsize=(9.6, 3.1 * len(view.roles) + 0.5), layout="constrained")
    grid = figure.subplots(len(view.roles), len(METRIC_LABELS), squeeze=False)
    for role, row in zip(view.roles, grid, strict=True):
        for panel, axes in zip(view.panels(role, top), row, strict=True):
            _panel(axes, panel)
            axes.set(xlabel=view.names[0], title=METRIC_LABELS[panel.metric])
        row[0].set_ylabel(f"at {role_label(role)}\n{view.names[1]}")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    legend_labels = [f"{'more' if label == 'up' else 'less'} in {view.names[1]}" for label in labels]
    figure.legend(handles, legend_labels, loc="outside upper right", ncols=2, frameon=False)
    return figure


def _panel(axes: Axes, panel: Panel) -> None:
    low, high = panel.axis.limits
    edges = np.linspace(low, high, len(panel.counts) + 1)
    _bulk(axes, edges, edges, panel.counts)
    axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle="--")
    _points(axes, panel.points)
    ticks, labels = panel.axis.ticks()
    axes.set(xlim=(low, high), ylim=(low, high), xticks=ticks, yticks=ticks, aspect="equal")
    axes.set_xticklabels(labels, rotation=45 if len(labels) > 6 else 0)
    axes.set_yticklabels(labels)


def _volcano(view: View, top: int) -> Figure:
    points = view.volcano(top)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    _bulk(axes, points.x_edges, points.y_edges, points.counts)
    _points(axes, points.points)
    if np.isfinite(points.line):
        axes.axhline(points.line, color=INK, linewidth=0.8, linestyle="--")
    axes.set(xlabel=f"effect (mean change / its sd), {view.names[1]} less {view.names[0]}", ylabel="−log10 p")
    return figure


def _bulk(axes: Axes, x: Any, y: Any, counts: Any) -> None:
    """Draw a histogram in logarithmic shades of grey; empty bins stay white."""
    shade = np.ma.masked_invalid(np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan))
    largest = max(1.0, float(np.log10(max(1, counts.max()))))
    axes.pcolormesh(x, y, shade, cmap=GREY, vmin=-0.8, vmax=largest, rasterized=True)


def _points(axes: Axes, points: Mapping[str, Points]) -> None:
    for direction, listed in points.items():
        axes.scatter(
            listed.x, listed.y, s=14, c=COLOURS[direction], marker=SYMBOLS[direction], alpha=0.8, linewidths=0,
            label=direction, zorder=3,
        )  # fmt: skip


def _save(figure: Figure, paths: Sequence[str | Path]) -> None:
    for path in paths:
        metadata = {"Date": None} if str(path).endswith(".svg") else {"Software": None}
        figure.savefig(path, dpi=DPI, metadata=metadata)
