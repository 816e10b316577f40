"""Streamed activations: computed when they are read, for corpora whose activations do not fit on disk.

A `StreamedSide` is read like a stored one (`sides.Side`), so that whatever trains on `Rows` can train on it:

    rows = streaming.stream(models, "middle", held_out=tokens_of_stored_corpus, devices=["cuda:1"])
    rows.take(index).x             # runs the sequences that contain these rows; nothing is stored
    rows.sides[0].compute(token)   # one model's rows on its device, in the stored dtype
    rows.sides[0].tokens_run       # number of tokens that went through the model

The stored corpus of the same models decides which rows are valid (`Rows.valid`): a row whose norm exceeds that
corpus's limit for massive activations is not, and a document that is also in that corpus's test fold is put into the
test fold here, whatever its own fold, so that it is never trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.activations import buffer, dump, gates, rows
from diptych.activations.shard_sequences import ShardSequences
from diptych.activations.shard_writer import STORED
from diptych.activations.sides import StoredArray
from diptych.models import batches, placement
from diptych.models.hooks import TORCH, DType, HookedModel, Loader, widths
from diptych.models.placement import Devices
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text import selection
from diptych.text.tokenizer import check_tokenizer

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
UNKNOWN, VALID, MASSIVE = 0, 1, 2
"""State of the check of a row's norm."""


class StreamedModel(NamedTuple):
    """A model to be streamed: its directory, dtype, token file, and the gates of its stored activations."""

    model: str | Path
    dtype: DType
    tokens: str | Path
    gates: str | Path


