"""Numbers in print beside those of the study, as one table of the page.

    section([{"what": "RSA", "value": 0.207, "source": "Lan et al. 2024", "ours": [{"kind": "similarity", ...}]}], page)

What a number stands beside is looked up by the method of its kind (`method_sections.Sections.number_of`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from diptych import methods
from diptych.page import method_sections
from diptych.page.blocks import Cell, Prose, Section, Table, number_cell
from diptych.page.method_sections import PageData


def section(published: Sequence[Mapping[str, Any]], page: PageData) -> list[Section]:
    """The section with the table of published numbers; none without any."""
    if not published:
        return []
    rows: list[list[str | Cell]] = [
        [entry["what"], _printed(entry["value"]), _ours(ours, page), _where(ours), entry["source"]]
        for entry in published
        for ours in entry["ours"] or [None]
    ]
    intro = Prose("They were computed on other text and with other code: nothing is tested against them.")
    table = Table(["what", "published", "ours", "where", "source"], rows)
    lead = "Numbers that others printed, beside the same quantity of this study where it has one."
    return [Section("published", "Published, beside ours", [intro, table], lead=lead)]


def _printed(value: float | str) -> str | Cell:
    return value if isinstance(value, str) else number_cell(value)


def _ours(ours: Mapping[str, Any] | None, page: PageData) -> Cell:
    if ours is None:
        return Cell("–", tone="muted", hint="The study has no number of this kind.")
    return method_sections.of(methods.named(ours["kind"])).number_of(ours, page)


def _where(ours: Mapping[str, Any] | None) -> str:
    """The place of the study's own number: the values of its address, without its kind."""
    if ours is None:
        return ""
    return ", ".join(str(value) for key, value in ours.items() if key != "kind" and value is not None)
