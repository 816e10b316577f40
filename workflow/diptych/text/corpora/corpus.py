"""A fetched corpus, read document by document.

corpus = Corpus("results/corpora/addresses")
next(corpus.documents([0]))     # Document(id="...", source="old", text="...", messages=None, drawn=False)
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from diptych.runtime.errors import DiptychError
from diptych.storage import manifest


class Document(NamedTuple):
    """A document of a fetched corpus: `text`, or `messages` for chat (the other one is None); `drawn`: a prompt."""

    id: str
    source: str
    text: str | None
    messages: list[dict[str, str]] | None
    drawn: bool = False


class Corpus:
    """A fetched corpus, read document by document: only the places of its lines are held in memory."""

    def __init__(self, directory: str | Path) -> None:
        """Index `documents.jsonl`.

        Raises:
            DiptychError: the directory is not a fetched corpus, is damaged or holds no document.
        """
        self.path = Path(directory) / "documents.jsonl"
        manifest.check(directory)
        if not self.path.is_file():
            raise DiptychError(f"{directory}: no documents.jsonl; run the rule fetch_corpus")
        self.sources: list[str] = []
        """Names of the sources in order."""
        self.source: list[int] = []
        """Index of each document's source."""
        self.ids: list[str] = []
        self.lengths: list[int] = []
        """Characters of each document's text; 0 for chat."""
        self._starts: list[int] = []
        with self.path.open("rb") as file:
            start = 0
            for line in file:
                self._index(line, start)
                start += len(line)
        if not self.ids:
            raise DiptychError(f"{directory}: the corpus holds no document")

    def __len__(self) -> int:
        return len(self.ids)

    def documents(self, index: Iterable[int]) -> Iterator[Document]:
        """The documents of these numbers, in the order asked for."""
        with self.path.open("rb") as file:
            for number in index:
                file.seek(self._starts[number])
                record = json.loads(file.readline())
                text, messages = record.get("text"), record.get("messages")
                yield Document(record["id"], record["source"], text, messages, record.get("drawn", False))

    def _index(self, line: bytes, start: int) -> None:
        record = json.loads(line)
        if record["source"] not in self.sources:
            self.sources.append(record["source"])
        self.source.append(self.sources.index(record["source"]))
        self.ids.append(record["id"])
        self.lengths.append(len(record.get("text") or ""))
        self._starts.append(start)
