"""Turns and typed parts: what is read, and what leaves out its conversation and no other."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from chats import chat, fetch, hub, local, write
from diptych.runtime.errors import DiptychError
from diptych.text.corpora.layouts import Reading, documents
from diptych.text.corpora.records import GIVE_UP, LeftOut, Record


def part(text: str, kind: str = "text") -> dict[str, str]:
    return {"type": kind, "text": text}


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


@pytest.mark.parametrize("origin", ["jsonl", "parquet", "hub"])
def test_contents_as_typed_parts_are_joined(tmp_path: Path, origin: str) -> None:
    parts = [
        [{"role": "user", "content": [part("A "), part("river?")]}, {"role": "assistant", "content": [part("Rhine")]}],
        [{"role": "user", "content": [part("What is this?"), IMAGE]}, {"role": "assistant", "content": [part("Odd")]}],
        [{"role": "user", "content": []}, {"role": "assistant", "content": [part("x")]}],
    ]
    if origin == "parquet":
        write(tmp_path / "a.parquet", {"messages": parts})
        source = local(tmp_path / "a.parquet")
    else:
        # Texts and lists in one field, which a table cannot have: `datasets` stores such a field as JSON.
        mixed = [*parts, [{"role": "user", "content": "Plain"}], [{"role": "user", "content": ["bare"]}]]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in mixed))
        source = hub(tmp_path) if origin == "hub" else local(tmp_path / "train.jsonl")
    found, counts = fetch(tmp_path, source)
    plain = [] if origin == "parquet" else [chat("Plain"), chat("bare")]
    assert found == [chat("A river?", "Rhine"), *plain]
    assert counts["left_out"] == {"a part that is not text": 1, "a turn without content": 1}


@pytest.mark.parametrize(
    ("turn", "cause", "detail"),
    [
        ({"content": "x", "name": "y"}, "a turn without a role", "turn 2 has content, name"),
        ({"role": None, "from": 3, "value": "x"}, "a turn without a role", "turn 2 has role, from, value"),
        (
            {"role": "critic", "content": "x"},
            "a turn with an unknown role",
            "turn 2 is by 'critic' and has role, content",
        ),
        (
            {"role": "assistant", "content": None, "tool_calls": [1]},
            "a turn without content",
            "role, content, tool_calls",
        ),
        ({"from": "gpt"}, "a turn without content", "turn 2 has from"),
        ({"role": "user", "content": 3}, "a content that is not text", "turn 2 holds int"),
        ({"role": "user", "content": [part("x"), IMAGE]}, "a part that is not text", "of type 'image_url'"),
        ({"role": "user", "content": [part("x", "thinking")]}, "a part that is not text", "of type 'thinking'"),
        ({"role": "user", "content": [3]}, "a part that is not text", "of type 'int'"),
        ("text among objects", "a turn that is no object", "turn 2 is str"),
    ],
)
def test_a_turn_that_cannot_be_read_leaves_out_its_conversation(
    tmp_path: Path, turn: Any, cause: str, detail: str, caplog: pytest.LogCaptureFixture
) -> None:
    hi = {"role": "user", "content": "Hi"}
    lines = [{"messages": [hi]}, {"messages": [hi, turn]}, {"messages": [{**hi, "content": "Bye"}]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with caplog.at_level("WARNING"):
        found, counts = fetch(tmp_path, local(tmp_path / "a.jsonl"))
    assert found == [chat("Hi"), chat("Bye")]
    assert counts["left_out"] == {cause: 1}
    logged = next(line for line in caplog.messages if "left out" in line)
    assert f"source x: left out 1 records that cannot be read (1 with {cause}); the first: a.jsonl: line 2" in logged
    assert detail in logged
    (tmp_path / "a.jsonl").write_text(json.dumps(lines[1]) + "\n")
    with pytest.raises(DiptychError, match=r"none of its 1 records can be read; the first: a\.jsonl: line 1") as caught:
        fetch(tmp_path, local(tmp_path / "a.jsonl"))
    assert cause in str(caught.value)
    assert detail in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_source_that_cannot_be_read_is_given_up(tmp_path: Path) -> None:
    """A wrong column must not read a hub dataset to its end."""
    records = [{"body": str(number)} for number in range(GIVE_UP)]
    (tmp_path / "a.json").write_text(json.dumps(records) + "nonsense that is never read")
    with pytest.raises(
        DiptychError, match=rf"none of its first {GIVE_UP} records .*a\.json: record 1: no field 'text'"
    ):
        fetch(tmp_path, local(tmp_path / "a.json"))


def test_no_record_is_an_error_of_its_own() -> None:
    """Whatever a record holds, it is read or left out."""
    rng = random.Random(0)
    keys = [
        "role",
        "from",
        "content",
        "value",
        "text",
        "type",
        "messages",
        "message_id",
        "parent_id",
        "replies",
        "rank",
    ]
    plain = ["user", "gpt", "critic", "text", "\n\nHuman: x", "", None, 3, 0.5, True, "a", "b"]

    def value(depth: int) -> Any:
        kind = rng.randrange(4) if depth else 0
        if kind == 1:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        if kind in (2, 3):
            return {key: value(depth - 1) for key in rng.sample(keys, rng.randrange(6))}
        return rng.choice(plain)

    read = 0
    for number in range(4000):
        records = [Record(str(n), f"record {n}", value(4), 0) for n in range(6)]
        layout = ("auto", "column", "dialogue", "tree")[number % 4]
        left_out = LeftOut("x")
        for document in documents(records, Reading("text", layout), left_out):  # type: ignore[arg-type]
            read += 1
            texts = (
                [document.content] if isinstance(document.content, str) else [t["content"] for t in document.content]
            )
            assert all(isinstance(text, str) for text in texts)
    assert read > 4000
