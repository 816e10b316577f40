"""Self-contained HTML page with the figures of one template diff.

build("template_diff.h5", "figures.html", name="tuned")
"""

from pathlib import Path

from diptych.page import document
from diptych.page.blocks import Banner, Section, counted
from diptych.storage import artifacts
from diptych.template_diff.pictures import panels
from diptych.template_diff.pictures.figures import figure_blocks

POINTS = 100
"""Listed changes drawn as points, as many as the ranked table has by default."""


def build(diff: str | Path, out: str | Path, *, name: str) -> None:
    """Write the page of figures of an artifact of kind "template_diff"."""
    view = panels.read(diff)
    prompts = counted(view.summary["prompts"], "prompt")
    banner = Banner("info", f"{view.names[0]} and {view.names[1]}.", f"One dictionary read on both, {prompts}.")
    sections = [Section("pictures", "B against A", figure_blocks(view, "template", POINTS))]
    html = document.render(f"{name}: features at template tokens", banner, "", sections)
    artifacts.write_text(out, html)
