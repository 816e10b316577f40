"""Candidates of the toy method: the mean difference as one direction of B."""

from collections.abc import Sequence

import numpy as np

from diptych.candidates import proposer
from diptych.candidates.candidate import Candidate
from diptych.candidates.proposer import Clause, Files
from diptych.statistics import resampling
from diptych.storage import artifacts


class Proposer(proposer.Proposer):
    """The toy method's candidates and its clause of the control."""

    def candidates(self, files: Files) -> list[Candidate]:
        """The mean difference as one direction, or [] where the means are equal."""
        with artifacts.read(files["toy"], "toy") as file:
            delta, held_out = file["delta"][:], file["held_out"][:]
        norm, mean = float(np.linalg.norm(delta)), float(held_out.mean())
        p = float(resampling.sign_flip_p(held_out[None], two_sided=False)[0])
        fields = {"kind": "direction", "id": "mean 1", "side": "B", "rows": np.zeros(0, dtype=np.int64)}
        return [Candidate(**fields, effect=norm, held_out=mean, lo=mean, hi=mean, p=p, direction=delta)] if norm else []

    def control(self, files: Files) -> Sequence[Clause]:
        """Whether the means of equal models are equal."""
        if "toy" not in files:
            return [Clause("the means are equal", None, "no rows of this pair were compared")]
        with artifacts.read(files["toy"], "toy") as file:
            return [Clause("the means are equal", not file["delta"][:].any(), "toy means")]


PROPOSER = Proposer()
