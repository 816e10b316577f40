"""The relations of a study in one table by depth, and how students of one budget differ by their loss.

collect(relations, "results/relations.h5", "results/relations.csv", spec=spec)
read("results/relations.h5").measures["value"]
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.relations import estimates, measures
from diptych.relations.estimates import Estimate
from diptych.relations.measures import MEASURES
from diptych.statistics import resampling
from diptych.storage import artifacts

Table = Mapping[str, npt.NDArray[Any]]
Description = Mapping[str, Any]
Measured = dict[tuple[str, str, str], list[Estimate]]
"""Estimates by relation, site ("" for models as a whole) and measure."""
UNKNOWN = "not measured, or not known for these models"
REFERENCE = ["kl"]
"""Losses of the students that those of other losses are compared with."""


@dataclass(frozen=True)
class Relations:
    """The artifact of `collect`.

    Attributes:
        measures: columns relation, site, measure, value, lo, hi (documents), least, most (runs), runs.
        depths: columns relation, site, kind, level, ceiling, live, dead, unequal.
        histograms: [rows of `depths`, bins of `measures.R_EDGES`], mean number of live latents.
        differences: columns relation, reference, site, measure, value, lo, hi, p, q, repeated.
    """

    measures: Table
    depths: Table
    histograms: npt.NDArray[np.float64]
    differences: Table


def collect(relations: Sequence[Description], out: str | Path, table: str | Path, *, spec: Mapping[str, Any]) -> None:
    """Stage `collect_relations`: write all measures of all relations to `out` (kind "relations") and to `table`.

    Args:
        relations: as `config.cells.related_pairs` describes them.
        out: the artifact.
        table: relations by depth, a column a measure with its intervals, as comma-separated text.
        spec: stored with the artifact.
    """
    measured: Measured = {}
    depths: list[dict[str, Any]] = []
    histograms = []
    for relation in relations:
        for pair in relation["pairs"]:
            _add(measured, relation["name"], "", measures.of_models(pair))
            for site in pair["sites"]:
                _add(measured, relation["name"], site["site"], measures.at_depth(pair, site))
        for site_name in [site["site"] for site in relation["pairs"][0]["sites"]]:
            values, histogram = measures.facts(_at(relation, site_name))
            depths.append({"relation": relation["name"], "site": site_name, "kind": relation["kind"], **values})
            histograms.append(histogram)
    rows = _rows(measured)
    with artifacts.create(out, "relations", spec) as file:
        file.table("measures", columns(rows), nan=UNKNOWN)
        file.table("depths", columns(depths), nan=UNKNOWN)
        file.array("histograms", np.stack(histograms))
        file.table("differences", columns(_differences(relations, measured)), nan=UNKNOWN)
    artifacts.write_text(table, _csv(rows, depths))


def read(path: str | Path) -> Relations:
    """The tables that `collect` wrote."""
    with artifacts.read(path, "relations") as file:
        tables = {name: artifacts.read_table(file, name) for name in ("measures", "depths", "differences")}
        return Relations(**tables, histograms=file["histograms"][:])


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows of equal keys as columns; {} for no rows."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _add(measured: Measured, relation: str, site: str, found: Mapping[str, list[Estimate]]) -> None:
    for name, values in found.items():
        measured.setdefault((relation, site, name), []).extend(values)


def _at(relation: Description, site: str) -> list[tuple[Description, Description]]:
    """The pairs of a relation with their descriptions of a site."""
    return [(pair, described) for pair in relation["pairs"] for described in pair["sites"] if described["site"] == site]


def _rows(measured: Measured) -> list[dict[str, Any]]:
    return [
        {"relation": relation, "site": site, "measure": measure, **estimates.pooled(values)._asdict()}
        for (relation, site, measure), values in measured.items()
        if values
    ]


def _differences(relations: Sequence[Description], measured: Measured) -> list[dict[str, Any]]:
    """Differences of students in every measure from those of the same budget that KL alone was minimised for.

    q is over all differences of the study, one family.
    """
    rows: list[dict[str, Any]] = []
    for reference in relations:
        rivals = [other for other in relations if reference["budget"] and other["budget"] == reference["budget"]]
        if reference["by"] != REFERENCE or len(rivals) < 2:
            continue
        names = [rival["name"] for rival in rivals]
        for site, measure in dict.fromkeys((site, measure) for name, site, measure in measured if name in names):
            groups = {name: measured.get((name, site, measure), []) for name in names}
            if not all(groups.values()):
                continue
            for name in names:
                if name != reference["name"]:
                    found = estimates.difference(groups, name, reference["name"])
                    place = {"relation": name, "reference": reference["name"], "site": site, "measure": measure}
                    rows.append({**place, **found._asdict()})
    q = resampling.benjamini_hochberg([row["p"] for row in rows])
    return [{**row, "q": float(value)} for row, value in zip(rows, q, strict=True)]


def _csv(rows: Sequence[Mapping[str, Any]], depths: Sequence[Mapping[str, Any]]) -> str:
    """Relations by depth; measures of models as a whole stand at each of their depths."""
    at = {(row["relation"], row["site"], row["measure"]): row for row in rows}
    lines: list[dict[str, Any]] = []
    for depth in depths:
        line: dict[str, Any] = {"relation": depth["relation"], "kind": depth["kind"], "depth": depth["site"]}
        for measure in MEASURES:
            place = (depth["relation"], depth["site"] if measure.of == "depth" else "", measure.name)
            row = at.get(place, {})
            line[measure.name] = _text(row.get("value"))
            line |= {f"{measure.name}_{end}": _text(row.get(end)) for end in ("lo", "hi", "least", "most")}
        line["runs"] = at.get((depth["relation"], depth["site"], "sharedness"), {}).get("runs", 0)
        line |= {name: _text(depth[name]) for name in ("level", "ceiling", "live", "dead")}
        lines.append({**line, "unequal_widths": int(depth["unequal"])})
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _text(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.6g}"
