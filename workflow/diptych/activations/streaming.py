"""Rows without a file: the models run while their rows are read, for text whose activations no disk would hold.

A `StreamedSide` is read like a stored one (`rows.Side`), so that whatever trains on `Rows` trains on it:

    rows = streaming.stream(models, alignment, device="cuda:0", ...)
    rows.take(index).x             # runs the sequences that hold these rows, and forgets them
    rows.sides[0].tokens_run       # how many tokens went through the model

What is stored of another corpus decides what counts here: a row whose norm is above that corpus's limit for massive
activations does not (`Rows.counting` says which), and a document that stands in its test fold is in the test fold
here too, whatever its own fold: it is never trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from diptych.activations import dump, gates, rows
from diptych.activations.dump import Work
from diptych.models.hooks import TORCH, DType, HookedModel, Loader, widths
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text import selection

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
UNKNOWN, COUNTS, MASSIVE = 0, 1, 2


class Source(NamedTuple):
    """One model of a stream: where it is, its precisions, its tokens, and the gates of its stored rows."""

    model: str | Path
    dtype: DType
    tokens: str | Path
    gates: str | Path


@dataclass
class StreamedSide:
    """One model's rows at one site, from forward passes over the sequences that hold them.

    Attributes:
        model: hooked at the site.
        site: name of the site.
        work: the sequences of the token file.
        device: where the model runs.
        width: of a row.
        batch_tokens: tokens of a forward pass; halved when memory runs out.
        store: rows are rounded to this dtype, as if they had been stored.
        limit: rows of a larger norm do not count, except at named template positions.
        spared: bool [n], those positions.
        tokens_run: tokens that went through the model so far.
        halved: how often memory ran out.
    """

    model: HookedModel
    site: str
    work: Work
    device: torch.device
    width: int
    batch_tokens: int
    store: DType
    limit: float
    spared: BoolArray
    tokens_run: int = 0
    halved: int = 0
    _cause: npt.NDArray[np.uint8] = field(init=False, repr=False)
    _last: tuple[IntArray, FloatArray] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._verdict = np.zeros(self.work.n_rows, dtype=np.uint8)

    def take(self, token_row: IntArray) -> FloatArray:
        """The float32 rows [k, d] of sorted token rows; asking for the same rows twice in a row runs nothing."""
        if self._last is not None and np.array_equal(self._last[0], token_row):
            return self._last[1]
        out = np.empty((len(token_row), self.width), dtype=np.float32)
        pending = np.unique(np.searchsorted(self.work.start, token_row, side="right") - 1)
        pending = pending[np.argsort(-self.work.lengths()[pending], kind="stable")]
        while len(pending):
            longest = int(self.work.lengths()[pending[0]])
            batch = pending[: max(1, self.batch_tokens // longest)]
            if self._fill(out, token_row, batch):
                pending = pending[len(batch) :]
            else:
                self._halve(len(batch), longest)
        self._last = (token_row.copy(), out)
        return out

    def counts(self, token_row: IntArray) -> BoolArray:
        """Which token rows do not exceed the limit; those not seen yet are run."""
        unknown = token_row[self._verdict[token_row] == UNKNOWN]
        if len(unknown):
            self.take(unknown)
        return np.asarray(self._verdict[token_row] == COUNTS)

    def _fill(self, out: FloatArray, token_row: IntArray, batch: IntArray) -> bool:
        """Run some sequences and put their wanted rows where they belong; False if memory ran out."""
        ids = torch.from_numpy(self.work.padded(batch)).to(self.device)
        activations = dump.forward(self.model, ids, [self.site])
        if activations is None:
            return False
        row = self.work.rows_of(batch)
        position = np.minimum(np.searchsorted(token_row, row), len(token_row) - 1)
        hit = token_row[position] == row
        values = activations[self.site][dump.real_tokens(self.work, batch, self.device)]
        values = values[torch.from_numpy(hit).to(self.device)]
        norm = dump.finite_norms(self.model, self.work, self.site, row[hit], values)
        massive = (norm > self.limit) & ~self.spared[row[hit]]
        self._verdict[row[hit]] = np.where(massive, MASSIVE, COUNTS)
        out[position[hit]] = values.to(TORCH[self.store]).float().cpu().numpy()
        self.tokens_run += len(row)
        return True

    def _halve(self, sequences: int, longest: int) -> None:
        if sequences == 1:
            raise dump.too_little_memory(longest)
        self.batch_tokens = longest * (sequences // 2)
        self.halved += 1
        logs.logger.warning("out of memory: going on with batches of %d tokens", self.batch_tokens)


def stream(
    sources: Sequence[Source],
    site: str,
    *,
    held_out: str | Path,
    alignment: str | Path | None = None,
    wanted: selection.Wanted = "all",
    store: DType = "bfloat16",
    batch_tokens: int | None = None,
    device: str = "cpu",
) -> rows.Rows:
    """The rows that may count in all models, to be run when they are read.

    Args:
        sources: the models. The first one's tokens give documents, folds and positions.
        site: read in each of them.
        held_out: token file of the stored corpus, whose test fold is never trained on.
        alignment: which row of the second model is which row of the first, where their tokenizers differ.
        wanted: all rows, the last one of each document, or those of some roles.
        store: rows are rounded to this dtype.
        batch_tokens: tokens of a forward pass; None: from the model's width.
        device: a torch device for all models.

    Raises:
        DiptychError: a model has another tokenizer than its tokens, an unknown site, or nothing is left to train on.
    """
    sides: dict[Source, StreamedSide] = {}
    for source in sources:
        if source not in sides:
            sides[source] = _side(source, site, store, batch_tokens, torch.device(device))
    usable = [gates.read_tokens(source.tokens).cause == 0 for source in sources]
    places = rows.places(usable, alignment, sources[0].tokens, wanted)
    fold, left_out = _folds(sources[0].tokens, held_out)
    fold = fold[places.document]
    if not (fold != 0).any():
        raise DiptychError(f"{sources[0].tokens}: every document stands in the test fold of {held_out}; stream others")
    logs.logger.info(
        "streaming %s: %d rows to train on; %d documents left out because they stand in the test fold of %s",
        sources[0].tokens, int((fold != 0).sum()), left_out, held_out,
    )  # fmt: skip
    return places.rows(tuple(sides[source] for source in sources), fold)


def _side(source: Source, site: str, store: DType, batch_tokens: int | None, device: torch.device) -> StreamedSide:
    dump.check_tokenizer(source.model, source.tokens)
    work = Work.of_shard(source.tokens, 0, 1)
    loader = Loader(source.model, [site], device)
    loader.check(int(work.token.max()), int(work.lengths().max()))
    model = loader.load(source.dtype)
    with artifacts.read(source.gates, "gates") as file:
        limit = float(artifacts.read_json(file, "gates")[site]["norm_limit"])
    return StreamedSide(
        model=model,
        site=site,
        work=work,
        device=device,
        width=widths(model, device)[site],
        batch_tokens=batch_tokens or dump.batch_of(loader.width),
        store=store,
        limit=limit,
        spared=gates.read_tokens(source.tokens).named,
    )


def _folds(tokens: str | Path, held_out: str | Path) -> tuple[IntArray, int]:
    """Fold of each document, 0 for those in the test fold of `held_out`, and how many these are."""
    with artifacts.read(held_out, "tokens") as file:
        test = file["documents/text_hash"][:][file["documents/fold"][:] == 0]
    with artifacts.read(tokens, "tokens") as file:
        fold: IntArray = file["documents/fold"][:].astype(np.int64)
        is_test = np.isin(file["documents/text_hash"][:], test)
    left_out = int((is_test & (fold != 0)).sum())
    fold[is_test] = 0
    return fold, left_out


INPUTS = ("shards", "gates", "tokens", "alignment", "models", "stream_tokens", "stream_alignment")
"""What `training_rows` is given, lists of paths by name."""


def paths_of(inputs: Any) -> dict[str, list[str]]:
    """`INPUTS` of a job as lists: Snakemake gives a single file as text, and nothing for what a rule does not name."""
    paths_by_name = {name: inputs.get(name) or [] for name in INPUTS}
    return {name: [paths] if isinstance(paths, str) else list(paths) for name, paths in paths_by_name.items()}


def _only(paths: Sequence[str]) -> str | None:
    return paths[0] if paths else None


def training_rows(inputs: Mapping[str, Sequence[str]], reads: Mapping[str, Any], device: str) -> rows.Rows:
    """The rows that a crosscoder is trained on: stored, or streamed where the job has a `stream`.

    Args:
        inputs: lists of paths by name: `gates` and `tokens` of each model, `alignment`, and `shards`, or for a stream
            `models` (their manifests), `stream_tokens` and `stream_alignment`.
        reads: of the job's spec: `site`, `rows`, and `stream` with `dtypes`, `store` and `batch_tokens`.
        device: where streamed models run.
    """
    if not reads.get("stream"):
        models = rows.models_of(inputs["shards"], inputs["gates"], inputs["tokens"], reads["site"])
        return rows.stored(models, _only(inputs["alignment"]), reads["rows"])
    how = reads["stream"]
    directories = [Path(manifest).parent for manifest in inputs["models"]]
    sources = zip(directories, how["dtypes"], inputs["stream_tokens"], inputs["gates"], strict=True)
    return stream(
        [Source(*source) for source in sources],
        reads["site"],
        held_out=inputs["tokens"][0],
        alignment=_only(inputs["stream_alignment"]),
        wanted=reads["rows"],
        store=how["store"],
        batch_tokens=how["batch_tokens"],
        device=device,
    )
