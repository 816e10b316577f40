"""The section on sparse features of one pair: how the two dictionaries' features correlate, pair up and differ."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.dictionaries import codes
from diptych.page import figures, method_sections
from diptych.page.blocks import (
    Block,
    Cell,
    Facts,
    Figure,
    Note,
    Prose,
    Section,
    Table,
    counted,
    number,
    number_cell,
    percent,
)
from diptych.page.method_sections import PageData
from diptych.pairing import figures as matches
from diptych.pairing.unmatched_section import changed_features
from diptych.storage import artifacts
from diptych.text.contexts import Codes, Text

Side = Literal["a", "b"]
Floors = Mapping[str, float]
Columns = Mapping[str, npt.NDArray[Any]]
STATUS_WORDS = {
    "matched": "matched with a feature of the other model",
    "unmatched": "unmatched: no better fit than chance gives",
    "filtered_rho": "left out: its match hardly correlates",
    "filtered_token": "left out: fires on punctuation or shares no top token",
    "below_min_active": "too rare to judge",
    "dead": "never fires on this text",
}
STEP_WORDS = {
    "candidates": "pairs of the rule",
    "q": "left: fit better than decoys",
    "stop_token": "left: no stop token on top",
    "shared_token": "left: a top token in common",
    "rho": "left: correlate above the floor",
}
"""What a pair must pass, in this order."""
UNCUT = {"unmatched": "unmatched: nobody was left to match it with", "q": "left: all, no decoy cut was applied"}
"""What the cut would have said, where `pairing.cut` is 1."""
NOT_ELIGIBLE = ("dead", "below_min_active")
BINS = np.linspace(-1.0, 1.0, 51)


def section(
    pair: Mapping[str, Any], texts: Mapping[Side, Text], contexts: int, standing: Collection[str], floors: Floors
) -> Section:
    """Correlation, pairing and the most changed features of one pair.

    Args:
        pair: with `files` of the features stages.
        texts: of each model's tokens.
        contexts: shown for each feature and model.
        standing: "side id" of the features that are findings.
        floors: unmatched share of floor pairs by name: what different seeds alone leave unmatched.
    """
    pair = {**pair, "files": _readable(pair["files"])}
    parts = [
        Section(f"{pair['id']}-dictionaries", "The dictionaries", [_dictionaries(pair)]),
        Section(f"{pair['id']}-correlation", "Correlation of features", _correlation(pair)),
        Section(f"{pair['id']}-pairing", "Pairing of features", _pairing(pair, floors)),
        Section(
            f"{pair['id']}-changed", "Features that changed most", changed_features(pair, texts, contexts, standing)
        ),
    ]
    return Section(f"{pair['id']}-features", "Sparse features", [], parts)


def _readable(files: Mapping[str, Any]) -> dict[str, Any]:
    """The files without the codes of dictionaries that are not as wide as the other model."""
    across = ("features_a_on_b", "features_b_on_a")
    return {key: paths for key, paths in files.items() if key not in across or not codes.unreadable(paths[0])}


def unmatched_share(pair: Mapping[str, Any]) -> float:
    """Share of the eligible features of both sides that are unmatched; NaN without any."""
    with artifacts.read(pair["files"]["pairing"], "pairing") as file:
        summary = artifacts.read_json(file, "summary")
    counts = [summary[f"status_{side}"] for side in ("a", "b")]
    eligible = sum(_eligible(count) for count in counts)
    return sum(count["unmatched"] for count in counts) / eligible if eligible else float("nan")


def _eligible(counts: Mapping[str, int]) -> int:
    return sum(count for status, count in counts.items() if status not in NOT_ELIGIBLE)


# --- the dictionaries ---------------------------------------------------------------------------------------------


def _dictionaries(pair: Mapping[str, Any]) -> Table:
    names = {"a": pair["a"], "b": pair["b"]}
    rows: list[list[str | Cell]] = []
    for key, dictionary, model in (
        ("features_a", "a", "a"),
        ("features_a_on_b", "a", "b"),
        ("features_b", "b", "b"),
        ("features_b_on_a", "b", "a"),
    ):
        if pair["files"].get(key):
            numbers = _summary(pair["files"][key])
            alias = pair.get(f"dictionary_{dictionary}", f"of {names[dictionary]}")
            rows.append(
                [
                    str(alias),
                    names[model],
                    *(number_cell(numbers[name]) for name in ("rows", "l0", "fvu")),
                    Cell(percent(numbers["dead"]), numbers["dead"]),
                ]
            )
    return Table(
        ["dictionary", "read on", "tokens", "features active on a token (L0)", "variance unexplained (FVU)", "dead"],
        rows,
        caption="A dictionary writes each activation as a few features. Read on the other model, its FVU tells how far "
        "that model's activations lie outside what it was trained on.",
    )


def _summary(shards: Sequence[str]) -> dict[str, float]:
    """L0, FVU and dead share over all shards."""
    n, firings, pooled = 0, 0, None
    for path in shards:
        with codes.open_shard(path) as file:
            n += len(file["token_row"])
            firings += len(file["data"])
            part = codes.read_reconstruction(file["reconstruction"])
            pooled = part if pooled is None else pooled.merge(part)
    fvu = pooled.fvu if pooled else float("nan")
    return {"rows": n, "l0": firings / max(n, 1), "fvu": fvu, "dead": float((Codes(shards).density == 0).mean())}


# --- correlation --------------------------------------------------------------------------------------------------


def _correlation(pair: Mapping[str, Any]) -> list[Block]:
    with artifacts.read(pair["files"]["correlation"], "correlation") as file:
        counts = file["histogram/count"][:].sum(axis=0)
        edges = file["histogram/edges"][:]
        apart = int(file["histogram/never_together"][:].sum())
        best = {side: file[f"{side}/rho_held_out"][:][file[f"{side}/eligible"][:]] for side in ("a", "b")}
    counts, edges = _coarser(counts, edges)
    medians = {
        side: float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")
        for side, values in best.items()
    }
    return [
        Figure(
            f"{pair['id']}-correlations",
            f"How the features of {pair['a']} and {pair['b']} fire together",
            "Every pair of features that ever fire on the same token, by the correlation of their activations (both "
            f"halves of the documents; logarithmic counts). {apart:,} pairs never fire together and are left out. "
            "A bump near 1 is features that both models have.",
            figures.histogram(
                edges, {"pairs": (counts, "var(--both)")}, x="correlation", y="pairs of features", logarithmic=True
            ),
            height=260,
        ),
        Figure(
            f"{pair['id']}-best",
            "How well each feature's best partner fits",
            f"For each feature the correlation with its best partner, on documents that did not choose the partner. "
            f"Median: features of {pair['a']} {number(medians['a'])}, of {pair['b']} {number(medians['b'])}.",
            figures.histogram(
                BINS,
                {
                    f"features of {pair['a']}": (np.histogram(best["a"], BINS)[0], "var(--a)"),
                    f"features of {pair['b']}": (np.histogram(best["b"], BINS)[0], "var(--b)"),
                },
                x="held-out correlation with the best partner",
                y="features",
            ),
            height=260,
        ),
    ]


def _coarser(counts: npt.NDArray[Any], edges: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """At most 100 bins, so that bars can be seen."""
    step = max(1, len(counts) // 100)
    n_whole = len(counts) - len(counts) % step
    return counts[:n_whole].reshape(-1, step).sum(axis=1), edges[: n_whole + 1 : step]


# --- pairing ------------------------------------------------------------------------------------------------------


def _pairing(pair: Mapping[str, Any], floors: Floors) -> list[Block]:
    with artifacts.read(pair["files"]["pairing"], "pairing") as file:
        summary = artifacts.read_json(file, "summary")
        pairs = artifacts.read_table(file, "pairs")
        matched = artifacts.read_json(file, "statuses").index("matched")
    counts = {side: summary[f"status_{side}"] for side in ("a", "b")}
    is_cut = summary["cut"] < 1.0
    words = STATUS_WORDS | STEP_WORDS | ({} if is_cut else UNCUT)
    rows: list[list[str | Cell]] = [
        [words[status], *(cell for side in ("a", "b") for cell in _share(counts[side], status))]
        for status in STATUS_WORDS
    ]
    columns = ["status", pair["a"], "of eligible", pair["b"], "of eligible"]
    blocks: list[Block] = [
        Prose(
            "Each feature of one model is matched with one of the other"
            + (
                "; a match counts only if it beats decoys, the best fits inside one dictionary."
                if is_cut
                else ". No decoy cut was applied (pairing.cut: 1): a match may fit no better than features inside one "
                "dictionary do, so being matched, or unmatched, says little."
            )
            + " Every feature ends with one status."
        ),
        Table(columns, rows, caption="Eligible features fire often enough, in enough documents, to be judged."),
        _floor_note(pair, floors),
        _settings_note(summary),
        Facts([(words[step], f"{summary['steps'][step]:,}") for step in STEP_WORDS if step in summary["steps"]]),
        *matches.blocks(pair, pairs, matched, summary["score"], is_cut),
    ]
    return blocks


def _share(counts: Mapping[str, int], status: str) -> list[Cell]:
    share = counts[status] / _eligible(counts) if status not in NOT_ELIGIBLE and _eligible(counts) else None
    return [number_cell(counts[status]), Cell(percent(share), order=share)]


def _floor_note(pair: Mapping[str, Any], floors: Floors) -> Note:
    own = unmatched_share(pair)
    text = f"{percent(own)} of the eligible features are unmatched."
    others = {name: share for name, share in floors.items() if name != pair["name"]}
    if pair["name"] in floors:
        return Note(
            "info",
            f"This is the floor: one model, two dictionaries that differ in their seed. {text} So many are unmatched "
            "without any difference.",
        )
    if not others:
        return Note(
            "info", f"{text} No pair of dictionaries with different seeds says how many seeds alone leave unmatched."
        )
    floor = max(others.values())
    name = max(others, key=lambda key: others[key])
    if own > floor:
        return Note(
            "info",
            f"{text} Different seeds alone leave {percent(floor)} unmatched ({name}); only what exceeds that can "
            "come from the models.",
        )
    return Note(
        "info",
        f"{text} Different seeds alone leave {percent(floor)} unmatched ({name}): by this count the models differ no "
        "more than two seeds do.",
    )


def _settings_note(summary: Mapping[str, Any]) -> Prose:
    if not summary["matched"]:
        return Prose("No pair is matched.")
    sizes = summary["norm_difference_abs"]
    replicated = summary["replicated_share"]
    again = (
        f" {percent(replicated)} of the matches are made again by the other half of the documents."
        if replicated is not None and replicated >= 0
        else ""
    )
    return Prose(
        f"{counted(summary['matched'], 'matched pair')}: held-out correlation {number(summary['rho_held_out_mean'])} "
        "on "
        f"average.{again} Encoder norms (each over its dictionary's largest) differ by {number(sizes['mean'])} on "
        "average, "
        f"{number(sizes['max'])} at most."
    )


# --- the most changed ---------------------------------------------------------------------------------------------


class Sections(method_sections.Sections):
    """The pairing's part of the page."""

    def of_cell(self, cell: Mapping[str, Any], page: PageData) -> Section:
        """Correlation, matches and unmatched features."""
        floors = {
            pair["name"]: unmatched_share(pair)
            for pair in page.inputs["pairs"]
            if pair["role"] == "floor" and pair["files"].get("pairing")
        }
        return section(cell, page.texts, page.n_contexts, page.finding_ids, floors)


SECTIONS = Sections()
