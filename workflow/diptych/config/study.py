"""The study: everything a config file may say, put together.

`sections/` holds the types of its sections, `checks` what one section says of another; `layout` says where the files of
a study are, and `jobs` what every rule reads.

    study = loading.load(yaml.safe_load(open("config/config.yaml")))
    study.cells("tuned")                                  # [("middle", "middle")]
    study.role("tuned", "middle", "middle")               # "compared"
"""

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from diptych.config.sections.activations import Activations, Alignment
from diptych.config.sections.corpora import Corpus
from diptych.config.sections.correlation import Correlation
from diptych.config.sections.crosscoders import Crosscoder
from diptych.config.sections.dictionaries import Dictionary
from diptych.config.sections.findings import Findings
from diptych.config.sections.latents import Latents
from diptych.config.sections.linear_map import LinearMap
from diptych.config.sections.models import Model, Plant
from diptych.config.sections.pairing import Pairing
from diptych.config.sections.pairs import Pair
from diptych.config.sections.report import Report
from diptych.config.sections.similarity import Similarity
from diptych.config.sections.steering import Steering
from diptych.config.sections.strict import ConfigError, Strict
from diptych.config.sections.template_diffs import TemplateDiff
from diptych.config.sections.values import Alias, Site
from diptych.config.sweeps import CEILING
from diptych.models.sites import can_be_steered


