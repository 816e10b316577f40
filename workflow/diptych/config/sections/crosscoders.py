"""The section `crosscoders`: training, and sweeps over settings."""

from typing import Annotated, Literal

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import (
    Alias,
    Count,
    PositiveFloat,
    PositiveInt,
    RowSelection,
    Seed,
    Share,
    Site,
    TokenCount,
)


class Sweep(Strict):
    """A grid of settings, each combination one crosscoder; the report compares them at matched L0.

    The crosscoder `tuned` becomes `tuned.0.0`, `tuned.0.1`, ...: the position of each value in its list, in the order
    of the keys below. So a value added at the end of a list leaves the others' results as they are.
    """

    objective: tuple[Literal["batchtopk", "topk", "l1", "jumprelu", "diff"], ...] = ()
    """Objectives."""
    n_latents: tuple[PositiveInt, ...] = ()
    """Dictionary sizes."""
    k: tuple[PositiveInt, ...] = ()
    """Mean active latents per row; objectives that have no k are trained for the first value only."""
    penalty: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Penalties; objectives that have none are trained for the first value only."""
    learning_rate: tuple[PositiveFloat, ...] = ()
    """Peak learning rates."""
    steps: tuple[PositiveInt, ...] = ()
    """Optimiser steps."""


class HubCrosscoder(Strict):
    """A published crosscoder on the Hugging Face hub."""

    id: str
    """owner/name on the hub."""
    revision: str
    """Commit, tag or branch; a commit hash makes the study reproducible."""
    folder: str | None = None
    """Folder of the repository that holds the crosscoder, if not its top."""


class Crosscoder(Strict):
    """A crosscoder over two or more models (METHODS 5). Defaults are those of a full-scale run."""

    models: Annotated[tuple[Alias, ...], Field(min_length=2)]
    """The models, A first."""
    corpus: Alias
    """Text that they read."""
    site: Site = "middle"
    """Site that is read in each model."""
    rows: RowSelection = "all"
    """Tokens that are read: all that count (all), the last one of each document (last), or those of one
    or several roles: text, system, user, assistant, assistant_header, template, or a named template position."""
    stream: Alias | None = None
    """Corpus to train on without storing its activations: the models run while it trains, each token once before any
    twice. `corpus` then holds the rows that it is evaluated on; none of their documents is trained on."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """One run per seed, which determines initialisation and order of rows."""
    objective: Literal["batchtopk", "topk", "l1", "jumprelu", "diff"] = "batchtopk"
    """Sparsity: k per row on average, k per row, L1, JumpReLU; diff is batchtopk on x_B - x_A."""
    n_latents: PositiveInt = 16384
    """Dictionary size."""
    k: PositiveInt = 100
    """Mean active latents per row (batchtopk, topk, diff)."""
    penalty: Annotated[float, Field(ge=0)] = 2.0
    """lambda of l1 and jumprelu, quoted for width 2,304."""
    steps: PositiveInt = 24_000
    """Optimiser steps."""
    batch: PositiveInt = 4096
    """Rows per step."""
    learning_rate: PositiveFloat | None = None
    """Peak learning rate of Adam; null is the published one (5e-5 for l1, 1e-4 otherwise) times
    sqrt(16,384 / n_latents) and, in runs of fewer than 24,000 steps, sqrt(24,000 / steps)."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the run in which learning rate and penalty rise from 0."""
    decay_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the run at its end in which the learning rate falls to 0."""
    clip: PositiveFloat = 1.0
    """Norm to which larger gradients are clipped."""
    decoder_norm: PositiveFloat | None = None
    """Norm of a decoder row in each model at the start; null is .08 for l1 and 1 otherwise."""
    auxiliary: Annotated[float, Field(ge=0)] = 1 / 32
    """Weight of the loss that revives dead latents."""
    dead_share: Share = 0.05
    """A latent is dead after this share of the run's rows without firing."""
    shared: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of latents with one decoder row for all models (equal widths)."""
    shared_penalty: Annotated[float, Field(ge=0)] = 0.1
    """Factor on the penalty of shared latents (l1, jumprelu)."""
    dedicated: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    """For each model, the share of latents that read and write it alone."""
    matryoshka: tuple[Share, ...] = ()
    """Shares of the latents, each a prefix that must reconstruct on its own."""
    k_initial: Count = 0
    """k at the start, falling to k over `anneal_share` of the run; 0 is no annealing."""
    anneal_share: Share = 0.25
    """See `k_initial`."""
    accumulate: PositiveInt = 1
    """Number of parts in which a batch is computed, to save memory; each part selects its own batchtopk entries."""
    buffer_rows: TokenCount = 400_000
    """Rows shuffled together in memory, where as many more are read meanwhile; training rows that are no more are read
    once."""
    calibration_share: Annotated[float, Field(ge=0, le=0.2)] = 0.05
    """Share of the training rows kept out of training, whole documents, on which the threshold is set so that k latents
    are active on unseen text (batchtopk, diff); 0 sets it on training rows."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products in training; weights and optimiser stay float32."""
    independent: bool = False
    """Models of equal width start from different values, as models of unequal widths must."""
    ceiling: bool = False
    """Also train `<alias>.ceiling`, the first model with itself from independent initial values: the highest
    alignment that is possible; once for crosscoders that differ in nothing but the other models. Where widths differ,
    alignment is not judged without it."""
    sweep: Sweep = Sweep()
    """Settings to vary."""
    weights: str | HubCrosscoder | None = None
    """A published crosscoder, used instead of training; training keys are then ignored. A safetensors or
    .pt file, the directory with it and its configs, or such a directory on the hub, in the layout of the published
    Gemma-2-2B crosscoder (W_enc, W_dec, b_enc, b_dec), of science-of-finetuning's dictionary_learning (CrossCoder,
    BatchTopKCrossCoder) or of crosscode. `models` are in its order; dictionary_learning's has the base model first."""
    scales: tuple[PositiveFloat, ...] = ()
    """For such weights, where they bring no scales of their own: the factor by which each model's rows are
    multiplied before encoding; 1 if not given."""
    calibrate: bool = False
    """For such weights of a BatchTopK crosscoder: set its threshold on the training rows, so that its own k latents are
    active on average, in place of the one it brings; crosscode's brings none."""
    splice_tokens: Count = 16_384
    """Held-out tokens on which each model's loss is measured with its activations replaced by their reconstruction; 0:
    not measured."""
    checkpoint_every: PositiveInt = 500
    """Steps between checkpoints, from which a killed run continues to the same weights; re-runs nothing."""
    processes: PositiveInt = 1
    """Processes among which every batch is split: as many GPUs, or parts of the CPU; re-runs nothing."""
    model_gpus: Count = 0
    """GPUs beside those of `processes` on which a stream's models run, each on as many as its `gpus` in turn; 0: on
    those of `processes`; re-runs nothing."""
    track: tuple[Literal["wandb", "tensorboard"], ...] = ()
    """Where the training curve is also logged: Weights & Biases (offline unless WANDB_MODE is set), TensorBoard;
    re-runs nothing."""

    @property
    def gpus(self) -> int:
        """GPUs that a run asks for."""
        return self.processes + self.model_gpus
