"""A candidate that meets every requirement of a finding, whose fields a test may change."""

import numpy as np

from diptych.candidates.candidate import Candidate
from diptych.candidates.ranking import Threshold


def make_candidate(effect=0.5, held_out=0.5, p=1e-4, side="B", direction=(1.0, 0.0), **more):
    return Candidate(
        kind=more.pop("kind", "feature"), id=more.pop("id", "0"), side=side, effect=effect, held_out=held_out,
        lo=0.0, hi=1.0, p=p, direction=np.array(direction), rows=np.zeros(0, dtype=np.int64), **more,
    )  # fmt: skip


THRESHOLD = Threshold(q=0.05, min_effect=0.1)
