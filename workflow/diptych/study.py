"""The study: everything a config file may say, put together and checked.

`schema.py` and this module are the one place that knows a key's name. References between keys are checked here, and
each stage's resolved settings come from one method of `Study` named after its rule:

    study = Study.load(yaml.safe_load(open("config/config.yaml")))
    study.fit_linear_map(pair="tuned", site_a="middle", site_b="middle")
    # {"reads": {"a": "base", "b": "tuned", ...}, "settings": {...}}: what the job reads, how the stage is called
"""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from diptych.schema import (
    Activations,
    Alias,
    Alignment,
    Corpus,
    Correlation,
    Crosscoder,
    Dictionary,
    Findings,
    Latents,
    LinearMap,
    Model,
    Pair,
    Pairing,
    Plant,
    Report,
)
from diptych.strict import ConfigError, Strict, first_line, nearest
from diptych.sweeps import CEILING, expand

Job = dict[str, dict[str, Any]]
"""What a job reads, by alias, and its stage's settings."""
SINGULAR = {"models": "model", "corpora": "corpus", "dictionaries": "dictionary"}


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
    sites: Annotated[dict[Alias, tuple[str, ...]], Field(min_length=1)] = {"main": ("middle",)}
    """Groups of sites: the sites of one group are dumped by one forward pass into one file a shard."""
    dictionaries: dict[Alias, Dictionary] = {}
    """Sparse autoencoders by alias."""
    pairs: dict[Alias, Pair] = {}
    """Pairs of models by alias."""
    crosscoders: dict[Alias, Crosscoder] = {}
    """Crosscoders by alias; once loaded, every one that is trained (`sweeps`)."""
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
    latents: Latents = Latents()
    """What each latent of a crosscoder is called."""
    findings: Findings = Findings()
    """What counts as a finding."""
    report: Report = Report()
    """The report."""

    # --- loading --------------------------------------------------------------------------------------------

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
        study._check_references()
        return study.model_copy(update={"crosscoders": expand(study.crosscoders)})

    def _check_references(self) -> None:
        for where, kind, alias in self._references():
            known: Iterable[str] = getattr(self, kind)
            if alias not in known:
                raise ConfigError(f"{where}: no {SINGULAR[kind]} is called {alias!r}{nearest(alias, known)}")
        for alias in self.models:
            self.lineage(alias)
        for alias, pair in self.pairs.items():
            self._check_pair(alias, pair)
        for alias, crosscoder in self.crosscoders.items():
            self._check_crosscoder(alias, crosscoder)
        for alias, dictionary in self.dictionaries.items():
            self._check_site(f"dictionaries.{alias}.site", dictionary.site)
        listed = list(chain.from_iterable(self.sites.values()))
        for site in listed:
            if listed.count(site) > 1:
                raise ConfigError(f"sites: {site!r} is listed twice; a site belongs to one group")

    def _references(self) -> Iterable[tuple[str, str, str]]:
        """(key, section, alias) for every alias that the config names."""
        for alias, model in self.models.items():
            for field, kind in (("parent", "models"), ("corpus", "corpora"), ("evaluate_on", "corpora")):
                if hasattr(model, field):
                    yield f"models.{alias}.{field}", kind, getattr(model, field)
            if model.tokenizer:
                yield f"models.{alias}.tokenizer", "models", model.tokenizer
        for alias, dictionary in self.dictionaries.items():
            yield f"dictionaries.{alias}.model", "models", dictionary.model
            yield f"dictionaries.{alias}.corpus", "corpora", dictionary.corpus
        for alias, pair in self.pairs.items():
            yield f"pairs.{alias}.a", "models", pair.a
            yield f"pairs.{alias}.b", "models", pair.b
            yield f"pairs.{alias}.corpus", "corpora", pair.corpus
            for side, dictionary_alias in (("a", pair.dictionary_a), ("b", pair.dictionary_b)):
                if dictionary_alias:
                    yield f"pairs.{alias}.dictionary_{side}", "dictionaries", dictionary_alias
        for alias, crosscoder in self.crosscoders.items():
            yield f"crosscoders.{alias}.corpus", "corpora", crosscoder.corpus
            for index, name in enumerate(crosscoder.models):
                yield f"crosscoders.{alias}.models[{index}]", "models", name

    def _check_pair(self, alias: str, pair: Pair) -> None:
        for site in pair.sites:
            self._check_site(f"pairs.{alias}.sites", site)
        if (pair.dictionary_a is None) != (pair.dictionary_b is None):
            raise ConfigError(f"pairs.{alias}: give both dictionary_a and dictionary_b, or neither")
        for side in ("a", "b"):
            name = getattr(pair, f"dictionary_{side}")
            if name and self.dictionaries[name].site not in pair.sites:
                raise ConfigError(
                    f"pairs.{alias}.dictionary_{side}: {name!r} reads site {self.dictionaries[name].site!r}, "
                    f"which pairs.{alias}.sites does not list"
                )

    def _check_crosscoder(self, alias: str, crosscoder: Crosscoder) -> None:
        self._check_site(f"crosscoders.{alias}.site", crosscoder.site)
        if len(crosscoder.models) == 2:
            return
        if "diff" in (crosscoder.objective, *crosscoder.sweep.objective):
            raise ConfigError(f"crosscoders.{alias}.objective: diff is x_B - x_A of two models; choose another one")
        if len({self.tokenizer(model) for model in crosscoder.models}) > 1:
            raise ConfigError(
                f"crosscoders.{alias}.models: more than two must share a tokenizer, since rows are aligned in pairs"
            )

    def _check_site(self, where: str, site: str) -> None:
        known = list(chain.from_iterable(self.sites.values()))
        if site not in known:
            raise ConfigError(f"{where}: no group of `sites` lists {site!r}{nearest(site, known)}")

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

    def group(self, site: str) -> str:
        """The site group that lists `site`."""
        return next(group for group, sites in self.sites.items() if site in sites)

    def role(self, pair: str) -> Literal["compared", "planted", "control", "floor"]:
        """What a pair is for.

        `control` is a model with itself through the same dictionary, `floor` a model with itself through two,
        `planted` a model with its own planted edit; all others are `compared`.
        """
        made = self.pairs[pair]
        if made.a == made.b:
            return "control" if made.dictionary_a == made.dictionary_b else "floor"
        edit = self.models[made.b]
        return "planted" if isinstance(edit, Plant) and edit.parent == made.a else "compared"

    def has_features(self, pair: str, site: str) -> bool:
        """Whether both of a pair's dictionaries read `site`."""
        names = (self.pairs[pair].dictionary_a, self.pairs[pair].dictionary_b)
        return all(name is not None and self.dictionaries[name].site == site for name in names)

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
        return _job({"kind": made.kind, **reads}, **_dump(made, leave=("kind", "dtype", "tokenizer", *reads)))

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
        reads = {"model": made.model, "corpus": made.corpus, "site": made.site}
        return _job(reads, **_dump(made, leave=tuple(reads)))

    def encode_features(self, corpus: str, model: str, dictionary: str, shard: str) -> Job:
        """One shard of a model's rows in a dictionary's features."""
        return _job({"corpus": corpus, "model": model, "site": self.dictionaries[dictionary].site, "shard": shard})

    def fit_linear_map(self, pair: str, site_a: str, site_b: str) -> Job:
        """The maps between the two models of a pair."""
        return _job(self._pair(pair, site_a, site_b), **_dump(self.linear_map))

    def correlate_features(self, pair: str, site_a: str, site_b: str) -> Job:
        """The correlations of a pair's features."""
        return _job(self._dictionaries(pair, site_a, site_b), **_dump(self.correlation))

    def pair_features(self, pair: str, site_a: str, site_b: str) -> Job:
        """The matches of a pair's features."""
        return _job(self._dictionaries(pair, site_a, site_b), **_dump(self.pairing))

    def train_crosscoder(self, crosscoder: str, site: str, seed: str) -> Job:
        """One run of a crosscoder."""
        made = self.crosscoders[crosscoder]
        reads = ("models", "corpus", "site", "seeds", "splice_tokens")
        how = ("checkpoint_every", "processes", "track", "ceiling", "sweep", "weights", "scales")
        return _job(self._crosscoder(crosscoder), seed=int(seed), **_dump(made, leave=(*reads, *how)))

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

    def collect_findings(self) -> Job:
        """The differences that stand."""
        return _job({}, **_dump(self.findings))

    def build_report(self) -> Job:
        """The page."""
        return _job({}, title=self.title, **_dump(self.report))

    def _crosscoder(self, crosscoder: str) -> dict[str, Any]:
        made = self.crosscoders[crosscoder]
        return {"models": list(made.models), "corpus": made.corpus, "site": made.site}

    def _pair(self, pair: str, site_a: str, site_b: str) -> dict[str, Any]:
        chosen = self.pairs[pair]
        return {"a": chosen.a, "b": chosen.b, "corpus": chosen.corpus, "site_a": site_a, "site_b": site_b}

    def _dictionaries(self, pair: str, site_a: str, site_b: str) -> dict[str, Any]:
        chosen = self.pairs[pair]
        return {
            **self._pair(pair, site_a, site_b),
            "dictionary_a": chosen.dictionary_a,
            "dictionary_b": chosen.dictionary_b,
        }


def _job(reads: Mapping[str, Any], **settings: Any) -> Job:
    """What a job reads, by alias and in order, and the keyword arguments of its stage."""
    return {"reads": dict(reads), "settings": settings}


def _dump(values: Strict, leave: Iterable[str] = ()) -> dict[str, Any]:
    return values.model_dump(mode="json", exclude=set(leave))
