"""Findings: the differences between two models that stand up to everything that is asked of them (METHODS 9).

Two different models differ everywhere, so significance alone would flag everything: `candidates.ranking` says what a
candidate must reach, `findings.conclusions` what follows where nothing is found.

    collect(pairs, "results/findings.h5", "results/findings.tsv", spec=spec, q=0.05)
    read("results/findings.h5").table["pair"]       # one entry a finding
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.candidates import proposer, ranking, recovery
from diptych.candidates.ranking import Ranked, Ranking, Threshold
from diptych.candidates.recovery import Recovery
from diptych.findings import conclusions
from diptych.methods import Method, proposing
from diptych.runtime import logs
from diptych.steering import effects
from diptych.storage import artifacts, tables
from diptych.storage.canonical import canonical_json
from diptych.text import contexts as evidence

COLUMNS = (
    "pair", "site", "method", "kind", "id", "side", "effect", "lo", "hi", "p", "q", "null", "held_out", "seeds",
    "nu_err", "nu_rec", "causal", "contexts",
)  # fmt: skip
"""Columns of the table (METHODS 9)."""
TEXTS = 3
"""Contexts written beside a finding in the table."""
ROWS = 20
"""Token rows stored for each finding, from which a reader shows contexts."""
OWN_SETTINGS = {"seed", "a", "b", "model", "models", "dictionary_a", "dictionary_b"}
"""Keys of a spec that name the job and are no budget."""


@dataclass(frozen=True)
class Findings:
    """What `collect` wrote.

    Attributes:
        table: `COLUMNS` and `weakest`, one entry a finding, the strongest weakest leg first.
        rows: int64 [findings, ROWS], token rows of its side where each shows most; -1 is padding.
        answers: for each pair, site and method what follows, with `recovery` for planted pairs.
        controls: for each control pair its clauses and whether it holds.
    """

    table: dict[str, npt.NDArray[Any]]
    rows: npt.NDArray[np.int64]
    answers: list[dict[str, Any]]
    controls: list[dict[str, Any]]

    def standing(self, pair: str, site: str, method: str) -> frozenset[str]:
        """`side id` of the findings of one pair, site and method."""
        table = self.table
        mine = [i for i in range(len(table["pair"])) if (table["pair"][i], table["site"][i]) == (pair, site)]
        return frozenset(f"{table['side'][i]} {table['id'][i]}" for i in mine if table["method"][i] == method)

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
    q: float = ranking.Q,
    min_effect: Mapping[str, float] | None = None,
) -> None:
    """Stage `collect_findings`: what stands, in `table` (TSV), and with all verdicts in `out` (kind "findings").

    Args:
        pairs: each {name, a, b, role: compared | control | planted | floor, site_a, site_b, files}. `files` maps
            linear_map, correlation, pairing, steering, tokens_a, tokens_b, dictionary_a, dictionary_b (their
            manifest.json) and, for a planted pair, truth to paths; features_a, features_b to lists of shards;
            crosscoders to a list of {name, seed, weights, evaluation, latents}; and template_diffs to a list of
            {name, diff, dictionary (manifest.json), tokens}. A method without its file was not run.
        out: the artifact.
        table: the same findings as text.
        spec: stored with the artifact.
        q: largest Benjamini-Hochberg q in a family (one pair and method).
        min_effect: least |effect| by name of the method, in its own unit; the usual ones if none is given.
    """
    least = min_effect or {method.name: method.min_effect for method in proposing()}
    rankings = [_rankings(pair, q, least) for pair in pairs]
    yardsticks = list(_yardsticks(pairs, rankings))
    answers, controls = [], []
    for pair, by_method in zip(pairs, rankings, strict=True):
        for method in by_method:
            limits = Threshold(q, least[method.name])
            yardstick = _own(pair, method, limits) if method.plants else _nearest(pair, method, yardsticks)
            answers.append(_answer(pair, method, by_method[method], yardstick))
        if pair["role"] == "control":
            controls.append(_control(pair, by_method))
    standing = sorted(_standing(pairs, rankings), key=lambda entry: -entry[2].weakest)
    columns, rows = _table(standing)
    artifacts.write_text(table, to_tsv(columns))
    with artifacts.create(out, "findings", spec) as writer:
        writer.table("findings", columns, nan="not measured by this method")
        writer.array("rows", rows)
        writer.strings("answers", [canonical_json(answer) for answer in answers])
        writer.strings("controls", [canonical_json(control) for control in controls])
        writer.json("thresholds", {"q": q, "min_effect": dict(least)})


def read(path: str | Path) -> Findings:
    """The findings and verdicts of an artifact of kind "findings"."""
    with artifacts.read(path, "findings") as file:
        return Findings(
            artifacts.read_table(file, "findings"),
            file["rows"][:],
            [json.loads(text) for text in artifacts.read_strings(file, "answers")],
            [json.loads(text) for text in artifacts.read_strings(file, "controls")],
        )


def to_tsv(columns: Mapping[str, Sequence[Any]]) -> str:
    """The findings as tab-separated text with a header."""
    return tables.tsv({name: columns[name] for name in COLUMNS})


def _rankings(pair: Mapping[str, Any], q: float, min_effect: Mapping[str, float]) -> dict[Method, Ranking]:
    """The ranking of every method that was run on a pair."""
    rankings: dict[Method, Ranking] = {}
    for method in proposing():
        if pair["files"].get(method.file):
            own = proposer.of(method)
            limits = Threshold(q, min_effect[method.name])
            ranked = ranking.rank(own.candidates(pair["files"]), limits, own.untestable(pair["files"]))
            count = len(ranked.findings)
            logs.logger.info("%s, %s: %d of %d stand", pair["name"], method.name, count, len(ranked.candidates))
            rankings[method] = ranked
    return rankings


def _yardsticks(
    pairs: Sequence[Mapping[str, Any]], rankings: Sequence[Mapping[Method, Ranking]]
) -> Iterable[tuple[Method, Mapping[str, Any], Recovery]]:
    """What each method made of each planted pair."""
    for pair, by_method in zip(pairs, rankings, strict=True):
        if pair["role"] == "planted":
            truth = recovery.read_truth(pair["files"]["truth"])
            for method, ranked in by_method.items():
                if not method.plants:
                    yield method, pair, recovery.recovery(ranked, truth)


def _own(pair: Mapping[str, Any], method: Method, threshold: Threshold) -> conclusions.Yardstick | None:
    """What a method made of the change that it planted in the pair itself."""
    recovered = proposer.of(method).planted(pair["files"], threshold)
    return None if recovered is None else conclusions.Yardstick(f"a copy of {pair['a']}'s activations", recovered, [])


def _nearest(
    pair: Mapping[str, Any],
    method: Method,
    yardsticks: Sequence[tuple[Method, Mapping[str, Any], Recovery]],
) -> conclusions.Yardstick | None:
    """The planted pair that speaks for this one: itself, else the one with the fewest settings that differ."""
    usable = [
        conclusions.Yardstick(planted["name"], recovered, _differing(pair, planted, method))
        for which, planted, recovered in yardsticks
        if which == method and (pair["role"] != "planted" or planted is pair)
    ]
    return min(usable, key=lambda yardstick: len(yardstick.differs), default=None)


def _differing(pair: Mapping[str, Any], planted: Mapping[str, Any], method: Method) -> list[str]:
    """Names of the settings of a method that two pairs do not share."""
    mine, theirs = (_budget(cell["files"], method) for cell in (pair, planted))
    return sorted({name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)})


def _budget(files: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """Settings and sources (corpus, sites) of everything that a method's result on a pair was made with."""
    budget: dict[str, Any] = {}
    for key in method.settings_files:
        for path in _paths(files.get(key)):
            spec = artifacts.spec_of(path)
            settings = {**spec.get("settings", {}), **spec.get("reads", {})}
            budget |= {f"{key}.{name}": value for name, value in settings.items() if name not in OWN_SETTINGS}
    return budget


