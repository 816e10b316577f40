"""Known edits: what every method finds of a difference between models whose truth is known (METHODS 8).

Where B is a plant, a trigger or a fine-tune of A in the config, a method's ranking is walked against what it is to find
there (`candidates.known`): the planted direction, the tokens of a response, the edited tensor.

    columns([row(pair, method, ranking)])["average_precision"]          # `schema.EDIT_COLUMNS`

**Differences.** A candidate and its duplicates are one difference, as in the list of findings, and what cannot be a
finding is left out. A difference is a hit if it shows a truth that none before it has shown; one that shows only truths
that were shown before is passed over, and truths that none shows count as missed: average precision without
interpolation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from diptych.candidates import known, proposer
from diptych.candidates.candidate import NAN
from diptych.candidates.known import Edit, Known
from diptych.candidates.ranking import Ranked, Ranking, Status
from diptych.findings import schema
from diptych.findings.table import site_of
from diptych.methods import Method
from diptych.steering import effects

WORDS = 20
"""Words that are listed at most."""
NOTHING: frozenset[int] = frozenset()


class Difference(NamedTuple):
    """A candidate with its duplicates: status, the truths shown, the words read, largest |cos| (NaN: none known)."""

    status: Status
    shown: frozenset[int]
    read: frozenset[int]
    cosine: float


class Score(NamedTuple):
    """A ranking against the truths of an edit.

    Attributes:
        average_precision: of the ranking.
        rank: place of the first hit among the differences; 0 without one.
        status: of the first difference that shows a truth and is reported: `finding`, `not repeated`, `cannot be told`;
            else `candidate` where one shows a truth, and `missed` where none does.
        cosine: |cos| of that difference with the planted direction, or without one the largest; NaN where it is not
            known.
        shown: truths among what stands (a finding, or not repeated).
        read: words of what shows a truth and is reported.
        reported: differences that are reported.
        false: of these, those that show no truth.
    """

    average_precision: float
    rank: int
    status: str
    cosine: float
    shown: frozenset[int]
    read: frozenset[int]
    reported: int
    false: int


NOT_JUDGED = Score(NAN, 0, "NA", NAN, NOTHING, NOTHING, 0, 0)
"""Of a method that is blind to an edit."""


def differences(ranking: Ranking, truths: Known) -> list[Difference]:
    """The differences of a ranking, best first: without those that cannot be findings or cannot be judged."""
    candidates = ranking.candidates
    groups: dict[int, list[int]] = {}
    for i, at in enumerate(_firsts(candidates)):
        if truths.shown[i] is not None:
            groups.setdefault(at, []).append(i)
    possible = [at for at in sorted(groups) if not candidates[at].candidate.barred]
    return [_difference(candidates[at], groups[at], truths) for at in possible]


def _firsts(candidates: Sequence[Ranked]) -> list[int]:
    """For each candidate the place of the one that it is a duplicate of, however far; its own if it is none."""
    order = sorted(range(len(candidates)), key=lambda i: bool(candidates[i].duplicate_of))
    place: dict[tuple[str, str], int] = {}
    for i in order:
        # Of candidates with one id the first that is no duplicate.
        place.setdefault((candidates[i].candidate.side, candidates[i].candidate.id), i)
    firsts = []
    for at in range(len(candidates)):
        while candidates[at].duplicate_of:
            at = place[candidates[at].candidate.side, candidates[at].duplicate_of]
        firsts.append(at)
    return firsts


def _difference(first: Ranked, members: Sequence[int], truths: Known) -> Difference:
    shown = NOTHING.union(*(truths.shown[i] or () for i in members))
    read = NOTHING.union(*(truths.read[i] for i in members)) if truths.read else NOTHING
    cosine = max(truths.cosine[i] for i in members) if truths.cosine else NAN
    return Difference(first.status, shown, read, cosine)


def score(found: Sequence[Difference], n_truths: int) -> Score:
    """Walk differences, best first, against `n_truths` truths."""
    claimed: set[int] = set()
    walked, n_hits, rank, precision = 0, 0, 0, 0.0
    for each in found:
        fresh = each.shown - claimed
        if each.shown and not fresh:
            continue
        walked += 1
        if fresh:
            claimed |= fresh
            n_hits += 1
            rank = rank or walked
            precision += len(fresh) * n_hits / walked
    showing = [each for each in found if each.shown]
    best = next((each for each in showing if each.status), showing[0] if showing else None)
    standing = [each for each in found if each.status in schema.STANDING]
    reported = [each for each in found if each.status]
    return Score(
        average_precision=precision / n_truths,
        rank=rank,
        status=(best.status or "candidate") if best else "missed",
        cosine=best.cosine if best else max((each.cosine for each in found), default=NAN),
        shown=NOTHING.union(*(each.shown for each in standing)),
        read=NOTHING.union(*(each.read for each in showing if each.status)),
        reported=len(reported),
        false=sum(not each.shown for each in reported),
    )


def rows(pairs: Sequence[Mapping[str, Any]], rankings: Sequence[Mapping[Method, Ranking]]) -> list[dict[str, Any]]:
    """A row for every method on every comparison whose difference is known."""
    table = []
    for pair, by_method in zip(pairs, rankings, strict=True):
        if pair.get("edit"):
            edit = Edit.of(pair["edit"], pair["files"]["tokens_a"])
            table += [_row(pair, method, by_method[method], edit) for method in by_method]
    return table


def columns(table: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The columns of `schema.EDIT_COLUMNS`."""
    return {column.name: [row[column.name] for row in table] for column in schema.EDIT_COLUMNS}


