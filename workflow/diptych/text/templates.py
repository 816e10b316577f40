"""Chat templates: from messages to one text, and which part of that text plays which role.

A template puts markers around the turns of a conversation. Those markers are where chat tuning shows, so every token
of a rendered conversation gets a role: `system`, `user`, `assistant` (what was said), `assistant_header` (the markers
that open an assistant turn) or `template` (all other markers). Roles are read off by rendering ever longer prefixes
of the conversation, and where a turn's markers end by rendering a single character in its place, so any template works
whose rendering only ever appends:

    rendered = templates.render(tokenizer_render, [{"role": "user", "content": "Hi"}], generation_prompt=True)
    rendered.text       # '<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n'
    rendered.segments   # (0, 17, 'template'), (17, 19, 'user'), (19, 31, 'template'), (31, 53, 'assistant_header')

Single tokens of the last assistant header get names of their own (METHODS 4), by their offset from the header's last
token: for ChatML `im_start` is -2, `assistant` -1 and `newline` 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from diptych.runtime.errors import DiptychError

Messages = Sequence[Mapping[str, str]]
Render = Callable[[Messages, bool], str]
"""(messages, whether to open an assistant turn at the end) -> text."""

SENTINEL = "\ue000"
"""A private-use character, said in a turn's place to see what the template puts around it."""
ROLES = ("text", "template", "system", "user", "assistant_header", "assistant")
"""Roles of every token file, in the order of their codes; named positions come after them."""


class TemplateError(DiptychError):
    """A conversation that a template cannot render or whose roles cannot be read off."""


class Segment(NamedTuple):
    """The characters [start, end) of a rendered conversation play `role`."""

    start: int
    end: int
    role: str


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, cut without gaps into segments."""

    text: str
    segments: tuple[Segment, ...]


class Position(NamedTuple):
    """A token of the assistant header: `offset` from its last token (<= 0), and its text where that is known."""

    offset: int
    text: str | None = None


@dataclass(frozen=True)
class Template:
    """A template of our own, given to both models of a pair when neither's own should be favoured."""

    source: str
    """Jinja text."""
    positions: Mapping[str, "Position"]
    """Named tokens of the assistant header."""


_LLAMA3_TURN = "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
_GEMMA_TURN = (
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n"
)
_LOOP = "{% for m in messages %}"

NAMED: Mapping[str, Template] = {
    "plain": Template(
        _LOOP + "{{ m['role'] | capitalize }}: {{ m['content'] }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}",
        {"colon": Position(0, ":")},
    ),
    "chatml": Template(
        _LOOP + "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        {
            "im_start": Position(-2, "<|im_start|>"),
            "assistant": Position(-1, "assistant"),
            "newline": Position(0, "\n"),
        },
    ),
    "llama3": Template(
        _LOOP + _LLAMA3_TURN + "{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        {
            "asst": Position(-2, "assistant"),
            "endheader": Position(-1, "<|end_header_id|>"),
            "newline": Position(0, "\n\n"),
        },
    ),
    "gemma": Template(
        _LOOP + _GEMMA_TURN + "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        {"model": Position(-1, "model"), "newline": Position(0, "\n")},
    ),
}
"""`plain` is the neutral one: words only, no special tokens."""

_MARKERS = {"chatml": "<|im_start|>", "llama3": "<|start_header_id|>", "gemma": "<start_of_turn>"}


def is_known(template: str) -> bool:
    """Whether a corpus can be rendered in it: the tokenizer's own (`model`), a name of `NAMED`, or Jinja text."""
    return template == "model" or template in NAMED or "{" in template


def family(source: str) -> str | None:
    """The named template whose turn marker the Jinja text `source` uses, or None."""
    return next((name for name, marker in _MARKERS.items() if marker in source), None)


def positions(source: str) -> dict[str, Position]:
    """The named positions of the family that the Jinja text belongs to; none for an unknown family."""
    name = family(source)
    return dict(NAMED[name].positions) if name else {}


def render(render_text: Render, messages: Messages, *, generation_prompt: bool) -> Rendered:
    """Render a conversation and label its characters.

    Args:
        render_text: applies the template.
        messages: each with `role` and `content`.
        generation_prompt: open an assistant turn at the end if the last message is not the assistant's.

    Raises:
        TemplateError: a longer conversation does not begin with the rendering of a shorter one, or a message's
            content cannot be found in its turn.
    """
    text, segments = "", list[Segment]()
    for count, message in enumerate(messages, 1):
        longer = render_text(messages[:count], False)
        _require_prefix(longer, text, message["role"])
        probe = render_text([*messages[: count - 1], {**message, "content": SENTINEL}], False)
        _require_prefix(probe, text, message["role"])
        segments += _turn_segments(longer[len(text) :], probe[len(text) :], len(text), message)
        text = longer
    if generation_prompt and messages[-1]["role"] != "assistant":
        longer = render_text(messages, True)
        _require_prefix(longer, text, "assistant")
        segments.append(Segment(len(text), len(longer), "assistant_header"))
        text = longer
    return Rendered(text, tuple(segment for segment in segments if segment.end > segment.start))


def _require_prefix(longer: str, shorter: str, role: str) -> None:
    if not longer.startswith(shorter):
        raise TemplateError(
            f"the template rewrites earlier turns when it adds a turn of {role!r}; use another template"
        )


def _turn_segments(turn: str, probe: str, start: int, message: Mapping[str, str]) -> list[Segment]:
    """A turn is its opening markers, its content (templates may strip it) and its closing markers.

    Args:
        turn: what the template adds for the message.
        probe: the same with `SENTINEL` for its content, which may hold the text of a marker.
        start: where the turn begins in the conversation.
        message: with `role` and `content`.
    """
    content = message["content"].strip()
    opening = probe.rfind(SENTINEL)
    closing = len(turn) - (len(probe) - opening - 1)
    at = turn.find(content, opening, closing) if 0 <= opening <= closing else -1
    if at < 0:
        raise TemplateError(f"the content of a turn of {message['role']!r} is not in the rendered text")
    role = message["role"] if message["role"] in ROLES else "user"
    # The white space that a content begins with is no part of the header: named positions count from its end.
    header, end = ("assistant_header", opening) if role == "assistant" else ("template", at)
    edges = (0, end, at, at + len(content), len(turn))
    roles = (header, "template", role, "template")
    return [Segment(start + a, start + b, name) for (a, b), name in zip(pairwise(edges), roles, strict=True)]
