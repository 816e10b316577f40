"""Activations of a model at some sites, for every token row of a token file.

    activations.dump("results/models/base", "results/tokens/addresses/base.h5", "results/.../main/0.h5",
                     spec=spec, sites=["middle", "blocks.3.hook_mlp_out"], dtype="bfloat16")

All sites are read in one forward pass, which ends as soon as the last of them has been reached (`models.hooks`).

Sequences are read longest first in batches of `batch_tokens`, so that padding is small and a lack of memory shows at
once. Padding is on the right, where no token of a causal model attends to it, so that no mask is needed. A batch's rows
are written while the next one is computed. A job that is killed resumes where it stopped (`shard_writer`).

A few sequences, evenly spread, are read first and one layer deeper: for their rows the activations of the two
neighbouring layers are stored too, by which `dictionaries.layer_check` tests whether a dictionary belongs to this
layer.
"""

import gc
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.activations.shard_sequences import PRECISION_TOKENS, ShardSequences
from diptych.activations.shard_writer import SAMPLED, NotFiniteError, Progress, Rounded, Shape, ShardWriter, rounded
from diptych.models import placement
from diptych.models.batches import tokens_per_pass
from diptych.models.hooks import DType, HookedModel, Loader, block_outputs, widths
from diptych.models.placement import Devices
from diptych.models.pretrained import OutOfMemoryError, is_out_of_memory
from diptych.runtime import logs
from diptych.runtime.behind import Behind
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text.tokenizer import check_tokenizer

IntArray = npt.NDArray[np.int64]

CHECKPOINT_SECONDS = 30.0
"""Time between checkpoints: what a killed job may lose."""


def dump(
    model_dir: str | Path,
    tokens_path: str | Path,
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    sites: Sequence[str],
    shard: int = 0,
    shards: int = 1,
    first: int | None = None,
    dtype: DType = "bfloat16",
    store: DType = "bfloat16",
    batch_tokens: int | None = None,
    measure_precision: bool = True,
    device: Devices = "cpu",
) -> None:
    """Write one shard of a model's activations (stage `dump_activations`).

    Args:
        model_dir: transformers directory with weights and tokenizer.
        tokens_path: token file, of the same tokenizer.
        out: the artifact, kind "activations"; those of the other shards, named by their number, are beside it.
        spec: what the result depends on; a stopped job is resumed only under the same spec.
        sites: each a hook name, a relative depth or `first | middle | last` (see `sites.resolve_site`).
        shard: which of the contiguous spans of sequences, 0 <= shard < shards.
        shards: number of spans, about equal in tokens.
        first: read and store only so many first tokens of each sequence, which no later one changes; None: all. The
            neighbouring layers are left out then.
        dtype: of the forward pass.
        store: dtype on disk.
        batch_tokens: tokens of one forward pass, padding included; at least one sequence is read. None: from the
            model's width (`batches.tokens_per_pass`).
        measure_precision: read a few sequences again in float32 (shard 0 only) and store the relative error, or why
            it could not be measured.
        device: a torch device, or those that the model is spread over.

    Raises:
        DiptychError: another tokenizer, an unknown site, sequences longer than the model's context, too little disk,
            values that are not finite or do not fit float16, or too little memory for the model or a single sequence.
    """
    sequences = ShardSequences.of_shard(tokens_path, shard, shards, first)
    check_tokenizer(model_dir, tokens_path)
    torch_device = torch.device(placement.first(device))
    loader = Loader(model_dir, sites, device, neighbours=first is None)
    loader.check(int(sequences.token.max()), int(sequences.lengths().max()))
    model = loader.load(dtype)
    writer = _shard_writer(Path(out), spec, loader, widths(model, torch_device), sequences, store)
    writer.open(batch_tokens or tokens_per_pass(loader.width))
    _log_padding(sequences, writer.progress)
    _run(model, loader, sequences, writer, store, torch_device)
    stored_hooks = set(model.hooks) - set(writer.progress.dropped)
    neighbours = {site: [hook for hook in hooks if hook in stored_hooks] for site, hooks in loader.neighbours.items()}
    del model
    gc.collect()  # hooks and model hold each other
    if measure_precision and shard == 0 and dtype != "float32":
        _measure_precision(loader, sequences, writer, torch_device)
    writer.finish(
        {
            "hooks": loader.hooks,
            "first_row": sequences.first_row,
            "compute_dtype": dtype,
            "neighbours": neighbours,
            **({} if first is None else {"first": first}),
        },
        sample_row=sequences.token_rows(sequences.sample_rows()),
        token_row=None if first is None else sequences.token_rows(np.arange(sequences.n_rows)),
    )


