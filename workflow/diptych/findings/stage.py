"""The findings stage: the candidates of all methods that meet the criteria of a finding, and conclusions (METHODS 9).

Two different models differ everywhere, so significance alone would flag everything: `candidates.ranking` has the
criteria of a finding, `findings.legs` what each stands on, `findings.table` their order, `findings.schema` the columns,
`findings.conclusions` what follows from findings or their absence.

    collect(pairs, "results/findings.h5", "results/findings.tsv", spec=spec, q=0.05)
    findings = read("results/findings.h5")
    findings.table["pair"]              # one entry per finding
    findings.legs_of(0)                 # the six legs of the first
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.candidates import detection as detection_table
from diptych.candidates import proposer, ranking, recovery, repetition
from diptych.candidates.candidate import run_of
from diptych.candidates.detection import Detection
from diptych.candidates.leg import Leg
from diptych.candidates.ranking import Ranking, Threshold
from diptych.candidates.recovery import Recovery
from diptych.findings import conclusions, known_edits, schema, unseen
from diptych.findings.table import (
    STATUSES,
    Entry,
    Reader,
    columns,
    directions,
    leg_columns,
    legs_of_row,
    ordered,
    padded_rows,
    site_of,
)
from diptych.methods import Method, proposing
from diptych.runtime import logs
from diptych.storage import artifacts, tables
from diptych.storage.canonical import canonical_json

IGNORED_SETTINGS = {"seed", "a", "b", "model", "models", "dictionary_a", "dictionary_b", "tuned_on"}
"""Keys of a spec that identify the job; positive controls need not share them."""


@dataclass(frozen=True)
class Findings:
    """The contents of an artifact of kind "findings".

    Attributes:
        table: `schema.COLUMNS`, one entry per reported candidate, in the order of `findings.table`.
        rows: int64 [entries, ROWS], token rows of its side where each is strongest; -1 is padding.
        directions: float32 [widest of the spaces] of the entries that have one, by their place in the table, in the
            space of their side; NaN is padding.
        answers: the conclusion for each pair, site and method, with `recovery` for planted pairs; what was not found
            but would have been if it were larger (`least`, `limit`), the method's false discoveries where nothing
            differs (`false_discoveries`), and the sentence that marks it if they are above nominal (`mark`).
        controls: the clauses of each control pair, and whether all hold.
        legs: `table.LEG_COLUMNS`, six entries for each of `table`.
        edits: `schema.EDIT_COLUMNS`, one entry per method and comparison whose difference is known.
    """

    table: dict[str, npt.NDArray[Any]]
    rows: npt.NDArray[np.int64]
    directions: dict[int, npt.NDArray[np.float32]]
    answers: list[dict[str, Any]]
    controls: list[dict[str, Any]]
    legs: dict[str, npt.NDArray[Any]]
    edits: dict[str, npt.NDArray[Any]]

    def legs_of(self, finding: int) -> tuple[Leg, ...]:
        """The six legs of an entry of the table, in the order of `leg.NAMES`."""
        return legs_of_row(self.legs, finding)

    def ids(self, pair: str, site: str, method: str) -> frozenset[str]:
        """The ids, as "side id", of the findings of one pair, site and method, but those that only later runs have."""
        table, wanted = self.table, (pair, site, method, "finding")
        keys = zip(table["pair"], table["site"], table["method"], table["status"], strict=True)
        rows = [row for row, key in enumerate(keys) if key == wanted and self.run_of(row)[1] == 1]
        return frozenset(f"{table['side'][row]} {table['id'][row]}" for row in rows)

    def run_of(self, finding: int) -> tuple[str, int]:
        """The id of an entry of the table in its run, and that run's number; 1 where nothing is trained."""
        finding_id = str(self.table["id"][finding])
        return run_of(finding_id) if self.table["seeds"][finding] else (finding_id, 1)

    @property
    def control_holds(self) -> bool | None:
        """Whether every control holds; None if the study has none."""
        return all(control["holds"] for control in self.controls) if self.controls else None


