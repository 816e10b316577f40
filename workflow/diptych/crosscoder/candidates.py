"""Candidates from a crosscoder: latents whose decoder row is in one model only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.candidates import proposer
from diptych.candidates.candidate import NAN, SIDES, Candidate, IntArray, SideName, counted
from diptych.candidates.leg import Leg, measured, untested
from diptych.candidates.proposer import Clause, Files, Judged
from diptych.crosscoder.limits import EXCLUSIVE_NU
from diptych.storage import artifacts

DEAD = 0
"""Class of a dead latent."""
R_TOLERANCE = 1e-3
LEAST_ALIGNMENT = 0.999
"""Bounds of the identical control (METHODS 0.4)."""
VARIANTS = ("shared", "dedicated", "matryoshka")
"""Settings of a BatchTopK crosscoder of which each is an entry of the leaderboard."""


def candidates(files: Files) -> list[Candidate]:
    """A-only and B-only latents of the crosscoders.

    The effect is that of the label swap: the latent's activations summed as the models are and with the two models'
    rows exchanged, their difference over their sum; negative for latents of A. If widths differ and rows cannot be
    exchanged, it is 1 - nu_err, with p from its bootstrap. Candidates are selected by the weights alone, which were not
    trained on the held-out documents; latent scaling can only reject one.
    """
    runs = [_read_run(run) for run in files["crosscoders"] if has_sides(run)]
    return [candidate for run in runs for side in SIDES for candidate in _exclusive_latents(run, side)]


def has_sides(run: Mapping[str, Any]) -> bool:
    """Whether a crosscoder has a decoder row per model; a dictionary on x_B - x_A has not."""
    with artifacts.read(run["latents"], "latents") as file:
        return len(artifacts.read_json(file, "widths")) > 1


@dataclass(frozen=True)
class _Run:
    """Latents of one run, as stored; columns [F], arrays with the models' axis first."""

    columns: Mapping[str, npt.NDArray[Any]]
    exclusive: Mapping[SideName, IntArray]
    W_dec: Mapping[SideName, npt.NDArray[np.float32]]
    top_token_row: npt.NDArray[np.int64]
    nu: Mapping[str, npt.NDArray[np.float64]]


def _read_run(run: Mapping[str, Any]) -> _Run:
    with artifacts.read(run["latents"], "latents") as file:
        columns = artifacts.read_table(file, "latents")
        classes = artifacts.read_json(file, "classes")
        exclusive = {side: np.flatnonzero(columns["class"] == classes.index(f"{side}-only")) for side in SIDES}
        top_rows = [file[f"top/{name}/token_row"][:] for name in ("held_out", "selection")]
        nu = {name: file[f"nu/{name}"][:] for name in ("err", "rec")}
    with artifacts.read(run["weights"], "crosscoder") as file:
        W_dec = {side: file[f"W_dec/{model}"][:] for model, side in enumerate(SIDES)}
    return _Run(columns, exclusive, W_dec, np.concatenate(top_rows, axis=2), nu)


def _exclusive_latents(run: _Run, side: SideName) -> list[Candidate]:
    """A run's latents that are in one model only."""
    model, columns = SIDES.index(side), run.columns
    proposed = []
    for latent in run.exclusive[side]:
        nu_err, nu_rec = (float(run.nu[name][latent, model, 1 - model]) for name in ("err", "rec"))
        rows = run.top_token_row[model, latent]
        proposed.append(
            Candidate(
                kind="latent",
                id=str(latent),
                side=side,
                effect=float(columns["effect_selection"][latent]),
                held_out=float(columns["effect_held_out"][latent]),
                lo=float(columns["effect_lo"][latent]),
                hi=float(columns["effect_hi"][latent]),
                p=float(columns["p"][latent]) if columns["density_held_out"][latent] > 0 else NAN,
                direction=run.W_dec[side][latent].astype(np.float64),
                rows=rows[rows >= 0],
                nu_err=nu_err,
                nu_rec=nu_rec,
                barred=_rejection_by_scaling(nu_err, nu_rec),
                legs=(_specific(nu_err, nu_rec),),
            )
        )
    return proposed


