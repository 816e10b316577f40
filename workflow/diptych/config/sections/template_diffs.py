"""The section `template_diffs`: feature change at the chat template's tokens."""

from typing import Annotated

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Alias, Positive, Rate, Share


class TemplateDiff(Strict):
    """One dictionary read on both models of a pair at the tokens of the chat template (METHODS 4)."""

    pair: Alias
    """The models; the pair lists the dictionary's site."""
    corpus: Alias
    """Prompts that both read, with the same template."""
    dictionary: Alias
    """The dictionary whose features are compared."""
    roles: tuple[str, ...] = ()
    """Named template tokens that are compared; all that the corpus names if none is given."""
    token: str | None = None
    """Compare at this token wherever it stands, in place of the roles: its text with its leading space."""
    target: tuple[str, ...] = ()
    """Sources of the corpus whose prompts are targets: features that fire on them and never on the control ones."""
    control: tuple[str, ...] = ()
    """Sources of the control prompts."""
    min_share: Share = 0.01
    """Share of the prompts on which a feature fires, in A or B, to be compared."""
    flips: Positive = 1000
    """Sign flips for the p of the whole family."""
    top: Positive = 100
    """Largest gains that are listed and put forward as findings, for each role, metric and direction."""
    bootstrap: Positive = 1000
    """Poisson replicates over prompts for the bounds of an effect."""
    domain_shift: Annotated[float, Field(gt=1)] = 1.5
    """Ratio of the dictionary's FVU on the two models at a role above which its gains are marked: they may be the
    dictionary's."""
    link: Annotated[str, Field(pattern=r"^(https?://.*)?$")] = ""
    """Address of a feature's page, with {latent}, {role}, {model} (the pair) and {sae} (the dictionary)."""
    planted_size: Rate = 0.5
    """Size, in median norms, of the change planted in A's activations to see whether this diff would find it."""
    seed: int = 0
    """Seed of flips, bootstrap and planted change."""
