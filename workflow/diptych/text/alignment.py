"""Alignment of two token files: the pairs of rows that end at the same character of the same text.

Two models with the same tokenizer read the same rows, so their alignment is the identity and stores nothing. With
different tokenizers a row pairs A's token i with B's token j iff both end at the same character of the same text:
at that point both models have read the same characters (METHODS 1).

    A:  |Fellow| Citi|zens| of|      row_a = [0, 2, 3]
    B:  |Fellow| Citizens| of|      row_b = [0, 1, 2]

Several tokens may end at one character (the bytes of one emoji): the last of them, which completes it, is paired.
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


class TokenEnds(NamedTuple):
    """The tokens of a token file: number of the document, character at which each ends, whether it counts.

    `document` is -1 for documents that only one of the files has, `end` is -1 for inserted tokens.
    """

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
        min_coverage: least share of counted tokens that must be paired, in every source.

    Raises:
        DiptychError: coverage is lower, or token files of equal tokenizers hold different tokens.
    """
    with artifacts.read(tokens_a, "tokens") as file_a, artifacts.read(tokens_b, "tokens") as file_b:
        is_identity = artifacts.read_json(file_a, "tokenizer") == artifacts.read_json(file_b, "tokenizer")
        if is_identity:
            _require_equal(file_a, file_b, tokens_a, tokens_b)
        else:
            numbers = _shared_documents(file_a, file_b)
            ends_a, ends_b = _token_ends(file_a, numbers), _token_ends(file_b, numbers)
            row_a, row_b = pair_rows(ends_a, ends_b)
            coverages = coverage(ends_a, ends_b, row_a, row_b, _sources(file_a), _sources(file_b))
    if not is_identity:
        _require_coverage(coverages, min_coverage, tokens_a, tokens_b)
    with artifacts.create(out, "alignment", spec) as writer:
        writer.json("identity", is_identity)
        if not is_identity:
            writer.array("row_a", row_a)
            writer.array("row_b", row_b)
            writer.json("coverage", coverages)


def is_identity(path: str | Path) -> bool:
    """Whether an alignment is of equal tokenizers, that is, both models read the same rows."""
    with artifacts.read(path, "alignment") as file:
        return bool(artifacts.read_json(file, "identity"))


def pair_rows(a: TokenEnds, b: TokenEnds) -> tuple[IntArray, IntArray]:
    """Pair the rows that end at one character of one document: row_a, row_b int64 [p], both in order of row_a."""
    keys_a, rows_a = _end_keys(a)
    keys_b, rows_b = _end_keys(b)
    _, index_a, index_b = np.intersect1d(keys_a, keys_b, assume_unique=True, return_indices=True)
    row_a, row_b = rows_a[index_a], rows_b[index_b]
    order = np.argsort(row_a)
    return row_a[order], row_b[order]


def _end_keys(tokens: TokenEnds) -> tuple[IntArray, IntArray]:
    """One key per (document, end), sorted, and the last row that ends there."""
    rows = np.flatnonzero((tokens.document >= 0) & (tokens.end >= 0))
    keys = (tokens.document[rows] << 32) | tokens.end[rows]
    unique, first = np.unique(keys[::-1], return_index=True)
    return unique, rows[::-1][first]


def coverage(
    a: TokenEnds,
    b: TokenEnds,
    row_a: IntArray,
    row_b: IntArray,
    source_a: npt.NDArray[np.object_],
    source_b: npt.NDArray[np.object_],
) -> dict[str, dict[str, float]]:
    """Coverage by source: pairs counted on both sides over the counted tokens of A or B, the fewer (METHODS 1).

    Args:
        a: tokens of A.
        b: tokens of B.
        row_a: rows of A of the pairs.
        row_b: rows of B of the pairs.
        source_a: source name of each of A's rows.
        source_b: source name of each of B's rows.

    Returns:
        By source name `pairs`, `tokens_a`, `tokens_b` and `coverage`.
    """
    is_counted = a.counts[row_a] & b.counts[row_b]
    coverages = {}
    for name in sorted(set(source_a) | set(source_b)):
        tokens_a = int((a.counts & (source_a == name)).sum())
        tokens_b = int((b.counts & (source_b == name)).sum())
        pairs = int((is_counted & (source_a[row_a] == name)).sum())
        fewer = min(tokens_a, tokens_b)
        coverages[name] = {
            "pairs": pairs,
            "tokens_a": tokens_a,
            "tokens_b": tokens_b,
            "coverage": pairs / fewer if fewer else 0.0,
        }
    return coverages


def _require_equal(a: h5py.File, b: h5py.File, path_a: str | Path, path_b: str | Path) -> None:
    for name in ("token", "sequence"):
        if a[name].shape != b[name].shape or not np.array_equal(a[name][:], b[name][:]):
            raise DiptychError(
                f"{path_a} and {path_b}: same tokenizer but different tokens; use one token file "
                "(`tokenizer` of one model names the other)"
            )


def _shared_documents(a: h5py.File, b: h5py.File) -> dict[tuple[str, int], int]:
    """A number for each document that both files read, by (document id, text hash)."""
    shared = set(_document_keys(a)) & set(_document_keys(b))
    return {key: number for number, key in enumerate(sorted(shared))}


def _document_keys(file: h5py.File) -> list[tuple[str, int]]:
    """(id, text hash) of each document."""
    ids = artifacts.read_strings(file, "documents/id")
    return list(zip(ids, file["documents/text_hash"][:].tolist(), strict=True))


def _token_ends(file: h5py.File, numbers: Mapping[tuple[str, int], int]) -> TokenEnds:
    number = np.array([numbers.get(key, -1) for key in _document_keys(file)], dtype=np.int64)
    return TokenEnds(number[_document(file)], file["char_span"][:, 1].astype(np.int64), file["counts"][:])


def _document(file: h5py.File) -> IntArray:
    document: IntArray = file["sequences/document"][:].astype(np.int64)[file["sequence"][:]]
    return document


def _sources(file: h5py.File) -> npt.NDArray[np.object_]:
    names: Sequence[str] = artifacts.read_json(file, "sources")
    source: IntArray = file["documents/source"][:][_document(file)]
    return np.array(names, dtype=object)[source]


def _require_coverage(
    coverages: Mapping[str, Mapping[str, float]], min_coverage: float, path_a: str | Path, path_b: str | Path
) -> None:
    for name, counts in coverages.items():
        share = counts["coverage"]
        logs.logger.info("source %s: %.1f %% of the tokens are paired", name, 100 * share)
        if share < min_coverage:
            raise DiptychError(
                f"{path_a} and {path_b}: only {share:.1%} of source {name!r}'s tokens are paired, less "
                f"than min_coverage {min_coverage:.0%}; prepare both with the same corpus, template and lengths, or "
                "lower it"
            )
