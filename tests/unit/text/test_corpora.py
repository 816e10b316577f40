"""Corpora: the same documents in the same order from every origin, and an account of what was left out."""

import gzip
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from diptych.runtime.errors import DiptychError
from diptych.text.corpora import stage
from diptych.text.corpora.corpus import Corpus


def local(*paths: Path, **more: Any) -> dict[str, Any]:
    return {"kind": "local", "paths": [str(path) for path in paths], **more}


def fetch(tmp_path: Path, **sources: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    out = tmp_path / "corpus"
    stage.fetch(out, spec={}, sources=sources)
    lines = (out / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], json.loads((out / "corpus.json").read_text())


def test_text_is_normalised_and_ids_do_not_depend_on_the_place(tmp_path: Path) -> None:
    for name, text in (("b", "cafe\u0301\r\nline\rend"), ("a", "first")):
        (tmp_path / f"{name}.txt").write_bytes(text.encode())
    documents, summary = fetch(tmp_path, old=local(tmp_path / "*.txt"))
    assert [document["id"] for document in documents] == ["old/a.txt", "old/b.txt"]
    assert documents[1]["text"] == "caf\u00e9\nline\nend"
    assert summary["sources"]["old"]["documents"] == 2


def test_broken_encoding_is_replaced_and_counted(tmp_path: Path) -> None:
    (tmp_path / "broken.txt").write_bytes(b"\xef\xbb\xbfgood \xff\xfe bad")
    (tmp_path / "whole.txt").write_bytes("a replacement character of its own: \ufffd".encode())
    (tmp_path / "half.jsonl").write_bytes(b'{"text": "half a pair \\ud800"}\n')
    (tmp_path / "list.json").write_bytes(b'[{"text": "a \xff pair \\ud800"}, {"text": "whole again"}]')
    documents, summary = fetch(tmp_path, old=local(tmp_path / "*.txt", tmp_path / "*.jsonl", tmp_path / "*.json"))
    assert documents[0]["text"] == "good \ufffd\ufffd bad"
    assert documents[1]["text"] == "half a pair \ufffd"
    assert documents[2]["text"] == "a \ufffd pair \ufffd"
    assert summary["sources"]["old"]["broken_documents"] == 3
    assert summary["sources"]["old"]["broken_characters"] == 5


KINDS = ("jsonl", "jsonl.gz", "jsonl.zst", "json", "json.gz", "json.zst", "list.json", "list.json.gz", "parquet")


def test_all_file_kinds_give_the_same_documents(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    texts = ["one", "two words", "drei W\u00f6rter"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    # two frames: what appending to a compressed file gives
    (tmp_path / "a.jsonl.zst").write_bytes(
        zstandard.compress(lines.splitlines(keepends=True)[0])
        + zstandard.compress(b"".join(lines.splitlines(keepends=True)[1:]))
    )
    first, rest = lines.splitlines(keepends=True)[0], b"".join(lines.splitlines(keepends=True)[1:])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(first) + gzip.compress(rest))
    (tmp_path / "a.json").write_bytes(lines)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "a.json.zst").write_bytes(zstandard.compress(lines))
    listed = json.dumps([{"text": text} for text in texts], indent=1).encode()
    (tmp_path / "a.list.json").write_bytes(listed)
    (tmp_path / "a.list.json.gz").write_bytes(gzip.compress(listed))
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    for kind in KINDS:
        documents, _ = fetch(tmp_path, source=local(tmp_path / f"a.{kind}"))
        assert [document["text"] for document in documents] == texts
        assert [document["id"] for document in documents] == [f"source/a.{kind}:{number}" for number in (1, 2, 3)]


def test_compressed_texts_are_one_document(tmp_path: Path) -> None:
    import zstandard

    text = "line\nline " * 40_000
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "b.txt.zst").write_bytes(zstandard.compress(text.encode() + b"!"))
    documents, _ = fetch(tmp_path, x=local(tmp_path / "a.txt.gz", tmp_path / "b.txt.zst"))
    assert [document["text"] for document in documents] == [text, text + "!"]


