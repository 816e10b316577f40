"""Activations: every token row of a model at some sites, from forward passes that go no deeper than they must.

    activations.dump("results/models/base", "results/tokens/addresses/base.h5", "results/.../main/0.h5",
                     spec=spec, sites=["middle", "blocks.3.hook_mlp_out"], dtype="bfloat16")

All sites are read in one forward pass, which is abandoned as soon as the last of them has been seen (`hooked`).

Sequences are read longest first in batches of `batch_tokens`, so that padding is small and a lack of memory shows at
once. Padding stands on the right of causal models, where no token sees it, so that no mask is needed. A job that
is killed goes on where it was (`row_store`).
"""

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych import DiptychError, artifacts, logs
from diptych.hooked import DType, HookedModel, Loader, widths
from diptych.row_store import Store
from diptych.tokenizer import tokenizer_hash

Int32Array = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]

CHECKPOINT_SECONDS = 30.0
"""How much work a killed job may lose."""
PRECISION_TOKENS = 512
"""Tokens read again in float32 to measure what the compute dtype loses: enough for a median, seconds of work."""


def dump(
    model_dir: str | Path,
    tokens_path: str | Path,
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    sites: Sequence[str],
    shard: int = 0,
    shards: int = 1,
    dtype: DType = "bfloat16",
    store: DType = "bfloat16",
    batch_tokens: int = 2048,
    measure_precision: bool = True,
    trust_remote_code: bool = False,
    device: str = "auto",
) -> None:
    """Write one shard of a model's activations (stage `dump_activations`).

    Args:
        model_dir: transformers directory with weights and tokenizer.
        tokens_path: token file, of the same tokenizer.
        out: the artifact, kind "activations".
        spec: what the result depends on; a stopped job is resumed only under the same spec.
        sites: each a hook name, a relative depth or `first | middle | last` (see `sites.resolve_site`).
        shard: which of the contiguous spans of sequences, 0 <= shard < shards.
        shards: number of spans, about equal in tokens.
        dtype: of the forward pass.
        store: dtype on disk.
        batch_tokens: tokens of one forward pass, padding included; at least one sequence is read.
        measure_precision: read a few sequences again in float32 (shard 0 only) and store the relative error.
        trust_remote_code: let the model directory's own Python code run.
        device: "auto", "cpu" or "cuda".

    Raises:
        DiptychError: another tokenizer, an unknown site, sequences longer than the model's context, too little disk,
            values that are not finite or do not fit float16, or too little memory for a single sequence.
    """
    work = Work.of_shard(tokens_path, shard, shards)
    check_tokenizer(model_dir, tokens_path)
    on = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    loader = Loader(model_dir, sites, on, trust_remote_code)
    loader.check(int(work.token.max()), int(work.lengths().max()))
    model = loader.load(dtype)
    held = Store(Path(out), spec, work.n_rows, widths(model, on), store)
    held.open(batch_tokens)
    _run(model, work, held, on)
    del model
    gc.collect()  # hooks and model hold each other
    if measure_precision and shard == 0 and dtype != "float32":
        held.progress.compute_error = _compute_error(loader.load("float32"), work, held, on)
    held.finish({"hooks": loader.hooks, "first_row": work.first_row, "compute_dtype": dtype})


