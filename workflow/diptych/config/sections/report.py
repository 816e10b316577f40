"""The section `report`: what the page shows."""

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Positive


class Report(Strict):
    """What the page shows."""

    contexts: Positive = 6
    """Contexts shown for each finding and each model."""
    cells: Positive = 4
    """Cells of a grid that are shown in full: those whose paired features correlate best."""
