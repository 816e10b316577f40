"""Conversations as datasets spell them, read into messages with `role` and `content`.

    read([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}])     # ShareGPT, OpenHermes
    read([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])           # contents as typed parts
    read(["Hi", "Hello"])                                                           # UltraChat: user, assistant, ...
    read_dialogue("\\n\\nHuman: Hi\\n\\nAssistant: Hello")                              # HH-RLHF

A turn is an object with a speaker (`role` or `from`) and what is said (`content`, `value` or `text`); its other fields
are not read. The names that datasets have for one speaker become one role (`ROLES`).
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from diptych.text.corpora.records import Content, Unreadable, names

ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "bot", "model"), "assistant"),
    **dict.fromkeys(("tool", "observation", "tool_response", "function_response"), "tool"),
    # Roles that some chat templates know by these names.
    **{role: role for role in ("system", "developer", "function", "ipython")},
}
"""Role of each speaker's name: OASST has `prompter`, ShareGPT `human`, `gpt`, `chatgpt` and `bing`."""

SPEAKER = ("role", "from")
SAID = ("content", "value", "text")
TEXT_PARTS = ("text", "input_text", "output_text")
DIALOGUE_MARK = re.compile(r"(?:^|\n\n)(Human|Assistant):")
"""Before each turn of a dialogue that is one text."""


def read(value: Any) -> Content:
    """A column's value as a text or a conversation's messages.

    Args:
        value: a text; turns as objects; or the texts of turns by user and assistant in alternation. None is empty.

    Raises:
        Unreadable: it is none of these, or a turn has no known role or no text.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        raise Unreadable("neither text nor a list of turns", f"it is {_described(value)}")
    if value and all(isinstance(turn, str) for turn in value):
        return [_message(role, text) for role, text in zip(itertools.cycle(("user", "assistant")), value, strict=False)]
    return [_read_turn(turn, number) for number, turn in enumerate(value, 1)]


def is_dialogue(value: Any) -> bool:
    """Whether a value is a text with `Human:` and `Assistant:` before its turns."""
    return isinstance(value, str) and value.startswith("\n\nHuman:")


def read_dialogue(text: str) -> Content:
    """Messages of a text with `Human:` or `Assistant:` at its start and, after an empty line, before every other turn.

    Raises:
        Unreadable: it does not begin so.
    """
    before, *parts = DIALOGUE_MARK.split(text)
    if not text.strip():
        return ""
    if before.strip() or not parts:
        raise Unreadable("no Human: or Assistant: at the start", f"it begins {text[:40]!r}")
    return [_message(ROLES[who.lower()], said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True)]


def _read_turn(turn: Any, number: int) -> dict[str, str]:
    if not isinstance(turn, Mapping):
        raise Unreadable("a turn that is no object", f"turn {number} is {_described(turn)}")
    # Tables give every turn all fields that any turn has, the missing ones as None.
    speaker = next((turn[key] for key in SPEAKER if turn.get(key) is not None), None)
    said = next((turn[key] for key in SAID if turn.get(key) is not None), None)
    if not isinstance(speaker, str):
        raise Unreadable("a turn without a role", f"turn {number} has {names(turn)}")
    role = ROLES.get(speaker.strip().lower())
    if role is None:
        raise Unreadable("a turn with an unknown role", f"turn {number} is by {speaker[:40]!r} and has {names(turn)}")
    if said is None or said == []:
        raise Unreadable("a turn without content", f"turn {number} has {names(turn)}")
    return _message(role, said if isinstance(said, str) else _join_parts(said, number))


def _join_parts(parts: Any, number: int) -> str:
    """Text of a content that is a list of typed parts, put together without a separator, as chat templates do."""
    if not isinstance(parts, Sequence):
        raise Unreadable("a content that is not text", f"turn {number} holds {_described(parts)}")
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") in TEXT_PARTS else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise Unreadable("a part that is not text", f"turn {number} has a part of type {kind!r}")
        texts.append(text)
    return "".join(texts)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _described(value: Any) -> str:
    return f"an object with {names(value)}" if isinstance(value, Mapping) else type(value).__name__
