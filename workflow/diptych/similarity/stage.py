"""Similarity of two models' feature spaces: measures on paired decoder rows, each with its null.

SAE features of two models were paired by how they fire. If both models arrange the same concepts alike, the paired
decoder rows form clouds of the same shape, though the spaces differ in width and axes. A score alone says little
(few random pairs score .95 on some measures), so each row of the table has its null:

    pairs = {"features": Pairs(x=W_dec_A[rows_a], y=W_dec_B[rows_b], rho=rho_held_out)}
    compare(pairs, "similarity.h5", spec={})
    # points    subspace  measure    value  null_mean  null_sd  ratio       p
    # features  all       procrustes  .410       .212     .001   1.93  .00990

Semantic subspaces (time, nature, people, ...) are scored on the pairs whose top tokens are in a word list. METHODS 3.3.
"""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.runtime import logs
from diptych.similarity.measures.formulas import IntArray
from diptych.similarity.measures.scores import FAMILIES, Pairs, Score, Settings, score
from diptych.storage import artifacts
from diptych.text import word_lists


def compare(
    pairs: Mapping[str, Pairs],
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    subspaces: Mapping[str, frozenset[str]] | None = None,
    measures: Sequence[str] = FAMILIES,
    variance: float = 0.99,
    neighbours: Sequence[int] = (4, 10),
    repairings: int = 1000,
    nuclear_repairings: int = 100,
    rsa_rows: int = 5000,
    rsa_null_rows: int = 2000,
    subset_draws: int = 20,
    min_pairs: int = 10,
    compat: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Score sets of pairs on all measures and write an artifact of kind "similarity" (METHODS 3.3).

    Args:
        pairs: matched pairs of each kind of points ("features", "neurons").
        out: path of the artifact.
        spec: stored with it.
        subspaces: word lists by name; a pair belongs if a top token of either latent is in the list.
        measures: families of measures to score.
        variance: share of each space's variance in the components that SVCCA compares.
        neighbours: the k of the nearest-neighbour measures.
        repairings: random re-pairings for RSA and neighbours.
        nuclear_repairings: random re-pairings for SVCCA, PWCCA and Procrustes.
        rsa_rows: at most so many rows are used for RSA.
        rsa_null_rows: at most so many for the null of RSA.
        subset_draws: random subsets of the size of a subspace, with new random partners.
        min_pairs: fewer pairs than this are not scored.
        compat: "lan2024" adds the published one-component score and its p without adding 1, labelled.
        seed: of all random draws; each subspace has its own stream.

    Raises:
        DiptychError: parts of unequal length, or non-finite values.
    """
    settings = Settings(
        tuple(measures), variance, tuple(neighbours), repairings, nuclear_repairings, rsa_rows, rsa_null_rows,
        subset_draws, min_pairs, tuple(compat), seed,
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    quality: list[dict[str, Any]] = []
    members: dict[str, IntArray] = {}
    for points, all_pairs in pairs.items():
        all_pairs.check(points)
        index = {"all": np.arange(len(all_pairs))} | subspace_members(all_pairs, subspaces or {})
        for name, inside in logs.progress(list(index.items()), f"similarity of {points}", unit="subspace"):
            part, pool = (all_pairs, None) if name == "all" else (all_pairs.take(inside), all_pairs)
            rng = np.random.default_rng([seed, zlib.crc32(f"{points}/{name}".encode())])
            rows += [table_row(points, name, result, part) for result in score(part, settings, rng, pool)]
            quality.append({"points": points, "subspace": name} | input_quality(part))
            members[f"{points}/{name}"] = inside
    with artifacts.create(out, "similarity", spec) as file:
        file.table("scores", _columns(rows), nan="see reason")
        file.table("quality", _columns(quality))
        for name, inside in members.items():
            file.array(f"members/{name}", inside)


def subspace_members(pairs: Pairs, subspaces: Mapping[str, frozenset[str]]) -> dict[str, IntArray]:
    """Indices of the pairs of each semantic subspace; {} for pairs without tokens."""
    if pairs.tokens_a is None or pairs.tokens_b is None:
        return {}
    return {
        name: np.flatnonzero(word_lists.contains(words, pairs.tokens_a) | word_lists.contains(words, pairs.tokens_b))
        for name, words in subspaces.items()
    }


def table_row(points: str, subspace: str, result: Score, pairs: Pairs) -> dict[str, Any]:
    """One row of the `scores` table, with a reason for every NaN."""
    mean, sd, p = result.null
    circular = pairs.circular and result.measure != "mean_rho"
    reasons = [result.void_reason] if result.void_reason else []
    if not result.void_reason:
        if result.measure == "mmcs":
            reasons.append("no p: the null of MMCS is a level")
            if np.isnan(mean):
                reasons.append("no level: all rows of B have one direction")
        elif result.measure == "mean_rho":
            reasons.append(
                "no p: pairs were chosen for their correlation" + ("" if pairs.codes else "; no codes given")
            )
        if circular:
            reasons.append("no p: circular, the pairing used the decoder cosine")
        if sd == 0.0 and np.isnan(p):
            reasons.append("no p: re-pairing does not change it")
        if np.isfinite(mean) and mean <= sd:
            reasons.append("no ratio: the null level is about 0")
    deviation = result.value - mean
    finite = result.subsets[np.isfinite(result.subsets)]
    return {
        "points": points,
        "subspace": subspace,
        "measure": result.measure,
        "value": result.value,
        "null_mean": mean,
        "null_sd": sd,
        "ratio": result.value / mean if mean > sd else float("nan"),
        "z": deviation / sd if sd > 0.0 else float("nan"),
        "above_null": deviation / (1.0 - mean) if mean < 1.0 else float("nan"),
        "p": float("nan") if circular else p,
        "subset_mean": float(finite.mean()) if len(finite) else float("nan"),
        "subset_sd": float(finite.std(ddof=1)) if len(finite) > 1 else float("nan"),
        "n_pairs": len(pairs),
        "reason": "; ".join(reasons),
        "circular": circular,
        "compat": "lan2024" if result.measure.endswith("_lan2024") else "",
    }


def input_quality(pairs: Pairs) -> dict[str, Any]:
    """Counts of degenerate input (METHODS 0.6): repeated rows, rows of zeros, constant columns."""
    quality: dict[str, Any] = {"n_pairs": len(pairs)}
    for side, rows in (("a", np.asarray(pairs.x)), ("b", np.asarray(pairs.y))):
        quality[f"repeated_rows_{side}"] = len(rows) - len(np.unique(rows, axis=0)) if len(rows) else 0
        quality[f"zero_rows_{side}"] = int(np.sum(~rows.any(axis=1)))
        quality[f"constant_columns_{side}"] = int(np.sum(np.ptp(rows, axis=0) == 0.0)) if len(rows) else 0
    return quality


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}
