"""Alignment: which row of one token file is which row of another.

Two models with the same tokenizer read the same rows, so their alignment is the identity and stores nothing. With
different tokenizers a row pairs A's token i with B's token j iff both end at the same character of the same text:
at that point both models have read the same and nothing else (METHODS 1).

    A:  |Fellow| Citi|zens| of|      row_a = [0, 2, 3]
    B:  |Fellow| Citizens| of|      row_b = [0, 1, 2]

Several tokens may end at one character (the bytes of one emoji): the last of them has read it whole and is taken.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

IntArray = npt.NDArray[np.int64]


class Texts(NamedTuple):
    """What alignment needs of a token file: per token its text and end there (-1: inserted), and whether it counts."""

    document: IntArray
    end: IntArray
    counts: npt.NDArray[np.bool_]


def align(
    tokens_a: str | Path, tokens_b: str | Path, out: str | Path, *, spec: Mapping[str, Any], min_coverage: float = 0.5
) -> None:
    """Write the alignment of two token files of one corpus (stage `align_tokens`).

    Args:
        tokens_a: token file of A.
        tokens_b: token file of B.
        out: the artifact, kind "alignment".
        spec: what the result depends on.
        min_coverage: least share of counted tokens that must find a partner, in every source.

    Raises:
        DiptychError: coverage is lower, or token files of equal tokenizers hold different tokens.
    """
    with artifacts.read(tokens_a, "tokens") as file_a, artifacts.read(tokens_b, "tokens") as file_b:
        identity = artifacts.read_json(file_a, "tokenizer") == artifacts.read_json(file_b, "tokenizer")
        if identity:
            _require_equal(file_a, file_b, tokens_a, tokens_b)
        else:
            ids = _shared_documents(file_a, file_b)
            texts_a, texts_b = _texts(file_a, ids), _texts(file_b, ids)
            row_a, row_b = pair_rows(texts_a, texts_b)
            shares = coverage(texts_a, texts_b, row_a, row_b, _sources(file_a), _sources(file_b))
    if not identity:
        _require_coverage(shares, min_coverage, tokens_a, tokens_b)
    with artifacts.create(out, "alignment", spec) as writer:
        writer.json("identity", identity)
        if not identity:
            writer.array("row_a", row_a)
            writer.array("row_b", row_b)
            writer.json("coverage", shares)


def pair_rows(a: Texts, b: Texts) -> tuple[IntArray, IntArray]:
    """Rows that end at the same character of the same document: row_a, row_b int64 [p], both in order of row_a."""
    keys_a, rows_a = _ends(a)
    keys_b, rows_b = _ends(b)
    _, at_a, at_b = np.intersect1d(keys_a, keys_b, assume_unique=True, return_indices=True)
    row_a, row_b = rows_a[at_a], rows_b[at_b]
    order = np.argsort(row_a)
    return row_a[order], row_b[order]


def _ends(texts: Texts) -> tuple[IntArray, IntArray]:
    """One key per (document, end), and the last row that ends there."""
    rows = np.flatnonzero((texts.document >= 0) & (texts.end >= 0))
    keys = (texts.document[rows] << 32) | texts.end[rows]
    unique, first = np.unique(keys[::-1], return_index=True)
    return unique, rows[::-1][first]


def coverage(
    a: Texts,
    b: Texts,
    row_a: IntArray,
    row_b: IntArray,
    source_a: npt.NDArray[np.object_],
    source_b: npt.NDArray[np.object_],
) -> dict[str, dict[str, float]]:
    """By source: pairs that count on both sides over the fewer counted tokens of A and B (METHODS 1).

    Args:
        a: tokens of A.
        b: tokens of B.
        row_a: rows of A of the pairs.
        row_b: rows of B of the pairs.
        source_a: source name of each of A's rows.
        source_b: of each of B's rows.

    Returns:
        By source name `pairs`, `tokens_a`, `tokens_b` and `coverage`.
    """
    counted = a.counts[row_a] & b.counts[row_b]
    shares = {}
    for name in sorted(set(source_a) | set(source_b)):
        tokens_a = int((a.counts & (source_a == name)).sum())
        tokens_b = int((b.counts & (source_b == name)).sum())
        pairs = int((counted & (source_a[row_a] == name)).sum())
        fewer = min(tokens_a, tokens_b)
        shares[name] = {
            "pairs": pairs,
            "tokens_a": tokens_a,
            "tokens_b": tokens_b,
            "coverage": pairs / fewer if fewer else 0.0,
        }
    return shares


def _require_equal(a: h5py.File, b: h5py.File, path_a: str | Path, path_b: str | Path) -> None:
    for name in ("token", "sequence"):
        if a[name].shape != b[name].shape or not np.array_equal(a[name][:], b[name][:]):
            raise DiptychError(
                f"{path_a} and {path_b}: same tokenizer but different tokens; use one token file "
                "(`tokenizer` of one model names the other)"
            )


def _shared_documents(a: h5py.File, b: h5py.File) -> dict[tuple[str, int], int]:
    """Numbers for the texts that both files read: same document id and same text."""
    texts = [list(zip(_ids(file), file["documents/text_hash"][:].tolist(), strict=True)) for file in (a, b)]
    shared = set(texts[0]) & set(texts[1])
    return {text: number for number, text in enumerate(sorted(shared))}


def _ids(file: h5py.File) -> list[str]:
    return artifacts.read_strings(file, "documents/id")


def _texts(file: h5py.File, numbers: Mapping[tuple[str, int], int]) -> Texts:
    names = zip(_ids(file), file["documents/text_hash"][:].tolist(), strict=True)
    number = np.array([numbers.get(name, -1) for name in names], dtype=np.int64)
    return Texts(number[_document(file)], file["char_span"][:, 1].astype(np.int64), file["counts"][:])


def _document(file: h5py.File) -> IntArray:
    document: IntArray = file["sequences/document"][:].astype(np.int64)[file["sequence"][:]]
    return document


def _sources(file: h5py.File) -> npt.NDArray[np.object_]:
    names: Sequence[str] = artifacts.read_json(file, "sources")
    source: IntArray = file["documents/source"][:][_document(file)]
    return np.array(names, dtype=object)[source]


def _require_coverage(
    shares: Mapping[str, Mapping[str, float]], least: float, path_a: str | Path, path_b: str | Path
) -> None:
    for name, share in shares.items():
        logs.logger.info("source %s: %.1f %% of the tokens are paired", name, 100 * share["coverage"])
        if share["coverage"] < least:
            raise DiptychError(
                f"{path_a} and {path_b}: only {share['coverage']:.1%} of source {name!r}'s tokens are paired, less "
                f"than min_coverage {least:.0%}; prepare both with the same corpus, template and lengths, or lower it"
            )
