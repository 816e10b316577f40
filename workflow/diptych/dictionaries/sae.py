"""Dictionaries: sparse autoencoders in SAELens' own format, read without importing SAELens.

A dictionary writes a row of activations x [d] as a sparse non-negative code f [F] and reads it back:

    z    = (x - m) / s                               m, s: 0 and 1, or of the row itself where rows are normalised
    f    = activation((z - b_in) W_enc + b_enc)      standard: relu; topk: the k largest; jumprelu: those > threshold
    xhat = (f W_dec + b_dec) s + m                   b_in is b_dec, or 0 where cfg.json says so

    dictionary = sae.load("results/dictionaries/base")
    codes = dictionary.encode(x)                     # torch [b, d] -> [b, F]
    x_hat = dictionary.decode(codes, x)              # in the units of x

    sae.Decoder("results/dictionaries/base").rows([7, 12])     # float32 [2, d], with nothing else in memory

A gated dictionary is a jumprelu one: with W = W_enc e^r_mag its gate is open, x W_enc + b_gate > 0, iff x W + b_mag >
b_mag - b_gate e^r_mag, and its code is relu(x W + b_mag) there.

SAELens takes ten seconds to import; reading a directory that it wrote needs only its JSON and safetensors files.
Trained dictionaries come from `training`, published ones from `sources`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.dictionaries import saelens_format
from diptych.dictionaries.saelens_format import CONFIG_FILE, WEIGHTS_FILE
from diptych.runtime.errors import DiptychError, first_line
from diptych.storage import manifest

if TYPE_CHECKING:
    import torch

FloatArray = npt.NDArray[np.float32]
Architecture = Literal["standard", "topk", "jumprelu"]
Normalisation = Literal["none", "layer_norm", "constant_norm_rescale"]

LAYER_NORM_EPSILON = 1e-5
"""Constant that SAELens adds to a row's standard deviation before dividing by it."""
TINY = 1e-30
"""Least scale that a row is divided by: a row of zeros stays one."""