def _rejection_by_scaling(nu_err: float, nu_rec: float) -> str:
    """Why latent scaling rejects the latent as exclusive, or "" (also where nu is NaN)."""
    for name, value, limit in (("nu_err", nu_err, EXCLUSIVE_NU[0]), ("nu_rec", nu_rec, EXCLUSIVE_NU[1])):
        if abs(value) >= limit:
            return f"latent scaling: {name} {value:.2f}, the other model has it too"
    return ""


def _specific(nu_err: float, nu_rec: float) -> Leg:
    """By latent scaling (METHODS 5): how much of the latent is in the other model's error and reconstruction."""
    shares = abs(nu_err) / EXCLUSIVE_NU[0], abs(nu_rec) / EXCLUSIVE_NU[1]
    if not np.isfinite(shares).all():
        return untested("specific", "it fires too seldom, or too little in its own model, for latent scaling")
    reason = f"{nu_err:.2g} of it in the other model's error, {nu_rec:.2g} in its reconstruction"
    return measured("specific", nu_err, 1 / max(*shares, 1e-6), reason)


def _judged(run: Mapping[str, Any]) -> Judged:
    """A crosscoder with the rows that it was trained and is tested on."""
    settings = artifacts.spec_of(run["weights"]).get("settings", {})
    with artifacts.read(run["weights"], "crosscoder") as file:
        n_train = int(artifacts.read_json(file, "summary")["rows_train"])
    with artifacts.read(run["evaluation"], "evaluation") as file:
        n_tested = int(artifacts.read_json(file, "summary")["n_rows"])
    return Judged(_entry(settings), n_train + n_tested)


def _entry(settings: Mapping[str, Any]) -> str:
    """Name of the leaderboard's entry that is trained so; "" for weights from elsewhere and for several variants."""
    objective = settings.get("objective", "")
    variants = [name for name in VARIANTS if settings.get(name)]
    if not variants:
        return f"crosscoder_{objective}" if objective else ""
    return f"crosscoder_{variants[0]}" if len(variants) == 1 and objective == "batchtopk" else ""


def _control_clauses(files: Files) -> list[Clause]:
    names = ("every latent is in both models alike", "sharedness is 1", "alignment is 1")
    runs = [run for run in files.get("crosscoders") or () if has_sides(run)]
    if not runs:
        return [Clause(name, None, "no crosscoder was trained") for name in names]
    return [clause for run in runs for clause in _run_clauses(run["latents"], names)]


def _run_clauses(latents: str, names: Sequence[str]) -> list[Clause]:
    with artifacts.read(latents, "latents") as file:
        r = file["latents/r"][:][file["latents/class"][:] != DEAD]
        shared = artifacts.read_json(file, "sharedness")["activation"] or 0.0
        aligned = artifacts.read_json(file, "alignment")["0-1"]
    deviation = float(np.max(np.abs(r - 0.5))) if len(r) else float("nan")
    value = aligned["value"] if aligned["value"] is not None else aligned["raw"]
    return [
        Clause(
            names[0],
            deviation <= R_TOLERANCE,
            f"max |r − .5| = {deviation:.1e} over {counted(len(r), 'live latent')} (at most {R_TOLERANCE:.0e})",
        ),
        Clause(names[1], shared >= LEAST_ALIGNMENT, f"sharedness {shared:.5f} (at least {LEAST_ALIGNMENT})"),
        Clause(names[2], value >= LEAST_ALIGNMENT, f"alignment {value:.5f} (at least {LEAST_ALIGNMENT})"),
    ]


class Proposer(proposer.Proposer):
    """Candidates and identical-pair control of a cell's crosscoders."""

    def candidates(self, files: Files) -> list[Candidate]:
        """The A-only and B-only latents."""
        return candidates(files)

    def runs(self, files: Files) -> Mapping[str, Sequence[Files]]:
        """The cell with one crosscoder, from each of its seeds."""
        runs: dict[str, list[Files]] = {}
        for run in files["crosscoders"]:
            if has_sides(run):
                runs.setdefault(run["name"], []).append({**files, "crosscoders": [run]})
        return runs

    def judged(self, files: Files) -> Sequence[Judged]:
        """Each crosscoder."""
        return [_judged(run) for run in files["crosscoders"] if has_sides(run)]

    def control(self, files: Files) -> Sequence[Clause]:
        """Whether all latents of a model with itself are shared and aligned."""
        return _control_clauses(files)


PROPOSER = Proposer()
