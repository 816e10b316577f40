"""What counts as a finding, and what the page shows."""

from diptych.config.sections.values import Positive, Rate, Share
from diptych.config.strict import Strict


class MinEffect(Strict):
    """Least effect of a finding by method: what is smaller is real perhaps, but nobody's answer."""

    linear_map: Share = 0.1
    """Share of B's variance along a direction that the map leaves unexplained."""
    pairing: Share = 0.5
    """Activation of a feature on its own model less that on the other, over their sum; .5 is three times as much."""
    crosscoder: Share = 0.2
    """Activation of a latent less that with the models exchanged, over their sum."""
    template: Rate = 0.5
    """Mean change over prompts in standard deviations; .5 shows in two of three prompts."""


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
