"""Repetition of candidates over the seeds of the dictionaries and crosscoders behind them (METHODS 9).

    ranking_of(proposer, files, threshold).findings        # those that more than half of the runs have

A candidate is recovered in another run if the same crosscoder or dictionaries, trained with another seed, have one that
meets the criteria, of the same side, at |cos| >= .7. A candidate and its duplicates are one difference, which is
recovered where any of them is.
"""

from collections.abc import Sequence
from dataclasses import replace

from diptych.candidates.candidate import SAME_DIRECTION, Candidate, abs_cosine, id_in_run
from diptych.candidates.proposer import Files, Proposer
from diptych.candidates.ranking import Ranked, Ranking, Threshold, rank


def ranking_of(proposer: Proposer, files: Files, threshold: Threshold) -> Ranking:
    """The ranking of one method on one cell, over all runs of what it depends on."""
    by_run = candidates_by_run(proposer, files)
    first = rank(by_run[0], threshold, proposer.untestable(files))
    return over_runs([first, *(rank(candidates, threshold) for candidates in by_run[1:])])


def candidates_by_run(proposer: Proposer, files: Files) -> list[list[Candidate]]:
    """The candidates of a cell, one list per run; a single list if nothing was trained.

    Where several things were trained (two crosscoders of one pair), run r has those of the r-th seed of each, and ids
    begin with their names.
    """
    runs = proposer.runs(files)
    if not runs:
        return [proposer.candidates(files)]
    return [
        [
            _of_run(candidate, name, len(of_name), is_named=len(runs) > 1)
            for name, of_name in runs.items()
            if run < len(of_name)
            for candidate in proposer.candidates(of_name[run])
        ]
        for run in range(max(map(len, runs.values())))
    ]


def over_runs(rankings: Sequence[Ranking]) -> Ranking:
    """The first run's ranking with the number of runs that recover each candidate.

    Findings that other runs have and the first has not follow at its end.
    """
    first, *later = [
        _by_difference(
            [replace(ranked, n_recovered=_n_recovered(ranked, run, rankings)) for ranked in ranking.candidates]
        )
        for run, ranking in enumerate(rankings)
    ]
    for run, of_run in enumerate(later, start=2):
        for ranked in of_run:
            if ranked.status and not any(_is_same(ranked, other) for other in _reported(first)):
                own = ranked.candidate
                first.append(replace(ranked, candidate=own._replace(id=id_in_run(own.id, run))))
    return Ranking(first, rankings[0].untestable)


def _difference(ranked: Ranked) -> tuple[str, str]:
    """Side and id of the candidate that stands for a candidate and its duplicates."""
    return ranked.candidate.side, ranked.duplicate_of or ranked.candidate.id


def _by_difference(family: Sequence[Ranked]) -> list[Ranked]:
    """The candidates, each with the most runs in which it or one of its duplicates is found."""
    most: dict[tuple[str, str], int] = {}
    for each in family:
        most[_difference(each)] = max(most.get(_difference(each), 0), each.n_recovered)
    return [replace(each, n_recovered=most[_difference(each)]) for each in family]


def _reported(family: Sequence[Ranked]) -> list[Ranked]:
    """The candidates that are reported, with their duplicates."""
    reported = {_difference(each) for each in family if each.status}
    return [each for each in family if _difference(each) in reported]


def _of_run(candidate: Candidate, name: str, n_runs: int, *, is_named: bool) -> Candidate:
    of_run = candidate._replace(trained=name, n_runs=n_runs)
    if not is_named:
        return of_run
    subject = f"{name} {candidate.subject}" if candidate.subject else ""
    return of_run._replace(id=f"{name} {candidate.id}", subject=subject)


def _n_recovered(ranked: Ranked, run: int, rankings: Sequence[Ranking]) -> int:
    """Runs in which a candidate of run number `run` is found, that one included; 0 if it does not meet the criteria."""
    if not ranked.meets_criteria:
        return 0
    others = [ranking for number, ranking in enumerate(rankings) if number != run]
    return 1 + sum(any(_is_same(ranked, other) for other in ranking.candidates) for ranking in others)


def _is_same(x: Ranked, y: Ranked) -> bool:
    """Whether y meets the criteria, with the same thing trained, on the same side and along the same direction as x."""
    if not y.meets_criteria or (x.candidate.side, x.candidate.trained) != (y.candidate.side, y.candidate.trained):
        return False
    return abs_cosine(x.candidate.direction, y.candidate.direction) >= SAME_DIRECTION
