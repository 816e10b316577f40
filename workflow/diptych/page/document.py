"""Rendering of sections as one self-contained HTML page, with its style, script and plotly.js inside.

document.render("Base and chat", Banner("pass", "The control holds.", ""), "What changed: ...", sections)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from diptych.page import blocks
from diptych.page.blocks import Banner, Figure, Section
from diptych.storage.canonical import canonical_json

TEMPLATES = Path(__file__).parents[2] / "report"
"""Directory of the page's template, style and script."""


def render(title: str, banner: Banner, answer: str, sections: Sequence[Section]) -> str:
    """HTML of the page: title, banner, the answer in words, then the sections."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"shown": blocks.number, "visible": blocks.visible}
    plots = {figure.id: figure.plot for figure in _figures(sections)}
    return environment.get_template("page.html.j2").render(
        title=title,
        banner=banner,
        answer=answer,
        sections=sections,
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        figures=script_json(plots),
    )


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: no `<` that could end the element."""
    return canonical_json(value).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _figures(sections: Sequence[Section]) -> list[Figure]:
    figures: list[Figure] = []
    for section in sections:
        figures += [block for block in section.blocks if isinstance(block, Figure)]
        figures += _figures(section.sections)
    return figures
