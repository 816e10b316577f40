"""Scores of one fit against the truth of one pair (METHODS 8).

    of_planted(fit, pair)["average_precision"]
    of_null(fit)["any_significant"]            # 1 if any direction has q <= .05 where nothing differs

A score that a method cannot have is NaN.
"""

from collections.abc import Mapping

import numpy as np

from diptych.oracle import planted
from diptych.oracle.entry import NOMINAL, Fit, Matches, Quantity
from diptych.oracle.planted import CLAIM_COSINE, DoubleArray, PlantedPair, SideName

NAN = float("nan")
SIDES: tuple[SideName, SideName] = ("A", "B")
PREFIXES = {"1": 1, "K": 1, "2K": 2, "4K": 4}
"""Lengths of the rankings whose span is measured: 1, and multiples of the number K of truths of a side."""
AMOUNTS: Mapping[Quantity, str] = {"rotated": "angle", "rescaled": "scale", "more_frequent": "frequency"}
"""For each label the field of `Matches` that estimates its amount."""


def of_planted(fit: Fit, pair: PlantedPair) -> dict[str, float]:
    """Average precision, recalls of directions and of spans, recovery of amounts, L0."""
    order = fit.ranking
    directions, sides = [fit.directions[i] for i in order], [fit.side[i] for i in order]
    n_truths = sum(len(pair.truths(side)) for side in SIDES)
    scores = {"l0": fit.active}
    if n_truths:
        found = planted.outcomes(directions, sides, pair)
        scores |= {
            "average_precision": planted.average_precision(directions, sides, pair),
            "recall_at_5": planted.recall_at(found, n_truths, NOMINAL),
            **_reported(fit, pair, n_truths),
            **_spans(fit, pair),
            "planted_share": planted_share(pair),
        }
    for label, name in AMOUNTS.items():
        if len(pair.features(label)):
            estimate = _estimates(fit.matches, name, pair)
            missing = estimate is None
            correlation, coverage = (
                (NAN, NAN) if estimate is None else planted.amount_correlation(pair, label, estimate)
            )
            scores |= {name: correlation, f"{name}_coverage": NAN if missing else coverage}
    return scores


def of_null(fit: Fit) -> dict[str, float]:
    """Whether anything is significant, or reported, where nothing differs; tests made, and the share of p <= .05."""
    p = np.asarray([] if fit.p is None else fit.p, dtype=np.float64)
    p = p[np.isfinite(p)]
    q = fit.q_values
    tests = len(p) > 0 or not len(fit.side)
    return {
        "any_significant": float((q <= NOMINAL).any()) if tests else NAN,
        "any_reported": float(fit.is_reported.any()) if tests else NAN,
        "tests": float(len(p)),
        "share_p_05": float((p <= NOMINAL).mean()) if len(p) else NAN,
    }


def planted_share(pair: PlantedPair) -> float:
    """Share of its model's variance that a feature which that model alone has carries, mean over these features."""
    shares: list[float] = []
    for side, x, codes in (("A", pair.x_A, pair.codes_A), ("B", pair.x_B, pair.codes_B)):
        features = codes[:, pair.features(f"only_{side}")]
        shares += (features.var(axis=0, dtype=np.float64) / x.var(axis=0, dtype=np.float64).sum()).tolist()
    return float(np.mean(shares))


def _reported(fit: Fit, pair: PlantedPair, n_truths: int) -> dict[str, float]:
    """Share of the truths among what is reported, and share of what is reported that is false."""
    if len(fit.side) and (fit.p is None or not np.isfinite(np.asarray(fit.p, dtype=np.float64)).any()):
        return {"reported_recall": NAN, "reported_false": NAN}
    reported = [i for i in fit.ranking if fit.is_reported[i]]
    found = planted.outcomes([fit.directions[i] for i in reported], [fit.side[i] for i in reported], pair)
    n_hits, n_false = found.count("hit"), found.count("false")
    return {
        "reported_recall": n_hits / n_truths,
        "reported_false": n_false / (n_hits + n_false) if n_hits + n_false else 0.0,
    }


def _spans(fit: Fit, pair: PlantedPair) -> dict[str, float]:
    """Subspace recall averaged over the truths of both sides, and its level by chance."""
    sums = dict.fromkeys([*(f"span_{name}" for name in PREFIXES), *(f"chance_{name}" for name in PREFIXES)], 0.0)
    total = 0
    for side in SIDES:
        truths = pair.truths(side)
        if not len(truths):
            continue
        width = truths.shape[1]
        ranked = [fit.directions[i] for i in fit.ranking if fit.side[i] in (side, "either")]
        recall = planted.subspace_recall(np.array(ranked).reshape(-1, width), truths)
        for name, factor in PREFIXES.items():
            r = 1 if name == "1" else factor * len(truths)
            sums[f"span_{name}"] += len(truths) * recall[r]
            sums[f"chance_{name}"] += len(truths) * min(1.0, r / width)
        total += len(truths)
    return {name: value / total for name, value in sums.items()}


def _estimates(matches: Matches | None, name: str, pair: PlantedPair) -> DoubleArray | None:
    """A method's estimate for each true feature [F], of the match nearest to it in both models; NaN without one.

    None if the method has no such estimate.
    """
    values = None if matches is None else getattr(matches, name)
    if matches is None or values is None:
        return None
    estimate = np.full(len(pair.label), np.nan)
    if len(values):
        near_A = np.abs(pair.directions_A @ _unit_rows(matches.directions_A).T)
        near_B = np.abs(pair.directions_B @ _unit_rows(matches.directions_B).T)
        both = np.minimum(near_A, near_B)
        best = both.argmax(axis=1)
        is_near = both.max(axis=1) >= CLAIM_COSINE
        estimate[is_near] = np.asarray(values, dtype=np.float64)[best[is_near]]
    return estimate


def _unit_rows(values: DoubleArray) -> DoubleArray:
    rows = np.asarray(values, dtype=np.float64)
    unit: DoubleArray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    return unit


def reasons(blind: Mapping[Quantity, str], *, has_test: bool) -> dict[str, str]:
    """By score the reason why a method cannot have it."""
    found = {name: blind[label] for label, name in AMOUNTS.items() if label in blind}
    found |= {f"{name}_coverage": reason for name, reason in found.items()}
    if not has_test:
        names = ("reported_recall", "reported_false", "any_significant", "any_reported", "share_p_05")
        found |= dict.fromkeys(names, blind.get("test", "it gives no p"))
    return found