@dataclass(frozen=True)
class Dictionary:
    """A sparse autoencoder of width d with F features, float32.

    Attributes:
        architecture: standard | topk | jumprelu (a batchtopk dictionary is a jumprelu one once it is trained, and so
            is a gated one).
        W_enc: [d, F], encoder columns; of mean 0 where rows are centred before they are encoded (layer_norm).
        b_enc: [F].
        W_dec: [F, d], decoder rows.
        b_dec: [d].
        b_in: [d], subtracted from the (normalised) row before encoding.
        k: features kept on a row (topk; 0 otherwise).
        threshold: [F], a feature is active iff its pre-activation exceeds it (jumprelu; empty otherwise).
        metadata: what the directory says about the dictionary: model_name, hook_name, l0, ...
        normalize_activations: none | layer_norm (each row to mean 0 and standard deviation 1) | constant_norm_rescale
            (each row to norm sqrt(d)); codes and decoder rows are in those units.
    """

    architecture: Architecture
    W_enc: FloatArray
    b_enc: FloatArray
    W_dec: FloatArray
    b_dec: FloatArray
    b_in: FloatArray
    k: int
    threshold: FloatArray
    metadata: Mapping[str, Any]
    normalize_activations: Normalisation = "none"
    _on_device: dict[tuple[str, str], "torch.Tensor"] = field(default_factory=dict, repr=False, compare=False)

    @property
    def width(self) -> int:
        """d, the width of the rows it reads."""
        return int(self.W_enc.shape[0])

    @property
    def n_features(self) -> int:
        """F."""
        return int(self.W_enc.shape[1])

    def row_units(self, x: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        """Mean m and scale s, [b, 1] each, of rows x [b, d]: a code says of the row what (x - m) / s is."""
        import torch

        match self.normalize_activations:
            case "layer_norm":
                return x.mean(dim=-1, keepdim=True), x.std(dim=-1, keepdim=True)
            case "constant_norm_rescale":
                norm = x.norm(dim=-1, keepdim=True)
                return torch.zeros_like(norm), norm / self.width**0.5
            case "none":
                ones = torch.ones_like(x[:, :1])
                return torch.zeros_like(ones), ones

    def pre_activations(self, x: "torch.Tensor") -> "torch.Tensor":
        """(z - b_in) W_enc + b_enc, float32 [b, F], of rows x [b, d], normalised to z where the dictionary does so."""
        x = x.float()
        if self.normalize_activations == "layer_norm":
            mean, scale = self.row_units(x)
            x = (x - mean) / (scale + LAYER_NORM_EPSILON)
        elif self.normalize_activations == "constant_norm_rescale":
            x = x / self.row_units(x)[1].clamp_min(TINY)
        return (x - self._tensor("b_in", x)) @ self._tensor("W_enc", x) + self._tensor("b_enc", x)

    def encode(self, x: "torch.Tensor") -> "torch.Tensor":
        """Codes, float32 [b, F], >= 0, of rows x [b, d], on x's device."""
        import torch

        before = self.pre_activations(x)
        match self.architecture:
            case "standard":
                return before.relu()
            case "jumprelu":
                return before.relu() * (before > self._tensor("threshold", x))
            case "topk":
                top = before.topk(self.k, dim=-1, sorted=False)
                return torch.zeros_like(before).scatter_(-1, top.indices, top.values.relu())

    def decode(self, codes: "torch.Tensor", x: "torch.Tensor | None" = None) -> "torch.Tensor":
        """Reconstructions, float32 [b, d], of codes [b, F], in the units of the model's activations.

        Args:
            codes: as `encode` returns them.
            x: the rows [b, d] that the codes are of, whose mean and scale come back; needed if rows are normalised.
        """
        decoded = codes @ self._tensor("W_dec", codes) + self._tensor("b_dec", codes)
        if self.normalize_activations == "none":
            return decoded
        if x is None:
            raise ValueError(f"{self.normalize_activations}: the rows are needed to decode in their units")
        mean, scale = self.row_units(x.float())
        return decoded * scale + mean

    def _tensor(self, name: str, like: "torch.Tensor") -> "torch.Tensor":
        """The array `name` on the device of `like`; moved there once."""
        import torch

        key = (name, str(like.device))
        if key not in self._on_device:
            self._on_device[key] = torch.from_numpy(getattr(self, name)).to(like.device)
        return self._on_device[key]


def load(directory: str | Path, where: str | None = None) -> Dictionary:
    """Read the dictionary that SAELens, `training` or `sources` wrote into `directory`.

    Args:
        directory: holds cfg.json and sae_weights.safetensors.
        where: how an error calls the dictionary; its directory if not given.

    Raises:
        DiptychError: a file is missing or damaged, or the dictionary is of a kind that is not read here.
    """
    manifest.check(directory)
    path, where = Path(directory), where or str(directory)
    config = saelens_format.current(saelens_format.read_json(path, CONFIG_FILE, where), where)
    weights = _float32_weights(path, where)
    saelens_format.check_weights(weights, config, where)
    architecture = config.get("architecture", "standard")
    if architecture == "gated":
        architecture, weights = "jumprelu", _as_jumprelu(weights)
    if _has_unit_rows(config):
        weights = _with_unit_decoder(weights)
    b_in = weights["b_dec"] if config.get("apply_b_dec_to_input", True) else np.zeros_like(weights["b_dec"])
    normalisation = config.get("normalize_activations", "none")
    if normalisation == "layer_norm":
        saelens_format.fold_centring(weights, config)
    return Dictionary(
        architecture=architecture,
        W_enc=_contiguous(weights["W_enc"]),
        b_enc=weights["b_enc"],
        W_dec=_contiguous(weights["W_dec"]),
        b_dec=weights["b_dec"],
        b_in=b_in,
        k=config["k"] if architecture == "topk" else 0,
        threshold=weights["threshold"] if architecture == "jumprelu" else np.zeros(0, dtype=np.float32),
        metadata=config["metadata"],
        normalize_activations=normalisation,
    )


class Decoder:
    """Decoder rows of a dictionary, read from its file as they are asked for."""

    def __init__(self, directory: str | Path) -> None:
        """Open the dictionary in `directory`; errors as `load`."""
        manifest.check(directory)
        self._path, self._where = Path(directory), str(directory)
        config = saelens_format.current(saelens_format.read_json(self._path, CONFIG_FILE, self._where), self._where)
        self._has_unit_rows = _has_unit_rows(config)
        with _opened(self._path, self._where) as file:
            shape = file.get_slice("W_dec").get_shape()
        self.n_features, self.width = int(shape[0]), int(shape[1])

    def rows(self, latents: Iterable[int]) -> FloatArray:
        """`load(directory).W_dec[latents]`, float32 [k, d]."""
        chosen = [int(latent) for latent in latents]
        rows = np.empty((len(chosen), self.width), dtype=np.float32)
        with _opened(self._path, self._where) as file:
            stored = file.get_slice("W_dec")
            for row, latent in zip(rows, chosen, strict=True):
                row[:] = stored[latent]
        return rows / _row_norms(rows)[:, None] if self._has_unit_rows else rows


def _has_unit_rows(config: Mapping[str, Any]) -> bool:
    """Whether the norms of decoder rows belong into the encoder."""
    return config.get("architecture") == "topk" and bool(config.get("rescale_acts_by_decoder_norm"))


def _row_norms(W_dec: FloatArray) -> FloatArray:
    norms: FloatArray = np.maximum(np.linalg.norm(W_dec, axis=1).astype(np.float32), np.float32(1e-8))
    return norms


def _as_jumprelu(weights: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """A gated dictionary's tensors as those of the jumprelu one that it is."""
    magnitude = np.exp(weights["r_mag"].astype(np.float64))
    return {
        "W_enc": (weights["W_enc"] * magnitude).astype(np.float32),
        "b_enc": weights["b_mag"],
        "threshold": (weights["b_mag"] - weights["b_gate"] * magnitude).astype(np.float32),
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"],
    }


def _with_unit_decoder(weights: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Decoder norms moved into the encoder: SAELens selects by pre-activation times norm, and decodes by unit rows."""
    norm = _row_norms(weights["W_dec"])
    return {
        **weights,
        "W_enc": weights["W_enc"] * norm,
        "b_enc": weights["b_enc"] * norm,
        "W_dec": weights["W_dec"] / norm[:, None],
    }


def _float32_weights(directory: Path, where: str) -> dict[str, FloatArray]:
    """All tensors of the weights file."""
    with _opened(directory, where) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


@contextmanager
def _opened(directory: Path, where: str) -> Iterator[Any]:
    """The weights file, whose tensors must be float32."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(directory / WEIGHTS_FILE, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                if (dtype := file.get_slice(name).get_dtype()) != "F32":
                    raise DiptychError(f"{where}: {name} is {dtype}; fetch it as a dictionary source to get float32")
            yield file
    except (OSError, SafetensorError) as error:
        raise DiptychError(
            f"{where}: {WEIGHTS_FILE} is missing or cut short ({first_line(error)}); make the dictionary again"
        ) from error


def _contiguous(values: FloatArray) -> FloatArray:
    return np.ascontiguousarray(values, dtype=np.float32)
