"""The crosscoder: one sparse code that reconstructs the same token in several models at once.

Two models' activations of one token are scaled to the same mean length, laid side by side and read by one set of
latents; each latent writes a decoder row to each model. A latent that only one model has a use for ends with a
decoder row in that model alone:

    crosscoder = Crosscoder(Architecture(widths=(4, 4), n_latents=8), seed=0)
    f_BF = crosscoder.encode(x_BD)                 # x_BD: raw activations of both models, side by side
    x_hat_BD = crosscoder.decode(f_BF)             # raw again
    crosscoder.relative_norm()                     # r_j: 0 only in the first model, 1 only in the second

Shape suffixes: B rows, M models, D = sum of the models' widths d_m, F latents.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

Activation = Literal["relu", "topk", "threshold", "jumprelu"]
IMPORTED = ("weighted", "signed")
"""Fields of an architecture that training never sets."""


@dataclass(frozen=True)
class Architecture:
    """Shapes and activation function of a crosscoder.

    Attributes:
        widths: d_m of each model (one width for a dictionary on differences).
        n_latents: F.
        activation: how pre-activations become a code, see `Crosscoder.activate`.
        k: mean (threshold) or exact (topk) number of active latents per row; 0 for relu and jumprelu.
        difference: the input is x_B - x_A, one "model" of the common width.
        n_shared: latents 0 .. n_shared - 1 have the same decoder row in every model.
        n_dedicated: for each model, how many of the next latents read and write that model alone.
        weighted: scores use the stored weights `score_weight` [F] in place of the sums of decoder norms.
        signed: topk selects among the pre-activations themselves and keeps negative ones.
    """

    widths: tuple[int, ...]
    n_latents: int
    activation: Activation = "threshold"
    k: int = 0
    difference: bool = False
    n_shared: int = 0
    n_dedicated: tuple[int, ...] = ()
    weighted: bool = False
    signed: bool = False

    @property
    def mean_width(self) -> float:
        """dbar, the mean of the widths: rows are scaled to a mean length of sqrt(dbar)."""
        return sum(self.widths) / len(self.widths)


class Crosscoder(nn.Module):
    """f = act(sum_m x^m W_enc^m + b_enc),  x_hat^m = f W_dec^m + b_dec^m  (METHODS 5).

    x^m is centred and scaled per model (`normalise`) so that E||x^m|| = sqrt(dbar). Both weight matrices have one
    row per latent, W_enc [F, D] and W_dec [F, D], with the models' columns side by side, so that each line of the
    equation is one matrix product; `per_model` splits them.
    """

    scale: Tensor
    mean: Tensor
    norm_unit: Tensor
    threshold: Tensor
    score_weight: Tensor
    weight_mask: Tensor

    def __init__(
        self, architecture: Architecture, *, seed: int = 0, decoder_norm: float = 1.0, independent: bool = False
    ) -> None:
        super().__init__()
        self.architecture = architecture
        widths, n_latents = architecture.widths, architecture.n_latents
        directions = initial_directions(widths, n_latents, seed, independent) * decoder_norm
        if architecture.n_shared:
            tied = directions[: architecture.n_shared, : widths[0]]
            directions[: architecture.n_shared] = tied.repeat(1, len(widths))
        self.W_dec = nn.Parameter(directions.clone())
        self.W_enc = nn.Parameter(directions.clone())
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.b_dec = nn.Parameter(torch.zeros(sum(widths)))
        if architecture.activation == "jumprelu":
            self.log_theta = nn.Parameter(torch.full((n_latents,), math.log(0.1)))
        self.register_buffer("mean", torch.zeros(sum(widths)))
        self.register_buffer("scale", torch.ones(len(widths)))
        self.register_buffer("norm_unit", torch.ones(len(widths)))
        self.register_buffer("threshold", torch.zeros(()))
        if architecture.weighted:
            self.register_buffer("score_weight", torch.ones(n_latents))
        self.register_buffer("weight_mask", dedicated_mask(architecture), persistent=False)
        self.apply_masks()

    def per_model(self, values: Tensor) -> tuple[Tensor, ...]:
        """Split [..., D] into one [..., d_m] per model."""
        return torch.split(values, list(self.architecture.widths), dim=-1)

    def normalise(self, x_BD: Tensor) -> Tensor:
        """Raw activations, centred and scaled per model to a mean length of sqrt(dbar): [B, D]."""
        return (x_BD - self.mean) * self.coordinate_scale

    @property
    def coordinate_scale(self) -> Tensor:
        """Scale of each coordinate, that of its model: [D]."""
        return self.scale.repeat_interleave(torch.tensor(self.architecture.widths, device=self.scale.device))

    def pre_activations(self, z_BD: Tensor) -> Tensor:
        """sum_m z^m W_enc^m + b_enc for normalised rows z: [B, F]."""
        return torch.addmm(self.b_enc, z_BD, self.W_enc.T)

    def activate(self, pre_BF: Tensor) -> Tensor:
        """The sparse code [B, F] of pre-activations, as at inference.

        `relu`: max(pre, 0). `topk`: the k largest scores of a row. `threshold`: where the score is positive and at
        least the stored threshold. `jumprelu`: where pre is at least the latent's theta. The score of a latent
        is relu(pre) times its `score_weights`; what is decoded is relu(pre), unscaled. `signed` leaves out the relu.
        """
        f_BF = pre_BF if self.architecture.signed else pre_BF.relu()
        match self.architecture.activation:
            case "relu":
                return f_BF
            case "topk":
                score_BF = f_BF * self.score_weights()
                top = score_BF.topk(self.architecture.k, dim=1).indices
                return torch.zeros_like(f_BF).scatter(1, top, f_BF.gather(1, top))
            case "threshold":
                score_BF = f_BF * self.score_weights()
                return f_BF * (score_BF >= self.threshold)
            case "jumprelu":
                return f_BF * (f_BF >= self.log_theta.exp())

    def encode(self, x_BD: Tensor) -> Tensor:
        """Code [B, F] of raw activations [B, D]."""
        return self.activate(self.pre_activations(self.normalise(x_BD)))

    def decode_normalised(self, f_BF: Tensor) -> Tensor:
        """x_hat in normalised units [B, D]."""
        return torch.addmm(self.b_dec, f_BF, self.W_dec)

    def decode(self, f_BF: Tensor) -> Tensor:
        """x_hat in the units of the raw activations [B, D]."""
        return self.decode_normalised(f_BF) / self.coordinate_scale + self.mean

    def forward(self, x_BD: Tensor) -> Tensor:
        """Reconstruct raw activations [B, D]."""
        return self.decode(self.encode(x_BD))

    def decoder_norms(self) -> Tensor:
        """||d_j^m|| in normalised units, [M, F] (`norm_unit` keeps the scales of folded weights for this)."""
        norms = [torch.linalg.vector_norm(rows, dim=1) for rows in self.per_model(self.W_dec)]
        return torch.stack(norms) * self.norm_unit[:, None]

    def score_weights(self) -> Tensor:
        """Factors [F] by which activations are multiplied to rank latents: the sum over models of the decoder norms.

        Imported weights may have others of their own (`weighted`).
        """
        return self.score_weight if self.architecture.weighted else self.decoder_norms().sum(0)

    def relative_norm(self) -> Tensor:
        """r_j^m = ||d_j^m|| / sum over models: [F] of the second model for two models, else [M, F]."""
        norms_MF = self.decoder_norms()
        share_MF = norms_MF / norms_MF.sum(0)
        return share_MF[1] if len(share_MF) == 2 else share_MF

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Zero the other models' encoder and decoder weights of dedicated latents."""
        if self.architecture.n_dedicated:
            self.W_enc.mul_(self.weight_mask)
            self.W_dec.mul_(self.weight_mask)

    @torch.no_grad()
    def fold(self) -> "Crosscoder":
        """An equivalent crosscoder with mean 0 and scale 1, whose weights act on raw activations.

        A threshold on scores becomes one theta per latent (jumprelu), which needs no decoder norms to apply.
        """
        activation = "jumprelu" if self.architecture.activation == "threshold" else self.architecture.activation
        folded = Crosscoder(Architecture(**{**asdict(self.architecture), "activation": activation}))
        folded.W_enc.copy_(self.W_enc * self.coordinate_scale)
        folded.b_enc.copy_(self.b_enc - self.W_enc @ (self.mean * self.coordinate_scale))
        folded.W_dec.copy_(self.W_dec / self.coordinate_scale)
        folded.norm_unit.copy_(self.norm_unit * self.scale)
        folded.b_dec.copy_(self.b_dec / self.coordinate_scale + self.mean)
        if self.architecture.activation == "threshold":
            folded.log_theta.copy_((self.threshold / self.score_weights()).clamp_min(1e-38).log())
        elif self.architecture.activation == "jumprelu":
            folded.log_theta.copy_(self.log_theta)
        if self.architecture.weighted:
            folded.score_weight.copy_(self.score_weight)
        return folded


