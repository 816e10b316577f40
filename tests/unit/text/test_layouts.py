"""The datasets most used for chat, each in the layout in which the hub has it, named by a directory of that layout."""

import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from chats import chat, fetch, hub, local, write
from diptych.runtime.errors import DiptychError


@pytest.mark.parametrize("column", ["conversation", "text"])
def test_lmsys_chat_1m(tmp_path: Path, column: str) -> None:
    """Parquet, a column `conversation` of {content, role}; moderation of every turn beside it."""
    dialogues = [chat("Hi", "Hello", "More?", "No."), chat("Name a river.", "Rhine")]
    moderation = [[{"categories": {"hate": False, "self-harm": False}, "flagged": False}] * len(d) for d in dialogues]
    for number, dialogue in enumerate(dialogues):
        write(
            tmp_path / "data" / f"train-0000{number}-of-00002-4fe7f3e7d2a3e0b7.parquet",
            {
                "conversation_id": [f"id{number}"],
                "model": ["vicuna-13b"],
                "conversation": [[{"content": turn["content"], "role": turn["role"]} for turn in dialogue]],
                "turn": [len(dialogue) // 2],
                "language": ["English"],
                "openai_moderation": [moderation[number]],
                "redacted": [False],
            },
        )
    found, counts = fetch(tmp_path, hub(tmp_path, column=column))
    assert found == dialogues
    assert "left_out" not in counts


def test_wildchat(tmp_path: Path) -> None:
    """Parquet, a column `conversation` whose turns have a dozen other fields, which differ by role."""
    header = pa.struct([("accept-language", pa.string()), ("user-agent", pa.string())])
    turn = pa.struct(
        [
            ("content", pa.string()),
            ("country", pa.string()),
            ("hashed_ip", pa.string()),
            ("header", header),
            ("language", pa.string()),
            ("redacted", pa.bool_()),
            ("role", pa.string()),
            ("state", pa.string()),
            ("timestamp", pa.timestamp("us", tz="UTC")),
            ("toxic", pa.bool_()),
            ("turn_identifier", pa.int64()),
        ]
    )
    when = datetime.datetime(2023, 4, 9, tzinfo=datetime.UTC)
    asked = {"content": "Hi", "role": "user", "country": "Chile", "hashed_ip": "ab", "header": {"user-agent": "x"}}
    said = {"content": "Hello", "role": "assistant", "timestamp": when, "toxic": False, "turn_identifier": 1001}
    conversations = pa.array([[asked, said], [{**asked, "content": None}, said]], pa.list_(turn))
    write(
        tmp_path / "data" / "train-00000-of-00014.parquet",
        {"conversation_hash": ["a", "b"], "timestamp": [when, when], "conversation": conversations, "turn": [1, 1]},
    )
    found, counts = fetch(tmp_path, hub(tmp_path, column="conversation"))
    assert found == [chat("Hi", "Hello")]
    assert counts["left_out"] == {"a turn without content": 1}


def test_ultrachat_200k(tmp_path: Path) -> None:
    """Parquet, a column `messages` beside `prompt`; splits by the card's configuration."""
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train_sft\n    path: data/train_sft-*\n"
        "  - split: test_sft\n    path: data/test_sft-*\n---\n"
    )
    for split in ("train", "test"):
        messages = [[{"content": turn["content"], "role": turn["role"]} for turn in chat(split, "Yes")]]
        write(
            tmp_path / "data" / f"{split}_sft-00000-of-00001.parquet",
            {"prompt": [split], "prompt_id": ["0"], "messages": messages},
        )
    assert fetch(tmp_path, hub(tmp_path, split="train_sft"))[0] == [chat("train", "Yes")]
    assert fetch(tmp_path, hub(tmp_path, split="test_sft", column="messages"))[0] == [chat("test", "Yes")]
    assert fetch(tmp_path, hub(tmp_path, split="test_sft", column="prompt"))[0] == ["test"]


