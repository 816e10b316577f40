"""Final hidden states of a model on disk, and the model's own head that turns them into logits block by block.

Logits of n positions over a vocabulary of V do not fit a memory or a disk; the states behind them, n x d, do. Each
model is therefore read once, one after the other, and of both only the heads remain:

    side, = read("results/models/base", [reading], "/tmp/a", dtype="float32", device="cpu")
    side.logits(0, 128)         # float32 [128, V], as the whole model gives them

The head is the model's own `forward` around a trunk that returns stored states, so that a soft cap or a scale of the
logits (Gemma-2, Granite) is what the model's code does. That the two halves give the whole model's logits is checked on
the first tokens.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diptych.models import pretrained
from diptych.models.batches import tokens_per_pass
from diptych.models.pretrained import Dtype, OutOfMemoryError, is_out_of_memory
from diptych.outputs.reading import IntArray, Reading
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

FloatArray = npt.NDArray[np.float32]

CHECKED_TOKENS = 16
"""First tokens on which the two halves of a model are compared with the whole."""
LARGEST_ERROR = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}
"""Relative error of their logits that rounding explains: the head's products may be summed in another order."""


class Head:
    """A model without its trunk: logits float32 [b, V] of final hidden states [b, d]."""

    def __init__(self, model: Any) -> None:
        """Take the trunk out of `model`, which must not be used any more."""
        self._unembedding = _Unembedding(model.get_output_embeddings())
        self._trunk = _StoredTrunk()
        self._model = model
        setattr(model, model.base_model_prefix, self._trunk)
        model.set_output_embeddings(self._unembedding)

    @property
    def device(self) -> torch.device:
        """Where the output embeddings are."""
        return self._unembedding.weight.device

    def __call__(self, states: Tensor, out: Tensor | None = None) -> Tensor:
        """Logits of states of any float dtype, written to `out` [b, at most V] if there is one."""
        weight = self._unembedding.weight
        self._trunk.states = states.to(weight.device, weight.dtype)[None]
        self._unembedding.out = out
        ids = torch.zeros(1, len(states), dtype=torch.int64, device=weight.device)
        logits: Tensor = self._model(input_ids=ids, use_cache=False).logits[0]
        self._unembedding.out = None
        if out is None:
            return logits.float()
        if logits.data_ptr() != out.data_ptr():
            out.copy_(logits[:, : out.shape[1]])
        return out


class _Unembedding(nn.Module):
    """A model's output embeddings, whose product is written to `out` where that is of its size and kind.

    Products allocated anew for each block would leave the allocator's memory in pieces.
    """

    def __init__(self, unembedding: nn.Module) -> None:
        super().__init__()
        self.unembedding = unembedding
        self.out: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The embedding of every token, [V, d]."""
        return cast(Tensor, self.unembedding.weight)

    def forward(self, states: Tensor) -> Tensor:
        out, linear = self.out, self.unembedding
        shape = (states.shape[1], len(self.weight))
        if out is None or out.dtype != states.dtype or out.shape != shape or type(linear) is not nn.Linear:
            product: Tensor = linear(states)
            return product
        torch.mm(states[0], linear.weight.T, out=out)
        return (out if linear.bias is None else out.add_(linear.bias))[None]


class _StoredTrunk(nn.Module):
    """Stands for a model's trunk and returns given states, whatever it is asked."""

    states: Tensor

    def forward(self, *arguments: Any, **keywords: Any) -> "_StoredOutput":
        return _StoredOutput(self.states)


class _StoredOutput:
    """The output of a trunk with nothing but its last hidden states."""

    def __init__(self, states: Tensor) -> None:
        self.last_hidden_state = states

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        return None