class Study(Strict):
    """One study."""

    title: str = "Diptych"
    """Heading of the report."""
    results: str = "results"
    """Directory that everything is written to."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where torch stages run; re-runs nothing."""
    models: Annotated[dict[Alias, Model], Field(min_length=1)]
    """Models by alias."""
    corpora: Annotated[dict[Alias, Corpus], Field(min_length=1)]
    """Corpora by alias."""
    sites: Annotated[dict[Alias, tuple[Site, ...]], Field(min_length=1)] = {"main": ("middle",)}
    """Groups of sites: the sites of one group are dumped by one forward pass into one file a shard, for every model
    that is read at any of them; a site that not all of these have belongs in a group of its own. A site is `first`
    (after block 0, not the embedding), `middle` (relative depth 0.5), `last` (after the last block, before the final
    norm), a relative depth such as 0.25, or a TransformerLens hook such as blocks.3.hook_mlp_out."""
    dictionaries: dict[Alias, Dictionary] = {}
    """Sparse autoencoders by alias."""
    pairs: dict[Alias, Pair] = {}
    """Pairs of models by alias."""
    crosscoders: dict[Alias, Crosscoder] = {}
    """Crosscoders by alias; once loaded, every one that is trained (`sweeps`)."""
    template_diffs: dict[Alias, TemplateDiff] = {}
    """Comparisons of a pair's features at the tokens of the chat template, by alias."""
    activations: Activations = Activations()
    """Storing activations."""
    alignment: Alignment = Alignment()
    """Rows of models with different tokenizers."""
    linear_map: LinearMap = LinearMap()
    """Maps between activation spaces."""
    correlation: Correlation = Correlation()
    """Correlation of features."""
    pairing: Pairing = Pairing()
    """Pairing of features."""
    similarity: Similarity = Similarity()
    """Similarity of feature spaces."""
    latents: Latents = Latents()
    """What each latent of a crosscoder is called."""
    steering: Steering = Steering()
    """Steering of what was found."""
    findings: Findings = Findings()
    """What counts as a finding."""
    report: Report = Report()
    """The report."""

    # --- loading --------------------------------------------------------------------------------------------

    @field_validator("dictionaries", mode="before")
    @classmethod
    def _default_kind(cls, sections: Any) -> Any:
        """A dictionary without `kind` is trained here."""
        if not isinstance(sections, Mapping):
            return sections
        return {
            alias: {"kind": "trained", **section} if isinstance(section, Mapping) else section
            for alias, section in sections.items()
        }

    def lineage(self, alias: str) -> list[str]:
        """The model and its ancestors, nearest first."""
        line = [alias]
        while (parent := getattr(self.models[line[-1]], "parent", None)) is not None:
            if parent in line:
                raise ConfigError(
                    f"models.{alias}.parent: {' -> '.join([*line, parent])} never reaches a fetched model"
                )
            line.append(parent)
        return line

    # --- what follows from it -------------------------------------------------------------------------------

    def tokenizer(self, model: str) -> str:
        """Alias of the model that owns this model's tokenizer: its own setting, else its parent's, else itself."""
        for ancestor in self.lineage(model):
            if (owner := self.models[ancestor].tokenizer) is not None:
                return owner
        return self.lineage(model)[-1]

    def texts(self, model: str) -> list[str]:
        """Corpora that a model is made with here, in its parent's tokens: trained on, planted in, evaluated on."""
        derived = self.models[model]
        return list(dict.fromkeys(getattr(derived, key) for key in ("corpus", "evaluate_on") if hasattr(derived, key)))

    def group(self, site: str) -> str:
        """The site group that lists `site`."""
        return next(group for group, sites in self.sites.items() if site in sites)

    def cells(self, pair: str) -> list[tuple[str, str]]:
        """(site of A, site of B) of everything that is compared: equal sites, or a grid."""
        section = self.pairs[pair]
        return (
            list(product(section.sites, section.sites_b))
            if section.sites_b
            else [(site, site) for site in section.sites]
        )

    def role(self, pair: str, site_a: str, site_b: str) -> Literal["compared", "planted", "control", "floor"]:
        """What a cell of a pair is for.

        `control` is a model with itself through the same dictionary, `floor` a model with itself through two,
        `planted` a model with its own planted edit, all at one site; all others are `compared`.
        """
        section = self.pairs[pair]
        if site_a != site_b:
            return "compared"
        if section.a == section.b:
            same = self.dictionary(pair, "a", site_a) == self.dictionary(pair, "b", site_b)
            return "control" if same else "floor"
        edit = self.models[section.b]
        return "planted" if isinstance(edit, Plant) and edit.parent == section.a else "compared"

    def dictionaries_of(self, pair: str, side: str) -> tuple[str, ...]:
        """All dictionaries of one side ("a" or "b") of a pair."""
        named: str | tuple[str, ...] | None = getattr(self.pairs[pair], f"dictionary_{side}")
        return () if named is None else (named,) if isinstance(named, str) else named

    def dictionary(self, pair: str, side: str, site: str) -> str | None:
        """The dictionary of one side of a pair that reads `site`."""
        return next((name for name in self.dictionaries_of(pair, side) if self.dictionaries[name].site == site), None)

    def has_features(self, pair: str, site_a: str, site_b: str) -> bool:
        """Whether both models of a pair have a dictionary there."""
        return bool(self.dictionary(pair, "a", site_a) and self.dictionary(pair, "b", site_b))

    def is_steered(self, pair: str, site_a: str, site_b: str) -> bool:
        """Whether the models of a pair are steered there: where both are read at one site of the residual stream."""
        if site_a != site_b:
            return False
        if self.steering.pairs is not None:
            return pair in self.steering.pairs
        return self.role(pair, site_a, site_b) in ("compared", "planted") and can_be_steered(site_a)

    def dictionaries_at(self, pair: str, site_a: str, site_b: str) -> tuple[str, str]:
        """The dictionaries of a cell whose models both have one."""
        own_a, own_b = self.dictionary(pair, "a", site_a), self.dictionary(pair, "b", site_b)
        assert own_a is not None
        assert own_b is not None
        return own_a, own_b

    @property
    def shards(self) -> range:
        """Numbers of the shards that rows and features are kept in."""
        return range(self.activations.shards)

    def parent(self, model: str) -> str:
        """The model that a derived one is made from."""
        return self.lineage(model)[1]

    def is_derived(self, model: str) -> bool:
        """Whether the model is made from another one of the study."""
        return hasattr(self.models[model], "parent")

    def reproduces(self, procedure: str, pair: str, site_a: str, site_b: str) -> bool:
        """Whether a published procedure is asked for and can be run: features, and one tokenizer."""
        section = self.pairs[pair]
        shared = self.tokenizer(section.a) == self.tokenizer(section.b)
        return procedure in self.similarity.compat and shared and self.has_features(pair, site_a, site_b)

    def ceiling(self, crosscoder: str) -> str | None:
        """Alias of a crosscoder's ceiling, if it has one."""
        alias = f"{crosscoder}.{CEILING}"
        return alias if alias in self.crosscoders else None