def _shard_writer(
    out: Path,
    spec: Mapping[str, Any],
    loader: Loader,
    width: Mapping[str, int],
    sequences: ShardSequences,
    dtype: DType,
) -> ShardWriter:
    """The writer of all rows at the sites and of the sampled rows at their neighbours."""
    k = len(sequences.sample_rows())
    sites = {site: Shape(sequences.n_rows, width[site]) for site in loader.hooks}
    sample = {hook: Shape(k, width[hook]) for hook in width if hook not in sites}
    others = {out.with_name(f"{shard}{out.suffix}"): rows for shard, rows in sequences.others.items()}
    return ShardWriter(out, spec, sites, dtype, sample, others)


# --- forward passes -------------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """The rows of a batch of sequences, on their way to the disk.

    Attributes:
        n_sequences: number of sequences.
        row: int64 [k], of the shard.
        sites: by site.
        sample_row: int64 [k], of the sample.
        sample: by neighbouring hook.
    """

    n_sequences: int
    row: IntArray
    sites: Mapping[str, Rounded]
    sample_row: IntArray
    sample: Mapping[str, Rounded]


def _run(
    model: HookedModel,
    loader: Loader,
    sequences: ShardSequences,
    writer: ShardWriter,
    store: DType,
    device: torch.device,
) -> None:
    """Run the model on all sequences that are not stored yet, and store their activations."""
    sample_row = sequences.sample_rows()
    total = sum(1 for _ in _batches(sequences, writer.progress))
    batches = logs.progress(_batches(sequences, writer.progress), "activations", total=total, unit=" batches")
    with _naming_non_finite_rows(model, sequences, device), Behind(_BlockWriter(writer)) as write:
        for batch, is_sampled in batches:
            ids = torch.from_numpy(sequences.padded(batch)).to(device)
            values = forward(model, ids, None if is_sampled else loader.hooks)
            if values is None:
                write.wait()
                _halve(sequences, batch, writer.progress)
                continue
            row, real = sequences.rows_of(batch), real_tokens(sequences, batch, device)
            sites = {name: rounded(value[real], store) for name, value in values.items() if name in loader.hooks}
            sample = {name: rounded(value[real], SAMPLED) for name, value in values.items() if name not in sites}
            write(_Block(len(batch), row, sites, np.searchsorted(sample_row, row), sample))
    writer.save()


class _BlockWriter:
    """Writes blocks in their order, and a checkpoint every `CHECKPOINT_SECONDS`."""

    def __init__(self, writer: ShardWriter) -> None:
        self._writer, self._saved = writer, time.monotonic()

    def __call__(self, block: _Block) -> None:
        for site, rows in block.sites.items():
            self._writer.put(site, block.row, rows)
        for hook, rows in block.sample.items():
            self._writer.put_sample(hook, block.sample_row, rows)
        self._writer.progress.sequences += block.n_sequences
        if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self._writer.save()
            self._saved = time.monotonic()


@contextmanager
def _naming_non_finite_rows(model: HookedModel, sequences: ShardSequences, device: torch.device) -> Iterator[None]:
    try:
        yield
    except NotFiniteError as error:
        raise _not_finite(model, sequences, error.site, error.row, device) from None


def forward(model: HookedModel, ids: Tensor, sites: Collection[str] | None = None) -> dict[str, Tensor] | None:
    """Activations [b, t, d] of a padded batch by site; None if memory ran out."""
    try:
        return model(ids, sites)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


def real_tokens(sequences: ShardSequences, batch: IntArray, device: torch.device) -> Tensor:
    """Mask of a padded batch, bool [b, longest]: True at tokens, False at padding."""
    lengths = sequences.lengths()[batch]
    return torch.from_numpy(np.arange(int(lengths.max())) < lengths[:, None]).to(device)


def _batches(sequences: ShardSequences, progress: Progress) -> Iterator[tuple[IntArray, bool]]:
    """Batches that are not stored yet, and whether they are of sampled sequences.

    A batch for which memory ran out (`_halve`) comes again, halved.
    """
    done = progress.sequences
    while done < len(sequences.order):
        halved = progress.halved
        batch = sequences.batch(done, progress.batch_tokens)
        yield batch, done < sequences.sampled
        if progress.halved == halved:
            done += len(batch)


def _log_padding(sequences: ShardSequences, progress: Progress) -> None:
    """Log the number of batches and the share of their positions that is padding."""
    all_lengths = sequences.lengths()
    lengths = [all_lengths[batch] for batch, _ in _batches(sequences, progress)]
    positions = sum(int(of_batch[0]) * len(of_batch) for of_batch in lengths)
    tokens = sum(int(of_batch.sum()) for of_batch in lengths)
    logs.logger.info(
        "%d tokens in %d batches; %d of %d positions are padding", tokens, len(lengths), positions - tokens, positions
    )


def _halve(sequences: ShardSequences, batch: IntArray, progress: Progress) -> None:
    """Halve the batch for the rest of the shard.

    Raises:
        DiptychError: the batch is a single sequence already.
    """
    longest = int(sequences.lengths()[batch].max())
    if len(batch) == 1:
        raise too_little_memory(longest)
    torch.cuda.empty_cache()
    progress.batch_tokens = longest * (len(batch) // 2)
    progress.halved += 1
    logs.logger.warning("out of memory: continuing with batches of %d tokens", progress.batch_tokens)


def finite_norms(
    model: HookedModel, sequences: ShardSequences, site: str, row: IntArray, rows: Tensor
) -> npt.NDArray[np.float32]:
    """Norms [k] of the activations [k, d] of the token rows `row`.

    Raises:
        DiptychError: a row is not finite; the message names the first block and token with such a value.
    """
    norm: npt.NDArray[np.float32] = rows.float().norm(dim=-1).cpu().numpy()
    if not np.isfinite(norm).all():
        raise _not_finite(model, sequences, site, int(row[int(np.argmin(np.isfinite(norm)))]), rows.device)
    return norm


def too_little_memory(longest: int) -> DiptychError:
    """The error for a model that cannot read even one sequence."""
    return DiptychError(
        f"out of memory with a single sequence of {longest} tokens; lower `sequence_length` or the model's dtype"
    )


def _not_finite(
    model: HookedModel, sequences: ShardSequences, site: str, bad: int, device: torch.device
) -> DiptychError:
    """The error for a non-finite row, naming the first block and the first token of its sequence with such a value."""
    sequence = int(np.searchsorted(sequences.start, bad, side="right")) - 1
    outputs = block_outputs(model.hooks[site])
    model.watch(outputs)
    where = site
    values = model(torch.from_numpy(sequences.padded(np.array([sequence]))).to(device), outputs)
    for name, value in values.items():
        finite = torch.isfinite(value[0]).all(dim=-1).cpu().numpy()
        if not finite.all():
            where, bad = name, int(sequences.start[sequence] + np.argmin(finite))
            break
    with artifacts.read(sequences.path, "tokens") as file:
        known = int(np.searchsorted(file["vocabulary/id"][:], sequences.token[bad]))
        text = artifacts.read_strings(file, "vocabulary/text")[known]
    return DiptychError(
        f"site {site!r} ({model.hooks[site]}): activations are not finite, first after {where} at token row "
        f"{int(sequences.token_rows(np.array([bad]))[0])} (token id {int(sequences.token[bad])}, {text!r}); check the "
        "weights or use dtype bfloat16 or float32"
    )


def _measure_precision(loader: Loader, sequences: ShardSequences, writer: ShardWriter, device: torch.device) -> None:
    """Median and maximum relative error of the stored rows against a float32 forward pass, on a few sequences."""
    batch = sequences.batch(0, PRECISION_TOKENS)
    try:
        exact = forward(loader.load("float32"), torch.from_numpy(sequences.padded(batch)).to(device), loader.hooks)
    except OutOfMemoryError:
        exact = None
    if exact is None:
        writer.progress.unmeasured = "out of memory in float32"
        logs.logger.warning("the precision of the forward pass is not measured: %s", writer.progress.unmeasured)
        return
    row, real = sequences.rows_of(batch), real_tokens(sequences, batch, device)
    for site, value in exact.items():
        error = relative_error(value[real].float().cpu().numpy(), writer.get(site, row))
        writer.progress.compute_error[site] = error
        logs.logger.info("site %s: median relative error %.2g against float32", site, error["median"])


def relative_error(exact: npt.NDArray[np.float32], stored: npt.NDArray[np.float32]) -> dict[str, float]:
    """Median and maximum over rows of ||x - stored|| / ||x||."""
    norm = np.maximum(np.linalg.norm(exact, axis=-1), np.finfo(np.float32).tiny)
    error = np.linalg.norm(exact - stored, axis=-1) / norm
    return {"median": float(np.median(error)), "max": float(error.max())}
