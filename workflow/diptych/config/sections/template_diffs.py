"""The section `template_diffs`: change of features at the chat template's tokens."""

from typing import Annotated, ClassVar

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Alias, PositiveFloat, PositiveInt, Seed, Share


class TemplateDiff(Strict):
    """One dictionary read on both models of a pair at the tokens of the chat template (METHODS 4)."""

    prose: ClassVar[frozenset[str]] = frozenset({"token"})

    pair: Alias
    """The models; the pair lists the dictionary's site."""
    corpus: Alias
    """Prompts that both read, with the same template."""
    dictionary: Alias
    """The dictionary whose features are compared."""
    roles: tuple[str, ...] = ()
    """Named template tokens that are compared; all that the corpus names if empty."""
    token: str | None = None
    """Compare at every occurrence of this token, in place of the roles: its text with its leading space."""
    target: tuple[str, ...] = ()
    """Sources of the corpus whose prompts are targets: features that fire on them and never on the control ones."""
    control: tuple[str, ...] = ()
    """Sources of the control prompts."""
    min_share: Share = 0.01
    """Minimum share of the prompts on which a feature fires, in A or B; others are not compared."""
    flips: PositiveInt = 1000
    """Random sign flips for the family-wise p."""
    top: PositiveInt = 100
    """Largest gains that are listed and proposed as findings, for each role, metric and direction."""
    bootstrap: PositiveInt = 1000
    """Poisson replicates over prompts for the bounds of an effect."""
    domain_shift: Annotated[float, Field(gt=1)] = 1.5
    """Ratio of the dictionary's FVU on the two models at a role above which its gains are marked as possible
    artefacts of the dictionary."""
    link: Annotated[str, Field(pattern=r"^(https?://.*)?$")] = ""
    """Address of a feature's page, with {latent}, {role}, {model} (the pair) and {sae} (the dictionary)."""
    planted_size: PositiveFloat = 0.5
    """Size, in median norms, of the change planted in A's activations as a positive control."""
    seed: Seed = 0
    """Seed of flips, bootstrap and planted change."""


class RepeatedTemplateDiff(TemplateDiff):
    """A template diff through the dictionary of a further seed; made by `seeds`, never written in a config."""

    first: Alias
    """Alias of the template diff that it repeats."""
