"""Where documents come from: files in wheels, local files, the hub and other corpora, record by record."""

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from diptych.runtime.errors import DiptychError, first_line
from diptych.storage import wheels

REPLACEMENT = "\ufffd"
Item = TypeVar("Item")
SURROGATE = re.compile("[\ud800-\udfff]")
HUB_ROWS = 256
"""Records of a hub dataset read together."""
READ_BYTES = 2**16
"""Compressed bytes read at once."""
SUFFIXES = (".txt", ".jsonl", ".jsonl.zst", ".parquet")


class Raw(NamedTuple):
    """A document as its origin gives it: `content` is text or a list of chat messages."""

    id: str
    content: str | list[dict[str, str]]
    replaced: int
    """Characters that stand for bytes that were not UTF-8."""
    drawn: bool = False
    """Whether it is a prompt drawn from a source's documents."""


def read_wheel(wheel: Path, patterns: str | Sequence[str], column: str) -> Iterator[Raw]:
    """Records of the members of a wheel that match patterns."""
    names = wheels.members(wheel, patterns)
    for name, relative in zip(names, _relative(names), strict=True):
        with wheels.open_member(wheel, name) as file:
            yield from _read_file(file, relative, column)


def read_files(paths: Sequence[str], column: str) -> Iterator[Raw]:
    """Records of files on disk."""
    for path, relative in zip(paths, _relative(paths), strict=True):
        with Path(path).open("rb") as file:
            yield from _read_file(file, relative, column)


def expand(source: str, paths: str | Sequence[str]) -> list[str]:
    """The files that patterns match, sorted; an error names the source whose pattern matches none."""
    found: set[str] = set()
    for pattern in [paths] if isinstance(paths, str) else paths:
        matching = [path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()]  # noqa: PTH207
        if not matching:
            raise DiptychError(f"corpus source {source!r}: no file matches {pattern!r}")
        found.update(matching)
    return sorted(found)


def _relative(paths: Sequence[str]) -> list[str]:
    """The paths below their deepest common directory: ids must not depend on where a corpus lies on disk."""
    absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100
    parent = os.path.commonpath([os.path.dirname(path) for path in absolute])  # noqa: PTH120
    return [SURROGATE.sub(REPLACEMENT, Path(os.path.relpath(path, parent)).as_posix()) for path in absolute]


def _read_file(file: IO[bytes], name: str, column: str) -> Iterator[Raw]:
    if name.endswith(".txt"):
        text, replaced = _decode(file.read())
        yield Raw(name, text, replaced)
    elif name.endswith((".jsonl", ".jsonl.zst")):
        yield from _read_jsonl(_decompress(file, name) if name.endswith(".zst") else file, name, column)
    elif name.endswith(".parquet"):
        yield from _read_parquet(file, name, column)
    else:
        raise DiptychError(f"{name}: cannot read this kind of file; give one of {', '.join(SUFFIXES)}")


def _decode(data: bytes) -> tuple[str, int]:
    """UTF-8 text without a byte order mark, and how many characters replace broken bytes."""
    text = data.decode("utf-8-sig", errors="replace")
    return text, text.count(REPLACEMENT) - data.count(REPLACEMENT.encode())


def _decompress(file: IO[bytes], name: str) -> Iterator[bytes]:
    """The lines of a zstd file."""
    import zstandard

    left = b""
    for data in _complete(_frames(file, name), (zstandard.ZstdError,), f"{name}: broken zstd", "fetch it again"):
        *lines, left = (left + data).split(b"\n")
        yield from lines
    yield left


def _frames(file: IO[bytes], name: str) -> Iterator[bytes]:
    """Decompressed pieces of a file of one or more zstd frames (appending to such a file adds one)."""
    import zstandard

    frame = zstandard.ZstdDecompressor().decompressobj()
    while data := frame.unused_data or file.read(READ_BYTES):
        frame = zstandard.ZstdDecompressor().decompressobj() if frame.eof else frame
        yield frame.decompress(data)
    if not frame.eof:
        raise DiptychError(f"{name}: ends in the middle of its zstd data; fetch it again")


def _complete(
    items: Iterable[Item], errors: tuple[type[Exception], ...], name: str, remedy: str = "fetch it again"
) -> Iterator[Item]:
    """Pass items through; an error of what reads them becomes one line."""
    reader = iter(items)
    while True:
        try:
            item = next(reader)
        except StopIteration:
            return
        except errors as error:
            raise DiptychError(f"{name} ({first_line(error)}); {remedy}") from error
        yield item


