"""Message trees (OASST): a prompt, replies to it, replies to those, each with a rank among its siblings.

A tree gives one conversation, its best-ranked path: from the prompt to a message without a reply, always by the reply
of least rank. Other paths share their first messages with it, and documents must be independent.

Trees are published as a message a row, depth first (`message_id`, `parent_id`), or as nested objects (`replies`).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar

from diptych.text.corpora.records import LeftOut, Record, Unreadable

Message = TypeVar("Message")

FIELDS = ("message_id", "parent_id", "message_tree_id", "role", "rank", "deleted", "review_result")
"""Fields of a message that are read beside its text."""


def has_id(fields: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a record is a message with an id."""
    return isinstance(fields, Mapping) and "message_id" in fields


def is_message(fields: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a record is a message with a role and a place in a tree."""
    return has_id(fields) and "role" in fields and ("parent_id" in fields or "message_tree_id" in fields)


def best_paths(messages: Iterable[Record], left_out: LeftOut) -> Iterator[list[Record]]:
    """The best-ranked path of every tree.

    Args:
        messages: rows in an order in which a tree's prompt stands before its replies and no other tree between them.
        left_out: counts messages whose parent is not in their tree, and trees whose prompt was deleted.

    Yields:
        Messages from the prompt to a message without a reply.
    """
    tree: list[Record] = []
    for message in messages:
        if tree and not _id(message, "parent_id"):
            yield from _best_path(tree, left_out)
            tree = []
        tree.append(message)
    if tree:
        yield from _best_path(tree, left_out)


def nested_path(prompt: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The best-ranked path of a tree whose messages hold their `replies`.

    Raises:
        Unreadable: the prompt was deleted.
    """
    if _is_deleted(prompt):
        raise _deleted_prompt()
    path = [prompt]
    while (reply := _best(_replies(path[-1]), lambda message: message)) is not None:
        path.append(reply)
    return path


def _replies(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    replies = message.get("replies")
    return [reply for reply in replies if isinstance(reply, Mapping)] if isinstance(replies, list) else []


def _best_path(tree: Sequence[Record], left_out: LeftOut) -> Iterator[list[Record]]:
    replies: dict[str, list[Record]] = {}
    for message in tree:
        name, parent = _id(message, "message_id"), _id(message, "parent_id")
        if name in replies or (parent and parent not in replies):
            detail = f"message {name!r} replies to {parent!r}"
            left_out.add(message.where, Unreadable("a parent that is not in its tree", detail))
            continue
        if parent:
            replies[parent].append(message)
        replies[name] = []
    prompt = tree[0]
    if _id(prompt, "parent_id"):
        return
    if _is_deleted(prompt.fields):
        left_out.add(prompt.where, _deleted_prompt())
        return
    path = [prompt]
    while (reply := _best(replies[_id(path[-1], "message_id")], lambda child: child.fields)) is not None:
        path.append(reply)
    yield path


def _id(message: Record, field: str) -> str:
    """An id of a message; empty where it has none."""
    value = message.fields.get(field)
    return "" if value is None else str(value)


def _best(replies: Sequence[Message], fields: Callable[[Message], Mapping[str, Any]]) -> Message | None:
    """The reply of least rank, of those that were not deleted; the first one where none is ranked."""
    kept = [reply for reply in replies if not _is_deleted(fields(reply))]
    return min(kept, key=lambda reply: _rank(fields(reply)), default=None)


def _rank(message: Mapping[str, Any]) -> float:
    rank = message.get("rank")
    return float(rank) if isinstance(rank, int | float) and not math.isnan(rank) else math.inf


def _is_deleted(message: Mapping[str, Any]) -> bool:
    """Whether a message was deleted, or rejected by its reviewers (spam)."""
    return bool(message.get("deleted")) or message.get("review_result") is False


def _deleted_prompt() -> Unreadable:
    return Unreadable("a prompt that was deleted", "it is the root of a tree")
