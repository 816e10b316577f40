"""Candidates of the means: the direction of the mean difference at each place."""

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diptych.candidates import proposer
from diptych.candidates.candidate import Candidate
from diptych.candidates.known import LEAST_OWN
from diptych.candidates.leg import Leg, measured
from diptych.candidates.proposer import Clause, Files, Judged
from diptych.statistics import resampling
from diptych.storage import artifacts

DoubleArray = npt.NDArray[np.float64]


def q_values(files: Files) -> DoubleArray:
    """Benjamini-Hochberg q of each place over all places and sites of the pair, [P]."""
    own = _p_values(str(files["means"]))
    others = [_p_values(path) for path in map(str, files.get("means_of_pair", ())) if path != str(files["means"])]
    return resampling.benjamini_hochberg(np.concatenate([own, *others]))[: len(own)]


def _p_values(path: str) -> DoubleArray:
    with artifacts.read(path, "means") as file:
        p: DoubleArray = file["places/p"][:] if "places" in file else np.zeros(0)
    return p


def candidates(files: Files) -> list[Candidate]:
    """The mean differences of a cell; what B has more of along each is positive, so that all are of its side."""
    with artifacts.read(files["means"], "means") as file:
        if "places" not in file:
            return []
        places = artifacts.read_table(file, "places")
        lens = artifacts.read_table(file, "lens")
        direction, rows = file["direction"][:], file["top_row"][:]
        random_share = file["random_own_share"][:]
    q = q_values(files)
    return [
        Candidate(
            kind="direction",
            id=str(name),
            side="B",
            effect=float(places["effect"][k]),
            held_out=float(places["held_out"][k]),
            lo=float(places["lo"][k]),
            hi=float(places["hi"][k]),
            p=float(places["p"][k]),
            q=float(q[k]),
            direction=direction[k],
            rows=rows[k][rows[k] >= 0],
            words=_promoted(lens, k),
            legs=_own_words(lens, k, random_share),
        )
        for k, name in enumerate(places["name"])
    ]


def _promoted(lens: dict[str, npt.NDArray[np.generic]], place: int) -> tuple[str, ...]:
    """The tokens that a difference promotes in B."""
    texts = lens["promoted"][(lens["model"] == "B") & (lens["place"] == place)]
    return tuple(json.loads(str(texts[0]))) if len(texts) else ()


def _own_words(lens: dict[str, npt.NDArray[np.generic]], place: int, random_share: DoubleArray) -> tuple[Leg, ...]:
    """Readable (METHODS 11): the fine-tune's own tokens among those promoted in B, one more than of random directions.

    () of a model that was not tuned on text of the study.
    """
    at = (lens["model"] == "B") & (lens["place"] == place)
    share, promoted = lens["own_share"][at], lens["promoted"][at]
    if not len(share) or not np.isfinite(share).all():
        return ()
    own, largest, token = float(share[0]), float(random_share[-1].max()), 1 / len(json.loads(promoted[0]))
    reason = f"{own:.0%} of the tokens it promotes are the fine-tune's own; of random directions' at most {largest:.0%}"
    return (measured("readable", own, own / max(largest + token, LEAST_OWN), reason),)


def _untested(files: Files) -> str:
    with artifacts.read(files["means"], "means") as file:
        return str(artifacts.read_json(file, "summary")["untested"])


class Proposer(proposer.Proposer):
    """The means' candidates and control of a cell."""

    def candidates(self, files: Files) -> list[Candidate]:
        """The mean difference at each place where it is not zero."""
        return candidates(files)

    def untestable(self, files: Files) -> str:
        """Different tokens or widths."""
        return _untested(files)

    def judged(self, files: Files) -> Sequence[Judged]:
        """The differences over their rows."""
        return [Judged("means", proposer.n_rows(files["means"], "means"))]

    def control(self, files: Files) -> Sequence[Clause]:
        """The means of a model with itself are equal."""
        name = "the means are equal at every place"
        if not files.get("means"):
            return [Clause(name, None, "no means were compared")]
        n_different = len(candidates(files))
        return [Clause(name, n_different == 0, f"different at {n_different} places")]


PROPOSER = Proposer()
