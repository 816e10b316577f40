"""Data of a template diff's figures: panels of B against A, and the volcano plot.

Most features are similar in both models and are drawn as a two-dimensional histogram; the listed changes are points on
top of it. Activations and densities span decades and are often 0, so the axes are logarithmic with a position for 0:

    view = read("results/template_diffs/tuned/template_diff.h5")
    for panel in view.panels("newline"):            # all_mean, active_mean, density
        panel.counts, panel.axis.ticks()            # the histogram; positions and labels of ticks
        panel.points["up"].x, panel.points["up"].y  # listed gains, in the axis' coordinates
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.page.blocks import number, p_value
from diptych.storage import artifacts

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

METRIC_LABELS = {
    "all_mean": "mean over all prompts",
    "active_mean": "mean where it fires",
    "density": "share of prompts where it fires",
}
BINS = 44
"""Bins of the histogram along an axis, each about as wide as a point."""
MAX_Q = 0.05
"""Largest q of a change that is drawn as a point."""


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from `low` to `high` (powers of ten), with 0 at `zero` below it."""

    low: float
    high: float

    @classmethod
    def of(cls, *values: FloatArray) -> "Axis":
        """The axis that spans all positive values."""
        positive = np.concatenate([part[part > 0] for part in values])
        if not len(positive):
            return cls(-1.0, 0.0)
        low, high = float(np.log10(positive.min())), float(np.log10(positive.max()))
        return cls(low, max(high, low + 0.1))

    @property
    def zero(self) -> float:
        """Coordinate of 0."""
        return self.low - 0.12 * (self.high - self.low)

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the axis, with a margin for points."""
        margin = 0.05 * (self.high - self.low)
        return self.zero - margin, self.high + margin

    def coordinates(self, values: FloatArray) -> FloatArray:
        """Coordinates of values >= 0."""
        positive = values > 0
        return np.where(positive, np.log10(np.where(positive, values, 1.0)), self.zero)

    def ticks(self) -> tuple[list[float], list[str]]:
        """Coordinates and labels: 0 and the powers of ten (and 2, 5 times them on a short axis)."""
        factors = (1.0,) if self.high - self.low > 1.5 else (1.0, 2.0, 5.0)
        decades = range(int(np.floor(self.low)), int(np.ceil(self.high)) + 1)
        values = [factor * 10.0**decade for decade in decades for factor in factors]
        visible = [value for value in values if self.low - 1e-9 <= np.log10(value) <= self.high + 1e-9]
        return [self.zero, *(float(np.log10(value)) for value in visible)], ["0", *(f"{value:g}" for value in visible)]


@dataclass(frozen=True)
class Points:
    """Listed changes of one direction: coordinates, and rows of the ranked table."""

    x: FloatArray
    y: FloatArray
    row: IntArray


@dataclass(frozen=True)
class Panel:
    """One metric of one role: histogram of features [BINS, BINS] (A along the second axis), points of listed ones."""

    metric: str
    axis: Axis
    counts: IntArray
    points: Mapping[str, Points]

    def centres(self) -> FloatArray:
        """Centres of the bins."""
        edges = np.linspace(*self.axis.limits, BINS + 1)
        centres: FloatArray = (edges[1:] + edges[:-1]) / 2
        return centres


@dataclass(frozen=True)
class Volcano:
    """Effect against -log10 p of every test: edges of the bins, counts [BINS (y), BINS (x)], points, the q line."""

    x_edges: FloatArray
    y_edges: FloatArray
    counts: IntArray
    points: Mapping[str, Points]
    line: float
    """-log10 of the largest p with q <= MAX_Q; NaN if there is none."""


@dataclass(frozen=True)
class View:
    """The contents of a template diff that figures and tables show.

    Attributes:
        names: of models A and B.
        roles: template tokens.
        summary: counts, and FVU by role.
        ranked: the ranked table.
        prompts: int64 [rows, k], token rows of prompts for each row of `ranked`.
        targets: table of latents of the target prompts, or None.
        values: role -> metric -> values of all latents in A and B.
        tests: role -> metric -> effect, p, q of the eligible latents.
    """

    names: tuple[str, str]
    roles: list[str]
    summary: Mapping[str, Any]
    ranked: Mapping[str, npt.NDArray[Any]]
    prompts: IntArray
    targets: Mapping[str, npt.NDArray[Any]] | None
    values: Mapping[str, Mapping[str, tuple[FloatArray, FloatArray]]]
    tests: Mapping[str, Mapping[str, Mapping[str, FloatArray]]]

    def panels(self, role: str, top: int = 40) -> list[Panel]:
        """The three panels of a role; the means share one axis.

        Args:
            role: a template token.
            top: listed changes drawn per direction.
        """
        values = self.values[role]
        means = Axis.of(*values["all_mean"], *values["active_mean"])
        return [
            self._panel(role, metric, Axis.of(*values[metric]) if metric == "density" else means, top)
            for metric in METRIC_LABELS
        ]

    def _panel(self, role: str, metric: str, axis: Axis, top: int) -> Panel:
        a, b = self.values[role][metric]
        fires = np.isfinite(a) & np.isfinite(b) & ((a > 0) | (b > 0))
        edges = np.linspace(*axis.limits, BINS + 1)
        counts, _, _ = np.histogram2d(axis.coordinates(b[fires]), axis.coordinates(a[fires]), bins=[edges, edges])
        points = {}
        for direction in ("up", "down"):
            row = self._rows(direction, top, role, metric)
            points[direction] = Points(
                axis.coordinates(self.ranked["a"][row]), axis.coordinates(self.ranked["b"][row]), row
            )
        return Panel(metric, axis, counts.astype(np.int64), points)

    def volcano(self, top: int = 12) -> Volcano:
        """The volcano plot of all tests; `top` listed changes per role, metric and direction are points."""
        pooled = {
            name: np.concatenate([test[name] for metrics in self.tests.values() for test in metrics.values()])
            for name in ("effect", "p", "q")
        }
        x, y = pooled["effect"], -np.log10(pooled["p"]) if len(pooled["p"]) else pooled["p"]
        largest_x, largest_y = (max(1e-3, float(np.abs(part).max())) if len(part) else 1.0 for part in (x, y))
        edges = np.linspace(-1.05 * largest_x, 1.05 * largest_x, BINS + 1), np.linspace(0.0, 1.05 * largest_y, BINS + 1)
        counts, _, _ = np.histogram2d(y, x, bins=[edges[1], edges[0]])
        points = {}
        for direction in ("up", "down"):
            row = self._rows(direction, top)
            points[direction] = Points(self.ranked["effect"][row], -np.log10(self.ranked["p"][row]), row)
        significant_p = pooled["p"][pooled["q"] <= MAX_Q]
        line = float(-np.log10(significant_p.max())) if len(significant_p) else float("nan")
        return Volcano(edges[0], edges[1], counts.astype(np.int64), points, line)

    def _rows(self, direction: str, top: int, role: str | None = None, metric: str | None = None) -> IntArray:
        """Rows of the ranked table with q <= `MAX_Q` and rank <= `top`."""
        table = self.ranked
        is_drawn = (table["direction"] == direction) & (table["q"] <= MAX_Q) & (table["rank"] <= top)
        if role is not None:
            is_drawn = is_drawn & (table["role"] == role) & (table["metric"] == metric)
        return np.flatnonzero(is_drawn)

    def hover_lines(self, row: int) -> list[str]:
        """Lines of the hover text of a row of the ranked table, not escaped."""
        table = self.ranked
        shift = {"yes": ["domain shift: may be the dictionary's, not the model's"]}
        return [
            f"feature {table['latent'][row]} at {role_label(str(table['role'][row]))}",
            METRIC_LABELS[str(table["metric"][row])],
            f"{self.names[0]} {number(float(table['a'][row]))} → {self.names[1]} {number(float(table['b'][row]))}",
            f"gain {number(float(table['gain_lo'][row]))} to {number(float(table['gain_hi'][row]))} (95 %)",
            f"effect {number(float(table['effect'][row]))}, q {p_value(float(table['q'][row]))}",
            *shift.get(str(table["domain_shift"][row]), []),
        ]


def role_label(role: str) -> str:
    """A role as text: its name, or a token's text in quotation marks."""
    return role if role.isidentifier() else f"“{role}”"


def read(path: str | Path) -> View:
    """The view of an artifact of kind "template_diff"."""
    with artifacts.read(path, "template_diff") as file:
        roles = [str(role) for role in artifacts.read_json(file, "roles")]
        reads = artifacts.read_json(file, "spec").get("reads", {})
        values, tests = {}, {}
        for index, role in enumerate(roles):
            group = file[f"roles/{index}"]
            sides = [
                {metric: group[f"{side}/{metric}"][:].astype(np.float64) for metric in METRIC_LABELS} for side in "ab"
            ]
            values[role] = {metric: (sides[0][metric], sides[1][metric]) for metric in METRIC_LABELS}
            tests[role] = {
                metric: {name: group[f"{metric}/{name}"][:] for name in ("effect", "p", "q")}
                for metric in METRIC_LABELS
            }
        return View(
            names=(str(reads.get("a", "A")), str(reads.get("b", "B"))),
            roles=roles,
            summary=artifacts.read_json(file, "summary"),
            ranked=artifacts.read_table(file, "ranked"),
            prompts=file["prompts_of_ranked"][:],
            targets=artifacts.read_table(file, "targets") if "targets" in file else None,
            values=values,
            tests=tests,
        )