def test_ultrachat(tmp_path: Path) -> None:
    """JSON lines, a column `data` of texts by user and assistant in turn."""
    lines = [{"id": "0", "data": ["Hi", "Hello", "More?", "No."]}, {"id": "1", "data": ["A river?", "Rhine"]}]
    for number, line in enumerate(lines):
        (tmp_path / f"train_{number}.jsonl").write_text(json.dumps(line) + "\n")
    found, _ = fetch(tmp_path, hub(tmp_path, column="data"))
    assert found == [chat("Hi", "Hello", "More?", "No."), chat("A river?", "Rhine")]


OPENHERMES = [
    {
        "custom_instruction": None,
        "topic": None,
        "source": "airoboros2.2",
        "conversations": [
            {"from": "system", "value": "Be brief.", "weight": None},
            {"from": "human", "value": "Hi", "weight": 0.0},
            {"from": "gpt", "value": "Hello", "weight": 1.0},
        ],
        "system_prompt": None,
        "idx": None,
    },
    {"source": "glaive", "conversations": [{"from": "human", "value": "A river?"}, {"from": "gpt", "value": "Rhine"}]},
]


@pytest.mark.parametrize("column", ["conversations", "text"])
def test_openhermes(tmp_path: Path, column: str) -> None:
    """One .json file, a list over lines; turns `from` human, gpt or system, some with a weight."""
    (tmp_path / "openhermes2_5.json").write_text(json.dumps(OPENHERMES, indent=2))
    expected = [chat("system: Be brief.", "Hi", "Hello"), chat("A river?", "Rhine")]
    assert fetch(tmp_path, hub(tmp_path, column=column))[0] == expected
    assert fetch(tmp_path, local(tmp_path / "openhermes2_5.json", column=column))[0] == expected


HH = [
    {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nmy friend", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
    {
        "chosen": "\n\nHuman: What does Human: mean?\n\nAssistant: A speaker.\n\nHuman: Thanks\n\nAssistant: ",
        "rejected": "\n\nHuman: What does Human: mean?\n\nAssistant: A speaker.\n\nHuman: Thanks\n\nAssistant: Bye",
    },
]


def test_hh_rlhf(tmp_path: Path) -> None:
    """Compressed JSON lines in a directory a subset; a conversation is one text in `chosen` and in `rejected`."""
    for name, record in zip(("harmless-base", "helpful-base"), HH, strict=True):
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            (tmp_path / name / f"{split}.jsonl.gz").write_bytes(gzip.compress(json.dumps(record).encode() + b"\n"))
    (tmp_path / "red-team-attempts").mkdir()
    attempts = json.dumps([{"transcript": HH[0]["chosen"], "rating": 4.0}]).encode()
    (tmp_path / "red-team-attempts" / "red_team_attempts.jsonl.gz").write_bytes(gzip.compress(attempts))
    expected = [chat("Hi", "Hello\n\nmy friend"), chat("What does Human: mean?", "A speaker.", "Thanks", "")]
    assert fetch(tmp_path, hub(tmp_path, column="chosen"))[0] == expected
    assert fetch(tmp_path, local(tmp_path / "*" / "train.jsonl.gz", column="chosen"))[0] == expected
    files = {"column": "rejected", "files": ["harmless-base/train.jsonl.gz"]}
    assert fetch(tmp_path, hub(tmp_path, **files))[0] == [chat("Hi", "No")]
    texts, _ = fetch(tmp_path, hub(tmp_path, column="chosen", layout="column"))
    assert texts == [record["chosen"] for record in HH]


def test_red_team_attempts(tmp_path: Path) -> None:
    """HH-RLHF's other part: the same layout in `transcript`, here in a list that is called .jsonl."""
    record = {"min_harmlessness_score_transcript": -1.5, "transcript": HH[0]["chosen"], "rating": 4.0}
    (tmp_path / "red_team_attempts.jsonl.gz").write_bytes(gzip.compress(json.dumps([record], indent=1).encode()))
    found, _ = fetch(tmp_path, local(tmp_path / "red_team_attempts.jsonl.gz", column="transcript"))
    assert found == [chat("Hi", "Hello\n\nmy friend")]


def message(name: str, parent: str | None, text: str, **more: Any) -> dict[str, Any]:
    role = "prompter" if len(name) % 2 else "assistant"
    return {"message_id": name, "parent_id": parent, "text": text, "role": role, "rank": None, "deleted": False, **more}


OASST = [
    message("a", None, "Hi"),
    message("ab", "a", "Hello, second", rank=1),
    message("abc", "ab", "Not on the path"),
    message("ac", "a", "Hello, best", rank=0),
    message("acd", "ac", "One more, deleted", deleted=True),
    message("ace", "ac", "One more"),
    message("acef", "ace", "Unranked first"),
    message("aceg", "ace", "Unranked second"),
    message("ad", "a", "Hello, not ranked"),
    message("ae", "a", "Spam", rank=-1, review_result=False),
    message("k", None, "An unanswered prompt"),
    message("p", None, "Deleted", deleted=True),
    message("pq", "p", "An answer to it", rank=0),
    message("x", None, "A river?"),
    message("xy", "x", "Rhine", rank=0),
]
OASST_PATHS = [
    chat("Hi", "Hello, best", "One more", "Unranked first"),
    chat("An unanswered prompt"),
    chat("A river?", "Rhine"),
]


def nested(name: str) -> dict[str, Any]:
    """A message with its replies, as in OASST's .trees.jsonl.gz."""
    own = next(row for row in OASST if row["message_id"] == name)
    replies = [nested(row["message_id"]) for row in OASST if row["parent_id"] == name]
    return {**own, "replies": replies} if replies else own


def oasst(tmp_path: Path) -> None:
    rows = [{"review_result": True, "message_tree_id": row["message_id"][0], "lang": "en", **row} for row in OASST]
    emojis = {"name": ["+1"], "count": [3]}
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    columns["rank"] = pa.array(columns["rank"], pa.int32())
    write(tmp_path / "data" / "train-00000-of-00001.parquet", {**columns, "emojis": [emojis] * len(rows)})
    flat = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "oasst_ready.messages.jsonl.gz").write_bytes(gzip.compress(flat.encode()))
    roots = [row["message_id"] for row in OASST if row["parent_id"] is None]
    trees = [{"message_tree_id": name, "tree_state": "ready_for_export", "prompt": nested(name)} for name in roots]
    text = "".join(json.dumps(tree) + "\n" for tree in trees)
    (tmp_path / "oasst_ready.trees.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"
    )


