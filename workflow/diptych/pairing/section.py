"""Report section on the sparse features of one pair: dictionaries, correlation, pairing and changed features."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.candidates.candidate import id_in_run
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
from diptych.page.cards import more_than
from diptych.page.method_sections import Chapters, Evidence, Finding, PageData
from diptych.pairing import figures as pairing_figures
from diptych.pairing.unmatched_section import changed_features, feature_evidence
from diptych.storage import artifacts
from diptych.text.contexts import Codes, Text

Side = Literal["a", "b"]
FloorShares = Mapping[str, float]
Columns = Mapping[str, npt.NDArray[Any]]
STATUS_LABELS = {
    "matched": "matched with a feature of the other model",
    "unmatched": "unmatched: no match better than chance",
    "filtered_rho": "left out: its match hardly correlates",
    "filtered_token": "left out: fires on punctuation or shares no top token",
    "below_min_active": "too rare to compare",
    "dead": "never fires on this text",
}
STEP_LABELS = {
    "candidates": "pairs of the rule",
    "q": "left: score above the decoys",
    "stop_token": "left: no stop token among the top tokens",
    "shared_token": "left: a shared top token",
    "rho": "left: correlation above the floor",
}
"""Filters of candidate pairs, in order."""
LABELS_WITHOUT_CUT = {"unmatched": "unmatched: no partner was left for it", "q": "left: all, no decoy cut was applied"}
"""Labels that differ where `pairing.cut` is 1."""
NOT_ELIGIBLE = ("dead", "below_min_active")
BINS = np.linspace(-1.0, 1.0, 51)


def chapters(
    pair: Mapping[str, Any],
    texts: Mapping[Side, Text],
    contexts: int,
    finding_ids: Collection[str],
    floor_shares: FloorShares,
) -> Chapters:
    """Sections on the dictionaries, correlation, pairing and most changed features of one pair.

    Args:
        pair: with `files` of the stages on features.
        texts: token texts of each model.
        contexts: number of contexts per feature and model.
        finding_ids: "side id" of the features that are findings.
        floor_shares: unmatched share of each floor pair (one model, two dictionary seeds), by name.
    """
    pair = {**pair, "files": _readable(pair["files"])}
    return {
        "what": Section(
            f"{pair['id']}-changed",
            "Features that changed most",
            changed_features(pair, texts, contexts, finding_ids),
            lead="Features that one model has and the other hardly uses, and matched ones that point elsewhere.",
        ),
        "different": Section(
            f"{pair['id']}-features",
            "How many features the models share",
            [],
            [
                Section(f"{pair['id']}-pairing", "Pairing of features", _pairing(pair, floor_shares)),
                Section(f"{pair['id']}-correlation", "Correlation of features", _correlation(pair)),
            ],
            lead="Each feature of one model is looked for in the other, by the tokens on which it fires.",
        ),
        "trust": Section(
            f"{pair['id']}-dictionaries",
            "The dictionaries",
            [_dictionaries(pair)],
            lead="How well a few features reconstruct the activations of either model.",
        ),
    }


def _readable(files: Mapping[str, Any]) -> dict[str, Any]:
    """The files, without codes on the other model where its width differs from the dictionary's."""
    other_model_keys = ("features_a_on_b", "features_b_on_a")
    return {key: paths for key, paths in files.items() if key not in other_model_keys or not codes.unreadable(paths[0])}


def unmatched_share(pair: Mapping[str, Any]) -> float:
    """Share of the eligible features of both sides that are unmatched; NaN without eligible features."""
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
        caption="A dictionary reconstructs each activation from a few features. On the other model, its FVU shows how "
        "far that model's activations differ from what it was trained on.",
    )


def _summary(shards: Sequence[str]) -> dict[str, float]:
    """Number of rows, L0, FVU and share of dead latents over all shards."""
    n, firings, pooled = 0, 0, None
    for path in shards:
        with codes.open_shard(path) as file:
            n += len(file["token_row"])
            firings += len(file["data"])
            reconstruction = codes.read_reconstruction(file["reconstruction"])
            pooled = reconstruction if pooled is None else pooled.merge(reconstruction)
    fvu = pooled.fvu if pooled else float("nan")
    return {"rows": n, "l0": firings / max(n, 1), "fvu": fvu, "dead": float((Codes(shards).density == 0).mean())}


# --- correlation --------------------------------------------------------------------------------------------------