def _paths(value: Any) -> list[str]:
    """Paths of a pair's file: itself, or the weights of each crosscoder."""
    if not value:
        return []
    return [str(value)] if isinstance(value, str | Path) else [str(run["weights"]) for run in value]


def _answer(
    pair: Mapping[str, Any], method: Method, ranked: Ranking, yardstick: conclusions.Yardstick | None
) -> dict[str, Any]:
    answer = conclusions.answer(pair["role"], method, ranked, yardstick, (pair["a"], pair["b"]))
    return {
        "pair": pair["name"],
        "site": _site(pair),
        "role": pair["role"],
        "method": method.name,
        "status": answer.status,
        "text": answer.text,
        "candidates": len(ranked.candidates),
        "findings": len(ranked.findings),
        "caveats": conclusions.caveats(ranked.findings),
        "recovery": asdict(yardstick.recovery) if yardstick and pair["role"] == "planted" else None,
    }


def _control(pair: Mapping[str, Any], rankings: Mapping[Method, Ranking]) -> dict[str, Any]:
    clauses = conclusions.control(pair["files"], rankings)
    holds = conclusions.holds(clauses)
    for clause in clauses:
        if clause.holds is False:
            logs.logger.error("control %s is broken: %s: %s", pair["name"], clause.name, clause.text)
    return {
        "pair": pair["name"],
        "site": _site(pair),
        "holds": holds,
        "clauses": [asdict(clause) for clause in clauses],
    }