# --- which rows -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """The sequences of one shard.

    Attributes:
        token: int32 [n], the shard's token rows.
        start: int64 [S + 1], where each of its sequences begins among them.
        first_row: the token file's row of its first one.
        order: int64 [S], sequences by falling length, in which they are read.
    """

    token: Int32Array
    start: IntArray
    first_row: int
    order: IntArray

    @classmethod
    def of_shard(cls, tokens_path: str | Path, shard: int, shards: int) -> "Work":
        """A contiguous span of the token file's sequences.

        Raises:
            DiptychError: there are fewer sequences than shards.
        """
        with artifacts.read(tokens_path, "tokens") as file:
            start = file["sequences/start"][:]
            if shards > len(start) - 1:
                raise DiptychError(f"{tokens_path}: {len(start) - 1} sequences give no {shards} shards; lower `shards`")
            edges = shard_edges(start, shards)
            first, last = edges[shard], edges[shard + 1]
            token = file["token"][start[first] : start[last]]
        own = start[first : last + 1] - start[first]
        return cls(token, own, int(start[first]), np.argsort(-np.diff(own), kind="stable"))

    @property
    def n_rows(self) -> int:
        """Number of token rows."""
        return len(self.token)

    def lengths(self) -> IntArray:
        """Length of each sequence."""
        lengths: IntArray = np.diff(self.start)
        return lengths

    def batch(self, done: int, batch_tokens: int) -> IntArray:
        """The next sequences after the first `done` of the order: as many as fit when padded to the longest."""
        longest = int(self.lengths()[self.order[done]])
        return self.order[done : done + max(1, batch_tokens // longest)]

    def padded(self, batch: IntArray) -> npt.NDArray[np.int64]:
        """Token ids [b, longest], padded on the right with 0."""
        lengths = self.lengths()[batch]
        ids = np.zeros((len(batch), int(lengths.max())), dtype=np.int64)
        for row, (sequence, length) in enumerate(zip(batch, lengths, strict=True)):
            ids[row, :length] = self.token[self.start[sequence] : self.start[sequence] + length]
        return ids


def shard_edges(start: IntArray, shards: int) -> IntArray:
    """Sequence numbers [shards + 1] that cut a file of sequences into spans of about equal tokens, none empty."""
    targets = start[-1] * np.arange(shards + 1) / shards
    least = np.arange(shards + 1)
    edges = np.searchsorted(start, targets, side="left")
    clipped: IntArray = np.clip(edges, least, len(start) - 1 - least[::-1])
    return clipped


def check_tokenizer(model_dir: str | Path, tokens_path: str | Path) -> None:
    """Raise `DiptychError` if the model reads text with another tokenizer than made the tokens."""
    with artifacts.read(tokens_path, "tokens") as file:
        expected = artifacts.read_json(file, "tokenizer")
    if tokenizer_hash(model_dir) != expected:
        raise DiptychError(
            f"{model_dir}: its tokenizer is not the one that made {tokens_path}; "
            "give the model its own tokens (`tokenizer` of the model) or align the two"
        )


# --- forward passes -------------------------------------------------------------------------------------------


def _run(model: HookedModel, work: Work, store: Store, device: torch.device) -> None:
    """Read all sequences that the store does not hold yet."""
    saved = time.monotonic()
    for batch in logs.progress(
        _batches(work, store), "activations", total=_count_batches(work, store), unit=" batches"
    ):
        values = _forward(model, work.padded(batch), device)
        if values is None:
            _halve(work, store)
            continue
        for site, value in values.items():
            _keep(store, work, batch, site, value, model.hooks[site])
        store.progress.sequences += len(batch)
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            store.save()
            saved = time.monotonic()
    store.save()


def _forward(model: HookedModel, ids: IntArray, device: torch.device) -> dict[str, Tensor] | None:
    """Activations of a batch; None if memory ran out."""
    try:
        return model(torch.from_numpy(ids).to(device))
    except torch.OutOfMemoryError:
        return None


def _batches(work: Work, store: Store) -> Iterator[IntArray]:
    """Batches after those that are done; one that failed for lack of memory comes again, halved."""
    while store.progress.sequences < len(work.order):
        yield work.batch(store.progress.sequences, store.progress.batch_tokens)


def _count_batches(work: Work, store: Store) -> int:
    done, count = store.progress.sequences, 0
    while done < len(work.order):
        done += len(work.batch(done, store.progress.batch_tokens))
        count += 1
    return count


def _halve(work: Work, store: Store) -> None:
    """Halve the batch for the rest of the shard.

    Raises:
        DiptychError: it is a single sequence already.
    """
    batch = work.batch(store.progress.sequences, store.progress.batch_tokens)
    longest = int(work.lengths()[batch].max())
    if len(batch) == 1:
        raise DiptychError(
            f"out of memory with a single sequence of {longest} tokens; lower `sequence_length` or the model's dtype"
        )
    torch.cuda.empty_cache()
    store.progress.batch_tokens = longest * (len(batch) // 2)
    store.progress.halved += 1
    logs.logger.warning("out of memory: going on with batches of %d tokens", store.progress.batch_tokens)


def _keep(store: Store, work: Work, batch: IntArray, site: str, value: Tensor, hook: str) -> None:
    """Check and store the real rows of a padded batch [b, length, d]."""
    lengths = work.lengths()[batch]
    real = torch.from_numpy(np.arange(value.shape[1]) < lengths[:, None]).to(value.device)
    rows = value[real]
    row = np.concatenate([np.arange(work.start[s], work.start[s + 1]) for s in batch])
    norm = rows.float().norm(dim=-1).cpu().numpy()
    if not np.isfinite(norm).all():
        bad = int(row[int(np.argmin(np.isfinite(norm)))])
        raise DiptychError(
            f"site {site!r} ({hook}): activations are not finite at token row {work.first_row + bad} "
            f"(token id {int(work.token[bad])}); check the weights or use dtype bfloat16 or float32"
        )
    store.put(site, row, rows, norm)


def _compute_error(
    reference: HookedModel, work: Work, store: Store, device: torch.device
) -> dict[str, dict[str, float]]:
    """Median and maximum relative error of the stored rows against a float32 forward pass, on a few sequences."""
    batch = work.batch(0, PRECISION_TOKENS)
    exact = reference(torch.from_numpy(work.padded(batch)).to(device))
    row = np.concatenate([np.arange(work.start[s], work.start[s + 1]) for s in batch])
    lengths = work.lengths()[batch]
    errors = {}
    for site, value in exact.items():
        real = torch.from_numpy(np.arange(value.shape[1]) < lengths[:, None])
        errors[site] = relative_error(value.float().cpu()[real].numpy(), store.get(site, row))
        logs.logger.info("site %s: median relative error %.2g against float32", site, errors[site]["median"])
    return errors


def relative_error(exact: npt.NDArray[np.float32], stored: npt.NDArray[np.float32]) -> dict[str, float]:
    """Median and maximum over rows of ||x - stored|| / ||x||."""
    norm = np.maximum(np.linalg.norm(exact, axis=-1), np.finfo(np.float32).tiny)
    error = np.linalg.norm(exact - stored, axis=-1) / norm
    return {"median": float(np.median(error)), "max": float(error.max())}
