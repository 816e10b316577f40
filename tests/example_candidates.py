"""A candidate that meets every requirement of a finding, whose fields a test may change."""

import zlib

import numpy as np

from diptych.candidates.candidate import Candidate
from diptych.candidates.ranking import Threshold


def make_candidate(effect=0.5, held_out=0.5, p=1e-4, side="B", direction=None, **more):
    """Without a direction, a feature has one of its own, told by its id, and a direction is the first axis."""
    kind, id_ = more.pop("kind", "feature"), more.pop("id", "0")
    own = (1.0, 0.0) if kind == "direction" else np.eye(97)[zlib.crc32(id_.encode()) % 97]
    return Candidate(
        kind=kind, id=id_, side=side, effect=effect, held_out=held_out, lo=0.0, hi=1.0, p=p,
        direction=np.array(own if direction is None else direction), rows=np.zeros(0, dtype=np.int64), **more,
    )  # fmt: skip


THRESHOLD = Threshold(q=0.05, min_effect=0.1)
