"""Figures of a pairing: scores of matches against decoys, and differences between matched features."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.page import figures
from diptych.page.blocks import Block, Figure, number

Columns = Mapping[str, npt.NDArray[Any]]

BINS = 50
SCORES = {
    "rho": "correlation",
    "cosine": "decoder cosine",
    "euclidean": "distance, negative",
    "mean": "mean of correlation and cosine",
}


def blocks(pair: Mapping[str, Any], pairs: Columns, matched: int, score: str, is_cut: bool) -> list[Block]:
    """Figures of scores against decoys, cosines against unrelated pairs, and norm differences (alone, against cosine).

    Args:
        pair: names of the models, and id.
        pairs: the candidate pairs (`pairing.PAIR_COLUMNS`).
        matched: value of `outcome` for matched pairs.
        score: the pairing's score.
        is_cut: whether matches above the cut of q are unmatched.
    """
    if not len(pairs["a"]):
        return []
    matched_pairs = {name: values[pairs["outcome"] == matched] for name, values in pairs.items()}
    histograms: list[Block] = [
        _overlaid(
            f"{pair['id']}-match-scores",
            "Scores of the candidate pairs, against decoys",
            f"Candidate pairs by their score ({SCORES[score]}), and the best scores inside one dictionary, which are "
            "certainly no matches. "
            + ("A pair is a match only where hardly any decoy reaches." if is_cut else "No pair was cut by them."),
            {"candidate pairs": (pairs["score"], "var(--b)"), "decoys": (pairs["decoy"], "var(--both)")},
            SCORES[score],
        )
    ]
    if not len(matched_pairs["a"]):
        return histograms
    return [
        *histograms,
        _overlaid(
            f"{pair['id']}-match-cosines",
            "Cosine of the matched directions, against the null",
            "Decoder rows of the matched features, A's mapped into B's space; beside them the same with the match of "
            "another pair.",
            {
                "matched": (matched_pairs["cosine"], "var(--b)"),
                "unrelated": (matched_pairs["cosine_unrelated"], "var(--both)"),
            },
            "cosine of decoder rows",
        ),
        _norms(pair, matched_pairs),
        _scatter(pair, matched_pairs),
    ]


def _overlaid(
    name: str, title: str, caption: str, values: Mapping[str, tuple[npt.NDArray[Any], str]], x: str
) -> Figure:
    """Two overlaid histograms on the same bins."""
    finite = {key: array[np.isfinite(array) & (np.abs(array) < 1e30)] for key, (array, _) in values.items()}
    pooled = np.concatenate(list(finite.values()))
    low, high = (float(pooled.min()), float(pooled.max())) if len(pooled) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    series = {key: (np.histogram(array, edges)[0], values[key][1]) for key, array in finite.items()}
    return Figure(name, title, caption, figures.histogram(edges, series, x=x, y="pairs", overlaid=True), height=260)


def _norms(pair: Mapping[str, Any], matched_pairs: Columns) -> Figure:
    difference = matched_pairs["norm_difference"]
    largest = max(float(np.abs(difference).max()), 1e-6)
    edges = np.linspace(-largest, largest, BINS + 1)
    magnitude = np.abs(difference)
    return Figure(
        f"{pair['id']}-match-norms",
        "Difference of encoder norms",
        f"Encoder norm of {pair['a']}'s feature less that of its own match in {pair['b']}, each over its dictionary's "
        f"largest. Magnitude: mean {number(float(magnitude.mean()))}, most {number(float(magnitude.max()))}, least "
        f"{number(float(magnitude.min()))}.",
        figures.histogram(
            edges, {"matched": (np.histogram(difference, edges)[0], "var(--both)")}, x="norm difference", y="pairs"
        ),
        height=240,
    )


def _scatter(pair: Mapping[str, Any], matched_pairs: Columns) -> Figure:
    names = [
        f"{pair['a']} {i} ↔ {pair['b']} {j}"
        for i, j in zip(matched_pairs["a"].tolist(), matched_pairs["b"].tolist(), strict=True)
    ]
    return Figure(
        f"{pair['id']}-match-norm-cosine",
        "Norm difference against cosine",
        "Every matched pair: a feature whose direction changed lies low, a stronger or weaker one to a side.",
        figures.scatter(
            {"matched": (matched_pairs["norm_difference"], matched_pairs["cosine"], names, "var(--b)")},
            x="norm difference",
            y="cosine of decoder rows",
        ),
        height=320,
    )
