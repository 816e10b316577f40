"""The tensors of two models side by side: which correspond, and the change of each (METHODS 12).

    compared = Comparison(StoredTensors("results/models/base"), StoredTensors("results/models/tuned"))
    compared.reason                         # "" or why the two cannot be compared
    list(compared.changes(max_side=8192))   # one TensorChange per pair of tensors, read one after the other

Tensors correspond by name. Only of embeddings may the shapes differ, by the number of tokens: then the tokens that both
models have are compared. A model whose unembedding is its embedding stores one tensor for the two.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from diptych.models import pretrained
from diptych.models.stored_tensors import StoredTensors
from diptych.runtime import logs
from diptych.weights.changes import Change, Spectrum, matrix_shape, measure, spectrum
from diptych.weights.names import Place, is_transposed, place_of, role_of

DEPTH_AND_WIDTH = {"n_layers": "blocks", "width": "coordinates of the residual stream"}


class Counterpart(NamedTuple):
    """A tensor of A and the one of B that corresponds to it: their keys, and the common shape."""

    key_a: str
    key_b: str
    shape: tuple[int, ...]

    @property
    def key(self) -> str:
        """The key of A's tensor, or B's own where A's stands for two."""
        return self.key_a if role_of(place_of(self.key_b).kind).part == "embeds" else self.key_b


@dataclass(frozen=True)
class TensorChange:
    """The change of one tensor.

    Attributes:
        key: name of the tensor, without its trunk's.
        place: its block and kind.
        shape: of what is compared, as it is stored.
        dtypes: stored dtypes of A and B.
        change: its size.
        spectrum: its singular values, in the shape `changes.matrix_shape`; None if it is a vector, did not change by
            more than rounding, or is too large.
    """

    key: str
    place: Place
    shape: tuple[int, ...]
    dtypes: tuple[str, str]
    change: Change
    spectrum: Spectrum | None


class Comparison:
    """The corresponding tensors of two models."""

    def __init__(self, a: StoredTensors, b: StoredTensors) -> None:
        self.a, self.b = a, b
        self._shapes = pretrained.describe(a.directory), pretrained.describe(b.directory)

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self._shapes[0]["width"]

    @cached_property
    def reason(self) -> str:
        """Why the two models cannot be compared tensor by tensor, or ""."""
        a, b = self._shapes
        if a["architecture"] != b["architecture"]:
            return f"the models are of different architectures, {a['architecture']} and {b['architecture']}"
        for key, what in DEPTH_AND_WIDTH.items():
            if a[key] != b[key]:  # type: ignore[literal-required]
                return f"the models have different shapes, {a[key]} and {b[key]} {what}"  # type: ignore[literal-required]
        return "" if self.counterparts else "the models have no tensor of one name and shape"

    @cached_property
    def counterparts(self) -> list[Counterpart]:
        """The floating-point tensors of one name and shape, in the order of blocks and names."""
        keys = {key: key for key in self.a.keys if key in self.b}
        keys |= self._tied(self.a, self.b) | {b: a for a, b in self._tied(self.b, self.a).items()}
        return sorted(
            (Counterpart(*pair, shape) for pair in keys.items() if (shape := self._common_shape(*pair)) is not None),
            key=lambda pair: (*place_of(pair.key), pair.key),
        )

    @property
    def uncompared(self) -> dict[str, list[str]]:
        """Keys of the tensors that only A or only B has, and of those of other shapes or not floating-point."""
        of_a, of_b = ({getattr(pair, f"key_{side}") for pair in self.counterparts} for side in "ab")
        return {
            "only_a": [key for key in self.a.keys if key not in of_a and key not in self.b],
            "only_b": [key for key in self.b.keys if key not in of_b and key not in self.a],
            "other": [key for key in self.a.keys if key not in of_a and key in self.b],
        }

    @property
    def resized(self) -> list[str]:
        """Sentences on the embeddings of which the common rows alone are compared."""
        sentences = []
        for pair in self.counterparts:
            rows = self.a[pair.key_a].shape[:1], self.b[pair.key_b].shape[:1]
            if rows[0] != rows[1]:
                sentences.append(
                    f"{pair.key}: {rows[0][0]:,} and {rows[1][0]:,} rows; the first {pair.shape[0]:,} of both"
                )
        return sentences

    def changes(self, max_side: int) -> Iterator[TensorChange]:
        """The change of every pair of tensors; a tensor of either model is in memory at a time.

        Args:
            max_side: singular values are computed of matrices whose shorter side is at most this long.
        """
        for pair in logs.progress(self.counterparts, "weights", unit="tensor"):
            with self.tensors(pair) as (a, b):
                change = measure(a, b, f"{self.b.directory}: {pair.key_b}")
                singular = None
                if change.verdict == "changed" and a.ndim > 1 and min(shape := matrix_shape(a.shape)) <= max_side:
                    singular = spectrum(a.reshape(shape), b.reshape(shape))
            stored = self.a[pair.key_a].dtype, self.b[pair.key_b].dtype
            dtypes = str(stored[0]).removeprefix("torch."), str(stored[1]).removeprefix("torch.")
            yield TensorChange(pair.key, place_of(pair.key), pair.shape, dtypes, change, singular)

    @contextmanager
    def tensors(self, pair: Counterpart) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The common rows of two tensors, as they are stored."""
        with self.a.tensor(pair.key_a) as a, self.b.tensor(pair.key_b) as b:
            yield (a[: pair.shape[0]], b[: pair.shape[0]]) if pair.shape else (a, b)

    @contextmanager
    def matrices(self, key: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The matrices of one key as [outputs, inputs]."""
        pair = next(pair for pair in self.counterparts if pair.key == key)
        with self.tensors(pair) as (a, b):
            turned = is_transposed(*place_of(key), self._shapes[0]["architecture"])
            yield (a.T, b.T) if turned else (a, b)

    def _common_shape(self, key_a: str, key_b: str) -> tuple[int, ...] | None:
        """The shape in which two tensors are compared; None if they cannot be."""
        a, b = self.a[key_a], self.b[key_b]
        if a.dtype is None or b.dtype is None:
            return None
        if a.shape == b.shape:
            return a.shape
        is_embedding = role_of(place_of(key_a).kind).part in ("embeds", "unembeds")
        return (min(a.shape[0], b.shape[0]), *a.shape[1:]) if is_embedding and a.shape[1:] == b.shape[1:] else None

    @staticmethod
    def _tied(stored: StoredTensors, other: StoredTensors) -> dict[str, str]:
        """The other model's embedding by the key of an unembedding that only the first one stores."""
        parts = {key: role_of(place_of(key).kind).part for key in {*stored.keys, *other.keys}}
        embedding = next((key for key in other.keys if parts[key] == "embeds"), None)
        alone = [key for key in stored.keys if parts[key] == "unembeds" and key not in other]
        return dict.fromkeys(alone, embedding) if embedding else {}
