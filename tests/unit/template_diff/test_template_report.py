"""What is shown of a template diff: panels, hover text, tables, links, files."""

import json
import re
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

import small_study
from diptych.page import blocks, document
from diptych.report import stage as report
from diptych.template_diff import stage
from diptych.template_diff.codes import Codes
from diptych.template_diff.pictures import figures, images, page, panels
from diptych.template_diff.pictures.panels import Axis
from prompt_codes import planted_pair

NASTY = small_study.SCRIPT_TOKEN


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A template diff whose one role is a token that must never become markup."""
    place = tmp_path_factory.mktemp("diff")
    one = planted_pair()
    codes = Codes({NASTY: one.a["newline"]}, {NASTY: one.b["newline"]}, one.prompts, one.source, one.fold, one.sources)
    stage.diff(
        codes, place / "d.h5", place / "gains.csv", place / "targets.csv",
        spec={"reads": {"a": "base", "b": "chat"}}, flips=100, bootstrap=50, link="https://host/{sae}/{latent}?at={role}",
        sae="mine", target=["targets"], control=["controls"], fvu_a={NASTY: 0.2}, fvu_b={NASTY: 1.2},
    )  # fmt: skip
    return place / "d.h5"


def test_axis_holds_zero_beside_powers_of_ten():
    axis = Axis.of(np.array([0.0, 0.02, 3.0]), np.array([40.0, np.nan]))
    ticks, labels = axis.ticks()
    assert labels == ["0", "0.1", "1", "10"]
    assert axis.coordinates(np.array([0.0, 0.1, 10.0])) == pytest.approx([axis.zero, -1.0, 1.0])
    low, high = axis.limits
    assert low < axis.zero < axis.low < axis.high < high
    assert ticks == sorted(ticks)


def test_panels_hold_the_bulk_and_the_listed_gains(made):
    view = panels.read(made)
    mean, active, density = view.panels(NASTY)
    assert mean.axis == active.axis
    a, b = view.values[NASTY]["density"]
    assert density.counts.sum() == ((a > 0) | (b > 0)).sum()
    both = np.isfinite(view.values[NASTY]["active_mean"][0]) & np.isfinite(view.values[NASTY]["active_mean"][1])
    assert active.counts.sum() == both.sum()
    up = density.points["up"]
    assert view.ranked["latent"][up.row][:4].tolist() == [5, 0, 1, 2]
    assert (up.y > up.x).all()
    assert up.x[0] == density.axis.zero
    down = density.points["down"]
    assert (down.y < down.x).all()


def test_volcano_holds_every_test(made):
    view = panels.read(made)
    volcano = view.volcano()
    tests = sum(len(test["p"]) for metrics in view.tests.values() for test in metrics.values())
    assert volcano.counts.sum() == tests
    assert (volcano.points["up"].x > 0).all()
    assert (volcano.points["up"].y >= volcano.line).all()


def test_figures_are_valid_and_their_text_is_escaped(made):
    view = panels.read(made)
    for plot in (figures.scatter(view, NASTY), figures.volcano(view)):
        go.Figure(plot)
        hover = [text for trace in plot["data"] for text in trace.get("text", [])]
        assert hover
        assert not any("<script" in text for text in hover)
        assert any("&lt;script&gt;" in text for text in hover)
    layout = figures.scatter(view, NASTY)["layout"]
    assert layout["xaxis2"]["matches"] == "x"
    assert layout["yaxis2"]["matches"] == "y"
    assert "matches" not in layout["xaxis3"]


def test_pictures_are_files_and_the_same_each_time(made, tmp_path):
    pictures = {}
    for turn in ("one", "two"):
        paths = {name: [tmp_path / f"{turn}-{name}.{end}" for end in ("png", "svg")] for name in ("scatter", "volcano")}
        images.draw(made, **paths)
        pictures[turn] = [path.read_bytes() for both in paths.values() for path in both]
    assert pictures["one"] == pictures["two"]
    assert [data[:4] for data in pictures["one"]] == [b"\x89PNG", b"<?xm", b"\x89PNG", b"<?xm"]
    assert all(len(data) < 2e6 for data in pictures["one"])


def test_the_page_of_figures_stands_alone(made, tmp_path):
    page.build(made, tmp_path / "figures.html", name="chat")
    html = (tmp_path / "figures.html").read_text(encoding="utf-8")
    assert NASTY not in html
    plots = json.loads(
        re.search(r'<script type="application/json" class="figures">(.*?)</script>', html, re.S).group(1)
    )
    assert len(plots) == 2
    own = html.replace(document.get_plotlyjs(), "")
    assert "https://" not in own
    assert html.count('class="figures"') == 1


def test_the_section_says_what_it_must(made, tmp_path):
    study = small_study.shared()
    report.build(study, tmp_path / "index.html", spec=small_study.SPEC, contexts=3)
    html = (tmp_path / "pairs" / "tuned.html").read_text(encoding="utf-8")
    main = re.sub(r"</?abbr[^>]*>", "", html[html.index("<main") : html.index('class="figures"')])
    text = " ".join(re.sub(r"<[^>]+>", " ", main).split())
    for words in (
        "Features at the chat template", "60 prompts", "was planted in half of the prompts", "domain shift",
        "Size and significance", "Ranked gains", "template_diffs/tuned/gains.csv", "On which prompts", "template diff",
        "Features of the target prompts alone", "every template p is 1",
    ):  # fmt: skip
        assert words in text, words


def test_links_lead_where_the_template_says(made):
    from diptych.template_diff import section as template_diffs

    view = panels.read(made)
    table = template_diffs._tables(view, "chat")[0]
    first = table.rows[0][0]
    assert (
        first.href
        == f"https://host/mine/{first.text}?at=%3C%2Fscript%3E%3Cscript%3Edocument.title%3D%27broken%27%3C%2Fscript%3E"
    )
    section = blocks.Section("s", "t", [table])
    html = document.render("T", blocks.Banner("pass", "h", "t"), "a", [section])
    assert f'<a href="https://host/mine/{first.text}?at=' in html


def test_a_shifted_domain_is_said_in_words(made):
    from diptych.template_diff import section as template_diffs

    notes = " ".join(note.text for note in template_diffs._domain_notes(panels.read(made)))
    assert "leaves more unexplained in chat than in the other model, 6.00 times at “" in notes
    assert "worse than their mean would" in notes
