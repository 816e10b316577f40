"""Settings of a crosscoder's training, with the schedules, architecture and objective derived from them.

settings = Training(n_latents=1024, k=16, steps=4000, batch=1024, learning_rate=1e-3)
settings.rate_at(0), settings.k_at(100)        # learning rate and k at a step
settings.architecture((576, 576))              # for models of these widths
"""

import math
from dataclasses import dataclass
from typing import Literal

from diptych.runtime.errors import DiptychError
from diptych.sparse_coding import architecture, objectives
from diptych.sparse_coding.architecture import Architecture
from diptych.sparse_coding.schedule import scaled_rate, share_of_peak

PUBLISHED_RATE, PUBLISHED_RATE_L1 = 1e-4, 5e-5
"""Peak learning rates for 16,384 latents and 24,000 steps (METHODS 5)."""
PENALTY_WIDTH = 2304
"""The width for which published penalties are quoted; penalties are scaled by sqrt(dbar / this)."""


@dataclass(frozen=True)
class Training:
    """Settings of one run; every one is a config key.

    Attributes:
        objective: batchtopk | topk | l1 | jumprelu | diff (batchtopk on x_B - x_A, equal widths).
        n_latents: F.
        k: mean active latents per row (batchtopk, topk, diff).
        penalty: lambda of l1 (quoted for width 2,304) and jumprelu.
        steps: optimiser steps.
        batch: rows per step.
        learning_rate: peak of Adam's; None follows n_latents and steps (`scaled_rate`).
        warmup_share: share of the run in which learning rate and penalty rise from 0.
        decay_share: share of the run at its end in which the learning rate falls to 0.
        clip: largest norm of the gradient; longer gradients are scaled down to it.
        decoder_norm: initial norm of a decoder row in each model; None is .08 for l1 and 1 otherwise.
        auxiliary: weight of the auxiliary loss that revives dead latents.
        dead_share: a latent is dead if it has not fired on this share of the run's rows.
        shared: share of latents with the same decoder row for all models (equal widths).
        shared_penalty: factor on the penalty of these latents (l1, jumprelu).
        dedicated: for each model the share of latents that read from and write to it alone.
        matryoshka: shares of the latents, each a prefix that must reconstruct on its own.
        k_initial: k at the start, annealed to `k` over `anneal_share` of the run; 0: no annealing.
        anneal_share: see k_initial.
        accumulate: parts that a batch is split into, to save memory; batchtopk selects entries within each part.
        buffer_rows: rows shuffled together in memory, where as many more are read meanwhile; if the training rows are
            no more, they are read once.
        calibration_share: share of the training rows, in whole documents, that are held out to set the threshold
            (batchtopk, diff): L0 is lower on rows that were trained on. 0: it is set on training rows.
        compute: dtype of the products with encoder and (dense objectives) decoder; weights stay float32.
        independent: initialise the decoder rows of models of equal width independently, as for unequal widths.
        seed: of the initialisation and the order of rows.
    """

    objective: Literal["batchtopk", "topk", "l1", "jumprelu", "diff"] = "batchtopk"
    n_latents: int = 16384
    k: int = 100
    penalty: float = 2.0
    steps: int = 24_000
    batch: int = 4096
    learning_rate: float | None = None
    warmup_share: float = 0.05
    decay_share: float = 0.2
    clip: float = 1.0
    decoder_norm: float | None = None
    auxiliary: float = 1 / 32
    dead_share: float = 0.05
    shared: float = 0.0
    shared_penalty: float = 0.1
    dedicated: tuple[float, ...] = ()
    matryoshka: tuple[float, ...] = ()
    k_initial: int = 0
    anneal_share: float = 0.25
    accumulate: int = 1
    buffer_rows: int = 400_000
    calibration_share: float = 0.05
    compute: Literal["float32", "bfloat16"] = "float32"
    independent: bool = False
    seed: int = 0

    @property
    def rate(self) -> float:
        """Peak learning rate."""
        published = PUBLISHED_RATE_L1 if self.objective == "l1" else PUBLISHED_RATE
        return self.learning_rate or scaled_rate(published, n_latents=self.n_latents, steps=self.steps)

    def rate_at(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, constant, linear decay to 0."""
        return self.rate * share_of_peak(step, steps=self.steps, warmup=self.warmup_share, decay=self.decay_share)

    @property
    def dead_after(self) -> float:
        """Rows without firing after which a latent is dead."""
        return self.dead_share * self.steps * self.batch

    def penalty_at(self, step: int, mean_width: float) -> float:
        """Sparsity penalty lambda at a step, with linear warm-up from 0."""
        warm = min(1.0, step / max(1.0, self.warmup_share * self.steps))
        return self.penalty * warm * math.sqrt(mean_width / PENALTY_WIDTH)

    def k_at(self, step: int) -> int:
        """k at a step, annealed linearly from `k_initial`."""
        if not self.k_initial:
            return self.k
        done = min(1.0, step / max(1.0, self.anneal_share * self.steps))
        return round(self.k_initial + done * (self.k - self.k_initial))

    def architecture(self, widths: tuple[int, ...]) -> Architecture:
        """The crosscoder that these settings train on models of these widths."""
        if (self.objective == "diff" or self.shared) and len(set(widths)) > 1:
            raise DiptychError(f"crosscoder: `diff` and `shared` need models of equal width, these have {widths}")
        if self.dedicated and len(self.dedicated) != len(widths):
            raise DiptychError(f"crosscoder: `dedicated` has {len(self.dedicated)} shares for {len(widths)} models")
        activation: dict[str, architecture.Activation] = {"l1": "relu", "topk": "topk", "jumprelu": "jumprelu"}
        return Architecture(
            widths=widths[:1] if self.objective == "diff" else widths,
            n_latents=self.n_latents,
            activation=activation.get(self.objective, "threshold"),
            k=self.k if self.objective in ("batchtopk", "topk", "diff") else 0,
            difference=self.objective == "diff",
            n_shared=round(self.shared * self.n_latents),
            n_dedicated=tuple(round(share * self.n_latents) for share in self.dedicated),
        )

    def losses(self) -> objectives.Objective:
        """The objective that these settings minimise."""
        prefixes = tuple(sorted({*(max(1, round(share * self.n_latents)) for share in self.matryoshka)}))
        if prefixes and prefixes[-1] != self.n_latents:
            prefixes = (*prefixes, self.n_latents)
        name = "batchtopk" if self.objective == "diff" else self.objective
        bfloat16 = self.compute == "bfloat16"
        return objectives.Objective(name, self.shared_penalty, prefixes, self.auxiliary, bfloat16)

    @property
    def start_norm(self) -> float:
        """Initial norm of a decoder row in each model."""
        return self.decoder_norm or (0.08 if self.objective == "l1" else 1.0)