def _read_jsonl(file: Iterable[bytes], name: str, column: str) -> Iterator[Raw]:
    for number, line in enumerate(file, 1):
        text, replaced = _decode(line)
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise DiptychError(f"{name}: line {number} is not JSON ({error.msg}); mend or remove it") from error
        replaced += len(SURROGATE.findall(json.dumps(record, ensure_ascii=False)))
        yield Raw(f"{name}:{number}", _field(record, column, f"{name}: line {number}"), replaced)


def _read_parquet(file: IO[bytes], name: str, column: str) -> Iterator[Raw]:
    import pyarrow.parquet

    errors, description = (pyarrow.ArrowException, OSError), f"{name}: broken Parquet"
    try:
        table = pyarrow.parquet.ParquetFile(file)
    except errors as error:
        raise DiptychError(f"{description} ({first_line(error)}); fetch or write it again") from error
    columns = _column(table.schema_arrow.names, column, name)
    batches = (batch.column(columns) for batch in table.iter_batches(batch_size=1024, columns=[columns]))
    for number, (value, replaced) in enumerate(_values(_complete(batches, errors, description)), 1):
        yield Raw(f"{name}:{number}", _field({columns: value}, column, f"{name}: row {number}"), replaced)


def _column(names: Sequence[str], column: str, where: str) -> str:
    """The column that is read of a table."""
    if column not in names and "messages" not in names:
        raise DiptychError(f"{where}: no column {column!r}; it has {', '.join(names)}")
    return column if column in names else "messages"


def _values(arrays: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    """The values of Arrow arrays, their texts decoded, and how many characters of each replace broken ones."""
    for array in arrays:
        for value in _as_bytes(array).to_pylist():
            yield _decoded(value)


def _as_bytes(array: Any) -> Any:
    """An Arrow array whose texts, however deep, are bytes: a text that is not UTF-8 could not be taken out."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.view(_bytes_type(array.type))


def _bytes_type(kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.binary() if pa.types.is_string(kind) else pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        listed = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return listed(kind.value_field.with_type(_bytes_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_bytes_type(field.type)) for field in kind])
    return kind


def _decoded(value: Any) -> tuple[Any, int]:
    """A value with its bytes as text, however deep, and how many characters replace broken ones."""
    if isinstance(value, bytes):
        return _decode(value)
    if isinstance(value, dict):
        parts = {key: _decoded(inner) for key, inner in value.items()}
        return {key: inner for key, (inner, _) in parts.items()}, sum(replaced for _, replaced in parts.values())
    if isinstance(value, list):
        inners = [_decoded(inner) for inner in value]
        return [inner for inner, _ in inners], sum(replaced for _, replaced in inners)
    return value, 0


def read_hub(source: Mapping[str, Any], column: str) -> Iterator[Raw]:
    """Stream a split of a hub dataset, or of a local directory in the hub's layout."""
    import datasets

    description = f"dataset {source['id']} at revision {source.get('revision') or 'main'}, split {source['split']}"
    try:
        stream = datasets.load_dataset(
            source["id"],
            name=source.get("subset"),
            revision=source.get("revision"),
            split=source["split"],
            streaming=True,
        )
    except Exception as error:  # the hub client has some twenty kinds of error for "missing", "gated" and "offline"
        raise DiptychError(f"{description}: {first_line(error)}; check id, revision, split and your access") from error
    # As Arrow tables: a text that is not UTF-8 could not be taken out of the stream's own records.
    tables = stream.with_format("arrow").iter(batch_size=HUB_ROWS)
    arrays = (
        chunk
        for table in _complete(
            tables, (Exception,), f"{description}: cannot be read to its end", "mend or leave out that file"
        )
        for chunk in table.column(_column(table.column_names, column, description)).chunks
    )
    for number, (value, replaced) in enumerate(_values(arrays)):
        yield Raw(str(number), _field({column: value}, column, f"{description}, row {number}"), replaced)


def _field(record: Any, column: str, where: str) -> str | list[dict[str, str]]:
    """The text or the chat messages of a record: in `column`, or in `messages` where that column is absent."""
    if not isinstance(record, dict) or (column not in record and "messages" not in record):
        keys = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise DiptychError(f"{where}: no field {column!r}; it has {keys}")
    value = record.get(column, record.get("messages"))
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(turn, dict) and _is_turn(turn) for turn in value):
        return [{"role": turn["role"], "content": turn["content"]} for turn in value]
    raise DiptychError(f"{where}: {column!r} is neither text nor a list of messages with role and content")


def _is_turn(turn: Mapping[str, Any]) -> bool:
    return isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
