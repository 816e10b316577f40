"""The six legs of a candidate that is reported (`candidates.leg` says what each measures and asks).

    legs = legs_of(ranked, threshold, Evidence(control=0.0, words=("nation", "states", "states")))
    weakest(legs).reason                # "0.9 times what random directions do, the strongest of them 1.1"

Statistical, held out and repeated are the criteria of a finding, so they hold wherever one is written; the others rank
findings and may say that one is weak.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

from diptych.candidates.leg import Leg, measured, not_applicable, untested, weakest
from diptych.candidates.ranking import Ranked, Threshold
from diptych.steering.effects import Effect

NOT_REPEATED = "one training gave it; a second seed (`seeds: [0, 1]`) would tell whether it depends on that"
READABLE = 0.5
"""Least share of contexts with a common word. Of 20 random rows of the default study's text 18 % share theirs with
another (95 % of draws: at most 40 %)."""


@dataclass(frozen=True)
class Evidence:
    """What the study shows about a candidate besides its own statistics.

    Attributes:
        control: largest |effect| of its method between equal models (control and floor pairs); NaN without such a pair.
        effect: of steering along it; None if it was not steered.
        words: of its strongest contexts.
        promoted: tokens that its direction promotes in its own model.
    """

    control: float = nan
    effect: Effect | None = None
    words: Sequence[str] = ()
    promoted: Sequence[str] = ()


def legs_of(ranked: Ranked, threshold: Threshold, evidence: Evidence) -> tuple[Leg, ...]:
    """The six legs in the order of `leg.NAMES`; those that the method states itself in place of the common ones."""
    common = (
        _statistical(ranked, threshold),
        _held_out(ranked, threshold),
        _repeated(ranked),
        _specific(ranked, threshold, evidence.control),
        _causal(evidence.effect),
        _readable(evidence.words, evidence.promoted),
    )
    own = {leg.name: leg for leg in ranked.candidate.legs}
    return tuple(own.get(leg.name, leg) for leg in common)


def strength(legs: Sequence[Leg]) -> tuple[float, float]:
    """What findings are ranked by: the strength of the weakest leg, then the least margin of those that were tested."""
    return weakest(legs).strength, min((leg.margin for leg in legs if not isnan(leg.margin)), default=1.0)


def _statistical(ranked: Ranked, threshold: Threshold) -> Leg:
    if threshold.q is None:
        return not_applicable("statistical", "exact: nothing is tested")
    return measured("statistical", ranked.q, ranked.margins[0], f"q {ranked.q:.2g}, at most {threshold.q:g}")


def _held_out(ranked: Ranked, threshold: Threshold) -> Leg:
    candidate = ranked.candidate
    if threshold.q is None:
        return not_applicable("held out", "exact: nothing is fitted")
    fitted = candidate.effect - candidate.null
    share = (candidate.held_out - candidate.null) / fitted if fitted else nan
    reason = f"{share:.0%} of the fitted effect on documents that had no part in it"
    return measured("held out", share, ranked.margins[1], reason)


def _repeated(ranked: Ranked) -> Leg:
    k, n_runs = ranked.n_recovered, ranked.candidate.n_runs
    if not n_runs:
        return not_applicable("repeated", "nothing is trained")
    if n_runs == 1:
        return untested("repeated", NOT_REPEATED)
    # 1 at the smallest majority of an odd number of runs.
    return measured("repeated", k / n_runs, (2 * k - 1) / n_runs, f"in {k} of {n_runs} trainings")


def _specific(ranked: Ranked, threshold: Threshold, control: float) -> Leg:
    candidate = ranked.candidate
    size = abs(candidate.effect - candidate.null)
    if candidate.caveat:
        return measured("specific", nan, 0.0, f"may be a {candidate.caveat}; {candidate.remedy}")
    if isnan(control):
        return untested("specific", "no pair of a model with itself shows what the method gives where nothing differs")
    times = size / max(threshold.min_effect, control)
    least = f"the least effect that counts ({threshold.min_effect:g}); a model with itself gives {control:.2g}"
    unit = least if control <= threshold.min_effect else f"what a model with itself gives ({control:.2g})"
    return measured("specific", times, times, f"{times:.2g} times {unit}")


def _causal(effect: Effect | None) -> Leg:
    if effect is None:
        return untested("causal", "not steered along: only the best candidates of some methods are")
    if isnan(effect.ratio):
        return untested("causal", "no random direction was steered along beside it")
    reason = f"{effect.ratio:.2g} times what random directions do, the strongest of them {effect.strongest_random:.2g}"
    return measured("causal", effect.ratio, effect.ratio / effect.strongest_random, reason)


def _readable(words: Sequence[str], promoted: Sequence[str]) -> Leg:
    if not words:
        return untested("readable", "no text in which to read it")
    bare, known = [word.strip().lower() for word in words], {word.strip().lower() for word in promoted}
    count = Counter(bare)
    common = [word for word in bare if count[word] > 1 or word in known]
    share = len(common) / len(bare)
    reason = f"{len(common)} of {len(bare)} contexts with a word of another or of its lens"
    return measured("readable", share, share / READABLE, reason)
