"""What is compared between two models, and how."""

from typing import Annotated, Literal

from pydantic import Field

from diptych.config.sections.values import Alias, Positive, Rate, Share, Site, Wanted
from diptych.config.strict import Strict
from diptych.text import word_lists as wordlists

OnePerSite = Annotated[tuple[Alias, ...], Field(min_length=1)]


class Pair(Strict):
    """Two models to compare: A is the reference, B the compared one."""

    a: Alias
    """Model A."""
    b: Alias
    """Model B."""
    corpus: Alias
    """Text both read."""
    sites: Annotated[tuple[Site, ...], Field(min_length=1)] = ("middle",)
    """Sites of A that are compared: each with the same site of B, if `sites_b` lists none."""
    sites_b: tuple[Site, ...] = ()
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
    """Correlation of features, exact, from their sparse codes (METHODS 3.1). Neurons: `similarity.neurons`; residual
    coordinates from Python alone (the head of workflow/diptych/correlation.py says how).
    """

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
    """MiB that the blocks of correlations may take together, also where features are paired, neurons are compared and
    a published procedure is run; re-runs nothing."""


class Pairing(Strict):
    """Pairing of features, and what stays unmatched (METHODS 3.2)."""

    rule: Literal["many_to_one", "one_to_many", "one_to_one", "mutual", "hungarian"] = "one_to_one"
    """Who may take whom: best of A for each of B, the reverse, best pair first, mutual best, or largest total."""
    score: Literal["rho", "cosine", "euclidean", "mean"] = "rho"
    """Correlation, decoder cosine after the map, distance after the map, or the mean of the first two."""
    cut: Share = 0.05
    """q of the decoys above which a match is none; 1 keeps all pairs."""
    twin: Share = 0.99
    """Score inside one dictionary, in the pairing's own (decoder cosine for euclidean), from which two features count
    as one: else they would be each other's decoys."""
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
    """Published procedures to reproduce beside the right one, labelled; for pairs of models with one tokenizer (of
    two models that read the same tokens, one names the other as its `tokenizer`)."""
    map: bool = True
    """Draw the two-panel UMAP map of the paired features."""
    map_neighbours: Annotated[int, Field(ge=2)] = 15
    """Neighbours that UMAP looks at."""
    map_points: Positive = 2000
    """Pairs on the map, at most; those that correlate best."""
    seed: int = 0
    """Seed of re-pairings, subsets and the map."""


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
