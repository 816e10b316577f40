"""The section `dictionaries`: sparse autoencoders, trained or fetched."""

from typing import Annotated, Literal

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Alias, PositiveFloat, PositiveInt, Seed, Site


class DictionaryBase(Strict):
    """Keys of every dictionary."""

    model: Alias
    """The model whose activations it is trained on."""
    site: Site
    """The site it reads."""


class TrainedDictionary(DictionaryBase):
    """A sparse autoencoder trained here, in SAELens' format."""

    kind: Literal["trained"] = "trained"
    """Trained here; the default."""
    corpus: Alias
    """The text it is trained on."""
    architecture: Literal["standard", "topk", "batchtopk", "jumprelu"] = "topk"
    """SAELens architecture."""
    n_features: PositiveInt = 1024
    """Number of features."""
    k: PositiveInt = 32
    """Active features per token: exactly (topk), on average (batchtopk), or as a target (jumprelu)."""
    steps: PositiveInt = 300
    """Optimiser steps."""
    batch: PositiveInt = 1024
    """Rows per step."""
    learning_rate: PositiveFloat = 3e-3
    """Peak learning rate."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps with a rising learning rate."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the steps at the end with a falling learning rate."""
    l1_coefficient: PositiveFloat = 5.0
    """Weight of the sparsity penalty (standard), on rows scaled to norm sqrt(d)."""
    seed: Seed = 0
    """Seed of the initial weights and the order of rows."""
    checkpoint_every: PositiveInt = 1000
    """Steps between checkpoints, from which a killed run continues to the same weights; re-runs nothing."""


class FetchedDictionary(DictionaryBase):
    """Keys of every fetched dictionary; its metadata must agree with `model` and `site`."""

    trained_on: str | None = None
    """The model's name in the dictionary's metadata, where it differs from that of `model` (such as its base model)."""


class SaelensDictionary(FetchedDictionary):
    """A published dictionary that SAELens knows (`make releases` lists them)."""

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
