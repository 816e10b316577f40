"""Candidates over several seeds: which are found again, and in how many runs."""

import pytest

from diptych.candidates import ranking, repetition
from example_candidates import THRESHOLD, make_candidate


def over_runs(*runs):
    n = len(runs)
    return repetition.over_runs(
        [ranking.rank([c._replace(n_runs=n) for c in candidates], THRESHOLD) for candidates in runs]
    )


X, Y = (1.0, 0.0), (0.0, 1.0)


@pytest.mark.parametrize(
    ("others", "seeds", "status"),
    [
        ([[{"direction": X}]], "2/2", "finding"),
        ([[{"direction": (-1.0, 0.0)}]], "2/2", "finding"),
        ([[{"direction": (0.71, 0.704)}]], "2/2", "finding"),
        ([[{"direction": (0.69, 0.724)}]], "1/2", ""),
        ([[{"direction": Y}]], "1/2", ""),
        ([[]], "1/2", ""),
        ([[{"direction": X, "side": "A", "effect": -0.5, "held_out": -0.5}]], "1/2", ""),
        ([[{"direction": X, "p": 0.9}]], "1/2", ""),
        ([[{"direction": X, "barred": "no"}]], "1/2", ""),
        ([[{"direction": X}], []], "2/3", "finding"),
        ([[], []], "1/3", ""),
        ([[{"direction": X}], [], []], "2/4", ""),
        ([[{"direction": X, "caveat": "domain shift"}]], "2/2", "finding"),
    ],
)
def test_a_finding_needs_most_of_the_runs(others, seeds, status):
    runs = [[make_candidate(**changed) for changed in of_run] for of_run in others]
    first = over_runs([make_candidate(direction=X)], *runs).candidates[0]
    assert (first.seeds, first.status) == (seeds, status)


def test_what_only_later_runs_have_is_a_finding_if_most_of_them_have_it():
    later = [make_candidate(id="7", direction=Y)]
    found = over_runs([make_candidate(direction=X)], later, later)
    assert [(each.candidate.id, each.seeds) for each in found.findings] == [("7 (run 2)", "2/3")]
    assert over_runs([], later).findings == []


def test_a_difference_is_repeated_where_one_of_its_duplicates_is():
    """The second run has the direction of `twin`, at |cos| .6 of that of `best`."""
    best = make_candidate(id="best", effect=0.9, held_out=0.9, direction=X)
    twin = make_candidate(id="twin", direction=(0.8, 0.6))
    found = over_runs([best, twin], [make_candidate(id="3", direction=(0.6, 0.8))])
    assert [(each.candidate.id, each.seeds) for each in found.findings] == [("best", "2/2")]
    assert over_runs([best], [make_candidate(direction=(0.6, 0.8))]).findings == []


def test_another_crosscoder_repeats_nothing():
    """`wide` has the latent in its second run, `main` only in its first."""
    runs = [[make_candidate(trained="main", n_runs=2)], [make_candidate(trained="wide", n_runs=2)]]
    found = repetition.over_runs([ranking.rank(of_run, THRESHOLD) for of_run in runs])
    assert (found.candidates[0].seeds, found.reported, found.n_single) == ("1/2", [], 1)


def test_a_single_run_is_not_repeated_and_what_is_not_trained_needs_no_run():
    assert over_runs([make_candidate()]).candidates[0].status == "not repeated"
    assert ranking.rank([make_candidate()], THRESHOLD).candidates[0].status == "finding"
    assert ranking.rank([make_candidate()], THRESHOLD).candidates[0].seeds == ""


def test_a_caveat_ranks_last_and_never_hides_a_candidate_without():
    """The same feature at two tokens, the stronger change where the dictionary leaves its domain."""
    shifted = make_candidate(id="5 at newline", subject="5", effect=0.9, held_out=0.9, caveat="domain shift")
    plain = make_candidate(id="5 at assistant", subject="5", p=1e-3)
    ranked = ranking.rank([shifted, plain], THRESHOLD)
    assert [(each.candidate.id, each.status) for each in ranked.candidates] == [
        ("5 at assistant", "finding"),
        ("5 at newline", ""),
    ]
    assert ranking.rank([shifted], THRESHOLD).candidates[0].status == "cannot be told"