def initial_directions(widths: Sequence[int], n_latents: int, seed: int, independent: bool = False) -> Tensor:
    """Random decoder rows of norm 1 in each model, [F, D].

    Models of equal width get the same rows, unless `independent`.
    """
    rows_of: dict[tuple[int, ...], Tensor] = {}
    for model, width in enumerate(widths):
        key = (width, model) if independent else (width,)
        if key not in rows_of:
            rows = np.random.default_rng([seed, *key]).standard_normal((n_latents, width), dtype=np.float32)
            rows_of[key] = nn.functional.normalize(torch.from_numpy(rows), dim=1)
    keys = [(width, model) if independent else (width,) for model, width in enumerate(widths)]
    return torch.cat([rows_of[key] for key in keys], dim=1)


def dedicated_mask(architecture: Architecture) -> Tensor:
    """Mask [F, D], 1 where a latent may read and write a coordinate; a single 1 [1, 1] without dedicated latents."""
    if not architecture.n_dedicated:
        return torch.ones(1, 1)
    mask = torch.ones(architecture.n_latents, sum(architecture.widths))
    start = architecture.n_shared
    for model, count in enumerate(architecture.n_dedicated):
        for other, part in enumerate(torch.split(mask, list(architecture.widths), dim=1)):
            if other != model:
                part[start : start + count] = 0
        start += count
    return mask


