"""The section `published`: numbers in print, and the numbers of the study that they stand beside."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Alias, Count, Seed, Site


class SimilarityNumber(Strict):
    """A score of the feature spaces of one cell."""

    kind: Literal["similarity"]
    """A score of feature spaces."""
    pair: Alias
    """The pair."""
    site: Site
    """Site of A."""
    site_b: Site | None = None
    """Site of B, if another one."""
    measure: Literal[
        "svcca", "svcca_lan2024", "mean_squared_cc", "pwcca_a", "pwcca_b", "procrustes", "cka", "cka_debiased", "rsa",
        "mmcs", "mean_rho",
    ]  # fmt: skip
    """The score, over all paired features."""
    compat: Literal["lan2024"] | None = None
    """The score of this published procedure (`similarity.compat`), in place of our own."""


class CrosscoderNumber(Strict):
    """A number of one run of a crosscoder of two models."""

    kind: Literal["crosscoder"]
    """A number of a crosscoder."""
    crosscoder: Alias
    """The crosscoder."""
    seed: Seed | None = None
    """The run with this seed; null is the first."""
    quantity: Literal["l0", "explained_variance", "dead_share", "only_a", "only_b", "shared", "sharedness", "alignment"]
    """Active latents on held-out rows; variance explained there in both models together; share of latents that never
    fire; latents of each class by relative norm; sharedness weighted by activation; alignment."""


class TemplateNumber(Strict):
    """A feature's statistic at a template token in both models, as `A → B`."""

    kind: Literal["template"]
    """A feature at a template token."""
    template_diff: Alias
    """The template diff."""
    role: str
    """The template token."""
    latent: Count
    """Index of the feature."""
    metric: Literal["all_mean", "active_mean", "density"] = "all_mean"
    """Mean activation over all prompts, over those on which it fires, or the share of these."""


Ours = Annotated[SimilarityNumber | CrosscoderNumber | TemplateNumber, Field(discriminator="kind")]


class PublishedNumber(Strict):
    """A number in print, shown on the page beside the study's own; nothing is computed with it."""

    prose: ClassVar[frozenset[str]] = frozenset({"what", "value"})

    what: str
    """What it is of, on one line: the quantity, the models, the place."""
    value: float | str
    """The number, or several as text."""
    source: str
    """Where it is printed."""
    ours: tuple[Ours, ...] = ()
    """The study's numbers that it stands beside; none where the study has none of the kind."""
