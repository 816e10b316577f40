"""Dictionaries: sparse autoencoders in SAELens' own format, read without importing SAELens.

A dictionary writes a row of activations x [d] as a sparse non-negative code f [F] and reads it back:

    f    = activation((x - b_in) W_enc + b_enc)      standard: relu; topk: the k largest; jumprelu: those > threshold
    xhat = f W_dec + b_dec                           b_in is b_dec, or 0 where cfg.json says so

    dictionary = dictionaries.load("results/dictionaries/base")
    codes = dictionary.encode(x)                     # torch [b, d] -> [b, F]

SAELens takes ten seconds to import; reading a directory that it wrote needs only its JSON and safetensors files.
Trained dictionaries come from `dictionary_training`, published ones from `dictionary_sources`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.runtime.errors import DiptychError
from diptych.storage import manifest

if TYPE_CHECKING:
    import torch

FloatArray = npt.NDArray[np.float32]
Architecture = Literal["standard", "topk", "jumprelu"]

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"


@dataclass(frozen=True)
class Dictionary:
    """A sparse autoencoder of width d with F features, float32.

    Attributes:
        architecture: standard | topk | jumprelu (a batchtopk dictionary is a jumprelu one once it is trained).
        W_enc: [d, F], encoder columns.
        b_enc: [F].
        W_dec: [F, d], decoder rows.
        b_dec: [d].
        b_in: [d], subtracted from x before encoding.
        k: features kept on a row (topk; 0 otherwise).
        threshold: [F], a feature is active iff its pre-activation exceeds it (jumprelu; empty otherwise).
        metadata: what the directory says about the dictionary: model_name, hook_name, l0, ...
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
    _on_device: dict[tuple[str, str], "torch.Tensor"] = field(default_factory=dict, repr=False, compare=False)

    @property
    def width(self) -> int:
        """d, the width of the rows it reads."""
        return int(self.W_enc.shape[0])

    @property
    def n_features(self) -> int:
        """F."""
        return int(self.W_enc.shape[1])

    def pre_activations(self, x: "torch.Tensor") -> "torch.Tensor":
        """(x - b_in) W_enc + b_enc, float32 [b, F], of rows x [b, d]."""
        bias = self._tensor("b_in", x)
        return (x.float() - bias) @ self._tensor("W_enc", x) + self._tensor("b_enc", x)

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

    def decode(self, codes: "torch.Tensor") -> "torch.Tensor":
        """Reconstructions, float32 [b, d], of codes [b, F]."""
        return codes @ self._tensor("W_dec", codes) + self._tensor("b_dec", codes)

    def _tensor(self, name: str, like: "torch.Tensor") -> "torch.Tensor":
        """The array `name` on the device of `like`; moved there once."""
        import torch

        key = (name, str(like.device))
        if key not in self._on_device:
            self._on_device[key] = torch.from_numpy(getattr(self, name)).to(like.device)
        return self._on_device[key]


def load(directory: str | Path) -> Dictionary:
    """Read the dictionary that SAELens, `dictionary_training` or `dictionary_sources` wrote into `directory`.

    Raises:
        DiptychError: a file is missing or damaged, or the dictionary is of a kind that is not read here.
    """
    manifest.check(directory)
    path = Path(directory)
    config = _config(path)
    weights = _weights(path)
    architecture = _architecture(config, path)
    scale = _decoder_norm(weights["W_dec"]) if config.get("rescale_acts_by_decoder_norm") else None
    b_dec = weights["b_dec"]
    return Dictionary(
        architecture=architecture,
        W_enc=_contiguous(weights["W_enc"] if scale is None else weights["W_enc"] * scale),
        b_enc=weights["b_enc"] if scale is None else weights["b_enc"] * scale,
        W_dec=_contiguous(weights["W_dec"] if scale is None else weights["W_dec"] / scale[:, None]),
        b_dec=b_dec,
        b_in=b_dec if config.get("apply_b_dec_to_input", True) else np.zeros_like(b_dec),
        k=int(config["k"]) if architecture == "topk" else 0,
        threshold=weights["threshold"] if architecture == "jumprelu" else np.zeros(0, dtype=np.float32),
        metadata=config.get("metadata", {}),
    )


def _architecture(config: Mapping[str, Any], path: Path) -> Architecture:
    """The architecture, after refusing what would be read wrongly."""
    name: str = config.get("architecture", "standard")
    if name not in ("standard", "topk", "jumprelu"):
        raise DiptychError(f"{path}: architecture {name!r} is not read here; use standard, topk or jumprelu")
    if (scaling := config.get("normalize_activations", "none")) != "none":
        raise DiptychError(
            f"{path}: its inputs are normalised ({scaling}) and the scale is not in its weights; fold it in first"
        )
    if (reshaping := config.get("reshape_activations", "none")) != "none":
        raise DiptychError(f"{path}: reads reshaped activations ({reshaping}); use one of a residual or MLP site")
    return name  # type: ignore[return-value]


def _config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise DiptychError(f"{directory}: holds no {CONFIG_FILE}; not a SAELens directory")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def _weights(directory: Path) -> dict[str, FloatArray]:
    """All tensors of the weights file, which must be float32."""
    from safetensors import SafetensorError, safe_open

    path = directory / WEIGHTS_FILE
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                if (dtype := file.get_slice(name).get_dtype()) != "F32":
                    raise DiptychError(f"{path}: {name} is {dtype}; fetch it as a dictionary source to get float32")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DiptychError(f"{path}: missing or cut short ({error}); make the dictionary again") from error


def _decoder_norm(W_dec: FloatArray) -> FloatArray:
    """Norms of the decoder rows [F]: SAELens selects by pre-activation times this norm, and decodes divided by it."""
    norm: FloatArray = np.linalg.norm(W_dec, axis=1).astype(np.float32)
    return np.maximum(norm, np.float32(1e-8))


def _contiguous(values: FloatArray) -> FloatArray:
    return np.ascontiguousarray(values, dtype=np.float32)
