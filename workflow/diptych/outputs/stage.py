"""Stage `compare_outputs`: what two models say differently, next token by next token (METHODS 10).

    compare(Model("results/models/base", tokens, "float32"), Model("results/models/tuned", tokens, "float32"),
            "outputs.h5", "outputs.tsv", spec=spec, tokens=4096)

The text of the pair is compared at every position that counts ("text"), and prompts at the end of the chat template's
header, where a model's next token is the first one of its reply ("replies"). Models with different tokenizers have no
outcome in common but the text itself: of them only its own log-probability is compared ("spans").
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.models.batches import Sequences
from diptych.models.placement import Devices
from diptych.models.pretrained import Dtype
from diptych.outputs import comparison as comparisons
from diptych.outputs import divergences, reading, spans, states
from diptych.outputs.comparison import SHIFT_COLUMNS, Comparison, Settings
from diptych.outputs.reading import IntArray, Reading
from diptych.outputs.spans import Spans
from diptych.storage import artifacts, tables, unfinished
from diptych.storage.artifacts import Writer
from diptych.text.tokenizer import Tokenizer, check_tokenizer

NO_TEXT = "the sequence ends, or the group has too few documents"
NO_FOLD = "no document is in fold 0, or none is outside it"
TSV_COLUMNS = (
    "at", "token", "text", "times", "effect", "lo", "hi", "held_out", "mean_a", "mean_b", "p", "q", "mined",
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """One model of a pair: its directory, the tokens that it reads, and the dtype of its forward pass."""

    directory: Path
    tokens: Path
    dtype: Dtype


def compare(
    a: Model,
    b: Model,
    out: str | Path,
    table: str | Path,
    *,
    spec: Mapping[str, Any],
    alignment: str | Path | None = None,
    prompts: str | Path | None = None,
    device: Devices = "cpu",
    tokens: int | None = None,
    replies: int = 256,
    top: int = 100,
    topics: int = 5,
    planted: float = 2.0,
    bootstrap: int = 1000,
    seed: int = 0,
) -> None:
    """Compare the next tokens that two models predict, and write artifact and table.

    Memory: one model, then both heads and three float32 arrays of a block of positions x V (`streaming`). Temporary
    files beside `out`: 4 (d_A + d_B) bytes a position, and 8 V bytes a document.

    Args:
        a: the reference model.
        b: the compared model.
        out: the artifact, kind "outputs".
        table: every tested token as TSV.
        spec: what the result depends on.
        alignment: of the models' token files, if their tokenizers differ.
        prompts: token file of prompts in a chat template, for the first token of a reply; None: no replies.
        device: a torch device, or those that each model is spread over.
        tokens: budget of the text (`reading.spread`).
        replies: prompts read at most.
        top: tokens listed in either direction.
        topics: number of topics.
        planted: factor of the positive control.
        bootstrap: Poisson replicates over documents of intervals.
        seed: of replicates, topics and the positive control.

    Raises:
        DiptychError: tokens of another tokenizer, an architecture without a head of its own, or too little memory.
    """
    settings = Settings(top, topics, planted, bootstrap, seed)
    with unfinished.scratch(Path(out)) as directory:
        if alignment is not None and not _is_identity(alignment):
            found = _compare_spans((a, b), alignment, directory, device, tokens)
            _write_spans(out, table, spec, found, Sequences.read(a.tokens), settings)
            return
        readings = {"text": reading.spread(Sequences.read(a.tokens), tokens)}
        if prompts is not None and (first := _replies(prompts, replies)) is not None:
            readings["replies"] = first
        texts = list(readings.values())
        of_a, of_b = (_read(model, texts, directory / side, device) for model, side in ((a, "a"), (b, "b")))
        compared = {
            at: comparisons.analyse((side_a, side_b), text, directory, settings)
            for (at, text), side_a, side_b in zip(readings.items(), of_a, of_b, strict=True)
        }
        ids = np.unique(np.concatenate([comparison.tokens for comparison in compared.values()]))
        _write(out, table, spec, compared, _Words(a, ids))


def _read(model: Model, readings: Sequence[Reading], directory: Path, device: Devices) -> list[states.Side]:
    check_tokenizer(model.directory, model.tokens)
    directory.mkdir()
    return states.read(model.directory, readings, directory, dtype=model.dtype, device=device)


def _is_identity(alignment: str | Path) -> bool:
    with artifacts.read(alignment, "alignment") as file:
        return bool(artifacts.read_json(file, "identity"))


def _replies(prompts: str | Path, most: int) -> Reading | None:
    """The ends of the assistant's header of at most `most` prompts; None if the tokens name none."""
    with artifacts.read(prompts, "tokens") as file:
        names = artifacts.read_json(file, "named_positions")
        codes = [artifacts.read_json(file, "roles").index(name) for name in names]
        is_named = np.isin(file["role"][:], codes)
    return reading.first_replies(Sequences.read(prompts), is_named, most)


class _Words:
    """Texts of tokens."""

    def __init__(self, model: Model, ids: IntArray) -> None:
        self.ids, self.texts = ids, Tokenizer(model.directory).texts(ids.tolist())

    def of(self, ids: IntArray) -> list[str]:
        return [self.texts[place] for place in np.searchsorted(self.ids, ids)]


