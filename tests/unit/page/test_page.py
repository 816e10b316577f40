"""Blocks, figures and the document of a page."""

import json
import re

import numpy as np
import pytest

from diptych.page import blocks, document, figures
from diptych.text.contexts import Context, Token


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.94066, ".941"), (-0.05, "−.050"), (4.08, "4.08"), (12.345, "12.3"), (24052.0, "24,052"), (7, "7"),
        (np.int64(1200), "1,200"), (3.21e-9, "3.2e−9"), (0.0, "0"), (1.0, "1.00"), (float("nan"), "–"), (None, "–"),
    ],
)  # fmt: skip
def test_numbers_have_sensible_digits(value, shown):
    assert blocks.number(value) == shown


def test_shares_and_p_values():
    assert [blocks.percent(x) for x in (0.5, 0.0312, 0.0, 1.0, float("nan"))] == ["50 %", "3.1 %", "0 %", "100 %", "–"]
    assert [blocks.p_value(x) for x in (0.0312, 4.2e-6, 1e-300, 1.0)] == [".031", "4e−6", "< 1e−99", "1.000"]


def test_visible_shows_what_cannot_be_seen():
    assert blocks.visible("a\nb\tc\x00 d") == "a↵b⇥c� d"


def test_shading_follows_the_weight():
    context = Context(3, "d", "s", 2, 1.5, (Token("a", 0.0), Token("b", -0.5), Token("c", 1.0)), 2)
    item = blocks.Item("x", [], [blocks.ContextList("r", [context])])
    section = blocks.Section("s", "t", [blocks.Items("c", [item])])
    html = document.render("T", blocks.Banner("pass", "h", "t"), "a", [section])
    body = html[html.index('<span class="text">') :].split("</li>")[0]
    assert re.findall(r"<span class=\"([^\"]*)\"(?: style=\"--w:([\d.]+)\" data-tip=\"[^\"]*\")?>(\w)</span>", body) == [
        ("", "", "a"), (" minus", "0.50", "b"), ("focus", "1.00", "c"),
    ]  # fmt: skip


def test_a_script_element_cannot_be_ended_from_inside():
    assert "</script>" not in document.script_json({"name": "</script><b>"})
    assert json.loads(document.script_json({"name": "</script>\u2028"})) == {"name": "</script>\u2028"}


def test_dots_below_the_axis_stand_at_its_edge():
    plot = figures.dot_plot(["x"], {"a": ([-50.0], [0.1], "red")}, x="r")
    assert plot["data"][0]["x"] == [-0.1]
    assert plot["data"][0]["customdata"] == [-50.0]
