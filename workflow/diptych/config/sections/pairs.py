"""The section `pairs`: the models, sites and text of each comparison."""

from typing import Annotated, Literal

from pydantic import Field

from diptych.config.sections.pairing import Pairing
from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Alias, RowSelection, Site

DictionaryPerSite = Annotated[tuple[Alias, ...], Field(min_length=1)]


class Pair(Strict):
    """Two models to compare: A is the reference, B the compared one."""

    a: Alias
    """Model A."""
    b: Alias
    """Model B."""
    corpus: Alias
    """Text that both read."""
    sites: Annotated[tuple[Site, ...], Field(min_length=1)] = ("middle",)
    """Sites of A that are compared: each with the same site of B, if `sites_b` lists none."""
    sites_b: tuple[Site, ...] = ()
    """Sites of B for a grid: every site of A is compared with every one of these."""
    dictionary_a: Alias | DictionaryPerSite | None = None
    """Dictionary of A, or a list of one for each site; both or neither."""
    dictionary_b: Alias | DictionaryPerSite | None = None
    """Dictionary of B, or a list."""
    rows: RowSelection = "all"
    """Tokens that are compared: all that count (all), the last one of each document (last), or those of one
    or several roles: text, system, user, assistant, assistant_header, template, or a named template position."""
    pairing: Pairing | None = None
    """How this pair's features are paired, in place of the section `pairing`."""
    relation: Literal["identical", "fine-tuned", "scale", "distilled", "random", "planted", "other"] | None = None
    """How B is related to A, for the table of relations; null reads it off how B was made: of models that were not made
    here it is `other`. `scale` is of models of one family in two sizes."""


class RepeatedPair(Pair):
    """A pair through the dictionaries of a further seed; made by `seeds`, never written in a config."""

    first: Alias
    """Alias of the pair that it repeats."""
