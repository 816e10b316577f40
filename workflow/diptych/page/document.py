"""Rendering of sections as HTML pages that need no network, each with its style and script inside.

    render("Base and chat", Banner("pass", "The control holds.", ""), "What changed: ...", sections)

plotly.js is inside as well, or in a file that several pages share (`plotly`). A Content-Security-Policy permits the
page's own scripts, by their hashes, and that file; nothing else runs, and nothing is fetched.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from diptych.page import blocks, glossary
from diptych.page.blocks import Banner, Figure, Section
from diptych.storage.canonical import canonical_json

TEMPLATES = Path(__file__).parents[2] / "report"
"""Directory of the page's template, style and script."""
TOKEN_CHARACTERS = 120
"""Characters of a token that are shown."""


@dataclass(frozen=True)
class Frame:
    """What a page has beside its content.

    Attributes:
        id: of the page among the pages of a report.
        plotly: address of plotly.js beside the page; "" for a page that holds it.
        kicker: the line over the title.
        home: address of the page that this one belongs to, or "".
    """

    id: str = "page"
    plotly: str = ""
    kicker: str = "Diptych · what differs between two language models"
    home: str = ""


def render(
    title: str, banner: Banner | None, answer: str, sections: Sequence[Section], frame: Frame | None = None
) -> str:
    """HTML of a page: title, banner, the answer in words, then the sections."""
    frame = frame or Frame()
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    inlined = [] if frame.plotly else [get_plotlyjs()]
    plots = {figure.id: figure.plot for figure in _figures(sections)}
    return _template().render(
        title=title,
        banner=banner,
        answer=answer,
        sections=sections,
        frame=frame,
        policy=policy([*inlined, script], is_beside=bool(frame.plotly)),
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=script,
        plotly="".join(inlined),
        figures=script_json(plots),
    )


def policy(scripts: Sequence[str], *, is_beside: bool) -> str:
    """The Content-Security-Policy of a page with these scripts inside, and with a script file beside it or without."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    sources = " ".join([*(["'self'"] if is_beside else []), *(f"'sha256-{digest}'" for digest in hashes)])
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: no `<` that could end the element."""
    return canonical_json(value).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
    )
    environment.filters |= _FILTERS
    return environment.get_template("page.html.j2")


def _shown(value: Any) -> Any:
    """Texts with marks for what cannot be seen: every text of the page passes here, and then the escaping."""
    return blocks.visible(value) if type(value) is str else value


def _token(text: str) -> str:
    return blocks.visible(text, TOKEN_CHARACTERS)


_FILTERS: dict[str, Callable[..., Any]] = {
    "shown": blocks.number,
    "token": _token,
    "glossed": glossary.glossed,
    "hint": glossary.hint,
    "web_address": blocks.web_address,
    "json": canonical_json,
}


def _figures(sections: Sequence[Section]) -> Iterator[Figure]:
    for section in sections:
        yield from (block for block in section.blocks if isinstance(block, Figure))
        yield from _figures(section.sections)
