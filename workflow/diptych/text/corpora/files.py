"""Files of text as records: plain text, JSON, JSON lines and Parquet; the first three also compressed.

| file | a record is |
|---|---|
| `.txt`, `.md`, `.py` | the whole file, a text |
| `.jsonl` | a line; an item, where the file is one list |
| `.json` | an item of the list, or a value where several follow each other (C4's `.json.gz` holds JSON lines) |
| `.parquet` | a row |

A record that is a string is a text. Where a `.json` file is one object with a list inside, the column names it:
`data.text` reads the field `text` of each item of the list `data`. All but plain text is streamed.
"""

import codecs
import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import IO, TypeVar

from diptych.runtime.errors import DiptychError, first_line
from diptych.text.corpora import arrow, json_values
from diptych.text.corpora.records import SURROGATE, Record, decode, splits

Item = TypeVar("Item")
Choose = Callable[[Callable[[str], bool], Sequence[str], str], list[str]]
"""The columns that are read of a table: of `has(name)`, the names of its columns, and where it stands."""

READ_BYTES = 2**16
"""Bytes read at once."""
MEND = "mend or remove it, or fetch the file again"
COMPRESSED = (".gz", ".zst")
TEXTS = (".txt", ".md", ".py")
KINDS = (*TEXTS, ".jsonl", ".json", ".parquet")


def read_file(file: IO[bytes], name: str, column: str, choose: Choose) -> Iterator[Record]:
    """Records of an open file.

    Args:
        file: read from where it stands.
        name: of the file; its endings say what it holds.
        column: the (dotted) column that is read.
        choose: which columns of a table are read.

    Raises:
        DiptychError: the file is not what its name says, is damaged or of another kind.
    """
    kind = name
    for ending in COMPRESSED:
        kind = kind.removesuffix(ending)
    if kind.endswith(".parquet") and kind == name:
        yield from _read_parquet(file, name, choose)
        return
    pieces = _decompressed(file, name)
    if kind.endswith(TEXTS):
        text, replaced = decode(b"".join(pieces))
        yield Record(name, name, text, replaced)
    elif kind.endswith(".jsonl"):
        first = b""
        while not first.strip() and (piece := next(pieces, b"")):
            first += piece
        pieces = itertools.chain([first], pieces)
        # Some files of this name hold one list.
        listed = first.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
        yield from _read_json(pieces, name, column) if listed else _read_json_lines(pieces, name)
    elif kind.endswith(".json"):
        yield from _read_json(pieces, name, column)
    else:
        raise DiptychError(
            f"{name}: cannot read this kind of file; give one of {', '.join(KINDS)} "
            f"(text and JSON may be compressed, as .jsonl.gz or .jsonl.zst)"
        )


def complete(items: Iterable[Item], errors: tuple[type[Exception], ...], name: str) -> Iterator[Item]:
    """Pass items through; an error of what reads them becomes one line."""
    reader = iter(items)
    while True:
        try:
            item = next(reader)
        except StopIteration:
            return
        except errors as error:
            raise DiptychError(f"{name} ({first_line(error)}); fetch it again") from error
        yield item


# --- JSON -------------------------------------------------------------------------------------------------------


def _read_json_lines(pieces: Iterable[bytes], name: str) -> Iterator[Record]:
    for number, line in enumerate(_lines(pieces), 1):
        text, replaced = decode(line)
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DiptychError(f"{name}: line {number} is not JSON ({_message(error)}); {MEND}") from error
        yield Record(f"{name}:{number}", f"{name}: line {number}", record, replaced + _surrogates(record))


def _read_json(pieces: Iterable[bytes], name: str, column: str) -> Iterator[Record]:
    number = 0
    try:
        for record, replaced in json_values.values(pieces, [head for head, _ in splits(column)]):
            number += 1
            yield Record(f"{name}:{number}", f"{name}: record {number}", record, replaced + _surrogates(record))
    except (ValueError, RecursionError) as error:
        raise DiptychError(f"{name}: record {number + 1} is not JSON ({_message(error)}); {MEND}") from error


def _surrogates(record: object) -> int:
    """Half surrogate pairs in the texts of a record: JSON can spell them, UTF-8 cannot."""
    return len(SURROGATE.findall(json.dumps(record, ensure_ascii=False)))


def _message(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else first_line(error)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines of a stream that is cut anywhere."""
    begun: list[bytes] = []
    for piece in pieces:
        first, *others = piece.split(b"\n")
        begun.append(first)
        if others:
            yield b"".join(begun)
            yield from others[:-1]
            begun = [others[-1]]
    yield b"".join(begun)


# --- compression ------------------------------------------------------------------------------------------------


def _decompressed(file: IO[bytes], name: str) -> Iterator[bytes]:
    """Pieces of a file, decompressed as its name says."""
    if name.endswith(".gz"):
        # Concatenated gzip members are one stream; the checksum of each is compared at its end.
        pieces = _pieces(gzip.GzipFile(fileobj=file, mode="rb"))
        return complete(pieces, (EOFError, OSError, zlib.error), f"{name}: broken gzip")
    if name.endswith(".zst"):
        import zstandard

        return complete(_zstd_pieces(file, name), (zstandard.ZstdError,), f"{name}: broken zstd")
    return _pieces(file)


def _pieces(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while data := file.read(READ_BYTES):
        yield data


def _zstd_pieces(file: IO[bytes], name: str) -> Iterator[bytes]:
    """Decompressed pieces of a file of one or more zstd frames (appending to such a file adds one)."""
    import zstandard

    frame = zstandard.ZstdDecompressor().decompressobj()
    while data := frame.unused_data or file.read(READ_BYTES):
        frame = zstandard.ZstdDecompressor().decompressobj() if frame.eof else frame
        if piece := frame.decompress(data):
            yield piece
    if not frame.eof:
        raise DiptychError(f"{name}: ends in the middle of its zstd data; fetch it again")


# --- tables -----------------------------------------------------------------------------------------------------


def _read_parquet(file: IO[bytes], name: str, choose: Choose) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    errors, description = (pyarrow.ArrowException, OSError), f"{name}: broken Parquet"
    try:
        table = pyarrow.parquet.ParquetFile(file)
    except errors as error:
        raise DiptychError(f"{description} ({first_line(error)}); fetch or write it again") from error
    schema = table.schema_arrow
    columns = choose(partial(arrow.has_column, schema), schema.names, name)
    stored = sorted({arrow.first_name(schema, column) for column in columns})
    batches = complete(table.iter_batches(batch_size=1024, columns=stored), errors, description)
    for number, (fields, replaced) in enumerate(arrow.rows(batches, columns), 1):
        yield Record(f"{name}:{number}", f"{name}: row {number}", fields, replaced)