def test_oasst(tmp_path: Path) -> None:
    """A message a row, depth first; or a tree a line. A conversation is the best-ranked path of its tree."""
    oasst(tmp_path)
    sources = [
        hub(tmp_path),
        hub(tmp_path, column="text", layout="tree"),
        local(tmp_path / "data" / "*.parquet"),
        local(tmp_path / "*.messages.jsonl.gz"),
        local(tmp_path / "*.trees.jsonl.gz", column="prompt"),
        local(tmp_path / "*.trees.jsonl.gz", column="prompt", layout="tree"),
        hub(tmp_path, column="prompt", files=["*.trees.jsonl.gz"]),
    ]
    for source in sources:
        found, counts = fetch(tmp_path, source)
        assert found == OASST_PATHS
        assert counts["left_out"] == {"a prompt that was deleted": 1}
    assert fetch(tmp_path, hub(tmp_path, documents=1))[0] == OASST_PATHS[:1]
    texts, _ = fetch(tmp_path, local(tmp_path / "*.messages.jsonl.gz", layout="column"))
    assert texts == [row["text"] for row in OASST]


def test_messages_that_are_no_tree_are_left_out(tmp_path: Path) -> None:
    """A parent that is missing or comes later, a message that stands twice, a line that is no message."""
    lines = [
        message("zz", "z", "Its parent is not there"),
        *OASST[:2],
        OASST[1],
        message("aab", "aaa", "Before its parent"),
        {"text": "no message"},
        *OASST[-2:],
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, counts = fetch(tmp_path, local(tmp_path / "a.jsonl"))
    assert found == [chat("Hi", "Hello, second"), chat("A river?", "Rhine")]
    assert counts["left_out"] == {"a parent that is not in its tree": 3, "no message of a tree": 1}


SHAREGPT = [
    {"id": "QWJhYvA_0", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    {"id": "i6IyJda_0", "conversations": [{"from": "user", "value": "Hi?"}, {"from": "chatgpt", "value": "Yes"}]},
    {
        "id": "A5AbcES_1",
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Hey", "markdown": None},
            {"from": "bing", "value": "Ho", "text": "not read"},
        ],
    },
    {"id": "none", "conversations": []},
    {"id": "odd", "conversations": [{"from": "human", "value": "x"}, {"from": "narrator", "value": "They talk."}]},
    {"id": "empty", "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": None}]},
]
SHAREGPT_TURNS = [chat("Hi", "Hello"), chat("Hi?", "Yes"), chat("system: Be brief.", "Hey", "Ho")]


