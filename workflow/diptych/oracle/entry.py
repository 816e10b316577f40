"""The protocol by which a diffing method enters the leaderboard: fitted on two matrices of rows, it ranks directions.

    def fit(rows_A, rows_B):                 # float32 [n, d_A], [n, d_B]; row i is the same token in both models
        shift = (rows_B - rows_A).mean(axis=0)
        return [shift], ["either"], [1.0]    # directions, the side of each, its score: the largest is the best

A function that names more arguments gets them: `document` (int64 [n], the unit of independence), `seed`, `budget`
(`Budget`, the same for all methods that train) and `case` (name of the case). It may also return a `Fit`, which adds
p values, what it reports, and which features it holds to be the same in both models.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from diptych.oracle.planted import ClaimedSide, DoubleArray, FloatArray, IntArray
from diptych.runtime.errors import DiptychError
from diptych.statistics import resampling

BoolArray = npt.NDArray[np.bool_]
Quantity = Literal["rotated", "rescaled", "more_frequent", "test"]
"""What a method may be blind to by design: the amounts of these labels, and whether a difference is more than noise."""


class ProtocolError(DiptychError):
    """A `fit` takes or returns something else than the protocol says."""


NOMINAL = 0.05
"""Nominal rate of false discoveries."""


class Budget(NamedTuple):
    """Size and training of a dictionary or crosscoder, equal for all methods that train one.

    Attributes:
        n_latents: latents of a crosscoder, or of each of two dictionaries.
        k: mean number of latents that are active on a row (L0).
        steps: optimiser steps.
        batch: rows a step.
        learning_rate: peak, Adam.
    """

    n_latents: int
    k: int
    steps: int
    batch: int
    learning_rate: float


class Matches(NamedTuple):
    """Features that a method holds to be the same in both models; M of them.

    Attributes:
        directions_A: [M, d_A].
        directions_B: [M, d_B].
        angle: [M], estimate that grows with the angle by which the feature is rotated; NaN where there is none.
        scale: [M], estimate that grows with how much more strongly it fires in B.
        frequency: [M], estimate that grows with how much more often it fires in B.
    """

    directions_A: DoubleArray
    directions_B: DoubleArray
    angle: DoubleArray | None = None
    scale: DoubleArray | None = None
    frequency: DoubleArray | None = None


@dataclass(frozen=True)
class Fit:
    """What a method says of a pair: m directions that one model has and the other has not.

    Attributes:
        directions: [m] vectors, each of the width of its side.
        side: [m], the model that has it; "either" if the method does not tell.
        score: [m], the largest is the best; NaN for what is tested but not ranked, such as a duplicate.
        p: [m]; NaN where a direction is not tested, None if the method has no test.
        q: [m]; None is Benjamini-Hochberg of p.
        found: [m], whether it is reported as a difference; None is q <= .05.
        matches: features in both models, None if the method has none.
        active: mean number of active latents on a row; NaN if nothing is sparse.
    """

    directions: Sequence[npt.ArrayLike]
    side: Sequence[ClaimedSide]
    score: npt.ArrayLike
    p: npt.ArrayLike | None = None
    q: npt.ArrayLike | None = None
    found: npt.ArrayLike | None = None
    matches: Matches | None = None
    active: float = float("nan")

    @property
    def ranking(self) -> IntArray:
        """Indices of the ranked directions, best first; ties in their order."""
        score = np.asarray(self.score, dtype=np.float64)
        order = np.argsort(-score, kind="stable")
        return order[np.isfinite(score[order])]

    @property
    def q_values(self) -> DoubleArray:
        """[m]; NaN where a direction is not tested."""
        if self.q is not None:
            return np.asarray(self.q, dtype=np.float64)
        if self.p is None:
            return np.full(len(self.side), np.nan)
        return resampling.benjamini_hochberg(self.p)

    @property
    def is_reported(self) -> BoolArray:
        """[m], whether each direction is reported as a difference."""
        reported = self.q_values <= NOMINAL if self.found is None else self.found
        return np.asarray(reported, dtype=np.bool_)


@dataclass(frozen=True)
class Entry:
    """A method on the leaderboard.

    Attributes:
        title: its name in running text.
        fit: see the module.
        one_basis: whether it subtracts or exchanges the models' rows, and so needs one basis for both.
        blind: by what it is blind to by design, the reason.
        trains: whether `Budget` is its budget.
    """

    title: str
    fit: Callable[..., Any]
    one_basis: bool = False
    blind: Mapping[Quantity, str] = field(default_factory=dict)
    trains: bool = False


CONTEXT = ("document", "seed", "budget", "case")
"""Arguments that a `fit` may name beside the two matrices."""


def call(entry: Entry, name: str, rows_A: FloatArray, rows_B: FloatArray, context: Mapping[str, Any]) -> Fit:
    """Fit an entry, with as much of the context as it names, and check what it returns.

    Raises:
        ProtocolError: the function takes or returns something else than the protocol says.
    """
    parameters = inspect.signature(entry.fit).parameters
    bound = entry.fit.keywords if hasattr(entry.fit, "keywords") else {}
    more = [argument for argument in list(parameters)[2:] if argument not in bound]
    if unknown := [argument for argument in more if argument not in CONTEXT]:
        raise ProtocolError(f"leaderboard: fit of {name} asks for {unknown[0]!r}; known are {', '.join(CONTEXT)}")
    returned = entry.fit(rows_A, rows_B, **{argument: context[argument] for argument in more})
    if not isinstance(returned, Fit):
        if not isinstance(returned, tuple) or len(returned) not in (3, 4):
            raise ProtocolError(f"leaderboard: fit of {name} has to return (directions, side, score) or a Fit")
        returned = Fit(*returned)
    return _checked(returned, name, {"A": rows_A.shape[1], "B": rows_B.shape[1]})


def _checked(fit: Fit, name: str, widths: Mapping[str, int]) -> Fit:
    """The fit with directions as float64 vectors."""
    directions = [np.asarray(direction, dtype=np.float64) for direction in fit.directions]
    lengths = {
        column: len(np.asarray(values))
        for column, values in (
            ("side", fit.side),
            ("score", fit.score),
            ("p", fit.p),
            ("q", fit.q),
            ("found", fit.found),
        )
        if values is not None
    }
    for column, length in lengths.items():
        if length != len(directions):
            raise ProtocolError(f"leaderboard: fit of {name} has {len(directions)} directions and {length} of {column}")
    for direction, side in zip(directions, fit.side, strict=True):
        if side not in get_args(ClaimedSide):
            raise ProtocolError(f"leaderboard: fit of {name} names the side {side!r}; sides are A, B and either")
        width = widths["B" if side == "either" else side]
        if direction.shape != (width,) or not np.isfinite(direction).all():
            raise ProtocolError(
                f"leaderboard: fit of {name} has a direction of shape {direction.shape} of side {side}, "
                f"or values in it that are not finite; rows of that side are {width} wide"
            )
    return replace(fit, directions=directions)