def crosscoder_input(x: Sequence[np.ndarray[Any, Any]], architecture: Architecture) -> Tensor:
    """A crosscoder's input [B, D]: the models' raw rows concatenated, or x_B - x_A for a difference."""
    if architecture.difference:
        return torch.from_numpy(np.asarray(x[1], dtype=np.float32) - np.asarray(x[0], dtype=np.float32))
    return torch.from_numpy(np.concatenate([np.asarray(values, dtype=np.float32) for values in x], axis=1))


def write(writer: artifacts.Writer, crosscoder: Crosscoder) -> None:
    """Store a crosscoder in an open artifact of kind "crosscoder"."""
    fields = asdict(crosscoder.architecture)
    # Only imported crosscoders have these two, and a file that lacks them means that they are not so.
    writer.json("architecture", {name: value for name, value in fields.items() if name not in IMPORTED or value})
    for name, tensor in crosscoder.state_dict().items():
        values = tensor.detach().cpu()
        if name in ("W_enc", "W_dec", "b_dec", "mean"):
            for model, part in enumerate(crosscoder.per_model(values)):
                writer.array(f"{name}/{model}", part.contiguous().numpy())
        else:
            writer.array(name, values.numpy())


def load(path: str | Path) -> Crosscoder:
    """Read the crosscoder of an artifact of kind "crosscoder", in evaluation mode."""
    with artifacts.read(path, "crosscoder") as file:
        fields = artifacts.read_json(file, "architecture")
        fields["widths"] = tuple(fields["widths"])
        fields["n_dedicated"] = tuple(fields["n_dedicated"])
        crosscoder = Crosscoder(Architecture(**fields))
        # Written in place, a model at a time: a second copy of all weights would be most of a job's memory.
        for name, values in crosscoder.state_dict().items():
            if name in ("W_enc", "W_dec", "b_dec", "mean"):
                for model, part in enumerate(torch.split(values, list(fields["widths"]), dim=-1)):
                    part.copy_(torch.from_numpy(file[f"{name}/{model}"][:]))
            else:
                values.copy_(torch.from_numpy(np.asarray(file[name][()])))
    return crosscoder.eval()


def check_widths(crosscoder: Crosscoder, widths: Sequence[int]) -> None:
    """Raise `DiptychError` unless the crosscoder was trained on rows of these widths."""
    expected = crosscoder.architecture.widths * (2 if crosscoder.architecture.difference else 1)
    if tuple(widths) != expected:
        raise DiptychError(f"crosscoder: trained on widths {expected}, these rows have {tuple(widths)}; train it again")
