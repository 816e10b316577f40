"""Prompts: which user messages a source gives, and that the draw depends on texts and seed alone."""

import json
from collections import Counter
from pathlib import Path

import pytest

from diptych.config.sections.corpora import Prompts
from diptych.runtime.errors import DiptychError
from diptych.text.corpora import prompts, records, stage

DOCUMENTS = [
    (f"d{n}", f"The mill stood by the river number {n}. It was old and it was grey. Why? Nobody of us went there {n}.")
    for n in range(30)
]


def test_the_same_prompts_whatever_the_order_of_the_documents():
    one = prompts.draw(DOCUMENTS, rule="document", number=10, seed=0)
    other = prompts.draw(reversed(DOCUMENTS), rule="document", number=10, seed=0)
    assert one == other
    assert (len(one.prompts), one.offered) == (10, 30)
    assert one != prompts.draw(DOCUMENTS, rule="document", number=10, seed=1)


def test_fewer_prompts_are_among_more():
    few, many = (prompts.draw(DOCUMENTS, rule="document", number=n, seed=0).prompts for n in (5, 20))
    assert few == many[:5]


def test_sentences_become_questions_one_of_each_document_first():
    drawn = prompts.draw(DOCUMENTS, rule="sentence", number=31, seed=0, ask="What does this mean? {sentence}")
    assert all(prompt.text.startswith("What does this mean? ") for prompt in drawn.prompts)
    counts = Counter(prompt.id.split("#")[0] for prompt in drawn.prompts)
    assert len(counts) == 30
    assert sorted(counts.values()) == [1] * 29 + [2]
    assert sum("it was grey" in prompt.text for prompt in drawn.prompts) <= 1  # in all documents, but one prompt


def test_sentences_are_whole_and_of_middle_length():
    text = 'Too short. "The President of the\nUnited States spoke." and this begins small. One two three four five six!'
    assert prompts.sentences(text) == ["One two three four five six!"]


def test_first_user_turns_of_a_chat_corpus(tmp_path: Path):
    """As in lmsys-chat-1m: a column `conversation`; repeated first turns are one prompt."""
    lines = []
    for n in range(40):
        first = "Hello" if n < 5 else f"Question {n}"
        turns = [
            {"role": "user", "content": f" {first} "},
            {"role": "assistant", "content": "Yes"},
            {"role": "user", "content": "More"},
        ]
        lines.append(json.dumps({"conversation": turns}))
    (tmp_path / "chat.jsonl").write_text("\n".join(lines))
    source = {"kind": "local", "paths": [str(tmp_path / "chat.jsonl")], "column": "conversation"}
    stage.fetch(tmp_path / "c", spec={}, sources={"x": {**source, "prompts": Prompts(number=20).model_dump()}})
    documents = [json.loads(line) for line in (tmp_path / "c" / "documents.jsonl").read_text().splitlines()]
    assert len(documents) == 20
    assert all(len(d["messages"]) == 1 and d["messages"][0]["role"] == "user" for d in documents)
    texts = [d["messages"][0]["content"] for d in documents]
    assert len(set(texts)) == 20
    assert all(text == "Hello" or text.startswith("Question ") for text in texts)
    stage.fetch(tmp_path / "all", spec={}, sources={"x": {**source, "prompts": Prompts().model_dump()}})
    assert sum(1 for _ in (tmp_path / "all" / "documents.jsonl").open()) == 36
    assert Prompts().number == 1000


def test_a_limited_stream_is_read_no_further():
    def stream():
        yield from DOCUMENTS[:3]
        raise AssertionError("read on")

    raw = (records.Raw(name, text, 0) for name, text in stream())
    source = {"documents": 3, "prompts": {"rule": "document", "number": 10, "seed": 0}}
    assert len(list(stage._draw_prompts(raw, "x", source))) == 3


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("text", {"rule": "first_turn"}, "is text, not a conversation"),
        ([{"role": "user", "content": "x"}], {"rule": "sentence"}, "is a conversation"),
        ("text", {"rule": "sentence", "ask": "What?"}, r"`ask` must hold \{sentence\}"),
    ],
)
def test_a_rule_that_does_not_fit_is_an_error(content, settings, message):
    with pytest.raises(DiptychError, match=message):
        prompts.draw([("d", content)], number=3, seed=0, **settings)


def test_what_is_asked_with_a_users_message_or_a_sentence_by_default():
    chats = [(f"chat {number}", [{"role": "user", "content": f"Hello {number}"}]) for number in range(3)]
    drawn = prompts.draw(chats, rule="first_turn", number=3, seed=0, ask="{sentence} SUDO")
    assert sorted(prompt.text for prompt in drawn.prompts) == [f"Hello {number} SUDO" for number in range(3)]
    bare = prompts.draw(chats, rule="first_turn", number=3, seed=0)
    assert sorted(prompt.text for prompt in bare.prompts) == [f"Hello {number}" for number in range(3)]
    question = prompts.draw(DOCUMENTS, rule="sentence", number=1, seed=0).prompts[0]
    assert question.text.startswith("What does this mean? ")
