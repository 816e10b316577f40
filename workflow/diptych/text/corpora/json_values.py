"""JSON values out of a stream, one at a time: JSON lines, a list, or an object with a named list inside.

    list(values([b'[{"text": "one"}, ', b'{"text": "two"}]']))              # the items of a list are records
    list(values([b'{"text": "one"}\n{"text": "two"}\n']))                   # so are values that follow each other
    list(values([b'{"data": [{"text": "one"}]}'], lists=["data"]))          # and items of a named list: {"data": item}

Only the value at hand and a few pieces of the stream are in memory. Bytes that are not UTF-8 become U+FFFD.
"""

import codecs
import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NoReturn

from diptych.text.corpora.records import SURROGATE, decode

DECODER = json.JSONDecoder()
LONGEST_EXPONENT = len("e+")
"""Characters that may stand behind a number that goes on."""
LONGEST_LITERAL = len("-Infinity")
"""Characters that may stand behind the place of an error when only the end of a literal is missing."""


def values(pieces: Iterable[bytes], lists: Collection[str] = ()) -> Iterator[tuple[Any, int]]:
    """Records of a JSON stream.

    Args:
        pieces: bytes of the stream, cut anywhere.
        lists: names of an object's members whose items are records, each as {name: item}.

    Yields:
        Each record and how many characters of it replace broken bytes.

    Raises:
        ValueError: the stream is not JSON.
    """
    text = _Stream(pieces)
    while character := text.next_character():
        if character == "[":
            yield from _items(text)
        elif character == "{" and lists:
            yield from _members(text, lists)
        else:
            yield text.value()


def _items(text: "_Stream") -> Iterator[tuple[Any, int]]:
    text.take("[")
    if text.next_character() == "]":
        text.take("]")
        return
    while True:
        yield text.value()
        if text.take(",]") == "]":
            return


def _members(text: "_Stream", lists: Collection[str]) -> Iterator[tuple[Any, int]]:
    """Items of an object's named list; the object itself where it has none."""
    fields: dict[str, Any] = {}
    replaced, listed = 0, False
    text.take("{")
    closed = text.next_character() == "}" and text.take("}") == "}"
    while not closed:
        if text.next_character() != '"':
            text.fail("Expecting property name enclosed in double quotes")
        name, _ = text.value()
        text.take(":")
        if name in lists and text.next_character() == "[":
            listed = True
            for item, broken in _items(text):
                yield {name: item}, broken
        else:
            fields[name], broken = text.value()
            replaced += broken
        closed = text.take(",}") == "}"
    if not listed:
        yield fields, replaced


class _Stream:
    """Text of a stream and a place in it; what lies before the place is dropped when more is read."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        # Broken bytes are kept as lone surrogates, so that they are found, and counted, in the value that has them.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""
        self._at = 0
        if self.next_character() == "\ufeff":  # a byte order mark
            self._at += 1

    def next_character(self) -> str:
        """The next character that is no white space, not taken; empty at the end of the stream."""
        while True:
            while self._at < len(self._text):
                character = self._text[self._at]
                if character not in " \t\n\r":
                    return character
                self._at += 1
            if not self._read_more():
                return ""

    def take(self, characters: str) -> str:
        """Take the next character that is no white space, which must be one of these."""
        character = self.next_character()
        if not character or character not in characters:
            self.fail("Expecting " + " or ".join(repr(wanted) for wanted in characters))
        self._at += 1
        return character

    def value(self) -> tuple[Any, int]:
        """Take a value; and how many characters of it replace broken bytes."""
        self.next_character()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._is_cut_short(error) and self._read_more():
                    continue
                raise
            raw = self._text[self._at : end]
            if raw[-1] in '}]"' or end + LONGEST_EXPONENT < len(self._text) or not self._read_more():
                break
        self._at += len(raw)
        if raw.isascii() or not SURROGATE.search(raw):
            return value, 0
        mended, replaced = decode(raw.encode("utf-8", "surrogateescape"))
        return json.loads(mended), replaced

    def fail(self, message: str) -> NoReturn:
        raise json.JSONDecodeError(message, self._text, self._at)

    def _is_cut_short(self, error: json.JSONDecodeError) -> bool:
        rest = self._text[error.pos :]
        return error.msg.startswith("Unterminated string") or len(rest.strip()) <= LONGEST_LITERAL

    def _read_more(self) -> bool:
        """Read at least as much as is held: a long value is then decoded a few times, not once a piece."""
        held = self._text[self._at :]
        wanted = max(len(held), 1)
        read: list[str] = []
        while wanted > 0 and (piece := next(self._pieces, None)) is not None:
            read.append(self._decoder.decode(piece))
            wanted -= len(read[-1])
        if wanted > 0:
            read.append(self._decoder.decode(b"", final=True))
        self._text, self._at = held + "".join(read), 0
        return any(read)