def _standing(
    pairs: Sequence[Mapping[str, Any]], rankings: Sequence[Mapping[Method, Ranking]]
) -> Iterable[tuple[Mapping[str, Any], Method, Ranked]]:
    for pair, by_method in zip(pairs, rankings, strict=True):
        for method, ranked in by_method.items():
            yield from ((pair, method, each) for each in ranked.findings)


def _table(
    standing: Sequence[tuple[Mapping[str, Any], Method, Ranked]],
) -> tuple[dict[str, list[Any]], npt.NDArray[np.int64]]:
    columns: dict[str, list[Any]] = {name: [] for name in (*COLUMNS, "weakest")}
    rows = np.full((len(standing), ROWS), -1, dtype=np.int64)
    texts: dict[str, evidence.Text] = {}
    steered = {
        path: effects.read(path).causal for path in {pair["files"].get("steering") for pair, _, _ in standing} if path
    }
    for i, (pair, method, ranked) in enumerate(standing):
        tokens = ranked.candidate.tokens or str(pair["files"][f"tokens_{ranked.candidate.side.lower()}"])
        texts[tokens] = texts.get(tokens) or evidence.Text(tokens)
        shown = ranked.candidate.rows[:ROWS]
        rows[i, : len(shown)] = shown
        contexts = texts[tokens].contexts(shown, np.zeros(len(shown)), count=TEXTS)
        entry = ranked.candidate._asdict() | {
            "pair": pair["name"],
            "site": _site(pair),
            "method": method.name,
            "q": ranked.q,
            "causal": steered.get(pair["files"].get("steering"), {}).get(_key(ranked, method), math.nan),
            "contexts": " | ".join(context.plain() for context in contexts),
            "weakest": ranked.weakest,
        }
        for name, column in columns.items():
            column.append(entry[name])
    return columns, rows


def _key(ranked: Ranked, method: Method) -> tuple[str, str, str]:
    return ranked.candidate.side, method.name, ranked.candidate.id


def _site(pair: Mapping[str, Any]) -> str:
    return pair["site_a"] if pair["site_a"] == pair["site_b"] else f"{pair['site_a']}--{pair['site_b']}"