def _correlation(pair: Mapping[str, Any]) -> list[Block]:
    with artifacts.read(pair["files"]["correlation"], "correlation") as file:
        counts = file["histogram/count"][:].sum(axis=0)
        edges = file["histogram/edges"][:]
        n_never_together = int(file["histogram/never_together"][:].sum())
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
            f"halves of the documents; logarithmic counts). {n_never_together:,} pairs never fire together and are "
            "left out. A bump near 1 is features that both models have.",
            figures.histogram(
                edges, {"pairs": (counts, "var(--both)")}, x="correlation", y="pairs of features", logarithmic=True
            ),
            height=260,
        ),
        Figure(
            f"{pair['id']}-best",
            "Correlation of each feature with its best partner",
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
    """Counts and edges merged into at most 100 bins, so that bars are visible."""
    step = max(1, len(counts) // 100)
    n_whole = len(counts) - len(counts) % step
    return counts[:n_whole].reshape(-1, step).sum(axis=1), edges[: n_whole + 1 : step]


# --- pairing ------------------------------------------------------------------------------------------------------


def _pairing(pair: Mapping[str, Any], floor_shares: FloorShares) -> list[Block]:
    with artifacts.read(pair["files"]["pairing"], "pairing") as file:
        summary = artifacts.read_json(file, "summary")
        pairs = artifacts.read_table(file, "pairs")
        matched = artifacts.read_json(file, "statuses").index("matched")
    counts = {side: summary[f"status_{side}"] for side in ("a", "b")}
    is_cut = summary["cut"] < 1.0
    words = STATUS_LABELS | STEP_LABELS | ({} if is_cut else LABELS_WITHOUT_CUT)
    rows: list[list[str | Cell]] = [
        [words[status], *(cell for side in ("a", "b") for cell in _share(counts[side], status))]
        for status in STATUS_LABELS
    ]
    columns = ["status", pair["a"], "of eligible", pair["b"], "of eligible"]
    blocks: list[Block] = [
        Prose(
            "Each feature of one model is matched with one of the other"
            + (
                "; a match counts only if it beats decoys, the best scores inside one dictionary."
                if is_cut
                else ". No decoy cut was applied (pairing.cut: 1): a match may score no higher than features inside "
                "one dictionary, so being matched, or unmatched, says little."
            )
            + " Every feature ends with one status."
        ),
        Table(columns, rows, caption="Eligible features fire often enough, in enough documents, to be compared."),
        _floor_note(pair, floor_shares),
        _settings_note(summary),
        Facts([(words[step], f"{summary['steps'][step]:,}") for step in STEP_LABELS if step in summary["steps"]]),
        *pairing_figures.blocks(pair, pairs, matched, summary["score"], is_cut),
    ]
    return blocks


def _share(counts: Mapping[str, int], status: str) -> list[Cell]:
    share = counts[status] / _eligible(counts) if status not in NOT_ELIGIBLE and _eligible(counts) else None
    return [number_cell(counts[status]), Cell(percent(share), order=share)]


def _floor_note(pair: Mapping[str, Any], floor_shares: FloorShares) -> Note:
    unmatched = unmatched_share(pair)
    text = f"{percent(unmatched)} of the eligible features are unmatched."
    others = {name: share for name, share in floor_shares.items() if name != pair["name"]}
    if pair["name"] in floor_shares:
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
    if unmatched > floor:
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
    norm_difference = summary["norm_difference_abs"]
    replicated = summary["replicated_share"]
    replication = (
        f" {percent(replicated)} of the matches are also found on the other half of the documents."
        if replicated is not None and replicated >= 0
        else ""
    )
    return Prose(
        f"{counted(summary['matched'], 'matched pair')}: held-out correlation {number(summary['rho_held_out_mean'])} "
        f"on average.{replication} Encoder norms (each over its dictionary's largest) differ by "
        f"{number(norm_difference['mean'])} on average, {number(norm_difference['max'])} at most."
    )


class Sections(method_sections.Sections):
    """The report sections of the pairing."""

    def of_cell(self, cell: Mapping[str, Any], page: PageData) -> Chapters:
        """The sections on the features of one cell."""
        floor_shares = {
            pair["name"]: unmatched_share(pair)
            for pair in page.inputs["pairs"]
            if pair["role"] == "floor" and pair["files"].get("pairing")
        }
        return chapters(cell, page.texts, page.n_contexts, page.finding_ids, floor_shares)

    def claim(self, cell: Mapping[str, Any], finding: Finding) -> str:
        """How much more a feature fires on its own model than on the other."""
        own, other = (cell["a"], cell["b"]) if finding.side == "A" else (cell["b"], cell["a"])
        feature, times = id_in_run(finding.id, finding.run), more_than(abs(finding.effect))
        return f"Feature {feature} of {own} fires {times} on {own} as on {other}"

    def evidence(self, cell: Mapping[str, Any], page: PageData, findings: Sequence[Finding]) -> Evidence:
        """The feature's strongest contexts in both models."""
        pair = {**cell, "files": _readable(cell["files"])}
        return feature_evidence(pair, page.texts, page.n_contexts, findings)


SECTIONS = Sections()
