"""The study: the typed config, with lookups across its sections.

`sections/` defines the types of the sections, `checks` validates references between them; `layout` defines the paths
of a study's files, and `jobs` the inputs and settings of every rule.

    study = loading.load(yaml.safe_load(open("config/config.yaml")))
    study.cells("tuned")                                  # [("middle", "middle")]
    study.role("tuned", "middle", "middle")               # "compared"
"""

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from diptych.config import sweeps
from diptych.config.sections.activations import Activations, Alignment
from diptych.config.sections.corpora import Corpus
from diptych.config.sections.correlation import Correlation
from diptych.config.sections.crosscoders import Crosscoder
from diptych.config.sections.dictionaries import Dictionary
from diptych.config.sections.findings import Findings
from diptych.config.sections.latents import Latents
from diptych.config.sections.leaderboard import Leaderboard
from diptych.config.sections.linear_map import LinearMap
from diptych.config.sections.means import Means
from diptych.config.sections.models import Model, Plant, Tuning
from diptych.config.sections.outputs import Outputs
from diptych.config.sections.pairing import Pairing
from diptych.config.sections.pairs import Pair, RepeatedPair
from diptych.config.sections.published import PublishedNumber
from diptych.config.sections.report import Report
from diptych.config.sections.similarity import Similarity
from diptych.config.sections.sites import SiteGroup
from diptych.config.sections.steering import Steering
from diptych.config.sections.strict import ConfigError, Strict
from diptych.config.sections.template_diffs import RepeatedTemplateDiff, TemplateDiff
from diptych.config.sections.values import Alias, Site
from diptych.config.sections.weights import Weights
from diptych.models.sites import can_be_steered, is_output_of_block


