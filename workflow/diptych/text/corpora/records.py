"""Records of a source: what a line of JSON or a row of a table holds, and those that could not be read.

    record = Record("a.jsonl:1", "a.jsonl: line 1", {"meta": {"text": "one"}}, 0)
    lookup(record.fields, "meta.text")      # "one"

A record becomes a document (`Document`): a text or a conversation. One that cannot be read raises `Unreadable`, is
counted by cause (`LeftOut`) and ends nothing; only a source of which nothing can be read is an error.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from diptych.runtime import logs
from diptych.runtime.errors import DiptychError

Content = str | list[dict[str, str]]
"""A text, or the messages of a conversation, each with `role` and `content`."""

REPLACEMENT = "\ufffd"
SURROGATE = re.compile("[\ud800-\udfff]")
GIVE_UP = 10_000
"""Records in a row, from the first one, that may be unreadable: a wrong column must not read a whole hub dataset."""
MISSING: Final = object()
"""Result of `lookup` for a field that a record does not have; None is a value."""


class Record(NamedTuple):
    """A record as its file gives it: a text, or fields by name."""

    id: str
    where: str
    """File and number, for messages."""
    fields: Any
    replaced: int
    """Characters that stand for bytes that were not UTF-8."""


class Raw(NamedTuple):
    """A document as its origin gives it, before it is normalised."""

    id: str
    content: Content
    replaced: int
    """Characters that stand for bytes that were not UTF-8."""
    drawn: bool = False
    """Whether it is a prompt drawn from a source's documents."""


class Unreadable(Exception):  # noqa: N818
    """A record is no text and no conversation: `cause`, one of a few, is counted; `detail` is told of the first one."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause} ({detail})")
        self.cause = cause
        self.detail = detail


class LeftOut:
    """Counts the records of a source that could not be read, by cause, and keeps the first of them for messages."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.causes: Counter[str] = Counter()
        self.first = ""
        self.any_read = False
        """Whether a record of the source could be read."""

    def add(self, where: str, error: Unreadable) -> None:
        """Count a record.

        Raises:
            DiptychError: none of the first `GIVE_UP` records could be read.
        """
        self.causes[error.cause] += 1
        self.first = self.first or f"{where}: {error}"
        if not self.any_read and self.causes.total() >= GIVE_UP:
            raise DiptychError(
                f"corpus source {self.source!r}: none of its first {GIVE_UP} records can be read; the first: "
                f"{self.first}; check `column` and `layout`"
            )

    def report(self) -> None:
        """Log what was left out.

        Raises:
            DiptychError: records were left out and none could be read.
        """
        if not self.causes:
            return
        if not self.any_read:
            raise DiptychError(
                f"corpus source {self.source!r}: none of its {self.causes.total()} records can be read; the first: "
                f"{self.first}; check `column` and `layout`"
            )
        causes = ", ".join(f"{count} with {cause}" for cause, count in sorted(self.causes.items()))
        logs.logger.warning(
            "source %s: left out %d records that cannot be read (%s); the first: %s",
            self.source,
            self.causes.total(),
            causes,
            self.first,
        )


def decode(data: bytes) -> tuple[str, int]:
    """UTF-8 text without a byte order mark, and how many characters replace broken bytes."""
    text = data.decode("utf-8-sig", errors="replace")
    return text, text.count(REPLACEMENT) - data.count(REPLACEMENT.encode())


def lookup(fields: Mapping[str, Any], path: str) -> Any:
    """The value of a field, or `MISSING`; `meta.text` is the field `text` inside `meta`.

    A field whose own name holds dots wins over one inside another.
    """
    if path in fields:
        return fields[path]
    for head, rest in splits(path):
        inner = fields.get(head, MISSING)
        if inner is None:
            return None
        if isinstance(inner, Mapping) and (value := lookup(inner, rest)) is not MISSING:
            return value
    return MISSING


def splits(path: str) -> list[tuple[str, str]]:
    """All ways to cut a dotted path in two, the longest first part first."""
    dots = [place for place, letter in enumerate(path) if letter == "."]
    return [(path[:place], path[place + 1 :]) for place in reversed(dots)]


def names(fields: Any, limit: int = 12) -> str:
    """Names of a record's fields, or its type, for messages."""
    if not isinstance(fields, Mapping):
        return type(fields).__name__
    shown = ", ".join(str(name) for name in list(fields)[:limit])
    return f"{shown} and {len(fields) - limit} more" if len(fields) > limit else shown or "nothing"
