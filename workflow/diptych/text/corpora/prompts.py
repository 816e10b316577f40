"""Prompts: what the models are asked, one user message each, drawn at random from a source's documents (METHODS 4).

A document gives prompts by one of three rules:

    first_turn    the first user message of a conversation
    document      the whole text as one message
    sentence      its sentences of 6 to 24 words, each put into a question

and `ask` is what the user says with it: ask="{sentence} Answer in one word."

    prompts = list(draw(documents, rule="first_turn", number=1000, seed=0))

The draw takes one prompt from every document before it takes a second one from any, and depends on the texts and the
seed, not on the order of the documents: the `number` least hashes are kept, so that a stream of any length costs little
more than the prompts that are drawn. Equal prompts are one, and count for the first document that has them.
"""

import hashlib
import heapq
import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from diptych.runtime.errors import DiptychError

Rule = Literal["first_turn", "document", "sentence"]
Content = str | Sequence[dict[str, str]]

PLACEHOLDER = "{sentence}"
QUESTION = f"What does this mean? {PLACEHOLDER}"
WORDS = (6, 24)
"""Words of a sentence that is asked about: enough to be about something, few enough for a prompt of 50 tokens."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"“(]?[A-Z])")


class Prompt(NamedTuple):
    """A drawn prompt: id of its document (with its place there, if it gives several) and the user message."""

    id: str
    text: str


class Drawn(NamedTuple):
    """The drawn prompts in order of their hashes, and how many different ones there were."""

    prompts: list[Prompt]
    offered: int


def draw(
    documents: Iterable[tuple[str, Content]],
    *,
    rule: Rule,
    number: int,
    seed: int,
    ask: str | None = None,
    what: str = "",
) -> Drawn:
    """Prompts of all documents, `number` of them at random.

    Args:
        documents: (id, text or chat messages).
        rule: how a document gives prompts.
        number: prompts that are kept at most.
        seed: of the draw.
        ask: what the user says, with the text in place of {sentence}; None: the text, or of a sentence `QUESTION`.
        what: the source's name, for messages.

    Raises:
        DiptychError: a document is no conversation (first_turn), or one where text is needed, or `ask` has no place
            for the sentence.
    """
    ask = ask or (QUESTION if rule == "sentence" else PLACEHOLDER)
    if PLACEHOLDER not in ask:
        raise DiptychError(f"prompts of source {what!r}: `ask` must hold {PLACEHOLDER}")
    sampled: list[tuple[int, int, str, str]] = []
    hashes: set[int] = set()
    for name, content in documents:
        asked = [ask.replace(PLACEHOLDER, text) for text in _texts(name, content, rule)]
        candidates = {_hash(seed, text): text for text in asked}
        fresh = sorted(item for item in candidates.items() if item[0] not in hashes)
        hashes.update(order for order, _ in fresh)
        for turn, (order, text) in enumerate(fresh):
            # The heap's first entry is the one to give up: the latest turn, the largest hash.
            entry = (-turn, -order, f"{name}#{turn}" if rule == "sentence" else name, text)
            if len(sampled) < number:
                heapq.heappush(sampled, entry)
            else:
                heapq.heappushpop(sampled, entry)
    ordered = sorted(sampled, reverse=True)
    return Drawn([Prompt(name, text) for _, _, name, text in ordered], len(hashes))


def sentences(text: str) -> list[str]:
    """Sentences of `WORDS` words, white space single, that begin with a capital and end with a full stop or mark."""
    candidates = SENTENCE_END.split(" ".join(text.split()))
    return [
        sentence
        for sentence in candidates
        if WORDS[0] <= len(sentence.split()) <= WORDS[1] and sentence[0].isupper() and sentence[-1] in ".!?"
    ]


def _texts(name: str, content: Content, rule: Rule) -> list[str]:
    if rule == "first_turn":
        if isinstance(content, str):
            raise DiptychError(f"{name}: is text, not a conversation; set the prompts' rule to document or sentence")
        first = next((turn["content"].strip() for turn in content if turn["role"] == "user"), "")
        return [first] if first else []
    if not isinstance(content, str):
        raise DiptychError(f"{name}: is a conversation; set the prompts' rule to first_turn")
    if rule == "document":
        return [content.strip()] if content.strip() else []
    return sentences(content)


def _hash(seed: int, text: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{text}".encode("utf-8", "replace"), digest_size=8).digest(), "big")
