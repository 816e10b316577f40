"""What counts as a finding, and what the page shows."""

from typing import TYPE_CHECKING

from pydantic import Field, create_model

from diptych import methods
from diptych.config.sections.values import Positive, Rate, Share
from diptych.config.strict import Strict

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


class Report(Strict):
    """What the page shows."""

    contexts: Positive = 6
    """Contexts shown for each finding and each model."""
    cells: Positive = 4
    """Cells of a grid that are shown in full: those whose paired features correlate best."""
