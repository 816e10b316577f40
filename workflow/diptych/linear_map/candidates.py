"""Candidates of the linear map: directions of one model that the best map does not predict."""

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from diptych.candidates import proposer
from diptych.candidates.candidate import SIDES, Candidate, DoubleArray, IntArray, SideName, numbered
from diptych.candidates.proposer import Clause, Files, Judged
from diptych.statistics import resampling
from diptych.storage import artifacts

R2_TOLERANCE = 1e-6
"""Largest |1 - R^2| of a model mapped onto itself (METHODS 0.4)."""


def candidates(files: Files) -> list[Candidate]:
    """Directions that the best maps do not predict: B's under A -> B, A's under B -> A.

    The effect is the excess (METHODS 9): the variance along the direction that is not predicted from the other model,
    minus the same with the models' labels swapped, over the sum of their variances. .1 means a fifth more variance.
    """
    with artifacts.read(files["linear_map"], "linear_map") as file:
        token_row = file["rows/token_row"][:].astype(np.int64)
        return [
            *_directions(file["forward/directions"], "B", 1.0, token_row[1]),
            *_directions(file["backward/directions"], "A", -1.0, token_row[0]),
        ]


def _directions(group: h5py.Group, side: SideName, sign: float, token_row: IntArray) -> list[Candidate]:
    kinds = [str(kind) for kind in group["kind"].attrs["kinds"]]
    labels = numbered([kinds[int(code)] for code in group["kind"][:]])
    bounds = np.sort(sign * _sum_bounds(group["difference"][:]), axis=1)
    return [
        Candidate(
            kind="direction",
            id=label,
            side=side,
            effect=sign * float(group["excess"][k, 0]),
            held_out=sign * float(group["excess"][k, 1]),
            lo=float(bounds[k, 0]),
            hi=float(bounds[k, 1]),
            p=float(group["p"][k]),
            direction=group["pattern"][k].astype(np.float64),
            rows=_strongest(token_row, group["top_row"][k, 1], group["top_score"][k, 1]),
            surplus=float(group["surplus"][k]),
        )
        for k, label in enumerate(labels)
    ]


def _sum_bounds(difference: DoubleArray) -> DoubleArray:
    """95 % Poisson bootstrap over documents of the sums of [K, D], clipped to [-1, 1]; float64 [K, 2]."""
    if not len(difference):
        return np.zeros((0, 2))
    bounds = resampling.poisson_bootstrap(difference.T, seed=0)
    interval: DoubleArray = np.stack([bounds.lo, bounds.hi], axis=1) * difference.shape[1]
    return np.clip(interval, -1.0, 1.0)


def _strongest(token_row: IntArray, rows: npt.NDArray[Any], scores: npt.NDArray[Any]) -> IntArray:
    """Token rows of both ends of a direction [2, contexts] together, by descending |score|; padding (-1) is removed."""
    order = np.argsort(-np.abs(scores.ravel()), kind="stable")
    at = rows.ravel()[order]
    strongest: IntArray = token_row[at[at >= 0]]
    return strongest


def _ends(file: h5py.File, side: SideName) -> dict[str, tuple[float, IntArray]]:
    """For each direction of a side the sign of its stronger end, and the token rows there, strongest first."""
    group = file["forward/directions" if side == "B" else "backward/directions"]
    token_row = file["rows/token_row"][SIDES.index(side)].astype(np.int64)
    kinds = [str(kind) for kind in group["kind"].attrs["kinds"]]
    labels = numbered([kinds[int(code)] for code in group["kind"][:]])
    scores, rows = np.abs(group["top_score"][:]), group["top_row"][:]
    strongest = {}
    for k, label in enumerate(labels):
        end = int(np.argmax(scores[k].sum(axis=(0, 2))))
        order = np.argsort(-scores[k, :, end].ravel(), kind="stable")
        at = rows[k, :, end].ravel()[order]
        strongest[label] = (1.0 - 2.0 * end, token_row[at[at >= 0]])
    return strongest


def _identity_clause(files: Files) -> Clause:
    name = "the best map is the identity, and exact"
    if not files.get("linear_map"):
        return Clause(name, None, "no linear map was fitted")
    with artifacts.read(files["linear_map"], "linear_map") as file:
        verdicts = artifacts.read_json(file, "verdicts")
    best = [verdicts[direction]["best"] for direction in ("forward", "backward")]
    gap = max(abs(1 - verdicts[direction]["r2"]) for direction in ("forward", "backward"))
    text = f"best map {best[0]} there and {best[1]} back, |1 − R²| = {gap:.1e} (at most {R2_TOLERANCE:.0e})"
    return Clause(name, best == ["identity", "identity"] and gap <= R2_TOLERANCE, text)


class Proposer(proposer.Proposer):
    """The linear map's candidates and control of a cell."""

    def candidates(self, files: Files) -> list[Candidate]:
        """The unpredicted directions of both sides."""
        return candidates(files)

    def judged(self, files: Files) -> Sequence[Judged]:
        """The map on its rows."""
        return [Judged("linear_map", proposer.n_rows(files["linear_map"], "linear_map"))]

    def control(self, files: Files) -> Sequence[Clause]:
        """The best map of a model onto itself is the identity."""
        return [_identity_clause(files)]

    def steered(self, files: Files, best: Sequence[Candidate]) -> list[Candidate]:
        """The directions with the sign of their stronger end, and the rows of that end."""
        with artifacts.read(files["linear_map"], "linear_map") as file:
            ends = {side: _ends(file, side) for side in SIDES}
        turned = []
        for candidate in best:
            sign, rows = ends[candidate.side][candidate.id]
            turned.append(candidate._replace(direction=sign * candidate.direction, rows=rows))
        return turned


PROPOSER = Proposer()
