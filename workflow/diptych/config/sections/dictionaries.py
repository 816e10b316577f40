"""The section `dictionaries`: sparse autoencoders, trained or fetched."""

from typing import Annotated, Literal

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Alias, PositiveFloat, PositiveInt, Seed, Site


class TrainedDictionary(Strict):
    """A sparse autoencoder trained here, in SAELens' format."""

    kind: Literal["trained"] = "trained"
    """Trained here; the default."""
    model: Alias | Annotated[tuple[Alias, ...], Field(min_length=2)]
    """The model whose activations it is trained on, or a list: on the rows of all of them together, so that none of
    them leaves the dictionary's domain."""
    site: Site
    """The site it reads."""
    corpus: Alias
    """The text it is trained on."""
    architecture: Literal["standard", "topk", "batchtopk", "jumprelu"] = "topk"
    """SAELens architecture. standard and jumprelu train with SAELens' trainers, topk and batchtopk as crosscoders of
    one model, in a fraction of the time."""
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
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """One dictionary per seed, which determines initial weights and order of rows. The first has the alias `<alias>`,
    the others `<alias>.1`, `<alias>.2`, ...; findings must be repeated in most of them (METHODS 9)."""
    checkpoint_every: PositiveInt = 1000
    """Steps between checkpoints, from which a killed run continues to the same weights; re-runs nothing."""

    @property
    def models(self) -> tuple[str, ...]:
        """Aliases of the models whose rows it is trained on."""
        return (self.model,) if isinstance(self.model, str) else self.model


class FetchedDictionary(Strict):
    """Keys of every fetched dictionary; its metadata must agree with `model` and `site`."""

    model: Alias
    """The model whose activations it is trained on."""
    site: Site
    """The site it reads."""
    trained_on: str | None = None
    """The model's name in the dictionary's metadata, where it differs from that of `model` (such as its base model)."""

    @property
    def models(self) -> tuple[str, ...]:
        """The alias of its model, as for a trained one."""
        return (self.model,)


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