def test_lines_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    texts = ["a" * 300_000, "b", "c" * 65_535, "d" * 65_536, "\u00e9" * 70_000]
    lines = "\r\n\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_bytes(lines.encode())
        documents, _ = fetch(tmp_path, x=local(tmp_path / name))
        assert [document["text"] for document in documents] == texts


NESTED = [
    {"meta": {"text": "inside", "deep": {"er": "deepest"}}, "n": 1},
    {"meta": {"text": "inside two", "deep": None}, "n": 2},
]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "hub"])
def test_columns_inside_columns(tmp_path: Path, kind: str) -> None:
    """A column whose own name holds a dot wins; one inside nothing is empty."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    dotted = [{**record, "meta.deep": text} for record, text in zip(NESTED, ("own one", "own two"), strict=True)]
    for name, records in (("plain", NESTED), ("dotted", dotted)):
        place = tmp_path / name
        place.mkdir()
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(records), place / "train.parquet")
        elif kind == "json":
            (place / "train.json").write_text(json.dumps(records))
        else:
            (place / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def read(name: str, column: str) -> tuple[list[str], int]:
        source = local(tmp_path / name / "train.*", column=column)
        if kind == "hub":
            source = {"kind": "hub", "id": str(tmp_path / name), "revision": None, "split": "train", "column": column}
        documents, summary = fetch(tmp_path, x=source)
        return [document["text"] for document in documents], summary["sources"]["x"]["empty"]

    assert read("plain", "meta.text") == (["inside", "inside two"], 0)
    assert read("plain", "meta.deep.er") == (["deepest"], 1)
    assert read("dotted", "meta.deep") == (["own one", "own two"], 0)
    assert read("dotted", "meta.deep.er") == (["deepest"], 1)
    with pytest.raises(DiptychError, match=r"no (column|field) 'meta\.none'"):
        read("plain", "meta.none")


def test_a_list_inside_an_object_is_read_where_the_column_names_it(tmp_path: Path) -> None:
    whole = {"version": 1, "data": [{"text": "one", "meta": {"more": "two"}}, {"text": "three"}], "text": "outer"}
    (tmp_path / "a.json").write_text(json.dumps(whole, indent=2))

    def read(column: str) -> list[str]:
        return [document["text"] for document in fetch(tmp_path, x=local(tmp_path / "a.json", column=column))[0]]

    assert read("data.text") == ["one", "three"]
    assert read("data.meta.more") == ["two"]
    assert read("text") == ["outer"]
    (tmp_path / "a.json").write_text(json.dumps({"data": {"rows": [{"text": "deep"}]}}))
    with pytest.raises(DiptychError, match=r"no field 'data\.rows\.text' \(it has data\)"):
        read("data.rows.text")


def test_records_without_the_column_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [{"text": "one"}, {"body": "x"}, ["a", "list"], {"text": 3}, {"text": {"a": 1}}, {"messages": ["Hi"]}, 7]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    documents, summary = fetch(tmp_path, x=local(tmp_path / "a.jsonl"))
    assert [document.get("text") for document in documents] == ["one", None]
    assert documents[1]["messages"] == [{"role": "user", "content": "Hi"}]
    assert summary["sources"]["x"]["left_out"] == {"no field 'text'": 3, "neither text nor a list of turns": 2}


def test_hub_layout_is_streamed_from_a_directory(tmp_path: Path) -> None:
    data = tmp_path / "dataset"
    data.mkdir()
    (data / "train.jsonl").write_text("".join(json.dumps({"prompt": f"text {i}"}) + "\n" for i in range(9)))
    source = {"kind": "hub", "id": str(data), "revision": None, "split": "train", "column": "prompt", "documents": 4}
    documents, _ = fetch(tmp_path, hub=source)
    assert [document["text"] for document in documents] == [f"text {i}" for i in range(4)]
    with pytest.raises(DiptychError, match="split test"):
        fetch(tmp_path, hub={**source, "split": "test"})


def test_chat_and_prompts(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi\r\n"}, {"role": "assistant", "content": "Hello"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    (tmp_path / "prompt.txt").write_text("What is a map?")
    documents, summary = fetch(
        tmp_path,
        a=local(tmp_path / "chat.jsonl"),
        b=local(tmp_path / "prompt.txt", prompts={"rule": "document", "number": 1000, "seed": 0}),
    )
    assert documents[0]["messages"] == [{"role": "user", "content": "Hi\n"}, turns[1]]
    assert documents[1]["messages"] == [{"role": "user", "content": "What is a map?"}]
    assert summary["sources"]["a"]["characters"] == 8


def test_empty_and_repeated_documents_are_left_out_and_counted(tmp_path: Path) -> None:
    for name, text in (("a", "same"), ("b", "same"), ("c", " \n"), ("d", "other")):
        (tmp_path / f"{name}.txt").write_text(text)
    documents, summary = fetch(tmp_path, x=local(tmp_path / "[abc].txt"), y=local(tmp_path / "[ad].txt"))
    assert [document["id"] for document in documents] == ["x/a.txt", "y/d.txt"]
    assert (summary["sources"]["x"]["duplicates"], summary["sources"]["x"]["empty"]) == (1, 1)
    assert summary["sources"]["y"]["duplicates"] == 1


def test_the_order_of_keys_does_not_matter(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    a, b = local(tmp_path / "a.txt"), local(tmp_path / "b.txt")
    assert fetch(tmp_path, x=a, y=b) == fetch(tmp_path, y=b, x=a)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"body": "x"}\n', r"none of its 1 records .* a\.jsonl: line 1: no field 'text' \(it has body\)"),
        ("{broken\n", "line 1 is not JSON"),
        ('{"text": 3}\n', "neither text nor"),
        ('{"text": " "}\n', "holds no document"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DiptychError, match=message) as caught:
        fetch(tmp_path, x=local(tmp_path / "a.jsonl"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "corpus").exists()


def test_missing_files_and_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match="no file matches"):
        fetch(tmp_path, x=local(tmp_path / "*.txt"))
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(DiptychError, match=r"a\.doc: cannot read"):
        fetch(tmp_path, x=local(tmp_path / "a.doc"))


def test_a_corpus_is_read_by_number(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name * 3)
    fetch(tmp_path, x=local(tmp_path / "[ab].txt"), y=local(tmp_path / "c.txt"))
    corpus = Corpus(tmp_path / "corpus")
    assert (corpus.sources, corpus.source, corpus.lengths) == (["x", "y"], [0, 0, 1], [3, 3, 3])
    assert [document.text for document in corpus.documents([2, 0])] == ["ccc", "aaa"]
    with pytest.raises(DiptychError, match=r"documents\.jsonl"):
        Corpus(tmp_path)


def test_a_corpus_of_corpora(tmp_path: Path) -> None:
    """Documents keep their text and get the mixture's ids; one that is in both is read once."""
    for name, text in (("a", "one"), ("b", "two"), ("c", "three")):
        (tmp_path / f"{name}.txt").write_text(text)
    turns = [{"role": "user", "content": "Hi"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    inner = {
        "x": {"old": local(tmp_path / "[ab].txt")},
        "y": {"new": local(tmp_path / "[bc].txt", tmp_path / "*.jsonl")},
    }
    for name, sources in inner.items():
        stage.fetch(tmp_path / "corpora" / name, spec={}, sources=sources)
    mixture = {name: {"kind": "corpus", "corpus": name} for name in "xy"}
    stage.fetch(tmp_path / "corpora" / "mixed", spec={}, sources=mixture, corpora_dir=tmp_path / "corpora")
    mixed = Corpus(tmp_path / "corpora" / "mixed")
    found = [(document.id, document.text or document.messages) for document in mixed.documents(range(len(mixed)))]
    assert found == [
        ("x/old/a.txt", "one"),
        ("x/old/b.txt", "two"),
        ("y/new/c.txt", "three"),
        ("y/new/chat.jsonl:1", turns),
    ]
    with pytest.raises(DiptychError, match=r"none: no documents\.jsonl; run the rule fetch_corpus"):
        mixture["x"]["corpus"] = "none"
        stage.fetch(tmp_path / "corpora" / "more", spec={}, sources=mixture, corpora_dir=tmp_path / "corpora")


# --- broken files -------------------------------------------------------------------------------------------------


def broken_strings(*parts: bytes) -> Any:
    """An Arrow text array with bytes that need not be UTF-8."""
    import pyarrow as pa

    return pa.array(parts, pa.binary()).view(pa.string())


def test_parquet_with_broken_encoding_is_replaced_and_counted(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = broken_strings(b"good", b"bad\xff\xfe", "\ufffd of its own".encode())
    pq.write_table(pa.table({"text": texts, "other": broken_strings(b"\xff", b"", b"")}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": texts.cast(pa.binary()).slice(1)}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"text": texts.slice(0, 2).dictionary_encode()}), tmp_path / "c.parquet")
    found = [[d["text"] for d in fetch(tmp_path, x=local(tmp_path / f"{name}.parquet"))[0]] for name in "abc"]
    assert found == [["good", "bad\ufffd\ufffd", "\ufffd of its own"], found[0][1:], found[0][:2]]
    counts = fetch(tmp_path, x=local(tmp_path / "a.parquet"))[1]["sources"]["x"]
    assert (counts["broken_documents"], counts["broken_characters"]) == (1, 2)


def test_parquet_conversations_with_broken_encoding(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    said = broken_strings(b"Hi", b"Hello\xff", b"Hm")
    turns = pa.StructArray.from_arrays(
        [pa.array([1, 2, 3]), broken_strings(b"user", b"assistant", b"user"), said], names=["at", "role", "content"]
    )
    table = pa.table({"conversation": pa.ListArray.from_arrays(pa.array([0, 2, 3]), turns)})
    pq.write_table(table, tmp_path / "chat.parquet")
    documents, summary = fetch(tmp_path, x=local(tmp_path / "chat.parquet", column="conversation"))
    answer = {"role": "assistant", "content": "Hello\ufffd"}
    assert [d["messages"] for d in documents] == [
        [{"role": "user", "content": "Hi"}, answer],
        [{"role": "user", "content": "Hm"}],
    ]
    assert summary["sources"]["x"]["broken_characters"] == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.parquet", "a.parquet: broken Parquet .*; fetch"),
        ("a.jsonl.zst", "a.jsonl.zst: broken zstd .*; fetch"),
        ("a.jsonl.gz", "a.jsonl.gz: broken gzip .*; fetch"),
        ("a.txt.gz", "a.txt.gz: broken gzip .*; fetch"),
        ("a.json", "a.json: record 1 is not JSON .*; mend"),
        ("a.parquet.gz", "a.parquet.gz: cannot read this kind of file"),
        ("a.csv", "a.csv: cannot read this kind of file"),
    ],
)
def test_files_that_are_not_what_they_are_called_are_one_line(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"nope" * 10)
    with pytest.raises(DiptychError, match=message) as caught:
        fetch(tmp_path, x=local(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_compressed_file_that_is_cut_short_is_one_line(tmp_path: Path) -> None:
    import zstandard

    lines = [json.dumps({"text": f"text {n} " + os.urandom(40).hex()}).encode() + b"\n" for n in range(3000)]
    whole = zstandard.compress(b"".join(lines[:2000])) + zstandard.compress(b"".join(lines[2000:]))
    (tmp_path / "a.jsonl.zst").write_bytes(whole)
    documents, _ = fetch(tmp_path, x=local(tmp_path / "a.jsonl.zst"))
    assert [document["text"] for document in documents] == [json.loads(line)["text"] for line in lines]
    for cut in (len(whole) - 1, len(whole) // 2, 5):
        (tmp_path / "a.jsonl.zst").write_bytes(whole[:cut])
        with pytest.raises(DiptychError, match=r"a\.jsonl\.zst: ends in the middle of its zstd data"):
            fetch(tmp_path, x=local(tmp_path / "a.jsonl.zst"))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz"])
def test_a_damaged_gzip_file_is_one_line(tmp_path: Path, name: str) -> None:
    """Cut short, with a byte changed, with a wrong checksum, or followed by something else."""
    lines = [json.dumps({"text": f"text {n} " + os.urandom(40).hex()}).encode() + b"\n" for n in range(3000)]
    whole = gzip.compress(b"".join(lines[:2000])) + gzip.compress(b"".join(lines[2000:]))
    (tmp_path / name).write_bytes(whole)
    documents, _ = fetch(tmp_path, x=local(tmp_path / name))
    assert [document["text"] for document in documents] == [json.loads(line)["text"] for line in lines]
    changed = bytearray(whole)
    changed[-6] ^= 1  # of the checksum
    damaged = [whole[: len(whole) - 1], whole[: len(whole) // 2], whole[:5], bytes(changed), whole + b"more"]
    for data in damaged:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DiptychError, match=rf"{name}: broken gzip \(.*\); fetch it again") as caught:
            fetch(tmp_path, x=local(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_changed_byte_of_a_gzip_file_is_never_a_text(tmp_path: Path) -> None:
    """It is an error that names the file, or stands where it says nothing of the texts (the time in the header)."""
    lines = "".join(json.dumps({"text": f"text {n} of few words"}) + "\n" for n in range(200))
    whole = gzip.compress(lines.encode(), mtime=0)
    rng, errors = random.Random(0), []
    for _ in range(150):
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (tmp_path / "a.jsonl.gz").write_bytes(changed)
        try:
            documents, _ = fetch(tmp_path, x=local(tmp_path / "a.jsonl.gz"))
        except DiptychError as error:
            errors.append(str(error))
        else:
            assert [document["text"] for document in documents] == [f"text {n} of few words" for n in range(200)]
    assert len(errors) > 140
    assert all(re.fullmatch(r"a\.jsonl\.gz: .* fetch .*", error) for error in errors)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_broken_text_in_a_hub_stream_is_read_and_reported(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "dataset"
    place.mkdir()
    if kind == "jsonl":
        (place / "train.jsonl").write_bytes(b'{"prompt": "whole"}\n{"prompt": "a \xff bad"}\n')
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"prompt": broken_strings(b"whole", b"a \xff bad")}), place / "train.parquet")
    source = {"kind": "hub", "id": str(place), "revision": "main", "split": "train", "column": "prompt"}
    documents, summary = fetch(tmp_path, x=source)
    assert [document["text"] for document in documents] == ["whole", "a \ufffd bad"]
    assert summary["sources"]["x"]["broken_characters"] == 1
    with pytest.raises(DiptychError, match="split train: no column 'text'; it has prompt"):
        fetch(tmp_path, x={**source, "column": "text"})


def test_a_hub_stream_that_breaks_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "train.jsonl").write_bytes(b'{"prompt": "whole"}\n{"prompt": \n')
    source = {"kind": "hub", "id": str(tmp_path / "dataset"), "revision": None, "split": "train", "column": "prompt"}
    with pytest.raises(DiptychError, match=r"split train: cannot be read to its end .*; mend or leave") as caught:
        fetch(tmp_path, x=source)
    assert "\n" not in str(caught.value)


def test_paths_may_be_absolute_and_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.txt", "sub/b.txt"):
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    documents, _ = fetch(tmp_path, x=local(tmp_path / "a.txt", Path("sub/b.txt")))
    assert [document["id"] for document in documents] == ["x/a.txt", "x/sub/b.txt"]


def test_file_names_that_are_not_utf8_are_replaced(tmp_path: Path) -> None:
    name = os.fsdecode(b"na\xffme.txt")
    try:
        (tmp_path / name).write_text("one")
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    documents, _ = fetch(tmp_path, x=local(tmp_path / "*.txt"))
    assert documents[0]["id"] == "x/na\ufffdme.txt"
