"""What is measured of a relation: by depth from crosscoders and linear maps, and once from outputs and distillation.

    at_depth(pair, pair["sites"][0])["sharedness"]        # [Estimate, ...], one of each run
    of_models(pair)["kl"]                                 # [Estimate]

Every estimate has replicates over the documents that it is measured on, if any enter it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.relations.estimates import DoubleArray, Estimate
from diptych.statistics import resampling
from diptych.storage import artifacts

N_BOOTSTRAP = 200
"""Replicates over documents of what the artifacts hold by document."""
NONE: DoubleArray = np.zeros(0)
R_EDGES = np.linspace(0.0, 1.0, 51)
"""Edges of the histogram of relative norms."""


@dataclass(frozen=True)
class Measure:
    """A measure: column of the tables, title, where it belongs, and which way something is kept.

    Attributes:
        name: its column.
        title: what the page calls it.
        of: a depth of a relation, or its models as a whole.
        kept: 1 if a larger value means that more of A is kept, -1 if a smaller one does, 0 if neither.
        least: smallest difference between two relations that counts, however certain a smaller one is.
    """

    name: str
    title: str
    of: Literal["depth", "models"]
    kept: int = 0
    least: float = 0.01


MEASURES = (
    Measure("sharedness", "sharedness", "depth", 1),
    Measure("sharedness_unweighted", "sharedness, unweighted", "depth", 1),
    Measure("sharedness_energy", "sharedness, by energy", "depth", 1),
    Measure("alignment", "alignment", "depth", 1),
    Measure("shared_cosine", "cosine of shared latents", "depth", 1),
    Measure("fvu_a", "unexplained of A", "depth"),
    Measure("fvu_b", "unexplained of B", "depth"),
    Measure("r2", "R² of the linear map", "depth", 1),
    Measure("kl", "KL from A (nats)", "models", -1, least=0.05),
    Measure("loss", "loss above A's (nats)", "models", -1, least=0.05),
    Measure("jacobian", "Jacobian distance", "models", -1, least=0.05),
)
"""All measures, in the order of the tables."""

Estimates = dict[str, list[Estimate]]


def named(name: str) -> Measure:
    """The measure with this name."""
    return next(measure for measure in MEASURES if measure.name == name)


def at_depth(pair: Mapping[str, Any], site: Mapping[str, Any]) -> Estimates:
    """Estimates of a pair at a site, by measure; one for each run of its crosscoders."""
    found: Estimates = {measure.name: [] for measure in MEASURES if measure.of == "depth"}
    found["r2"] = [_r2(site["linear_map"], pair["b"])]
    for run in site["runs"]:
        with artifacts.read(run["latents"], "latents") as file:
            if len(artifacts.read_json(file, "widths")) != 2:
                continue
            shared = artifacts.read_json(file, "sharedness")
            values = {
                "sharedness": (shared["activation"], file["bootstrap/sharedness_activation"][:]),
                "sharedness_unweighted": (shared["unweighted"], file["bootstrap/sharedness_unweighted"][:]),
                "sharedness_energy": (shared["energy"], file["bootstrap/sharedness_energy"][:]),
                "alignment": (artifacts.read_json(file, "alignment")["0-1"]["value"], NONE),
                "shared_cosine": (artifacts.read_json(file, "shared_cosine"), file["bootstrap/shared_cosine"][:]),
            }
        values |= _fvu(run["evaluation"])
        for name, (value, replicates) in values.items():
            found[name].append(Estimate(_number(value), replicates, pair["b"], run["seed"]))
    return found


def of_models(pair: Mapping[str, Any]) -> Estimates:
    """Estimates of a pair as a whole, by measure."""
    estimates: Estimates = {"kl": [], "loss": [], "jacobian": []}
    with artifacts.read(pair["outputs"], "outputs") as file:
        if "text/documents" in file:
            documents = artifacts.read_table(file, "text/documents")
            for name, column in (("kl", "kl_ab"), ("loss", "nll_difference")):
                known = np.isfinite(documents[column])
                top, bottom = documents[column][known] * documents["n"][known], documents["n"][known]
                estimates[name].append(_ratio(top, bottom, documents["document"][known], pair["b"]))
    if "directory" in pair:
        sequences = json.loads((Path(pair["directory"]) / "training.json").read_text(encoding="utf-8"))["sequences"]
        columns = {
            name: np.concatenate([of[name] for of in sequences.values()]) for name in ("document", "error", "norm")
        }
        document, (error, norm) = _by_document(
            columns["document"].astype(np.int64), [columns["error"], columns["norm"]]
        )
        estimates["jacobian"].append(_ratio(error, norm, document, pair["b"]))
    return estimates


def facts(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> tuple[dict[str, Any], DoubleArray]:
    """What is no estimate, of all runs of a relation at a depth, and the histogram of relative norms over `R_EDGES`.

    Args:
        pairs: the relation's pairs with their descriptions of the site.

    Returns:
        `level` and `ceiling` of the alignment (NaN if unknown), mean live and dead latents, whether widths are
        `unequal`; and the mean number of live latents in each bin.
    """
    levels, ceilings, live, dead, unequal = [], [], [], [], False
    counts = []
    for run in (run for _, site in pairs for run in site["runs"]):
        with artifacts.read(run["latents"], "latents") as file:
            widths = artifacts.read_json(file, "widths")
            if len(widths) != 2:
                continue
            columns = artifacts.read_table(file, "latents")
            levels.append(artifacts.read_json(file, "alignment")["0-1"]["null"])
        is_live = columns["class"] > 0
        unequal = unequal or widths[0] != widths[1]
        live.append(int(is_live.sum()))
        dead.append(int((~is_live).sum()))
        counts.append(np.histogram(columns["r"][is_live], R_EDGES)[0])
        if run.get("ceiling"):
            with artifacts.read(run["ceiling"], "latents") as file:
                ceilings.append(_number(artifacts.read_json(file, "alignment")["0-1"]["value"]))
    values = {
        "level": _mean(levels), "ceiling": _mean(ceilings), "live": _mean(live), "dead": _mean(dead),
        "unequal": unequal,
    }  # fmt: skip
    return values, np.mean(counts, axis=0) if counts else np.zeros(len(R_EDGES) - 1)


def _fvu(evaluation: str | Path) -> dict[str, tuple[float, DoubleArray]]:
    """FVU of both models on held-out rows; the replicates' spread is that about the training rows' mean."""
    with artifacts.read(evaluation, "evaluation") as file:
        fvu = artifacts.read_json(file, "summary")["fvu"]
        documents = artifacts.read_table(file, "documents")
    values = {}
    for model, name in enumerate(("fvu_a", "fvu_b")):
        error, square = documents[f"error_{model}"], documents[f"square_{model}"]
        estimate = _ratio(error, square, documents["document"], "")
        values[name] = (fvu[model], estimate.replicates * (fvu[model] / estimate.value))
    return values


def _r2(linear_map: str | Path, model: str) -> Estimate:
    """Cross-validated R^2 of the best map from A to B; B's variance is that of all rows in every replicate."""
    with artifacts.read(linear_map, "linear_map") as file:
        value = artifacts.read_json(file, "verdicts")["forward"]["r2"]
        energy, document = file["forward/energy"][:].astype(np.float64), file["rows/document"][:].astype(np.int64)
    documents, (unexplained, rows) = _by_document(document, [energy, np.ones(len(energy))])
    estimate = _ratio(unexplained, rows, documents, model)
    return Estimate(value, value - (estimate.replicates - estimate.value), model)


def _by_document(
    document: npt.NDArray[np.int64], columns: Sequence[DoubleArray]
) -> tuple[npt.NDArray[np.int64], list[DoubleArray]]:
    """Sums of columns over the entries of each document."""
    documents, unit = np.unique(document, return_inverse=True)
    return documents, [np.bincount(unit, column, len(documents)).astype(np.float64) for column in columns]


def _ratio(top: DoubleArray, bottom: DoubleArray, documents: npt.NDArray[Any], model: str) -> Estimate:
    """Ratio of two sums over documents, with its replicates."""
    weights = resampling.document_weights(documents, n=N_BOOTSTRAP, seed=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Estimate(float(top.sum() / bottom.sum()), (weights @ top) / (weights @ bottom), model)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