def test_sharegpt(tmp_path: Path) -> None:
    """One .json file, a list, among others of other layouts; roles as the scraper wrote them."""
    (tmp_path / "HTML_cleaned_raw_dataset").mkdir()
    (tmp_path / "HTML_cleaned_raw_dataset" / "sg_90k_part1_html_cleaned.json").write_text(json.dumps([{"other": 1}]))
    name = "ShareGPT_V3_unfiltered_cleaned_split.json"
    (tmp_path / name).write_text(json.dumps(SHAREGPT, indent=2))
    for source in (hub(tmp_path, files=[name], column="conversations"), local(tmp_path / name)):
        found, counts = fetch(tmp_path, source)
        assert found == SHAREGPT_TURNS
        assert counts["left_out"] == {"a turn with an unknown role": 1, "a turn without content": 1}
        assert counts["empty"] == 1


def test_files_that_a_hub_dataset_has_not_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps(SHAREGPT))
    with pytest.raises(DiptychError, match=r"dataset .*, split train: .*none\.json.*; check id") as caught:
        fetch(tmp_path, hub(tmp_path, files=["none.json"]))
    assert "\n" not in str(caught.value)


def test_tool_turns_are_kept(tmp_path: Path) -> None:
    turns = [{"from": role, "value": role} for role in ("system", "human", "gpt", "tool", "gpt")]
    (tmp_path / "a.json").write_text(json.dumps([{"conversations": turns}]))
    found, _ = fetch(tmp_path, local(tmp_path / "a.json"))
    assert [turn["role"] for turn in found[0]] == ["system", "user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize("name", ["hh", "oasst", "sharegpt", "ultrachat"])
def test_first_user_turns_are_drawn_from_every_layout(tmp_path: Path, name: str) -> None:
    sources = {
        "hh": ([HH[0]], {"column": "chosen"}, "Hi"),
        "oasst": (OASST[-2:], {}, "A river?"),
        "sharegpt": (SHAREGPT[2:], {}, "Hey"),
        "ultrachat": ([{"data": ["A river?", "Rhine"]}], {"column": "data"}, "A river?"),
    }
    records, more, expected = sources[name]
    (tmp_path / "a.json").write_text(json.dumps(records))
    prompts = {"rule": "first_turn", "number": 5, "seed": 0}
    found, _ = fetch(tmp_path, local(tmp_path / "a.json", prompts=prompts, **more))
    assert found == [[{"role": "user", "content": expected}]]


def test_a_dialogue_that_does_not_begin_so_is_left_out(tmp_path: Path) -> None:
    records = [
        {"chosen": None},
        HH[0],
        {"chosen": "Some text"},
        {"chosen": "Human: Hi\n\nAssistant: Ho"},
        {"chosen": " "},
    ]
    (tmp_path / "a.json").write_text(json.dumps(records))
    found, counts = fetch(tmp_path, local(tmp_path / "a.json", column="chosen"))
    assert found == [chat("Hi", "Hello\n\nmy friend"), chat("Hi", "Ho")]
    assert counts["left_out"] == {"no Human: or Assistant: at the start": 1}
    assert counts["empty"] == 2


def test_a_text_corpus_with_a_dialogue_in_it_stays_text(tmp_path: Path) -> None:
    texts = ["Some text", HH[0]["chosen"]]
    (tmp_path / "a.json").write_text(json.dumps(texts))
    assert fetch(tmp_path, local(tmp_path / "a.json"))[0] == texts
    with pytest.raises(DiptychError, match="no Human: or Assistant: at the start"):
        (tmp_path / "a.json").write_text(json.dumps(texts[:1]))
        fetch(tmp_path, local(tmp_path / "a.json", layout="dialogue"))