@dataclass(frozen=True)
class Side:
    """One model of a comparison: its head, and its states at n positions on disk, float32 [n, d]."""

    head: Head
    path: Path
    width: int
    vocabulary: int

    @property
    def device(self) -> torch.device:
        """Where logits are computed."""
        return self.head.device

    def states(self, start: int, stop: int) -> Tensor:
        """Final hidden states at positions start .. stop."""
        count = (stop - start) * self.width
        values = np.fromfile(self.path, dtype=np.float32, count=count, offset=4 * start * self.width)
        return torch.from_numpy(values.reshape(-1, self.width))

    @torch.inference_mode()
    def logits(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Logits at positions start .. stop, float32 [stop - start, V], written to `out` if there is one."""
        return self.head(self.states(start, stop), out)

    @torch.inference_mode()
    def logits_at(self, positions: IntArray) -> Tensor:
        """Logits at some positions, float32 [k, V]."""
        return self.head(torch.cat([self.states(int(i), int(i) + 1) for i in positions]))


def read(
    model_dir: str | Path, readings: Sequence[Reading], directory: str | Path, *, dtype: Dtype, device: str
) -> list[Side]:
    """Read texts by a model and write its final hidden states at their rows; one side for each text, of one head.

    Args:
        model_dir: transformers directory.
        readings: the texts.
        directory: where the states are written, float32 [n, d]; any float dtype of a model fits without loss.
        dtype: of the forward pass.
        device: a torch device.

    Raises:
        OutOfMemoryError: a single sequence does not fit the memory.
        DiptychError: the model does not fit the tokens, its parts do not give its logits, or its states are not finite.
    """
    description = pretrained.describe(model_dir)
    for reading in readings:
        reading.sequences.check_fits(description)
    model = pretrained.load(model_dir, dtype=dtype, device=device)
    first = readings[0].sequences.batch(readings[0].which[:1]).ids[:, :CHECKED_TOKENS]
    with torch.inference_mode():
        ids = torch.from_numpy(first).to(device)
        whole, halves = model(input_ids=ids, use_cache=False).logits[0].float(), _trunk_states(model, ids)[0]
    paths = [Path(directory) / f"states-{number}.f32" for number in range(len(readings))]
    for reading, path in zip(readings, paths, strict=True):
        _write_states(model, reading, path, tokens_per_pass(description["width"]))
    head = Head(model)
    del model
    gc.collect()  # the trunk that the head has been parted from
    _check_head(head, halves, whole, f"{model_dir}", LARGEST_ERROR[dtype])
    return [Side(head, path, halves.shape[-1], whole.shape[-1]) for path in paths]


@torch.inference_mode()
def _check_head(head: Head, states: Tensor, logits: Tensor, name: str, largest: float) -> None:
    error = float((head(states) - logits).abs().max() / logits.abs().max())
    if not error <= largest:
        raise DiptychError(
            f"{name}: its trunk and head apart do not give its logits (relative error {error:.2g}); this architecture "
            "cannot be compared by its outputs"
        )


def _trunk_states(model: Any, ids: Tensor) -> Tensor:
    """Final hidden states [b, L, d], after the final norm."""
    states: Tensor = model.base_model(input_ids=ids, use_cache=False)[0]
    return states


def _write_states(model: Any, reading: Reading, path: Path, batch_tokens: int) -> None:
    """Write the states of the reading's rows, longest sequences first; a lack of memory halves the batch."""
    done, order = 0, np.argsort(-reading.length, kind="stable")
    place = np.full(len(reading.sequences.token), -1, dtype=np.int64)
    place[reading.row] = np.arange(len(reading))
    with path.open("wb") as file:
        while done < len(order):
            batch = order[done : done + max(1, batch_tokens // int(reading.length[order[done]]))]
            try:
                states = _batch_states(model, reading, batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise OutOfMemoryError(
                        f"{reading.sequences.path}: out of memory at one sequence of {reading.length[batch[0]]} tokens;"
                        " set the model's `dtype` to bfloat16, or use a machine with more memory"
                    ) from error
                batch_tokens //= 2
                logs.logger.warning("out of memory: %d tokens in a forward pass", batch_tokens)
                continue
            for index, values in zip(batch, states, strict=True):
                _write_sequence(file, reading, int(index), values, place)
            done += len(batch)


@torch.inference_mode()
def _batch_states(model: Any, reading: Reading, batch: IntArray) -> FloatArray:
    """States of the beginnings `batch` (indices into the reading), float32 [b, L, d], padded on the right."""
    ids = reading.sequences.batch(reading.which[batch]).ids[:, : int(reading.length[batch].max())]
    states = _trunk_states(model, torch.from_numpy(ids).to(model.device)).float().cpu().numpy()
    artifacts.check_finite(states, f"final hidden states of {reading.sequences.path}")
    return states


def _write_sequence(file: BinaryIO, reading: Reading, index: int, states: FloatArray, place: IntArray) -> None:
    """Write those of a sequence's states [L, d] that the reading compares, at their place."""
    start = int(reading.sequences.start[reading.which[index]])
    places = place[start : start + int(reading.length[index])]
    compared = np.flatnonzero(places >= 0)
    if len(compared):
        file.seek(4 * int(places[compared[0]]) * states.shape[-1])
        file.write(np.ascontiguousarray(states[compared]).tobytes())
