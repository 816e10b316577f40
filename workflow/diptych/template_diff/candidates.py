"""Candidate findings of template diffs: features that changed at template tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.candidates import known, proposer
from diptych.candidates.candidate import NAN, Candidate, DoubleArray, counted
from diptych.candidates.known import Edit, Known
from diptych.candidates.leg import untested
from diptych.candidates.proposer import Clause, Files
from diptych.candidates.ranking import Threshold, rank
from diptych.candidates.recovery import Recovery, recovery
from diptych.dictionaries import sae
from diptych.storage import artifacts

REMEDY = "a dictionary that is trained on the rows of both models (`model: [a, b]`) leaves neither its domain"
LEGS = (
    untested("causal", "features at template tokens are not steered along"),
    untested("readable", "all its contexts end in the same token of the template"),
)
UNINFORMATIVE = 1.0
"""Unexplained share of a change from which features do not describe it: without any feature it is 1."""


def candidates(files: Files) -> list[Candidate]:
    """Features that changed at template tokens: the rows of the ranked table (METHODS 4).

    The effect is the mean change over prompts in standard deviations, fitted on folds other than 0 and held out on
    fold 0; q is that of all eligible latents, roles and metrics. A feature that changed by several metrics or at
    several tokens is one finding. Candidates are barred at roles where the features' change leaves all of the
    activations' change unexplained.
    """
    return [candidate for run in files["template_diffs"] for candidate in candidates_of(run, "ranked")]


def candidates_of(run: Mapping[str, Any], name: str) -> list[Candidate]:
    """Candidates of one table (ranked, planted) of a template diff."""
    with artifacts.read(run["diff"], "template_diff") as file:
        table = artifacts.read_table(file, name)
        rows = file["prompts_of_ranked"][:] if name == "ranked" else np.full((len(table["latent"]), 0), -1)
        undescribed = _undescribed_roles(artifacts.read_json(file, "summary")) if name == "ranked" else set()
        domain_shift = table.get("domain_shift", np.full(len(rows), "no"))
    directions = sae.Decoder(Path(run["dictionary"]).parent).rows(table["latent"])
    features = []
    for k, (latent, role, metric) in enumerate(zip(table["latent"], table["role"], table["metric"], strict=True)):
        columns = ("effect_fitted", "effect_held_out", "lo", "hi", "p", "q")
        effect, held_out, lo, hi, p, q = (float(table[column][k]) for column in columns)
        is_barred = role in undescribed
        caveat = "domain shift" if domain_shift[k] == "yes" else ""
        features.append(
            Candidate(
                kind="feature",
                id=label(int(latent), str(role), str(metric)),
                side="B" if table["direction"][k] == "up" else "A",
                effect=effect,
                held_out=held_out,
                lo=lo,
                hi=hi,
                p=NAN if is_barred else p,
                q=NAN if is_barred else q,
                direction=directions[k].astype(np.float64),
                rows=rows[k][rows[k] >= 0],
                barred="the features' change does not describe that of the activations" if is_barred else "",
                subject=str(latent),
                template_position=str(role),
                tokens=str(run["tokens"]),
                caveat=caveat,
                remedy=REMEDY if caveat else "",
                legs=LEGS,
            )
        )
    return features


def _undescribed_roles(summary: Mapping[str, Any]) -> set[str]:
    """Roles at which the features' change leaves at least all of the activations' change unexplained."""
    unexplained = {role: numbers["change_unexplained"] for role, numbers in summary["roles"].items()}
    return {role for role, share in unexplained.items() if share is not None and share >= UNINFORMATIVE}


def label(latent: int, role: str, metric: str) -> str:
    """Id of a candidate at a template token: `12 at newline, density`."""
    return f"{latent} at {' '.join(role.split()) or repr(role)}, {metric.replace('_', ' ')}"


def _null_clause(files: Files) -> Clause:
    name = "every template p is 1"
    if not files.get("template_diffs"):
        return Clause(name, None, "no template diff was run")
    p = np.concatenate([_p_values(run["diff"]) for run in files["template_diffs"]])
    if not len(p):
        return Clause(name, None, "no feature fires at a template token")
    return Clause(name, bool((p == 1.0).all()), f"least p {p.min():.3g} of {counted(len(p), 'test')}")


def _p_values(path: str) -> DoubleArray:
    """p of every latent, role and metric of a template diff."""
    with artifacts.read(path, "template_diff") as file:
        metrics = artifacts.read_json(file, "metrics")
        roles = range(len(artifacts.read_json(file, "roles")))
        p: DoubleArray = np.concatenate([file[f"roles/{role}/{metric}/p"][:] for role in roles for metric in metrics])
    return p


def recovery_of(run: Mapping[str, Any], threshold: Threshold) -> Recovery | None:
    """Recovery of the changes planted at the roles of a template diff; None if it planted none.

    `written` if the changes of all roles are; `rank` is the worst of the roles. Each role's candidates are ranked
    separately.
    """
    with artifacts.read(run["diff"], "template_diff") as file:
        planted = artifacts.read_json(file, "summary")["planted"]
    if planted is None:
        return None
    directions = sae.Decoder(Path(run["dictionary"]).parent).rows(planted["latents"].values()).astype(np.float64)
    rows = candidates_of(run, "planted")
    recoveries = []
    for role, direction in zip(planted["latents"], directions, strict=True):
        at_role = [row for row in rows if row.template_position == role]
        recoveries.append(recovery(rank(at_role, threshold), direction))
    return Recovery(
        written=all(recovered.written for recovered in recoveries),
        rank=max(recovered.rank for recovered in recoveries) if all(recovered.rank for recovered in recoveries) else 0,
        cosine=float(np.min([recovered.cosine for recovered in recoveries])),
        average_precision=float(np.mean([recovered.average_precision for recovered in recoveries])),
        candidates=sum(recovered.candidates for recovered in recoveries),
        name=", ".join(recovered.name for recovered in recoveries),
        elsewhere=sum(recovered.elsewhere for recovered in recoveries),
    )


class Proposer(proposer.Proposer):
    """Candidates, control clause and planted change of the template diffs."""

    def candidates(self, files: Files) -> list[Candidate]:
        """Features of the ranked tables."""
        return candidates(files)

    def runs(self, files: Files) -> Mapping[str, Sequence[Files]]:
        """The cell with one template diff, through the dictionary of each seed."""
        return {
            diff["name"]: [{**files, "template_diffs": [run]} for run in (diff, *diff.get("repeats", ()))]
            for diff in files["template_diffs"]
        }

    def known(self, files: Files, edit: Edit, candidates: Sequence[Candidate]) -> Known:
        """Nothing of a plant, which acts where its concept is read."""
        if edit.kind == "plant":
            return known.blind("it reads the tokens of a template alone, where no concept stands")
        return super().known(files, edit, candidates)

    def control(self, files: Files) -> Sequence[Clause]:
        """Clause of the control (a model against itself): every p is 1."""
        return [_null_clause(files)]

    def planted(self, files: Files, threshold: Threshold) -> Recovery | None:
        """The worst recovery of a planted change among the template diffs of a cell; None if none planted one."""
        recoveries = [recovery_of(run, threshold) for run in files["template_diffs"]]
        known = [recovery for recovery in recoveries if recovery is not None]
        return min(known, key=lambda recovery: (recovery.written, -recovery.rank), default=None)


PROPOSER = Proposer()