def collect(
    pairs: Sequence[Mapping[str, Any]],
    out: str | Path,
    table: str | Path,
    *,
    spec: Mapping[str, Any],
    edits: str | Path | None = None,
    q: float = ranking.Q,
    min_effect: Mapping[str, float] | None = None,
    detection: Detection | None = None,
) -> None:
    """Write the findings of all pairs to `table` (TSV), and with conclusions to `out` (stage `collect_findings`).

    Args:
        pairs: each {name, a, b, role: compared | control | planted | floor, site_a, site_b, files}; for a pair as a
            whole site_a and site_b are "". `files` maps
            linear_map, correlation, pairing, steering, tokens_a, tokens_b, dictionary_a, dictionary_b (their
            manifest.json) and, for a planted pair, truth to paths; features_a, features_b to lists of shards;
            repeats to a list of these of further seeds; crosscoders to a list of {name, seed, weights, evaluation,
            latents}; and template_diffs to a list of {name, diff, dictionary (manifest.json), tokens, repeats}. A
            method without its file was not run. A pair whose difference is known has `edit` (`candidates.known.Edit`).
        out: path of the artifact, kind "findings".
        table: path of the findings as TSV.
        spec: stored with the artifact.
        edits: path of the known edits as TSV; None: in the artifact alone.
        q: largest Benjamini-Hochberg q in a family (one pair and method).
        min_effect: smallest |effect| by name of the method, in its unit; None: the defaults.
        detection: limits and false discoveries of the methods; None: the table that ships.
    """
    detection = detection or detection_table.read()
    min_effects = min_effect or {method.name: method.min_effect for method in proposing()}
    rankings = [_rankings(pair, q, min_effects) for pair in pairs]
    recoveries = list(_recoveries(pairs, rankings))
    answers, controls = [], []
    for pair, by_method in zip(pairs, rankings, strict=True):
        for method in by_method:
            limits = _threshold(method, q, min_effects)
            if method.plants:
                positive_control = _own_positive_control(pair, method, limits)
            else:
                positive_control = _nearest_positive_control(pair, method, recoveries)
            answer = _answer(pair, method, by_method[method], positive_control)
            answers.append({**answer, **_power(pair, method, answer["status"], limits, detection)})
        if pair["role"] == "control":
            controls.append(_control(pair, by_method))
    entries = _entries(pairs, rankings, q, min_effects)
    table_columns = columns(entries)
    edit_columns = known_edits.columns(known_edits.rows(pairs, rankings))
    artifacts.write_text(table, tables.tsv(table_columns, schema.TITLE))
    if edits is not None:
        artifacts.write_text(edits, tables.tsv(edit_columns, schema.EDITS_TITLE))
    with artifacts.create(out, "findings", spec) as writer:
        writer.table("findings", table_columns, nan="not measured by this method")
        writer.table("legs", leg_columns(entries), nan="untested, or not applicable")
        writer.array("rows", padded_rows(entries))
        places, vectors = directions(entries)
        writer.array("directions/finding", places)
        writer.array("directions/vector", vectors, nan="its space is narrower")
        writer.table("known_edits", edit_columns, nan="not known of this edit, or the method is blind to it")
        writer.strings("answers", [canonical_json(answer) for answer in answers])
        writer.strings("controls", [canonical_json(control) for control in controls])
        writer.json("thresholds", {"q": q, "min_effect": dict(min_effects)})


def read(path: str | Path) -> Findings:
    """Read an artifact of kind "findings"."""
    with artifacts.read(path, "findings") as file:
        return Findings(
            artifacts.read_table(file, "findings"),
            file["rows"][:],
            dict(zip(file["directions/finding"][:].tolist(), file["directions/vector"][:], strict=True)),
            [json.loads(text) for text in artifacts.read_strings(file, "answers")],
            [json.loads(text) for text in artifacts.read_strings(file, "controls")],
            artifacts.read_table(file, "legs"),
            artifacts.read_table(file, "known_edits"),
        )


def _rankings(pair: Mapping[str, Any], q: float, min_effect: Mapping[str, float]) -> dict[Method, Ranking]:
    """The ranking of every method that was run on a pair; of unlike sites, which differ in any model, nothing."""
    rankings: dict[Method, Ranking] = {}
    for method in proposing():
        if not pair["files"].get(method.file):
            continue
        if pair["site_a"] != pair["site_b"]:
            reason = f"{pair['site_a']} and {pair['site_b']} are two places in a network, which differ in any model"
            rankings[method] = Ranking((), reason)
            continue
        ranked = rankings[method] = repetition.ranking_of(
            proposer.of(method), pair["files"], _threshold(method, q, min_effect)
        )
        counts = ", ".join(f"{len(ranked.with_status(status))} {status}" for status in STATUSES)
        logs.logger.info("%s, %s: of %d candidates %s", pair["name"], method.name, len(ranked.candidates), counts)
    return rankings


def _threshold(method: Method, q: float, min_effect: Mapping[str, float]) -> Threshold:
    return Threshold(None if method.is_exact else q, min_effect[method.name])


def _recoveries(
    pairs: Sequence[Mapping[str, Any]], rankings: Sequence[Mapping[Method, Ranking]]
) -> Iterable[tuple[Method, Mapping[str, Any], Recovery]]:
    """The recovery of the planted direction by each method on each planted pair."""
    for pair, by_method in zip(pairs, rankings, strict=True):
        scored = {method: ranked for method, ranked in by_method.items() if not method.plants}
        if pair["role"] == "planted" and scored:
            truth = recovery.read_truth(pair["files"]["truth"])
            for method, ranked in scored.items():
                yield method, pair, recovery.recovery(ranked, truth)


def _own_positive_control(
    pair: Mapping[str, Any], method: Method, threshold: Threshold
) -> conclusions.PositiveControl | None:
    """The positive control of a method that itself plants a change in the pair."""
    recovered = proposer.of(method).planted(pair["files"], threshold)
    if recovered is None:
        return None
    return conclusions.PositiveControl(f"a copy of {pair['a']}", recovered, [])


