"""The six legs that a finding stands on: it is as good as its weakest (METHODS 9).

    leg = measured("causal", 3.2, 3.2 / 1.4, "3.2 times what random directions do, the strongest of them 1.4")
    leg.state                       # "holds": its number is at least what is asked
    weakest([leg, untested("repeated", "one training")]).name       # "repeated"

| leg | its number | holds from |
|---|---|---|
| statistical | q, Benjamini-Hochberg in its family (METHODS 9) | the threshold `findings.q` |
| held out | share of the fitted effect that documents without a part in the fit show (METHODS 0.2, 9) | a half |
| repeated | share of the trainings, with as many seeds, that find it: k/S (METHODS 9) | more than a half |
| specific | effect over what the method gives where nothing differs, or `min_effect` (METHODS 8, 9) | 1 |
| causal | KL of steering along it over that of random directions (METHODS 7) | the same of the strongest of these |
| readable | share of its contexts whose word comes back in another or is among the tokens that it promotes | a half |

A method whose own measure is better states that in `Candidate.legs`: latent scaling (METHODS 5), the rounding of stored
weights (METHODS 12), the vocabulary of a fine-tune (METHODS 11).
"""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

LegName = Literal["statistical", "held out", "repeated", "specific", "causal", "readable"]
State = Literal["holds", "weak", "untested", "not applicable"]

NAMES: tuple[LegName, ...] = ("statistical", "held out", "repeated", "specific", "causal", "readable")
"""In the order of a table."""


class Leg(NamedTuple):
    """What supports a finding in one respect.

    Attributes:
        name: the respect.
        state: whether its number is at least what is asked (holds, weak), was not taken, or is not asked of its method.
        value: the number, in the leg's own unit; NaN where there is none.
        margin: how far it is beyond what is asked: 1 where it just holds; NaN where there is no number.
        reason: one clause.
    """

    name: LegName
    state: State
    value: float
    margin: float
    reason: str

    @property
    def strength(self) -> float:
        """The margin, by which legs are compared.

        1 for what was not tested: it holds less well than what was found to hold, and better than what was found not
        to. Infinite for what is not asked.
        """
        return {"untested": 1.0, "not applicable": math.inf}.get(self.state, self.margin)


def measured(name: LegName, value: float, margin: float, reason: str) -> Leg:
    """A leg with a number, which holds from a margin of 1 on."""
    return Leg(name, "holds" if margin >= 1.0 else "weak", value, margin, reason)


def untested(name: LegName, reason: str) -> Leg:
    """A leg that could be tested and was not."""
    return Leg(name, "untested", math.nan, math.nan, reason)


def not_applicable(name: LegName, reason: str) -> Leg:
    """A leg that cannot be asked of a method's findings."""
    return Leg(name, "not applicable", math.nan, math.nan, reason)


def weakest(legs: Iterable[Leg]) -> Leg:
    """The leg of least strength; the first of equals."""
    return min(legs, key=lambda leg: leg.strength)