def _write(
    out: str | Path, table: str | Path, spec: Mapping[str, Any], compared: Mapping[str, Comparison], words: _Words
) -> None:
    columns: dict[str, list[Any]] = {name: [] for name in TSV_COLUMNS}
    for at, comparison in compared.items():
        for name, values in _tsv_columns(at, comparison, words).items():
            columns[name] += list(values)
    artifacts.write_text(table, tables.tsv(columns))
    with artifacts.create(out, "outputs", spec) as writer:
        writer.json("measured", list(compared))
        writer.array("vocabulary/id", words.ids)
        writer.strings("vocabulary/text", words.texts)
        for at, comparison in compared.items():
            _write_comparison(writer, at, comparison)


def _tsv_columns(at: str, comparison: Comparison, words: _Words) -> dict[str, Any]:
    """Rows of the table for every tested token, the listed ones first."""
    tested, listed = comparison.shifts, comparison.listed
    rest = np.setdiff1d(np.argsort(-np.abs(tested.effect), kind="stable"), listed, assume_unique=True)
    order = np.concatenate([listed, rest]).astype(np.int64)
    unknown = np.full(len(rest), np.nan)
    columns: dict[str, Any] = {name: getattr(tested, name)[order] for name in SHIFT_COLUMNS}
    return {
        **columns,
        "at": [at] * len(order),
        # In quotes, as JSON: spaces and line ends are part of a token.
        "text": [json.dumps(text, ensure_ascii=False) for text in words.of(columns["token"])],
        "times": np.exp2(columns["effect"]),
        "lo": np.concatenate([comparison.interval.lo, unknown]),
        "hi": np.concatenate([comparison.interval.hi, unknown]),
    }


def _write_comparison(writer: Writer, at: str, comparison: Comparison) -> None:
    predictions, tested = comparison.predictions, comparison.shifts
    text = predictions.reading
    summary = {
        "positions": len(text),
        "documents": len(predictions.documents),
        "tokens_read": int(text.length.sum()),
        "vocabulary": predictions.vocabulary,
        "tested": len(tested),
    }
    writer.json(f"{at}_summary", summary)
    names = ("kl_ab", "kl_ba", "js", "agrees", "nll_a", "nll_b")
    positions = {"row": text.row, **{name: getattr(predictions, name) for name in names}}
    writer.table(f"{at}/positions", positions, nan=NO_TEXT)
    writer.table(f"{at}/divergences", comparison.divergences, nan=NO_TEXT)
    writer.table(f"{at}/documents", comparison.documents, nan=NO_TEXT)
    writer.table(f"{at}/tested", {name: getattr(tested, name) for name in SHIFT_COLUMNS}, nan=NO_FOLD)
    writer.table(f"{at}/listed", comparisons.listed_columns(comparison), nan=NO_FOLD)
    writer.array(f"{at}/rows", comparison.rows)
    writer.array(f"{at}/changes", comparison.changes)
    writer.array(f"{at}/disagreements", comparison.disagreements)
    writer.table(f"{at}/planted", vars(comparison.planted), nan=NO_FOLD)
    moved = {"raised": predictions.raised._asdict(), "lowered": predictions.lowered._asdict()}
    for name, fields in {**moved, "tops": vars(comparison.tops), "topics": vars(comparison.topics)}.items():
        for field, values in fields.items():
            writer.array(f"{at}/{name}/{field}", values)


def _compare_spans(
    sides: tuple[Model, Model], alignment: str | Path, directory: Path, device: Devices, tokens: int | None
) -> Spans:
    """Losses of the text's spans under models with different tokenizers."""
    texts = [reading.spread(Sequences.read(model.tokens), tokens) for model in sides]
    losses = []
    for model, text, name in zip(sides, texts, "ab", strict=True):
        (side,) = _read(model, [text], directory / name, device)
        losses.append(spans.own_losses(side, text))
    return spans.compare((losses[0], losses[1]), (texts[0], texts[1]), alignment)


def _write_spans(
    out: str | Path,
    table: str | Path,
    spec: Mapping[str, Any],
    compared: Spans,
    text: Sequences,
    settings: Settings,
) -> None:
    """Write what is compared of models with different tokenizers: losses by source and by document, and no tokens."""
    document = text.document[text.row_sequence[compared.row_a]]
    nothing = np.zeros_like(document)
    grouped = divergences.groups(text.source[document], nothing, nothing, text.sources, [])
    grouped = [group for group in grouped if group.by in ("all", "source")]
    numbers = {"nll_a": compared.nll_a, "nll_b": compared.nll_b, "nll_difference": compared.nll_b - compared.nll_a}
    by_group = divergences.summarise(numbers, document, grouped, bootstrap=settings.bootstrap, seed=settings.seed)
    artifacts.write_text(table, tables.tsv({name: [] for name in TSV_COLUMNS}))
    with artifacts.create(out, "outputs", spec) as writer:
        writer.json("measured", ["spans"])
        writer.table("spans/divergences", by_group, nan=NO_TEXT)
        writer.table("spans/documents", divergences.by_document(numbers, document), nan=NO_TEXT)
        writer.table("spans/positions", vars(compared))
