"""The section `similarity`: similarity of two feature spaces."""

from typing import Annotated, Literal

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import PositiveInt, Seed, Share
from diptych.text import word_lists


class Similarity(Strict):
    """Similarity of two feature spaces: the geometry of paired decoder rows, each score with its null (METHODS 3.3)."""

    measures: Annotated[
        tuple[Literal["cca", "procrustes", "cka", "rsa", "knn", "mmcs", "rho"], ...], Field(min_length=1)
    ] = ("cca", "procrustes", "cka", "rsa", "knn", "mmcs", "rho")
    """Families of scores: SVCCA and PWCCA, Procrustes, CKA, RSA, nearest neighbours, MMCS, mean correlation."""
    variance: Share = 0.99
    """Share of each space's variance that SVCCA and PWCCA keep."""
    neighbours: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (4, 10)
    """Numbers of neighbours in the nearest-neighbour scores."""
    repairings: PositiveInt = 1000
    """Random re-pairings behind the p of RSA and of nearest neighbours."""
    nuclear_repairings: PositiveInt = 100
    """Random re-pairings behind the p of SVCCA, PWCCA and Procrustes, which cost more."""
    rsa_rows: PositiveInt = 5000
    """Maximum number of pairs on which RSA is computed."""
    rsa_null_rows: PositiveInt = 2000
    """Maximum number of pairs on which its null is computed."""
    subset_draws: PositiveInt = 20
    """Random subsets, with new random partners, that each semantic subspace is compared with."""
    min_pairs: Annotated[int, Field(ge=4)] = 10
    """Minimum number of pairs to score."""
    word_lists: tuple[str, ...] = word_lists.shipped()
    """Semantic subspaces: names of shipped lists, or paths of .txt files with one word per line."""
    neurons: bool = False
    """Also score the models' neurons; needs the MLP's site of each block (middle.mlp.hook_post) in `sites`."""
    neuron_rows: PositiveInt = 20_000
    """Maximum number of token rows on which neurons are correlated."""
    compat: tuple[Literal["lan2024"], ...] = ()
    """Published procedures to reproduce in addition, labelled; for pairs of models with one tokenizer (of
    two models that read the same tokens, one names the other as its `tokenizer`)."""
    map: bool = True
    """Draw the two-panel UMAP map of the paired features."""
    map_neighbours: Annotated[int, Field(ge=2)] = 15
    """Neighbours in UMAP."""
    map_points: PositiveInt = 2000
    """Maximum number of pairs on the map, the most correlated ones."""
    seed: Seed = 0
    """Seed of re-pairings, subsets and the map."""
