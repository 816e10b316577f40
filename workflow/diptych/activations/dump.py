"""Activations: every token row of a model at some sites, from forward passes that go no deeper than they must.

    activations.dump("results/models/base", "results/tokens/addresses/base.h5", "results/.../main/0.h5",
                     spec=spec, sites=["middle", "blocks.3.hook_mlp_out"], dtype="bfloat16")

All sites are read in one forward pass, which is abandoned as soon as the last of them has been seen (`hooked`).

Sequences are read longest first in batches of `batch_tokens`, so that padding is small and a lack of memory shows at
once. Padding stands on the right of causal models, where no token sees it, so that no mask is needed. A job that
is killed goes on where it was (`row_store`).

A few sequences, evenly spread, are read first and one layer deeper: at their rows the same place of the two
neighbouring layers is stored too, so that a dictionary can be asked whether it belongs to this layer (`gates`).
"""

import gc
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.activations.shard_writer import Shape, Store
from diptych.models.hooks import DType, HookedModel, Loader, block_outputs, widths
from diptych.models.pretrained import OutOfMemoryError, is_out_of_memory
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text.tokenizer import tokenizer_hash

Int32Array = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]

CHECKPOINT_SECONDS = 30.0
"""How much work a killed job may lose."""
PRECISION_TOKENS = 512
"""Tokens read again in float32 to measure what the compute dtype loses: enough for a median, seconds of work."""
SAMPLE_ROWS = 4096
"""Rows of all shards together at which the neighbouring layers are stored (METHODS 1)."""
BATCH_VALUES = 2**22
"""Values of the residual stream in one forward pass where no `batch_tokens` is given: 16 MB of float32, of which a
block holds some tens of times as much at once."""
LARGEST_BATCH = 8192
"""Tokens of one forward pass of a narrow model, where the batch no longer decides the speed."""


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
    batch_tokens: int | None = None,
    measure_precision: bool = True,
    device: str = "auto",
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
        dtype: of the forward pass.
        store: dtype on disk.
        batch_tokens: tokens of one forward pass, padding included; at least one sequence is read. None: from the
            model's width (`batch_of`).
        measure_precision: read a few sequences again in float32 (shard 0 only) and store the relative error, or that
            the memory does not hold the model in float32.
        device: "auto", "cpu" or "cuda".

    Raises:
        DiptychError: another tokenizer, an unknown site, sequences longer than the model's context, too little disk,
            values that are not finite or do not fit float16, or too little memory for the model or a single sequence.
    """
    work = Work.of_shard(tokens_path, shard, shards)
    check_tokenizer(model_dir, tokens_path)
    on = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    loader = Loader(model_dir, sites, on, neighbours=True)
    loader.check(int(work.token.max()), int(work.lengths().max()))
    model = loader.load(dtype)
    bytes_stored = _store(Path(out), spec, loader, widths(model, on), work, store)
    bytes_stored.open(batch_tokens or batch_of(loader.width))
    _run(model, loader, work, bytes_stored, on)
    stored = set(model.hooks) - set(bytes_stored.progress.dropped)
    near = {site: [hook for hook in hooks if hook in stored] for site, hooks in loader.neighbours.items()}
    del model
    gc.collect()  # hooks and model hold each other
    if measure_precision and shard == 0 and dtype != "float32":
        _measure_precision(loader, work, bytes_stored, on)
    bytes_stored.finish(
        {"hooks": loader.hooks, "first_row": work.first_row, "compute_dtype": dtype, "neighbours": near},
        work.first_row + work.sample_rows(),
    )


def batch_of(width: int) -> int:
    """Tokens of one forward pass of a model of this width: from its shape, never from the memory that is free."""
    return min(LARGEST_BATCH, max(1, BATCH_VALUES // width))


def _store(
    out: Path, spec: Mapping[str, Any], loader: Loader, width: Mapping[str, int], work: "Work", dtype: DType
) -> Store:
    """All rows at the sites, some rows at their neighbours."""
    k = len(work.sample_rows())
    sites = {site: Shape(work.n_rows, width[site]) for site in loader.hooks}
    sample = {hook: Shape(k, width[hook]) for hook in width if hook not in sites}
    others = {out.with_name(f"{shard}{out.suffix}"): rows for shard, rows in work.others.items()}
    return Store(out, spec, sites, dtype, sample, others)


# --- which rows -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """The sequences of one shard.

    Attributes:
        token: int32 [n], the shard's token rows.
        start: int64 [S + 1], where each of its sequences begins among them.
        first_row: the token file's row of its first one.
        order: int64 [S], in which they are read: first the sampled ones, each part by falling length.
        sampled: how many of the order are sampled.
        path: the token file, for messages.
        others: rows of the other shards, by shard.
    """

    token: Int32Array
    start: IntArray
    first_row: int
    order: IntArray
    sampled: int = 0
    path: str = ""
    others: Mapping[int, int] = field(default_factory=dict)

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
        sample = spread_sequences(own, SAMPLE_ROWS // shards)
        longest_first = np.argsort(-np.diff(own), kind="stable")
        in_sample = np.isin(longest_first, sample)
        order = np.concatenate([longest_first[in_sample], longest_first[~in_sample]])
        others = {other: int(rows) for other, rows in enumerate(np.diff(start[edges])) if other != shard}
        return cls(token, own, int(start[first]), order, len(sample), str(tokens_path), others)

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
        end = done + max(1, batch_tokens // longest)
        return self.order[done : min(end, self.sampled) if done < self.sampled else end]

    def rows_of(self, batch: IntArray) -> IntArray:
        """The token rows of some sequences, one sequence after another."""
        return np.concatenate([np.arange(self.start[s], self.start[s + 1]) for s in batch] or [np.zeros(0, np.int64)])

    def sample_rows(self) -> IntArray:
        """The token rows of the sampled sequences, increasing."""
        return self.rows_of(np.sort(self.order[: self.sampled]))

    def padded(self, batch: IntArray) -> npt.NDArray[np.int64]:
        """Token ids [b, longest], padded on the right with 0."""
        lengths = self.lengths()[batch]
        ids = np.zeros((len(batch), int(lengths.max())), dtype=np.int64)
        for row, (sequence, length) in enumerate(zip(batch, lengths, strict=True)):
            ids[row, :length] = self.token[self.start[sequence] : self.start[sequence] + length]
        return ids


def spread_sequences(start: IntArray, rows: int) -> IntArray:
    """Numbers of evenly spread sequences that hold about `rows` rows together, at least one."""
    count = len(start) - 1
    n_spread = min(count, max(1, round(rows * count / int(start[-1]))))
    spread: IntArray = np.unique(np.linspace(0, count - 1, n_spread).round().astype(np.int64))
    return spread


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


def _run(model: HookedModel, loader: Loader, work: Work, store: Store, device: torch.device) -> None:
    """Read all sequences that the store does not hold yet."""
    saved = time.monotonic()
    sample_row = work.sample_rows()
    for batch in logs.progress(
        _batches(work, store), "activations", total=_count_batches(work, store), unit=" batches"
    ):
        sites = None if store.progress.sequences < work.sampled else loader.hooks
        values = forward(model, torch.from_numpy(work.padded(batch)).to(device), sites)
        if values is None:
            _halve(work, store)
            continue
        row, real = work.rows_of(batch), real_tokens(work, batch, device)
        for name, value in values.items():
            if name in loader.hooks:
                _keep(store, work, name, row, value[real], model)
            else:
                store.put_sample(name, np.searchsorted(sample_row, row), value[real])
        store.progress.sequences += len(batch)
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            store.save()
            saved = time.monotonic()
    store.save()


def forward(model: HookedModel, ids: Tensor, sites: Collection[str] | None = None) -> dict[str, Tensor] | None:
    """Activations of a batch; None if memory ran out."""
    try:
        return model(ids, sites)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


def real_tokens(work: Work, batch: IntArray, device: torch.device) -> Tensor:
    """bool [b, longest], True at the tokens of a padded batch that are no padding."""
    lengths = work.lengths()[batch]
    return torch.from_numpy(np.arange(int(lengths.max())) < lengths[:, None]).to(device)


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
        raise too_little_memory(longest)
    torch.cuda.empty_cache()
    store.progress.batch_tokens = longest * (len(batch) // 2)
    store.progress.halved += 1
    logs.logger.warning("out of memory: going on with batches of %d tokens", store.progress.batch_tokens)


def _keep(store: Store, work: Work, site: str, row: IntArray, rows: Tensor, model: HookedModel) -> None:
    """Check and store rows [k, d]."""
    store.put(site, row, rows, finite_norms(model, work, site, row, rows))


def finite_norms(model: HookedModel, work: Work, site: str, row: IntArray, rows: Tensor) -> npt.NDArray[np.float32]:
    """Norms [k] of rows [k, d] at the token rows `row`.

    Raises:
        DiptychError: a row is not finite; the block and the token where it began are named.
    """
    norm: npt.NDArray[np.float32] = rows.float().norm(dim=-1).cpu().numpy()
    if not np.isfinite(norm).all():
        raise _not_finite(model, work, site, int(row[int(np.argmin(np.isfinite(norm)))]), rows.device)
    return norm


def too_little_memory(longest: int) -> DiptychError:
    """The error for a model that cannot read even one sequence."""
    return DiptychError(
        f"out of memory with a single sequence of {longest} tokens; lower `sequence_length` or the model's dtype"
    )


def _not_finite(model: HookedModel, work: Work, site: str, bad: int, device: torch.device) -> DiptychError:
    """The error for a row that is not finite: after which block, and at which token of its sequence, it began."""
    sequence = int(np.searchsorted(work.start, bad, side="right")) - 1
    outputs = block_outputs(model.hooks[site])
    model.watch(outputs)
    where = site
    values = model(torch.from_numpy(work.padded(np.array([sequence]))).to(device), outputs)
    for name, value in values.items():
        finite = torch.isfinite(value[0]).all(dim=-1).cpu().numpy()
        if not finite.all():
            where, bad = name, int(work.start[sequence] + np.argmin(finite))
            break
    with artifacts.read(work.path, "tokens") as file:
        known = int(np.searchsorted(file["vocabulary/id"][:], work.token[bad]))
        text = artifacts.read_strings(file, "vocabulary/text")[known]
    return DiptychError(
        f"site {site!r} ({model.hooks[site]}): activations are not finite, first after {where} at token row "
        f"{work.first_row + bad} (token id {int(work.token[bad])}, {text!r}); check the weights or use dtype bfloat16 "
        "or float32"
    )


def _measure_precision(loader: Loader, work: Work, store: Store, device: torch.device) -> None:
    """Median and maximum relative error of the stored rows against a float32 forward pass, on a few sequences."""
    batch = work.batch(0, PRECISION_TOKENS)
    try:
        exact = forward(loader.load("float32"), torch.from_numpy(work.padded(batch)).to(device), loader.hooks)
    except OutOfMemoryError:
        exact = None
    if exact is None:
        store.progress.unmeasured = "out of memory in float32"
        logs.logger.warning("the precision of the forward pass is not measured: %s", store.progress.unmeasured)
        return
    row, real = work.rows_of(batch), real_tokens(work, batch, device)
    for site, value in exact.items():
        error = relative_error(value[real].float().cpu().numpy(), store.get(site, row))
        store.progress.compute_error[site] = error
        logs.logger.info("site %s: median relative error %.2g against float32", site, error["median"])


def relative_error(exact: npt.NDArray[np.float32], stored: npt.NDArray[np.float32]) -> dict[str, float]:
    """Median and maximum over rows of ||x - stored|| / ||x||."""
    norm = np.maximum(np.linalg.norm(exact, axis=-1), np.finfo(np.float32).tiny)
    error = np.linalg.norm(exact - stored, axis=-1) / norm
    return {"median": float(np.median(error)), "max": float(error.max())}
