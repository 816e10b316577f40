"""The study: everything a config file may say, put together and checked.

`schema/` and this module are the one place that knows a key's name; `references.py` checks what one section says of
another. Each stage's resolved settings come from one method of `Study` named after its rule:

    study = Study.load(yaml.safe_load(open("config/config.yaml")))
    study.fit_linear_map(pair="tuned", site_a="middle", site_b="middle")
    # {"reads": {"a": "base", "b": "tuned", ...}, "settings": {...}}: what the job reads, how the stage is called
"""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from diptych.config import checks
from diptych.config.sections.answers import Findings, Report
from diptych.config.sections.crosscoders import Crosscoder, Latents
from diptych.config.sections.features import Activations, Alignment, Dictionary, TrainedDictionary
from diptych.config.sections.models import Model, Plant
from diptych.config.sections.pairs import Correlation, LinearMap, Pair, Pairing, Similarity, Steering, TemplateDiff
from diptych.config.sections.text import Corpus
from diptych.config.sections.values import Alias, Site
from diptych.config.strict import ConfigError, Strict, first_line
from diptych.config.sweeps import CEILING, expand
from diptych.models import sites
from diptych.models.sites import can_be_steered

Job = dict[str, dict[str, Any]]
"""What a job reads, by alias, and its stage's settings."""


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
    def _trained_if_not_said(cls, given: Any) -> Any:
        """A dictionary without `kind` is trained here."""
        if not isinstance(given, Mapping):
            return given
        return {
            alias: {"kind": "trained", **made} if isinstance(made, Mapping) else made for alias, made in given.items()
        }

    @classmethod
    def load(cls, config: Mapping[str, Any]) -> "Study":
        """Check a config and return it as types.

        Raises:
            ConfigError: naming the first key that is wrong, and what to do.
        """
        try:
            study = cls.model_validate(config)
        except ValidationError as error:
            raise ConfigError(first_line(error, cls)) from None
        checks.check(study)
        return study.model_copy(update={"crosscoders": expand(study.crosscoders)})

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
        made = self.models[model]
        return list(dict.fromkeys(getattr(made, key) for key in ("corpus", "evaluate_on") if hasattr(made, key)))

    def group(self, site: str) -> str:
        """The site group that lists `site`."""
        return next(group for group, sites in self.sites.items() if site in sites)

    def cells(self, pair: str) -> list[tuple[str, str]]:
        """(site of A, site of B) of everything that is compared: equal sites, or a grid."""
        made = self.pairs[pair]
        return list(product(made.sites, made.sites_b)) if made.sites_b else [(site, site) for site in made.sites]

    def role(self, pair: str, site_a: str, site_b: str) -> Literal["compared", "planted", "control", "floor"]:
        """What a cell of a pair is for.

        `control` is a model with itself through the same dictionary, `floor` a model with itself through two,
        `planted` a model with its own planted edit, all at one site; all others are `compared`.
        """
        made = self.pairs[pair]
        if site_a != site_b:
            return "compared"
        if made.a == made.b:
            same = self.dictionary(pair, "a", site_a) == self.dictionary(pair, "b", site_b)
            return "control" if same else "floor"
        edit = self.models[made.b]
        return "planted" if isinstance(edit, Plant) and edit.parent == made.a else "compared"

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

    def is_derived(self, model: str) -> bool:
        """Whether the model is made from another one of the study."""
        return hasattr(self.models[model], "parent")

    # --- the settings of one job, by rule -------------------------------------------------------------------

    def fetch_model(self, model: str) -> Job:
        """A model that comes from outside."""
        return _job({}, source=_dump(self.models[model], leave=("dtype", "tokenizer")))

    def derive_model(self, model: str) -> Job:
        """A model made from another one."""
        made = self.models[model]
        reads = {name: getattr(made, name) for name in ("parent", "corpus", "evaluate_on") if hasattr(made, name)}
        return _job(
            {"kind": made.kind, **reads},
            **_dump(made, leave=("kind", "dtype", "tokenizer", "checkpoint_every", *reads)),
        )

    def fetch_corpus(self, corpus: str) -> Job:
        """Text that comes from outside."""
        sources = self.corpora[corpus].sources
        return _job({}, sources={name: _dump(origin, leave=("share",)) for name, origin in sources.items()})

    def prepare_tokens(self, corpus: str, tokenizer: str) -> Job:
        """A corpus in a tokenizer's tokens."""
        settings = _dump(self.corpora[corpus], leave=("sources",))
        shares = {name: origin.share for name, origin in self.corpora[corpus].sources.items()}
        return _job({"corpus": corpus, "tokenizer": tokenizer}, shares=shares, **settings)

    def align_tokens(self, corpus: str, tokenizer_a: str, tokenizer_b: str) -> Job:
        """Two tokenizers' tokens of a corpus."""
        return _job({"corpus": corpus, "a": tokenizer_a, "b": tokenizer_b}, min_coverage=self.alignment.min_coverage)

    def dump_activations(self, corpus: str, model: str, group: str, shard: str) -> Job:
        """One shard of a model's rows at the sites of a group."""
        settings = _dump(self.activations, leave=("outlier_norm", "shards"))
        return _job(
            {"corpus": corpus, "model": model, "tokenizer": self.tokenizer(model)},
            sites=list(self.sites[group]),
            shard=int(shard),
            shards=self.activations.shards,
            dtype=self.models[model].dtype,
            **settings,
        )

    def gate_activations(self, corpus: str, model: str, group: str) -> Job:
        """Which of a model's rows count."""
        return _job({"corpus": corpus, "model": model}, outlier_norm=self.activations.outlier_norm)

    def train_dictionary(self, dictionary: str) -> Job:
        """A dictionary that is trained here."""
        made = self.dictionaries[dictionary]
        assert isinstance(made, TrainedDictionary)
        reads = {"model": made.model, "corpus": made.corpus, "site": made.site}
        return _job(reads, **_dump(made, leave=("kind", "checkpoint_every", *reads)))

    def fetch_dictionary(self, dictionary: str) -> Job:
        """A dictionary that comes from outside."""
        made = self.dictionaries[dictionary]
        hub_id = next((getattr(self.models[m], "id", None) for m in self.lineage(made.model)[-1:]), None)
        return _job(
            {"model": made.model, "site": made.site},
            model_name=getattr(made, "trained_on", None) or hub_id,
            source=_dump(made, leave=("model", "site", "trained_on")),
        )

    def encode_features(self, corpus: str, model: str, dictionary: str, shard: str) -> Job:
        """One shard of a model's rows in a dictionary's features."""
        made = self.dictionaries[dictionary]
        return _job({"corpus": corpus, "model": model, "site": made.site, "shard": shard}, own=model == made.model)

    def fit_linear_map(self, pair: str, site_a: str, site_b: str) -> Job:
        """The maps between the two models of a pair."""
        return _job(self._pair(pair, site_a, site_b), **_dump(self.linear_map))

    def correlate_features(self, pair: str, site_a: str, site_b: str) -> Job:
        """The correlations of a pair's features."""
        return _job(self._dictionaries(pair, site_a, site_b), **_dump(self.correlation, leave=("memory",)))

    def pair_features(self, pair: str, site_a: str, site_b: str) -> Job:
        """The matches of a pair's features."""
        return _job(self._dictionaries(pair, site_a, site_b), **_dump(self.pairing))

    def steer_features(self, pair: str, site_a: str, site_b: str) -> Job:
        """What the models of a pair write when they are steered."""
        chosen = self.pairs[pair]
        reads = {
            **self._dictionaries(pair, site_a, site_b),
            "dtype_a": self.models[chosen.a].dtype,
            "dtype_b": self.models[chosen.b].dtype,
        }
        return _job(reads, **_dump(self.steering, leave=("pairs",)))

    def compare_spaces(self, pair: str, site_a: str, site_b: str) -> Job:
        """How alike the spaces of a pair's features are."""
        settings = _dump(self.similarity, leave=("map", "map_neighbours", "map_points", "neurons"))
        reads = self._dictionaries(pair, site_a, site_b)
        if self.similarity.neurons:
            reads |= {"neurons_a": sites.neurons_of(site_a), "neurons_b": sites.neurons_of(site_b)}
        return _job(reads, **settings)

    def reproduces(self, procedure: str, pair: str, site_a: str, site_b: str) -> bool:
        """Whether a published procedure is asked for and can be run: features, and one tokenizer."""
        made = self.pairs[pair]
        shared = self.tokenizer(made.a) == self.tokenizer(made.b)
        return procedure in self.similarity.compat and shared and self.has_features(pair, site_a, site_b)

    def reproduce_lan2024(self, pair: str, site_a: str, site_b: str) -> Job:
        """A published comparison of a pair's features."""
        made = self.similarity
        reads = self._dictionaries(pair, site_a, site_b)
        return _job(reads, repairings=made.repairings, rsa_rows=made.rsa_rows, seed=made.seed)

    def collect_similarity(self) -> Job:
        """The scores of all pairs."""
        return _job({})

    def map_spaces(self) -> Job:
        """The maps of all pairs."""
        made = self.similarity
        return _job({}, neighbours=made.map_neighbours, points=made.map_points, seed=made.seed)

    def train_crosscoder(self, crosscoder: str, site: str, seed: str) -> Job:
        """One run of a crosscoder."""
        made = self.crosscoders[crosscoder]
        reads = self._crosscoder(crosscoder)
        if made.stream:
            reads["stream"] = {
                "corpus": made.stream,
                "dtypes": [self.models[model].dtype for model in made.models],
                **_dump(self.activations, leave=("outlier_norm", "shards")),
            }
        read = ("models", "corpus", "site", "rows", "stream", "seeds", "splice_tokens")
        how = ("checkpoint_every", "processes", "track", "ceiling", "sweep", "weights", "scales")
        return _job(reads, seed=int(seed), **_dump(made, leave=(*read, *how)))

    def import_crosscoder(self, crosscoder: str, site: str, seed: str) -> Job:
        """A crosscoder whose weights come from elsewhere."""
        return _job(self._crosscoder(crosscoder), scales=list(self.crosscoders[crosscoder].scales))

    def evaluate_crosscoder(self, crosscoder: str, site: str, seed: str) -> Job:
        """A crosscoder on held-out rows."""
        return _job(self._crosscoder(crosscoder), splice_tokens=self.crosscoders[crosscoder].splice_tokens)

    def compare_seeds(self, crosscoder: str, site: str) -> Job:
        """The runs of a crosscoder that differ in their seed."""
        seeds = list(self.crosscoders[crosscoder].seeds)
        return _job(self._crosscoder(crosscoder), seeds=seeds, exclusive=self.latents.exclusive)

    def export_crosscoder(self, crosscoder: str, site: str, seed: str) -> Job:
        """A crosscoder for use outside Diptych."""
        return _job(self._crosscoder(crosscoder))

    def ceiling(self, crosscoder: str) -> str | None:
        """Alias of a crosscoder's ceiling, if it has one."""
        alias = f"{crosscoder}.{CEILING}"
        return alias if alias in self.crosscoders else None

    def describe_latents(self, crosscoder: str, site: str, seed: str) -> Job:
        """The latents of a crosscoder."""
        return _job(self._crosscoder(crosscoder), **_dump(self.latents))

    def diff_template_tokens(self, template_diff: str) -> Job:
        """One dictionary on both models of a pair at template tokens."""
        made = self.template_diffs[template_diff]
        pair = self.pairs[made.pair]
        reads = {"a": pair.a, "b": pair.b, "corpus": made.corpus, "dictionary": made.dictionary}
        settings = _dump(made, leave=("pair", "corpus", "dictionary"))
        site = self.dictionaries[made.dictionary].site
        return _job({**reads, "site": site}, model=made.pair, sae=made.dictionary, **settings)

    def draw_template_diff(self, template_diff: str) -> Job:
        """The pictures of a template diff."""
        return _job({})

    def collect_findings(self) -> Job:
        """The differences that stand."""
        return _job({}, **_dump(self.findings))

    def build_report(self) -> Job:
        """The page."""
        return _job({}, title=self.title, **_dump(self.report))

    def _crosscoder(self, crosscoder: str) -> dict[str, Any]:
        made = self.crosscoders[crosscoder]
        return {"corpus": made.corpus, **_dump_only(made, ("models", "site", "rows"))}

    def _pair(self, pair: str, site_a: str, site_b: str) -> dict[str, Any]:
        chosen = self.pairs[pair]
        read = _dump_only(chosen, ("a", "b", "corpus", "rows"))
        return {**read, "site_a": site_a, "site_b": site_b}

    def _dictionaries(self, pair: str, site_a: str, site_b: str) -> dict[str, Any]:
        return {
            **self._pair(pair, site_a, site_b),
            "dictionary_a": self.dictionary(pair, "a", site_a),
            "dictionary_b": self.dictionary(pair, "b", site_b),
        }


def _job(reads: Mapping[str, Any], **settings: Any) -> Job:
    """What a job reads, by alias and in order, and the keyword arguments of its stage."""
    return {"reads": dict(reads), "settings": settings}


def _dump_only(values: Strict, keep: Iterable[str]) -> dict[str, Any]:
    return values.model_dump(mode="json", include=set(keep))


def _dump(values: Strict, leave: Iterable[str] = ()) -> dict[str, Any]:
    return values.model_dump(mode="json", exclude=set(leave))
