"""The section `findings`: which differences are written down."""

from typing import TYPE_CHECKING

from pydantic import Field, create_model

from diptych import methods
from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Rate, Share

if TYPE_CHECKING:
    MinEffect = Strict
else:
    MinEffect = create_model(
        "MinEffect",
        __base__=Strict,
        __doc__="Least effect of a finding by method: what is smaller is real perhaps, but nobody's answer.",
        **{
            method.name: (Share if method.is_share else Rate, Field(method.min_effect, description=method.effect))
            for method in methods.proposing()
        },
    )


class Findings(Strict):
    """When a difference is written down (METHODS 9)."""

    q: Share = 0.05
    """Largest Benjamini-Hochberg q within a family (one pair and method)."""
    min_effect: MinEffect = MinEffect()
    """Least effect by method."""