def _nearest_positive_control(
    pair: Mapping[str, Any],
    method: Method,
    recoveries: Sequence[tuple[Method, Mapping[str, Any], Recovery]],
) -> conclusions.PositiveControl | None:
    """The planted pair with the fewest settings that differ from this pair's; a planted pair is its own control."""
    usable = [
        conclusions.PositiveControl(planted["name"], recovered, _differing(pair, planted, method))
        for planted_method, planted, recovered in recoveries
        if planted_method == method and (pair["role"] != "planted" or planted is pair)
    ]
    return min(usable, key=lambda control: len(control.differing_settings), default=None)


def _differing(pair: Mapping[str, Any], planted: Mapping[str, Any], method: Method) -> list[str]:
    """Names of the settings of a method that differ between two pairs."""
    x, y = (_settings(cell["files"], method) for cell in (pair, planted))
    return sorted({name for name in x.keys() | y.keys() if x.get(name) != y.get(name)})


def _settings(files: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """Settings and sources (corpus, sites) of all artifacts that a method's result on a pair depends on."""
    used: dict[str, Any] = {}
    for key in method.settings_files:
        for path in _paths(files.get(key)):
            spec = artifacts.spec_of(path)
            settings = {**spec.get("settings", {}), **spec.get("reads", {})}
            used |= {f"{key}.{name}": value for name, value in settings.items() if name not in IGNORED_SETTINGS}
    return used


def _paths(value: Any) -> list[str]:
    """The paths of an entry of a pair's files: a single path, or the weights of each crosscoder."""
    if not value:
        return []
    return [str(value)] if isinstance(value, str | Path) else [str(run["weights"]) for run in value]


def _answer(
    pair: Mapping[str, Any], method: Method, ranked: Ranking, positive_control: conclusions.PositiveControl | None
) -> dict[str, Any]:
    answer = conclusions.answer(pair["role"], method, ranked, positive_control, (pair["a"], pair["b"]))
    return {
        "pair": pair["name"],
        "site": site_of(pair),
        "role": pair["role"],
        "method": method.name,
        "status": answer.status,
        "text": answer.text,
        "candidates": len(ranked.candidates),
        "findings": len(ranked.findings),
        "not_repeated": len(ranked.with_status("not repeated")),
        "cannot_be_told": len(ranked.with_status("cannot be told")),
        "besides": conclusions.besides(ranked),
        "recovery": asdict(positive_control.recovery) if positive_control and pair["role"] == "planted" else None,
    }


def _power(
    pair: Mapping[str, Any], method: Method, status: conclusions.Status, threshold: Threshold, detection: Detection
) -> dict[str, str]:
    """What the method could have seen where it found nothing, and its false discoveries where nothing differs."""
    same_site = pair["site_a"] == pair["site_b"]
    judged = proposer.of(method).judged(pair["files"]) if same_site else ()
    found_nothing = status in conclusions.FOUND_NOTHING
    smallest = unseen.unseen(method, judged, detection, threshold) if found_nothing else unseen.Unseen()
    false = unseen.false_discoveries(method, judged, detection)
    return {"least": smallest.least, "limit": smallest.text, "false_discoveries": false.counts, "mark": false.mark}


def _control(pair: Mapping[str, Any], rankings: Mapping[Method, Ranking]) -> dict[str, Any]:
    clauses = conclusions.control_clauses(pair, rankings)
    holds = conclusions.control_holds(clauses)
    for clause in clauses:
        if clause.holds is False:
            logs.logger.error("control %s does not hold: %s: %s", pair["name"], clause.name, clause.text)
    return {
        "pair": pair["name"],
        "site": site_of(pair),
        "holds": holds,
        "clauses": [asdict(clause) for clause in clauses],
    }


def _entries(
    pairs: Sequence[Mapping[str, Any]],
    rankings: Sequence[Mapping[Method, Ranking]],
    q: float,
    min_effects: Mapping[str, float],
) -> list[Entry]:
    """All reported candidates with their legs, in the order of the table."""
    reader = Reader()
    control = {method: _largest_of_equal_models(pairs, rankings, method) for method in proposing()}
    return ordered(
        reader.entry(pair, method, ranked, _threshold(method, q, min_effects), control[method])
        for pair, by_method in zip(pairs, rankings, strict=True)
        for method, ranking_of_method in by_method.items()
        for ranked in ranking_of_method.reported
    )


def _largest_of_equal_models(
    pairs: Sequence[Mapping[str, Any]], rankings: Sequence[Mapping[Method, Ranking]], method: Method
) -> float:
    """Largest |effect| that a method proposes between equal models, 0 if it proposes none; NaN without such a pair."""
    of_equals = [
        by_method[method]
        for pair, by_method in zip(pairs, rankings, strict=True)
        if pair["role"] in ("control", "floor") and method in by_method
    ]
    effects = [abs(each.candidate.effect - each.candidate.null) for run in of_equals for each in run.candidates]
    return max((effect for effect in effects if math.isfinite(effect)), default=0.0) if of_equals else math.nan
