"""A method's ranked candidates in the terms of the leaderboard's protocol (`oracle.entry`)."""

from collections.abc import Sequence

import numpy as np

from diptych.candidates.candidate import Candidate
from diptych.candidates.ranking import Q, Threshold, rank
from diptych.methods import Method
from diptych.oracle.entry import Fit, Matches
from diptych.oracle.planted import ClaimedSide


def fit_of(
    candidates: Sequence[Candidate],
    method: Method,
    *,
    side: ClaimedSide | None = None,
    matches: Matches | None = None,
    active: float = float("nan"),
) -> Fit:
    """The fit that a study would print: its ranking without duplicates and what is barred, and its findings.

    Args:
        candidates: of one pair.
        method: that proposed them; its default least effect is a finding's.
        side: of all candidates, where the method's own side does not say which model alone has a direction.
        matches: features in both models.
        active: mean number of active latents on a row.
    """
    ranked = rank(candidates, Threshold(Q, method.min_effect)).candidates
    unranked = np.array([bool(each.duplicate_of or each.candidate.barred) for each in ranked], dtype=np.bool_)
    return Fit(
        directions=[each.candidate.direction for each in ranked],
        side=[side or each.candidate.side for each in ranked],
        score=np.where(unranked, np.nan, -np.arange(len(ranked), dtype=np.float64)),
        p=np.array([each.candidate.p for each in ranked]),
        q=np.array([each.q for each in ranked]),
        found=np.array([bool(each.status) for each in ranked], dtype=np.bool_),
        matches=matches,
        active=active,
    )
