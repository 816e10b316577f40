"""The section `similarity`: scores of two feature spaces."""

from typing import Annotated, Literal

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Positive, Share
from diptych.text import word_lists


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
    word_lists: tuple[str, ...] = word_lists.shipped()
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
