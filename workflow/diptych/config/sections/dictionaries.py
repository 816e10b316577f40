"""The section `dictionaries`: sparse autoencoders, trained or fetched."""

from typing import Annotated, Literal

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Alias, Positive, Rate, Site


class DictionaryBase(Strict):
    """What every dictionary has, wherever it comes from."""

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
    checkpoint_every: Positive = 1000
    """Steps between checkpoints, from which a killed run continues to the same weights; re-runs nothing."""


class FetchedDictionary(DictionaryBase):
    """What every dictionary from outside has; its own metadata must fit `model` and `site`."""

    trained_on: str | None = None
    """The model's name in the dictionary's metadata, where it is not that of `model` (one for the base model, say)."""


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


class DictionaryLearningDictionary(FetchedDictionary):
    """A dictionary of the dictionary_learning library, on disk or on the Hugging Face hub."""

    kind: Literal["dictionary_learning"]
    """dictionary_learning's config.json and ae.pt, of which nothing but tensors is unpickled."""
    path: str | None = None
    """Directory of one trainer, such as .../resid_post_layer_8/trainer_0; give this or `id`."""
    id: str | None = None
    """owner/name on the hub."""
    folder: str = ""
    """Folder of the trainer on the hub, such as resid_post_layer_8/trainer_0."""
    revision: str = "main"
    """Commit, tag or branch on the hub."""


class DirectoryDictionary(FetchedDictionary):
    """A dictionary on disk in SAELens' format, whichever version wrote it."""

    kind: Literal["directory"]
    """cfg.json and sae_weights.safetensors."""
    path: str
    """The directory."""


Dictionary = Annotated[
    TrainedDictionary | SaelensDictionary | SparsifyDictionary | DictionaryLearningDictionary | DirectoryDictionary,
    Field(discriminator="kind"),
]
