"""Templates: rendered text, and the role of each of its characters."""

from collections.abc import Callable

import jinja2
import pytest

from diptych.text import templates

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Hi "},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Hi"},
]


def renderer(source: str) -> templates.Render:
    template = jinja2.Environment().from_string(source)
    return lambda messages, prompt: template.render(messages=messages, add_generation_prompt=prompt)


def by_role(rendered: templates.Rendered) -> list[tuple[str, str]]:
    return [(segment.role, rendered.text[segment.start : segment.end]) for segment in rendered.segments]


def test_chatml_segments() -> None:
    rendered = templates.render(renderer(templates.NAMED["chatml"].source), CHAT[1:3], generation_prompt=True)
    assert by_role(rendered) == [
        ("template", "<|im_start|>user\n "),
        ("user", "Hi"),
        ("template", " <|im_end|>\n"),
        ("assistant_header", "<|im_start|>assistant\n"),
        ("assistant", "Hello."),
        ("template", "<|im_end|>\n"),
    ]


@pytest.mark.parametrize("name", sorted(templates.NAMED))
def test_segments_cut_the_text_without_gaps(name: str) -> None:
    rendered = templates.render(renderer(templates.NAMED[name].source), CHAT, generation_prompt=True)
    assert "".join(text for _, text in by_role(rendered)) == rendered.text
    assert [text for role, text in by_role(rendered) if role == "user"] == ["Hi", "Hi"]
    assert [text for role, text in by_role(rendered) if role == "assistant"] == ["Hello."]
    assert by_role(rendered)[-1][0] == "assistant_header"


def test_a_default_system_prompt_is_template_text() -> None:
    source = "{% if messages[0]['role'] != 'system' %}[Hi, you help.]{% endif %}" + templates.NAMED["chatml"].source
    rendered = templates.render(renderer(source), CHAT[1:2], generation_prompt=False)
    assert by_role(rendered)[:2] == [("template", "[Hi, you help.]<|im_start|>user\n "), ("user", "Hi")]


def test_no_header_behind_an_answer() -> None:
    rendered = templates.render(renderer(templates.NAMED["plain"].source), CHAT[:3], generation_prompt=True)
    assert rendered.text.endswith("Assistant: Hello.\n\n")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ messages | length }}", "rewrites earlier turns|not in the rendered"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "not in the rendered text"),
    ],
)
def test_templates_that_cannot_be_read_off(source: str, message: str) -> None:
    with pytest.raises(templates.TemplateError, match=message):
        templates.render(renderer(source), CHAT, generation_prompt=True)


def test_families_are_known_by_their_marker() -> None:
    found: Callable[[str], str | None] = templates.family
    assert [found(templates.NAMED[name].source) for name in ("chatml", "llama3", "gemma", "plain")] == [
        "chatml",
        "llama3",
        "gemma",
        None,
    ]
    assert templates.positions(templates.NAMED["gemma"].source) == {
        "model": templates.Position(-1, "model"),
        "newline": templates.Position(0, "\n"),
    }


@pytest.mark.parametrize("name", sorted(templates.NAMED))
@pytest.mark.parametrize("content", ["end", "I", "im", "of", "turn", "id", "A", "|", "i", "<", ""])
def test_a_content_that_is_part_of_a_marker_is_found_where_it_was_said(name: str, content: str) -> None:
    source = templates.NAMED[name].source
    said = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
    rendered = templates.render(renderer(source), said, generation_prompt=True)
    truth = templates.render(renderer(source), [{**turn, "content": "Q"} for turn in said], generation_prompt=True)
    empty = [pair for pair in by_role(truth) if content or pair[1] != "Q"]
    assert by_role(rendered) == [(role, content if text == "Q" else text) for role, text in empty]


def test_a_marker_said_in_a_content_is_content() -> None:
    said = [{"role": "user", "content": "What is <|im_end|>\n?"}, {"role": "assistant", "content": "\n\nassistant\n"}]
    rendered = templates.render(renderer(templates.NAMED["chatml"].source), said, generation_prompt=True)
    assert by_role(rendered)[1] == ("user", "What is <|im_end|>\n?")
    assert by_role(rendered)[3:] == [
        ("assistant_header", "<|im_start|>assistant\n"),
        ("template", "\n\n"),
        ("assistant", "assistant"),
        ("template", "\n<|im_end|>\n"),
    ]
