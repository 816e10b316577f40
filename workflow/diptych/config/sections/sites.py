"""The section `sites`: groups of sites that are read by one forward pass."""

from typing import Annotated, Literal

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Site


class SiteGroup(Strict):
    """A group of sites in its long form; a list of sites stands for a group of all rows."""

    sites: Annotated[tuple[Site, ...], Field(min_length=1)]
    """The sites."""
    rows: Literal["all", "first"] = "all"
    """Rows that are stored: all, or those at the first positions of every sequence (`means.positions`), which are read
    without the rest of it. Many layers are cheap then, but only `means` is run at their sites."""