@dataclass
class StreamedSide:
    """One model's activations at one site, from forward passes over the sequences that contain the rows read.

    Attributes:
        model: hooked at the site.
        site: name of the site.
        sequences: the sequences of the token file.
        device: where its rows are computed to.
        width: of a row.
        batch_tokens: tokens of a forward pass; halved when memory runs out.
        store: rows are rounded to this dtype, as if they had been stored.
        norm_limit: rows of a larger norm are not valid, except at named template positions.
        at_template_position: bool [n], which rows are at such a position.
        tokens_run: number of tokens that went through the model so far.
        halved: how often memory ran out.
    """

    model: HookedModel
    site: str
    sequences: ShardSequences
    device: torch.device
    width: int
    batch_tokens: int
    store: DType
    norm_limit: float
    at_template_position: BoolArray
    tokens_run: int = 0
    halved: int = 0
    _validity: npt.NDArray[np.uint8] = field(init=False, repr=False)
    _last: tuple[IntArray, Tensor] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._validity = np.zeros(self.sequences.n_rows, dtype=np.uint8)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a value, as if it had been stored."""
        return np.dtype(STORED[self.store])

    def take(self, token_row: IntArray) -> FloatArray:
        """The float32 activations [k, d] of sorted token rows."""
        values: FloatArray = self.compute(token_row).float().cpu().numpy()
        return values

    def read(self, token_row: IntArray, out: StoredArray) -> None:
        """Copy the activations of sorted token rows to `out` [k, d]."""
        buffer.as_tensor(out).copy_(self.compute(token_row))

    def compute(self, token_row: IntArray) -> Tensor:
        """The activations [k, d] of sorted token rows, of dtype `store`; those of the last call are cached."""
        if self._last is not None and np.array_equal(self._last[0], token_row):
            return self._last[1]
        out = torch.empty((len(token_row), self.width), dtype=TORCH[self.store], device=self.device)
        pending = np.unique(np.searchsorted(self.sequences.start, token_row, side="right") - 1)
        pending = pending[np.argsort(-self.sequences.lengths()[pending], kind="stable")]
        while len(pending):
            lengths = self.sequences.lengths()[pending]
            n = batches.n_fitting(lengths, self.batch_tokens)
            if self._fill(out, token_row, pending[:n]):
                pending = pending[n:]
            else:
                self._halve(n, int(lengths[0]))
        self._last = (token_row.copy(), out)
        return out

    def valid(self, token_row: IntArray) -> BoolArray:
        """Which token rows do not exceed the norm limit; the model runs on those that have not been read yet."""
        unknown = token_row[self._validity[token_row] == UNKNOWN]
        if len(unknown):
            self.compute(unknown)
        return np.asarray(self._validity[token_row] == VALID)

    def _fill(self, out: Tensor, token_row: IntArray, batch: IntArray) -> bool:
        """Run a batch of sequences and write those of their rows in `token_row` to `out`; False if memory ran out."""
        ids = torch.from_numpy(self.sequences.padded(batch)).to(self.device)
        activations = dump.forward(self.model, ids, [self.site])
        if activations is None:
            return False
        row = self.sequences.rows_of(batch)
        position = np.minimum(np.searchsorted(token_row, row), len(token_row) - 1)
        hit = token_row[position] == row
        values = activations[self.site][dump.real_tokens(self.sequences, batch, self.device)]
        values = values[torch.from_numpy(hit).to(self.device)]
        norm = dump.finite_norms(self.model, self.sequences, self.site, row[hit], values)
        massive = (norm > self.norm_limit) & ~self.at_template_position[row[hit]]
        self._validity[row[hit]] = np.where(massive, MASSIVE, VALID)
        out.index_copy_(0, torch.from_numpy(position[hit]).to(self.device), values.to(out.dtype))
        self.tokens_run += len(row)
        return True

    def _halve(self, n_sequences: int, longest: int) -> None:
        if n_sequences == 1:
            raise dump.too_little_memory(longest)
        self.batch_tokens = longest * (n_sequences // 2)
        self.halved += 1
        logs.logger.warning("out of memory: continuing with batches of %d tokens", self.batch_tokens)


def stream(
    models: Sequence[StreamedModel],
    site: str,
    *,
    held_out: str | Path,
    alignment: str | Path | None = None,
    row_selection: selection.RowSelection = "all",
    store: DType = "bfloat16",
    batch_tokens: int | None = None,
    devices: Sequence[Devices] = ("cpu",),
) -> rows.Rows:
    """Rows of several models whose activations are computed when they are read.

    Args:
        models: the first one's tokens give documents, folds and positions.
        site: read in each of them.
        held_out: token file of the stored corpus, whose test fold is never trained on.
        alignment: artifact that aligns the second model's token rows with the first's, if their tokenizers differ.
        row_selection: "all" rows, the "last" one of each document, or those of some roles.
        store: rows are rounded to this dtype.
        batch_tokens: tokens of a forward pass; None: from the model's width.
        devices: torch device of each model, or those that it is spread over; used in turn where there are fewer.

    Raises:
        DiptychError: a model has another tokenizer than its tokens, an unknown site, or nothing is left to train on.
    """
    sides: dict[StreamedModel, StreamedSide] = {}
    for streamed in models:
        if streamed not in sides:
            device = devices[len(sides) % len(devices)]
            sides[streamed] = _side(streamed, site, store, batch_tokens, device)
    usable = [gates.read_tokens(streamed.tokens).cause == 0 for streamed in models]
    tokens = models[0].tokens
    aligned = rows.align_rows(usable, alignment, tokens, row_selection)
    fold, left_out = _folds(tokens, held_out)
    fold = fold[aligned.document]
    if not (fold != 0).any():
        raise DiptychError(f"{tokens}: every document is in the test fold of {held_out}; stream others")
    logs.logger.info(
        "streaming %s: %d rows to train on; %d documents left out because they are in the test fold of %s",
        tokens, int((fold != 0).sum()), left_out, held_out,
    )  # fmt: skip
    return aligned.read_from(tuple(sides[streamed] for streamed in models), fold)


def _side(streamed: StreamedModel, site: str, store: DType, batch_tokens: int | None, devices: Devices) -> StreamedSide:
    check_tokenizer(streamed.model, streamed.tokens)
    sequences = ShardSequences.of_shard(streamed.tokens, 0, 1)
    loader, device = Loader(streamed.model, [site], devices), torch.device(placement.first(devices))
    loader.check(int(sequences.token.max()), int(sequences.lengths().max()))
    model = loader.load(streamed.dtype)
    with artifacts.read(streamed.gates, "gates") as file:
        norm_limit = float(artifacts.read_json(file, "gates")[site]["norm_limit"])
    return StreamedSide(
        model=model,
        site=site,
        sequences=sequences,
        device=device,
        width=widths(model, device)[site],
        batch_tokens=batch_tokens or batches.tokens_per_pass(loader.width),
        store=store,
        norm_limit=norm_limit,
        at_template_position=gates.read_tokens(streamed.tokens).at_template_position,
    )


def _folds(tokens: str | Path, held_out: str | Path) -> tuple[IntArray, int]:
    """Fold of each document, 0 for those in the test fold of `held_out`; and how many of these had another fold."""
    with artifacts.read(held_out, "tokens") as file:
        test = file["documents/text_hash"][:][file["documents/fold"][:] == 0]
    with artifacts.read(tokens, "tokens") as file:
        fold: IntArray = file["documents/fold"][:].astype(np.int64)
        is_test = np.isin(file["documents/text_hash"][:], test)
    left_out = int((is_test & (fold != 0)).sum())
    fold[is_test] = 0
    return fold, left_out


INPUTS = ("shards", "gates", "tokens", "alignment", "models", "stream_tokens", "stream_alignment")
"""Names of the lists of paths that `training_rows` reads."""


def input_lists(inputs: Any) -> dict[str, list[str]]:
    """The `INPUTS` of a job as lists of paths: Snakemake gives a single file as text, and absent inputs not at all."""
    by_name = {name: inputs.get(name) or [] for name in INPUTS}
    return {name: [paths] if isinstance(paths, str) else list(paths) for name, paths in by_name.items()}


def _first(paths: Sequence[str]) -> str | None:
    return paths[0] if paths else None


def training_rows(
    inputs: Mapping[str, Sequence[str]], reads: Mapping[str, Any], devices: Sequence[Devices]
) -> rows.Rows:
    """The rows that a crosscoder is trained on: streamed if the job has a `stream`, else stored.

    Args:
        inputs: lists of paths by name: `gates` and `tokens` of each model, `alignment`, and `shards`, or for a stream
            `models` (their manifests), `stream_tokens` and `stream_alignment`.
        reads: of the job's spec: `site`, `rows`, and `stream` with `dtypes`, `store` and `batch_tokens`.
        devices: of streamed models, see `stream`.
    """
    if not reads.get("stream"):
        files = rows.split_files(inputs["shards"], inputs["gates"], inputs["tokens"], reads["site"])
        return rows.stored(files, _first(inputs["alignment"]), reads["rows"])
    settings = reads["stream"]
    directories = [Path(manifest).parent for manifest in inputs["models"]]
    models = zip(directories, settings["dtypes"], inputs["stream_tokens"], inputs["gates"], strict=True)
    return stream(
        [StreamedModel(*streamed) for streamed in models],
        reads["site"],
        held_out=inputs["tokens"][0],
        alignment=_first(inputs["stream_alignment"]),
        row_selection=reads["rows"],
        store=settings["store"],
        batch_tokens=settings["batch_tokens"],
        devices=devices,
    )
