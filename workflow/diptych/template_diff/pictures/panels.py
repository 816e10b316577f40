"""What the pictures of a template diff are drawn from: panels of B against A, and the volcano.

Most features are much alike in both models, so they are drawn as a density; the listed ones are points on top of it.
Activations and densities spread over decades and are often 0, so the axes are logarithmic with a place for 0:

    view = read("results/template_diffs/tuned/template_diff.h5")
    for panel in view.panels("newline"):            # all_mean, active_mean, density
        panel.counts, panel.axis.ticks()            # the bulk; where to write .01, .1, 1
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

METRIC_WORDS = {
    "all_mean": "mean over all prompts",
    "active_mean": "mean where it fires",
    "density": "share of prompts where it fires",
}
BINS = 44
"""Cells of the density along an axis: about as wide as a point."""
CERTAIN = 0.05
"""Largest q of a point."""


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from `low` to `high` (powers of ten), with 0 at `zero` below it."""

    low: float
    high: float

    @classmethod
    def of(cls, *values: FloatArray) -> "Axis":
        """The axis that holds all positive values."""
        positive = np.concatenate([part[part > 0] for part in values])
        if not len(positive):
            return cls(-1.0, 0.0)
        low, high = float(np.log10(positive.min())), float(np.log10(positive.max()))
        return cls(low, max(high, low + 0.1))

    @property
    def zero(self) -> float:
        """Where 0 stands."""
        return self.low - 0.12 * (self.high - self.low)

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the axis, with a margin for points."""
        margin = 0.05 * (self.high - self.low)
        return self.zero - margin, self.high + margin

    def place(self, values: FloatArray) -> FloatArray:
        """Coordinates of values >= 0."""
        positive = values > 0
        return np.where(positive, np.log10(np.where(positive, values, 1.0)), self.zero)

    def ticks(self) -> tuple[list[float], list[str]]:
        """Coordinates and labels: 0 and the powers of ten (and 2, 5 times them on a short axis)."""
        factors = (1.0,) if self.high - self.low > 1.5 else (1.0, 2.0, 5.0)
        decades = range(int(np.floor(self.low)), int(np.ceil(self.high)) + 1)
        values = [factor * 10.0**decade for decade in decades for factor in factors]
        shown = [value for value in values if self.low - 1e-9 <= np.log10(value) <= self.high + 1e-9]
        return [self.zero, *(float(np.log10(value)) for value in shown)], ["0", *(f"{value:g}" for value in shown)]


@dataclass(frozen=True)
class Points:
    """Listed changes of one direction: coordinates, and rows of the ranked table."""

    x: FloatArray
    y: FloatArray
    row: IntArray


@dataclass(frozen=True)
class Panel:
    """One metric of one role: the bulk as counts [BINS, BINS] (A along the second axis), the listed ones as points."""

    metric: str
    axis: Axis
    counts: IntArray
    points: Mapping[str, Points]

    def centres(self) -> FloatArray:
        """Middles of the cells."""
        edges = np.linspace(*self.axis.limits, BINS + 1)
        middles: FloatArray = (edges[1:] + edges[:-1]) / 2
        return middles


@dataclass(frozen=True)
class Volcano:
    """Effect against certainty of every test: edges of the cells, counts [BINS (y), BINS (x)], points, the q line."""

    x_edges: FloatArray
    y_edges: FloatArray
    counts: IntArray
    points: Mapping[str, Points]
    line: float
    """-log10 of the largest p with q <= CERTAIN; NaN where there is none."""


@dataclass(frozen=True)
class View:
    """A template diff as it is looked at.

    Attributes:
        names: of models A and B.
        roles: template tokens.
        summary: counts and the dictionary's FVU by role.
        ranked: the table of listed gains.
        prompts: int64 [rows, k], token rows of prompts for each of them.
        targets: table of latents of the target prompts, or None.
        values: role -> metric -> values of all latents in A and B.
        tests: role -> metric -> effect, p, q of the eligible ones.
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
            role: which.
            top: listed changes of each direction that are drawn.
        """
        values = self.values[role]
        means = Axis.of(*values["all_mean"], *values["active_mean"])
        return [
            self._panel(role, metric, Axis.of(*values[metric]) if metric == "density" else means, top)
            for metric in METRIC_WORDS
        ]

    def _panel(self, role: str, metric: str, axis: Axis, top: int) -> Panel:
        a, b = self.values[role][metric]
        fires = np.isfinite(a) & np.isfinite(b) & ((a > 0) | (b > 0))
        edges = np.linspace(*axis.limits, BINS + 1)
        counts, _, _ = np.histogram2d(axis.place(b[fires]), axis.place(a[fires]), bins=[edges, edges])
        points = {}
        for direction in ("up", "down"):
            row = self._rows(direction, top, role, metric)
            points[direction] = Points(axis.place(self.ranked["a"][row]), axis.place(self.ranked["b"][row]), row)
        return Panel(metric, axis, counts.astype(np.int64), points)

    def volcano(self, top: int = 12) -> Volcano:
        """All tests; `top` listed changes of each role, metric and direction are points."""
        every = {
            name: np.concatenate([test[name] for metrics in self.tests.values() for test in metrics.values()])
            for name in ("effect", "p", "q")
        }
        x, y = every["effect"], -np.log10(every["p"]) if len(every["p"]) else every["p"]
        wide, high = (max(1e-3, float(np.abs(part).max())) if len(part) else 1.0 for part in (x, y))
        edges = np.linspace(-1.05 * wide, 1.05 * wide, BINS + 1), np.linspace(0.0, 1.05 * high, BINS + 1)
        counts, _, _ = np.histogram2d(y, x, bins=[edges[1], edges[0]])
        points = {}
        for direction in ("up", "down"):
            row = self._rows(direction, top)
            points[direction] = Points(self.ranked["effect"][row], -np.log10(self.ranked["p"][row]), row)
        certain = every["p"][every["q"] <= CERTAIN]
        line = float(-np.log10(certain.max())) if len(certain) else float("nan")
        return Volcano(edges[0], edges[1], counts.astype(np.int64), points, line)

    def _rows(self, direction: str, top: int, role: str | None = None, metric: str | None = None) -> IntArray:
        """Rows of the ranked table that are certain enough and rank high enough."""
        table = self.ranked
        listed = (table["direction"] == direction) & (table["q"] <= CERTAIN) & (table["rank"] <= top)
        if role is not None:
            listed = listed & (table["role"] == role) & (table["metric"] == metric)
        return np.flatnonzero(listed)

    def words(self, row: int) -> list[str]:
        """What is said of a row of the ranked table, a line each; plain text that is not escaped."""
        table = self.ranked
        shift = {"yes": ["domain shift: may be the dictionary's, not the model's"]}
        return [
            f"feature {table['latent'][row]} at {shown(str(table['role'][row]))}",
            METRIC_WORDS[str(table["metric"][row])],
            f"{self.names[0]} {number(float(table['a'][row]))} → {self.names[1]} {number(float(table['b'][row]))}",
            f"gain {number(float(table['gain_lo'][row]))} to {number(float(table['gain_hi'][row]))} (95 %)",
            f"effect {number(float(table['effect'][row]))}, q {p_value(float(table['q'][row]))}",
            *shift.get(str(table["domain_shift"][row]), []),
        ]


def shown(role: str) -> str:
    """A role as it is written: a name, or a token's text in quotation marks."""
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
                {metric: group[f"{side}/{metric}"][:].astype(np.float64) for metric in METRIC_WORDS} for side in "ab"
            ]
            values[role] = {metric: (sides[0][metric], sides[1][metric]) for metric in METRIC_WORDS}
            tests[role] = {
                metric: {name: group[f"{metric}/{name}"][:] for name in ("effect", "p", "q")} for metric in METRIC_WORDS
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
