"""Layouts of a source's records: the field that is read, and its conversion to a document.

| layout | a record holds | as in |
|---|---|---|
| `column` | a text, or a conversation's turns, in one column | C4; LMSYS-Chat-1M, UltraChat, ShareGPT |
| `dialogue` | a conversation as one text, `Human:` or `Assistant:` before each turn | HH-RLHF |
| `tree` | a message of a tree, or a tree in one column; its best-ranked path is a conversation | OASST1 and 2 |

`auto` takes the layout that the first record of a source shows, for the whole source: `tree` where it has
`message_id`, `role` and `parent_id` or `message_tree_id` beside the column, `dialogue` where the first text begins with
an empty line and `Human:`, else `column`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.text.corpora import conversations, trees
from diptych.text.corpora.records import MISSING, Content, LeftOut, Raw, Record, Unreadable, lookup, names

Layout = Literal["auto", "column", "dialogue", "tree"]

CHAT_COLUMNS = ("messages", "conversation", "conversations")
"""Columns that are read where the named one is absent, the first that there is."""


class Reading(NamedTuple):
    """The (dotted) column that is read of a source's records, and its layout."""

    column: str = "text"
    layout: Layout = "auto"

    def choose(self, has: Callable[[str], bool], present: Sequence[str], where: str) -> list[str]:
        """The columns to read of a table.

        Args:
            has: whether the table has a (dotted) column.
            present: names of its columns.
            where: the table, for messages.

        Raises:
            DiptychError: it has neither the column nor one that holds conversations.
        """
        column = next((name for name in (self.column, *CHAT_COLUMNS) if has(name)), None)
        if column is None:
            raise DiptychError(f"{where}: no column {self.column!r}; it has {', '.join(present)}")
        if self.layout in ("auto", "tree") and column == self.column and trees.is_message(dict.fromkeys(present)):
            return [column, *(name for name in trees.FIELDS if name in present and name != column)]
        return [column]


def documents(records: Iterable[Record], reading: Reading, left_out: LeftOut) -> Iterator[Raw]:
    """The text or conversation of each record; in the layout `tree`, of each tree.

    Args:
        records: of one source, in order.
        reading: what is read of them.
        left_out: counts the records that cannot be read.

    Raises:
        DiptychError: none of the first `records.GIVE_UP` records can be read.
    """
    layout = reading.layout
    first, records = _peek(records)
    fields = first.fields if first else None
    if layout == "auto" and trees.is_message(fields) and reading.column in fields:
        layout = "tree"
        _log_layout(left_out.source, layout)
    if layout == "tree" and trees.has_id(fields):
        yield from _read_trees(records, reading, left_out)
        return
    for record in records:
        try:
            value = _field(record.fields, reading.column)
            if layout == "auto" and isinstance(value, str) and value.strip():
                layout = "dialogue" if conversations.is_dialogue(value) else "column"
                _log_layout(left_out.source, layout)
            content = _read_value(value, layout)
        except Unreadable as error:
            left_out.add(record.where, error)
            continue
        left_out.any_read = True
        yield Raw(record.id, content, record.replaced)


def _log_layout(source: str, layout: Layout) -> None:
    if layout != "column":
        logs.logger.info("source %s: its first record shows the layout %s", source, layout)


def _read_trees(records: Iterable[Record], reading: Reading, left_out: LeftOut) -> Iterator[Raw]:
    for path in trees.best_paths(_messages(records, left_out), left_out):
        prompt = path[0]
        turns = [
            {"role": message.fields.get("role"), "content": _or_none(lookup(message.fields, reading.column))}
            for message in path
        ]
        try:
            content = conversations.read(turns)
        except Unreadable as error:
            left_out.add(prompt.where, error)
            continue
        left_out.any_read = True
        yield Raw(prompt.id, content, sum(message.replaced for message in path))


def _messages(records: Iterable[Record], left_out: LeftOut) -> Iterator[Record]:
    """The records that are messages of a tree."""
    for record in records:
        if trees.has_id(record.fields):
            yield record
        else:
            left_out.add(record.where, Unreadable("no message of a tree", f"it has {names(record.fields)}"))


def _field(fields: Any, column: str) -> Any:
    """The value to read of a record; a record that is a string is a text."""
    if isinstance(fields, str):
        return fields
    if isinstance(fields, Mapping):
        for name in (column, *CHAT_COLUMNS):
            if (value := lookup(fields, name)) is not MISSING:
                return value
    raise Unreadable(f"no field {column!r}", f"it has {names(fields)}")


def _read_value(value: Any, layout: Layout) -> Content:
    if isinstance(value, Mapping) and (trees.has_id(value) or "replies" in value):
        return conversations.read(trees.nested_path(value))
    if layout == "dialogue" and isinstance(value, str):
        return conversations.read_dialogue(value)
    return conversations.read(value)


def _or_none(value: Any) -> Any:
    return None if value is MISSING else value


def _peek(records: Iterable[Record]) -> tuple[Record | None, Iterator[Record]]:
    """The first record, and all of them."""
    reader = iter(records)
    first = next(reader, None)
    return first, itertools.chain([first] if first is not None else [], reader)
