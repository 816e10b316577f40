"""Blocks, figures and the document of a page."""

import json
import re
from html import unescape

import numpy as np
import pytest

from diptych.page import blocks, document, figures, glossary
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


def test_what_cannot_be_seen_or_read_is_marked_or_cut():
    assert blocks.visible("\u202eevil\u2066\x1b[31m") == "�evil��[31m"
    assert blocks.visible("x" * 10_000, 5) == "xxxxx… (10,000 characters)"


@pytest.mark.parametrize(
    ("address", "is_kept"),
    [("https://www.neuronpedia.org/x", True), ("HTTP://x", True), ("pairs/a.html#b:c", True), ("#x", True), ("", True),
     ("javascript:alert(1)", False), ("JavaScript:alert(1)", False), ("data:text/html,x", False),
     ("vbscript:x", False), ("file:///etc/passwd", False)],
)  # fmt: skip
def test_links_lead_to_the_web_or_into_the_report(address, is_kept):
    assert blocks.web_address(address) == (address if is_kept else "")


def test_a_link_that_runs_a_script_is_no_link():
    table = blocks.Table(["x"], [[blocks.Cell("feature 7", href="javascript:alert(1)")]])
    html = document.render("T", None, "", [blocks.Section("s", "t", [table])])
    assert "javascript:alert" not in html
    assert "feature 7" in html


def test_terms_are_explained_once_in_a_text_and_escaped():
    parts = glossary.glossed("<b>KL</b> and KL of the held-out text")
    assert [part for part, _ in parts] == ["<b>", "KL", "</b> and KL of the ", "held-out", " text"]
    assert [bool(meaning) for _, meaning in parts] == [False, True, False, True, False]
    html = document.render("T", None, "", [blocks.Section("s", "t", [blocks.Prose("<b>KL</b>")])])
    assert '<p>&lt;b&gt;<abbr tabindex="0" data-tip="Kullback-Leibler' in html
    assert glossary.hint("R² median") == glossary.TERMS["R²"]
    assert all(meaning.endswith(".") for meaning in glossary.TERMS.values())


def test_the_policy_permits_the_scripts_of_the_page_alone():
    html = document.render("T", None, "", [], document.Frame(plotly="plotly.js"))
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1])
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert len(scripts) == 1
    assert policy.startswith(document.policy(scripts, is_beside=True))
    assert "unsafe" not in policy.partition("script-src")[2].partition(";")[0]
    alone = document.render("T", None, "", [])
    scripts = re.findall(r'<script(?: type="text/plain" class="plotly")?>(.*?)</script>', alone, re.S)
    assert scripts[0] == document.get_plotlyjs()
    assert document.policy(scripts, is_beside=False) in unescape(alone)


def test_shading_follows_the_weight():
    context = Context(3, "d", "s", 2, 1.5, (Token("a", 0.0), Token("b", -0.5), Token("c", 1.0)), 2)
    item = blocks.Item("x", [], [blocks.ContextList("r", [context])])
    section = blocks.Section("s", "t", [blocks.Items("c", [item])])
    html = document.render("T", blocks.Banner("pass", "h", "t"), "a", [section])
    body = html[html.index('<span class="text">') :].split("</li>")[0]
    shaded = re.findall(r"<span class=\"([^\"]*)\"(?: style=\"--w:([\d.]+)\" data-tip=\"[^\"]*\")?>(\w)</span>", body)
    assert shaded == [
        ("", "", "a"), (" minus", "0.50", "b"), ("focus", "1.00", "c"),
    ]  # fmt: skip


def test_a_script_element_cannot_be_ended_from_inside():
    assert "</script>" not in document.script_json({"name": "</script><b>"})
    assert json.loads(document.script_json({"name": "</script>\u2028"})) == {"name": "</script>\u2028"}


def test_dots_below_the_axis_stand_at_its_edge():
    plot = figures.dot_plot(["x"], {"a": ([-50.0], [0.1], "red")}, x="r")
    assert plot["data"][0]["x"] == [-0.1]
    assert plot["data"][0]["customdata"] == [-50.0]