class Study(Strict):
    """The config of one study."""

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
    sites: Annotated[dict[Alias, tuple[Site, ...] | SiteGroup], Field(min_length=1)] = {"main": ("middle",)}
    """Groups of sites: the sites of one group are dumped by one forward pass into one file per shard, for every model
    that is read at any of them; a site that not all of these have belongs in another group. A group is a list, or
    {sites: a list, rows: first} to store the first positions only. A site is `first`
    (after block 0, not the embedding), `middle` (relative depth 0.5), `last` (after the last block, before the final
    norm), a relative depth such as 0.25, or a TransformerLens hook such as blocks.3.hook_mlp_out."""
    dictionaries: dict[Alias, Dictionary] = {}
    """Sparse autoencoders by alias."""
    pairs: dict[Alias, Pair] = {}
    """Pairs of models by alias."""
    crosscoders: dict[Alias, Crosscoder] = {}
    """Crosscoders by alias; after loading, sweeps are expanded (`sweeps`)."""
    template_diffs: dict[Alias, TemplateDiff] = {}
    """Comparisons of a pair's features at the tokens of the chat template, by alias."""
    activations: Activations = Activations()
    """Storing activations."""
    alignment: Alignment = Alignment()
    """Rows of models with different tokenizers."""
    outputs: Outputs = Outputs()
    """Next tokens that models predict differently."""
    weights: Weights = Weights()
    """Changes of the weights."""
    means: Means = Means()
    """Mean differences at named places."""
    linear_map: LinearMap = LinearMap()
    """Maps between activation spaces."""
    correlation: Correlation = Correlation()
    """Correlation of features."""
    pairing: Pairing = Pairing()
    """Pairing of features."""
    similarity: Similarity = Similarity()
    """Similarity of feature spaces."""
    latents: Latents = Latents()
    """Classification of crosscoder latents."""
    steering: Steering = Steering()
    """Steering along candidates."""
    findings: Findings = Findings()
    """Thresholds of a finding."""
    leaderboard: Leaderboard = Leaderboard()
    """The methods judged on planted truth."""
    report: Report = Report()
    """The report."""
    published: tuple[PublishedNumber, ...] = ()
    """Numbers in print, which the page shows beside the study's own."""

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
        lineage = [alias]
        while (parent := getattr(self.models[lineage[-1]], "parent", None)) is not None:
            if parent in lineage:
                raise ConfigError(
                    f"models.{alias}.parent: {' -> '.join([*lineage, parent])} never reaches a fetched model"
                )
            lineage.append(parent)
        return lineage

    # --- lookups --------------------------------------------------------------------------------------------

    def tokenizer(self, model: str) -> str:
        """Alias of the model whose tokenizer this one uses: its own setting, else its parent's, else itself."""
        for ancestor in self.lineage(model):
            if (tokenizer := self.models[ancestor].tokenizer) is not None:
                return tokenizer
        return self.lineage(model)[-1]

    def gpus(self, *models: str) -> int:
        """GPUs that each of some models is spread over in a job that runs them: as many as any of them needs."""
        return max(self.models[model].gpus for model in models)

    def corpora_of(self, model: str) -> list[str]:
        """Corpora that a derived model is trained, planted or evaluated on, in its parent's tokens."""
        section = self.models[model]
        return list(dict.fromkeys(getattr(section, key) for key in ("corpus", "evaluate_on") if hasattr(section, key)))

    def tuned_on(self, model: str) -> str | None:
        """Corpus that a model of the study was fine-tuned on; None for any other model."""
        section = self.models[model]
        return section.corpus if isinstance(section, Tuning) else None

    @property
    def compared_pairs(self) -> list[str]:
        """Aliases of the pairs in the config, sorted: without the repeats that further seeds add."""
        return sorted(alias for alias, pair in self.pairs.items() if not isinstance(pair, RepeatedPair))

    @property
    def whole_pairs(self) -> list[str]:
        """Aliases of the pairs to compare as a whole: of those with the same models and corpus the first."""
        first: dict[tuple[str, str, str], str] = {}
        for alias in self.compared_pairs:
            pair = self.pairs[alias]
            first.setdefault((pair.a, pair.b, pair.corpus), alias)
        return list(first.values())

    def prompts(self, pair: str) -> str | None:
        """The corpus of prompts for a pair's first token of a reply: its template diff's, or its own; None for none.

        Whether a corpus is in a chat template at all is known from its tokens.
        """
        section = self.pairs[pair]
        if not self.outputs.replies or self.tokenizer(section.a) != self.tokenizer(section.b):
            return None
        diffs = (self.template_diffs[alias] for alias in self.reported_diffs)
        compared = ((self.pairs[diff.pair], diff.corpus) for diff in diffs)
        return next((corpus for of, corpus in compared if (of.a, of.b) == (section.a, section.b)), section.corpus)

    def first_run(self, pair: str) -> str:
        """Alias of the pair that this one repeats with further seeds; its own if it is no repeat."""
        section = self.pairs[pair]
        return section.first if isinstance(section, RepeatedPair) else pair

    def repeats(self, pair: str, site: str) -> list[str]:
        """Aliases of the repeats of a pair at a site, in the order of the seeds."""
        return [
            alias
            for alias, section in self.pairs.items()
            if isinstance(section, RepeatedPair) and section.first == pair and site in section.sites
        ]

    @property
    def reported_diffs(self) -> list[str]:
        """Aliases of the template diffs in the config: without the repeats that further seeds add."""
        return [alias for alias, diff in self.template_diffs.items() if not isinstance(diff, RepeatedTemplateDiff)]

    def repeats_of_diff(self, template_diff: str) -> list[str]:
        """Aliases of the repeats of a template diff, in the order of the seeds."""
        return [
            alias
            for alias, diff in self.template_diffs.items()
            if isinstance(diff, RepeatedTemplateDiff) and diff.first == template_diff
        ]

    def sites_of(self, group: str) -> tuple[str, ...]:
        """The sites of a group."""
        section = self.sites[group]
        return section.sites if isinstance(section, SiteGroup) else section

    def has_first_rows(self, group: str) -> bool:
        """Whether a site group stores the first positions of every sequence only."""
        section = self.sites[group]
        return isinstance(section, SiteGroup) and section.rows == "first"

    def group(self, site: str) -> str:
        """The site group that a site is read from: of two, the one with all rows."""
        return min((group for group in self.sites if site in self.sites_of(group)), key=self.has_first_rows)

    def has_all_rows(self, *sites: str) -> bool:
        """Whether all rows are stored at some sites; true of none."""
        return not any(self.has_first_rows(self.group(site)) for site in sites if site)

    def cells(self, pair: str) -> list[tuple[str, str]]:
        """(site of A, site of B) of every comparison of a pair: equal sites, or a grid."""
        section = self.pairs[pair]
        return (
            list(product(section.sites, section.sites_b))
            if section.sites_b
            else [(site, site) for site in section.sites]
        )

    def role(self, pair: str, site_a: str, site_b: str) -> Literal["compared", "planted", "control", "floor"]:
        """Role of a cell, or with "" for both sites of a pair as a whole, in the study.

        `control` is a model with itself through the same dictionary, `floor` a model with itself through two,
        `planted` a model with its own planted edit, all at one site; all others are `compared`. What is planted on a
        concept's tokens is not to be found where the first positions alone are stored.
        """
        section = self.pairs[pair]
        if site_a != site_b:
            return "compared"
        if section.a == section.b:
            is_same = self.dictionary(pair, "a", site_a) == self.dictionary(pair, "b", site_b)
            return "control" if is_same else "floor"
        model_b = self.models[section.b]
        is_planted = isinstance(model_b, Plant) and model_b.parent == section.a and self.has_all_rows(site_a)
        return "planted" if is_planted else "compared"

    def pairing_of(self, pair: str) -> Pairing:
        """The settings with which a pair's features are paired: its own, else the study's."""
        return self.pairs[pair].pairing or self.pairing

    def dictionaries_of(self, pair: str, side: str) -> tuple[str, ...]:
        """All dictionaries of one side ("a" or "b") of a pair."""
        aliases: str | tuple[str, ...] | None = getattr(self.pairs[pair], f"dictionary_{side}")
        return () if aliases is None else (aliases,) if isinstance(aliases, str) else aliases

    def dictionary(self, pair: str, side: str, site: str) -> str | None:
        """The dictionary of one side of a pair that reads `site`."""
        return next((name for name in self.dictionaries_of(pair, side) if self.dictionaries[name].site == site), None)

    def has_features(self, pair: str, site_a: str, site_b: str) -> bool:
        """Whether both models of a pair have a dictionary at these sites."""
        return bool(self.dictionary(pair, "a", site_a) and self.dictionary(pair, "b", site_b))

    def is_steered(self, pair: str, site_a: str, site_b: str) -> bool:
        """Whether a cell is steered: only where both models are read at one site of the residual stream."""
        if site_a != site_b or not self.has_all_rows(site_a):
            return False
        if isinstance(self.pairs[pair], RepeatedPair):
            return False
        if self.steering.pairs is not None:
            return pair in self.steering.pairs
        return self.role(pair, site_a, site_b) in ("compared", "planted") and can_be_steered(site_a)

    def dictionaries_at(self, pair: str, site_a: str, site_b: str) -> tuple[str, str]:
        """Aliases of A's and B's dictionary in a cell that has both."""
        dictionary_a, dictionary_b = self.dictionary(pair, "a", site_a), self.dictionary(pair, "b", site_b)
        assert dictionary_a is not None
        assert dictionary_b is not None
        return dictionary_a, dictionary_b

    @property
    def shards(self) -> range:
        """Indices of the shards that rows and features are stored in."""
        return range(self.activations.shards)

    def parent(self, model: str) -> str:
        """Alias of the model that a derived one is made from."""
        return self.lineage(model)[1]

    def is_derived(self, model: str) -> bool:
        """Whether the model is made from another one of the study."""
        return hasattr(self.models[model], "parent")

    def reproduces(self, procedure: str, pair: str, site_a: str, site_b: str) -> bool:
        """Whether a published procedure is in the config and applies: features of blocks' outputs, one tokenizer."""
        section = self.pairs[pair]
        is_shared = self.tokenizer(section.a) == self.tokenizer(section.b)
        applies = is_shared and is_output_of_block(site_a) and is_output_of_block(site_b)
        return procedure in self.similarity.compat and applies and self.has_features(pair, site_a, site_b)

    def ceiling(self, crosscoder: str) -> str | None:
        """Alias of a crosscoder's ceiling, if it has one; crosscoders with equal settings share it."""
        section = self.crosscoders[crosscoder]
        ceiling = sweeps.ceiling_of(section) if section.ceiling else None
        return next((alias for alias, other in self.crosscoders.items() if other == ceiling), None)
