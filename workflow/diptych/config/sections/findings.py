"""The section `findings`: thresholds of a finding."""

from typing import TYPE_CHECKING

from pydantic import Field, create_model

from diptych import methods
from diptych.config.sections.strict import Strict
from diptych.config.sections.values import PositiveFloat, Share

if TYPE_CHECKING:
    MinEffect = Strict
else:
    MinEffect = create_model(
        "MinEffect",
        __base__=Strict,
        __doc__="Minimum effect of a finding by method; smaller effects may be real but are not reported.",
        **{
            method.name: (
                Share if method.is_share else PositiveFloat,
                Field(method.min_effect, description=method.effect),
            )
            for method in methods.proposing()
        },
    )


class Findings(Strict):
    """Thresholds at which a difference is a finding (METHODS 9)."""

    q: Share = 0.05
    """Maximum Benjamini-Hochberg q within a family (one pair and method)."""
    min_effect: MinEffect = MinEffect()
    """Minimum effect by method."""
