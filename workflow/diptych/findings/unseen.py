"""What a method that found nothing could have seen, and how often it finds something where nothing differs, in words.

    unseen(method, judged, detection, threshold).text
    # "On planted pairs of width 48 with 32,000 tokens the linear map sees a direction that carries 0.4 % of one model's
    #  variance (20 of 24 found); with your 36,864 tokens expect the same of differences like these."
    false_discoveries(method, judged, detection).mark   # "" unless the method is above nominal

Both are read off a table that was measured once, on planted activations and with the default thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from diptych.candidates.detection import Detection, Limit, Measured, Null
from diptych.candidates.proposer import Judged
from diptych.candidates.ranking import Q, Threshold
from diptych.methods import Method
from diptych.page.blocks import counted, listed, number, percent

NULLS = {
    "noise": "pairs that differ in noise alone",
    "halves": "halves of one model",
    "swap": "pairs with swapped labels",
}
"""Kind of a null -> what it is called here."""
UNMEASURED = "not measured"


@dataclass(frozen=True)
class Unseen:
    """The smallest difference that a method would have seen: in a few words, and in sentences."""

    least: str = ""
    text: str = ""


@dataclass(frozen=True)
class FalseDiscoveries:
    """How often a method finds something where nothing differs: counts, and the sentence that marks it, or ""."""

    counts: str
    mark: str = ""


def unseen(method: Method, judged: Sequence[Judged], detection: Detection, threshold: Threshold) -> Unseen:
    """What a method could have seen on a comparison.

    Args:
        method: that found nothing.
        judged: how it was run there.
        detection: the table.
        threshold: of a finding in this study.
    """
    if method.is_exact:
        least = f"{number(threshold.min_effect)} {method.unit}".strip()
        return Unseen(least, f"It is exact: a change of at least {least} would have been found.")
    runs = _with_fewest_tokens(judged)
    if not runs:
        reason = f": {method.unjudged}" if not method.entries else ""
        return Unseen(UNMEASURED, f"The smallest difference that the {method.title} sees was {UNMEASURED}{reason}.")
    each = [_of_run(method, run, detection) for run in runs]
    texts = [one.text for one in each]
    if any(run.entry in detection.methods for run in runs) and threshold != Threshold(Q, method.min_effect):
        texts.append("That was measured with the default q and least effect, which this study has changed.")
    return Unseen(listed(list(dict.fromkeys(one.least for one in each))), " ".join(texts))


def _with_fewest_tokens(judged: Sequence[Judged]) -> list[Judged]:
    """One run of each entry, that on the fewest tokens: trainings with other seeds keep other documents aside."""
    fewest: dict[str, int] = {}
    for run in judged:
        fewest[run.entry] = min(run.tokens, fewest.get(run.entry, run.tokens))
    return [Judged(entry, tokens) for entry, tokens in fewest.items()]


def _of_run(method: Method, run: Judged, detection: Detection) -> Unseen:
    """What one run of a method could have seen."""
    measured = detection.methods.get(run.entry)
    if measured is None or measured.fewest is None:
        of_kind = f"a {method.title} of this kind" if len(method.entries) > 1 else f"the {method.title}"
        return Unseen(UNMEASURED, f"The smallest difference that {of_kind} sees was {UNMEASURED}.")
    limit = measured.seen_with(run.tokens)
    if limit is None:
        return _below(_name(method, measured), measured.fewest, run.tokens, detection.width)
    seen, found, size = _seen(limit)
    pairs = f"On planted pairs of width {detection.width} with {limit.tokens:,} tokens"
    expect = f"with your {run.tokens:,} tokens expect the same of differences like these"
    return Unseen(size, f"{pairs} the {_name(method, measured)} {seen} ({found}); {expect}.")


def _below(name: str, limit: Limit, tokens: int, width: int) -> Unseen:
    """What a run on fewer tokens than the least that was measured could have seen."""
    seen, found, size = _seen(limit)
    pairs = f"on planted pairs of width {width} with {limit.tokens:,} tokens, the fewest that were measured,"
    more = size if size.startswith("more than") else f"more than {size.removeprefix('at most ')}"
    return Unseen(more, f"With your {tokens:,} tokens the {name} sees less than {pairs} where it {seen} ({found}).")


def _seen(limit: Limit) -> tuple[str, str, str]:
    """What is seen at a limit as a predicate, on how many directions that rests, and the size in a few words."""
    found = f"{limit.found} of {limit.planted} found"
    carries = "a direction that carries {} of one model's variance"
    if limit.share is None:
        size = percent(limit.most)
        return f"misses even {carries.format(size)}, the largest that was planted", found, f"more than {size}"
    size = percent(limit.share)
    if limit.share == limit.least:
        return f"sees even {carries.format(size)}, the smallest that was planted", found, f"at most {size}"
    return f"sees {carries.format(size)}", found, size


def _name(method: Method, measured: Measured) -> str:
    """The method's title, or that of the entry where it has several; with its training."""
    name = method.title if len(method.entries) == 1 else measured.title
    return f"{name}, trained for {counted(measured.steps, 'step')}," if measured.steps else name


def false_discoveries(method: Method, judged: Sequence[Judged], detection: Detection) -> FalseDiscoveries:
    """The false discoveries of a method as it was run on a comparison."""
    if method.is_exact:
        return FalseDiscoveries("exact: nothing is tested")
    runs = dict.fromkeys(run.entry for run in judged if run.entry in detection.methods)
    measured = [detection.methods[entry] for entry in runs]
    counts = [", ".join(_count(null) for null in each.nulls) or UNMEASURED for each in measured]
    marked = [
        f"The {_name(method, each)} finds more than it should where nothing differs: something at q ≤ "
        f".05 in {listed([_count(null) for null in each.nulls if null.above_nominal])}, where 5 % are nominal."
        for each in measured
        if each.is_above_nominal
    ]
    return FalseDiscoveries("; ".join(counts) or UNMEASURED, " ".join(marked))


def _count(null: Null) -> str:
    return f"{null.significant} of {null.pairs:,} {NULLS.get(null.kind, null.kind)}"