def _row(pair: Mapping[str, Any], method: Method, ranking: Ranking, edit: Edit) -> dict[str, Any]:
    worded = _put_into_words(ranking, method, pair["files"])
    truths = _known(pair, method, worded, edit)
    place = {"pair": pair["name"], "site": site_of(pair), "method": method.name, "a": pair["a"]}
    amounts = {"edit": edit.kind, "content": edit.content, "amount": edit.amount, "frequency": edit.frequency}
    return {**place, **amounts, "truth": truths.truth, **_scored(worded, truths), "note": truths.blind}


def _known(pair: Mapping[str, Any], method: Method, ranking: Ranking, edit: Edit) -> Known:
    """What a method is to find in a comparison; blind where it was not tested, or the edit does not reach the site."""
    reason = ranking.untestable
    if not reason and edit.kind == "plant" and pair["site_a"]:
        reason = known.unreached(edit, pair["site_a"])
    if reason:
        return known.blind(reason)
    candidates = [each.candidate for each in ranking.candidates]
    return proposer.of(method).known(pair["files"], edit, candidates)


def _put_into_words(ranking: Ranking, method: Method, files: Mapping[str, Any]) -> Ranking:
    """The ranking with the tokens that steered directions promote as their words, where they have none of their own."""
    if not files.get("steering"):
        return ranking
    promoted = effects.read(files["steering"]).promoted
    return Ranking([_worded(each, method, promoted) for each in ranking.candidates], ranking.untestable)


def _worded(each: Ranked, method: Method, promoted: Mapping[effects.Key, tuple[str, ...]]) -> Ranked:
    candidate = each.candidate
    words = candidate.words or promoted.get((candidate.side, method.name, candidate.id), ())
    return replace(each, candidate=candidate._replace(words=words))


def _scored(ranking: Ranking, truths: Known) -> dict[str, Any]:
    """The columns that a score fills; scores are NaN, and counts but `reported` 0, where the method is blind."""
    result = score(differences(ranking, truths), len(truths.names)) if truths.names else NOT_JUDGED
    words = [truths.words[k].strip() for k in sorted(result.read)]
    return {
        "average_precision": result.average_precision,
        "status": result.status,
        "rank": result.rank,
        "cosine": result.cosine,
        "truths": len(truths.names),
        "found": len(result.shown),
        "reported": result.reported if truths.names else len(ranking.reported),
        "false": result.false,
        "words": " ".join(words[:WORDS]),
        "n_words": len(words),
        "of_words": len(truths.words),
        "rank_made": truths.rank[0],
        "rank_seen": truths.rank[1],
    }
