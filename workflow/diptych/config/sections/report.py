"""The section `report`: contents of the page."""

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import PositiveInt


class Report(Strict):
    """Contents of the page."""

    contexts: PositiveInt = 6
    """Contexts shown for each finding and each model."""
    cells: PositiveInt = 4
    """Cells of a grid that are shown in full: those whose paired features correlate best."""
