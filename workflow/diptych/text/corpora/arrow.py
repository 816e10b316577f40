"""Rows of Arrow tables as records: only the columns that are read, however deep, with broken texts counted.

`column` may be a path: `meta.text` is the field `text` of the struct `meta`. A text that is not UTF-8 cannot be taken
out of Arrow as a text, so texts are taken as bytes and decoded here. Columns of mixed types, which `datasets` stores as
JSON, are decoded into what they hold.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from diptych.text.corpora.records import MISSING, decode, lookup, splits


def rows(tables: Iterable[Any], columns: Sequence[str]) -> Iterator[tuple[dict[str, Any], int]]:
    """Each row of tables or record batches as values by column, and how many characters replace broken ones."""
    for table in tables:
        parts = [list(_column_values(table, column)) for column in columns]
        for row in zip(*parts, strict=True):
            yield {column: value for column, (value, _) in zip(columns, row, strict=True)}, sum(n for _, n in row)


def has_column(schema: Any, column: str) -> bool:
    """Whether a table with this schema has a column, or a field of a struct, of this (dotted) name."""
    return _path(schema, column) is not None


def first_name(schema: Any, column: str) -> str:
    """Name of the column of a table that holds a (dotted) column."""
    return (_path(schema, column) or [column])[0]


def _path(fields: Any, column: str) -> list[str] | None:
    """Names from a schema or struct type down to a column; what lies inside JSON is the last name."""
    import pyarrow as pa

    if column in {field.name for field in fields}:
        return [column]
    for head, rest in splits(column):
        inner = next((field.type for field in fields if field.name == head), None)
        if inner is not None and _is_json(inner):
            return [head, rest]
        if inner is not None and pa.types.is_struct(inner) and (below := _path(inner, rest)):
            return [head, *below]
    return None


def _column_values(table: Any, column: str) -> Iterator[tuple[Any, int]]:
    import pyarrow.compute as pc

    first, *below = _path(table.schema, column) or [column]
    array = table.column(first)
    for chunk in getattr(array, "chunks", [array]):
        inner, path = chunk, list(below)
        while path and not _is_json(inner.type):
            inner = pc.struct_field(inner, path.pop(0))
        for value in _as_bytes(inner).to_pylist():
            whole, replaced = _decoded(value, inner.type)
            yield (_inside(whole, path[0]) if path else whole), replaced


def _inside(value: Any, path: str) -> Any:
    found = lookup(value, path) if isinstance(value, dict) else None
    return None if found is MISSING else found


def _as_bytes(array: Any) -> Any:
    """An Arrow array whose texts, however deep, are bytes."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if _is_json(array.type):
        array = array.storage
    return array.view(_bytes_type(array.type))


def _bytes_type(kind: Any) -> Any:
    import pyarrow as pa

    if _is_json(kind):
        return _bytes_type(kind.storage_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.binary() if pa.types.is_string(kind) else pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        listed = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return listed(kind.value_field.with_type(_bytes_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_bytes_type(field.type)) for field in kind])
    return kind


def _is_json(kind: Any) -> bool:
    return getattr(kind, "extension_name", None) == "arrow.json"


def _decoded(value: Any, kind: Any) -> tuple[Any, int]:
    """A value with its bytes as text, however deep, and how many characters replace broken ones."""
    import pyarrow as pa

    if isinstance(value, bytes):
        text, replaced = decode(value)
        return (json.loads(text) if _is_json(kind) else text), replaced
    if isinstance(value, dict):
        parts = {field.name: _decoded(value[field.name], field.type) for field in kind}
        return {key: inner for key, (inner, _) in parts.items()}, sum(replaced for _, replaced in parts.values())
    if isinstance(value, list) and not pa.types.is_map(kind):
        inners = [_decoded(inner, kind.value_type) for inner in value]
        return [inner for inner, _ in inners], sum(replaced for _, replaced in inners)
    return value, 0
