"""What the most changed matrices read and write: the first singular vectors of their changes, in words (METHODS 12).

A change of rank one, v u^T, writes v into the residual stream wherever it reads u. So the left singular vectors of a
matrix that writes to the stream are read by the logit lens, and the right ones of a matrix that reads from it by the
tokens whose embeddings point along them. The rows of an embedding or unembedding are tokens: they name themselves.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.models import ends
from diptych.models import lens as logit_lens
from diptych.storage.canonical import canonical_json
from diptych.text.tokenizer import Tokenizer
from diptych.weights.changes import first_vectors
from diptych.weights.comparison import Comparison, TensorChange
from diptych.weights.names import Part, role_of

FloatArray = npt.NDArray[np.float32]
LENS_NORM = 10.0
"""Root mean square of the residual that the final norm reads a direction at: far above the norm's epsilon."""


class Direction(NamedTuple):
    """One singular vector of a change that lies in the residual stream.

    Attributes:
        key: the tensor.
        number: 1 for the first singular vector.
        part: whether the matrix writes to the stream or reads from it.
        value: its singular value.
        share: of the tensor's change, value^2 / ||dW||^2.
        residual: float32 [d], the unit vector in the residual stream.
        tokens: float32 [V], the other singular vector of an embedding or unembedding; else empty.
    """

    key: str
    number: int
    part: Part
    value: float
    share: float
    residual: FloatArray
    tokens: FloatArray


def shown(changes: Sequence[TensorChange], top: int) -> list[TensorChange]:
    """The changed matrices whose directions are read, of those whose part in the residual stream is known.

    These are the `top` ones by relative change, and the most changed one of every kind.
    """
    known = [each for each in changes if each.spectrum and len(each.shape) == 2 and role_of(each.place.kind).part]
    ranked = sorted(known, key=lambda each: -each.change.relative)
    most: dict[str, TensorChange] = {}
    for each in known:
        first = most.setdefault(each.place.kind, each)
        if each.change.norm > first.change.norm:
            most[each.place.kind] = each
    wanted = {each.key for each in [*ranked[:top], *most.values()]}
    return [each for each in ranked if each.key in wanted]


def read(compared: Comparison, shown_changes: Sequence[TensorChange], count: int) -> list[Direction]:
    """The first `count` singular vectors of some changes in the residual stream; none above the noise, none."""
    return [direction for each in shown_changes for direction in _of_tensor(compared, each, count)]


def _of_tensor(compared: Comparison, each: TensorChange, count: int) -> Iterator[Direction]:
    assert each.spectrum is not None
    with compared.matrices(each.key) as (a, b):
        vectors = first_vectors(a, b, min(count, max(1, each.spectrum.rank)))
    part = role_of(each.place.kind).part
    writes = part in ("writes", "embeds")
    stream, other = (vectors.left, vectors.right) if writes else (vectors.right, vectors.left)
    if stream.shape[1] != compared.width:
        return
    for k, value in enumerate(vectors.values.tolist()):
        tokens = other[k] if part in ("embeds", "unembeds") else np.zeros(0)
        share = value**2 / each.change.norm**2
        yield Direction(each.key, k + 1, part, value, share, stream[k].astype(np.float32), tokens.astype(np.float32))


def in_words(directory: str | Path, directions: Sequence[Direction], count: int) -> dict[str, list[str]]:
    """Tokens of both ends of every direction in one model, as JSON lists.

    Args:
        directory: the model, of which embedding, final norm and unembedding are loaded.
        directions: in the residual stream of that model.
        count: tokens at either end.

    Returns:
        `up`, `down`: for what is written the tokens that the logit lens promotes and suppresses, for what is read those
        whose embeddings have the largest and the smallest cosine; `rows_up`, `rows_down`: the rows of an embedding or
        unembedding with the largest and smallest entries in the other singular vector.
    """
    model, tokenizer = ends.load(directory), Tokenizer(directory)
    residual = np.stack([direction.residual for direction in directions])
    written = logit_lens.lens(model, residual, LENS_NORM * math.sqrt(residual.shape[1]))
    alike = _cosines(model, residual)
    columns: dict[str, list[str]] = {"up": [], "down": [], "rows_up": [], "rows_down": []}
    for k, direction in enumerate(directions):
        scores = written[k] if direction.part in ("writes", "embeds") else alike[k]
        for prefix, values in (("", scores), ("rows_", direction.tokens)):
            order = np.argsort(-values, kind="stable")
            for end, ids in (("up", order[:count]), ("down", order[::-1][:count])):
                columns[f"{prefix}{end}"].append(canonical_json(tokenizer.texts(ids.tolist())))
    return columns


def _cosines(model: Any, directions: FloatArray) -> FloatArray:
    """Cosines of unit rows [n, d] with the embedding of every token, [n, V]."""
    embedding: FloatArray = model.get_input_embeddings().weight.numpy()
    lengths = np.linalg.norm(embedding, axis=1)
    cosines: FloatArray = directions @ embedding.T / np.maximum(lengths, np.finfo(np.float32).tiny)
    return cosines


def columns(directions: Sequence[Direction]) -> dict[str, list[Any]]:
    """The table of directions without their vectors."""
    names = ("key", "number", "part", "value", "share")
    return {name: [getattr(direction, name) for direction in directions] for name in names}


def stacked(directions: Sequence[Direction], width: int) -> FloatArray:
    """The directions in the residual stream, [n, d]."""
    return np.array([direction.residual for direction in directions], dtype=np.float32).reshape(-1, width)
