"""The report in a real browser, from file://: it draws, it logs no error, it asks the network for nothing."""

import json
import re
import shutil
import subprocess

import pytest

import small_study
from diptych.report import stage
from diptych.template_diff.pictures import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000",
]  # fmt: skip

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: the report is not opened in a browser"),
]


class Visit:
    """What a browser made of a page: the document after its scripts ran, the console, the requests."""

    def __init__(self, file, place, *flags):
        log = place / "net.json"
        run = subprocess.run(
            [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={place / 'profile'}", f"--log-net-log={log}",
             "--enable-logging=stderr", "--dump-dom", f"file://{file}"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        self.dom = run.stdout
        self.console = re.findall(r"CONSOLE.*", run.stderr)
        events = json.loads(log.read_text())["events"]
        asked = [event["params"] for event in events if "url" in event.get("params", {})]
        # Chromium asks for things of its own (time, updates); what a page asks for is keyed by the page's origin.
        mine = [one["url"] for one in asked if "file://" in str(one.get("network_isolation_key"))]
        self.requests = sorted({url for url in mine if not url.startswith(("file:", "data:"))})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "index.html"
    stage.build(small_study.shared(), out, spec=small_study.SPEC, contexts=3)
    return out


@pytest.fixture(scope="module")
def visit(built, tmp_path_factory):
    return Visit(built, tmp_path_factory.mktemp("browser"), "--window-size=1280,900")


def test_no_console_message(visit):
    assert visit.console == []


def test_no_request_to_a_network(visit):
    assert visit.requests == []


def test_a_request_would_be_seen(tmp_path):
    (tmp_path / "asks.html").write_text('<img src="http://example.invalid/picture.png">')
    assert Visit(tmp_path / "asks.html", tmp_path).requests == ["http://example.invalid/picture.png"]


def test_every_figure_is_drawn(visit, built):
    plots = json.loads(re.search(r'id="figures">(.*?)</script>', built.read_text(), re.S).group(1))
    for name in plots:
        start = visit.dom.index(f'id="{name}"')
        assert 'class="main-svg"' in visit.dom[start : start + 3000], name


def test_no_token_became_markup(visit):
    assert "<title>Diptych test</title>" in visit.dom


def test_colours_follow_the_style(visit):
    assert "var(--" not in re.sub(r"<(style|script).*?</\1>", "", visit.dom, flags=re.S)


def test_tables_sort_and_filter(built, tmp_path):
    """A click on `effect` orders the findings by it, and typing hides the rows of the other method."""
    act = """
    const box = document.querySelector('#findings .interactive');
    const heads = [...box.querySelectorAll('th button')];
    heads.find((head) => head.textContent === 'effect').click();
    const column = heads.findIndex((head) => head.textContent === 'effect');
    const values = [...box.querySelectorAll('tbody tr')].map((row) => Number(row.cells[column].dataset.order));
    const input = box.querySelector('input');
    input.value = 'PAIRING b';
    input.dispatchEvent(new Event('input'));
    const shown = [...box.querySelectorAll('tbody tr')].filter((row) => !row.hidden).map((row) => row.textContent);
    document.body.dataset.outcome = JSON.stringify({values, shown});
    """
    page_with_act = tmp_path / "act.html"
    page_with_act.write_text(built.read_text().replace("</body>", f"<script>{act}</script></body>"))
    dom = Visit(page_with_act, tmp_path).dom
    outcome = json.loads(re.search(r"data-outcome=\"([^\"]*)\"", dom).group(1).replace("&quot;", '"'))
    assert len(outcome["values"]) > 2
    assert outcome["values"] == sorted(outcome["values"])
    assert outcome["shown"]
    assert all("pairing" in row for row in outcome["shown"])
    assert len(outcome["shown"]) < len(outcome["values"])


def test_pointing_at_a_feature_on_one_map_shows_it_on_both(built, tmp_path):
    act = """
    const box = document.getElementById('pair-tuned-middle-feature-map');
    setTimeout(() => {
      box.emit('plotly_hover', {points: [{curveNumber: 1, pointNumber: 3}]});
      Plotly.Fx.hover(box, [{curveNumber: 1, pointNumber: 3}], ['x2y2']);
      setTimeout(() => {
        const label = box.querySelector('.hoverlayer .hovertext').textContent;
        const [left, right, ...rings] = box.data;
        document.body.dataset.outcome = JSON.stringify({
          label, here: [left.x[3], left.y[3], right.x[3], right.y[3]],
          rings: rings.flatMap(({x, y}) => [x[0], y[0]]),
        });
      }, 500);
    }, 2000);
    """
    page_with_act = tmp_path / "act.html"
    page_with_act.write_text(built.read_text().replace("</body>", f"<script>{act}</script></body>"))
    dom = Visit(page_with_act, tmp_path, "--window-size=1280,900").dom
    outcome = json.loads(re.search(r"data-outcome=\"([^\"]*)\"", dom).group(1).replace("&quot;", '"'))
    assert outcome["rings"] == outcome["here"]
    assert outcome["label"].startswith("base ")
    assert "tuned " in outcome["label"]


def test_the_page_of_a_template_diff_draws_itself(tmp_path):
    run = small_study.shared()["pairs"][0]["files"]["template_diffs"][0]
    page.build(run["diff"], tmp_path / "figures.html", name="tuned")
    seen = Visit(tmp_path / "figures.html", tmp_path)
    assert seen.console == []
    assert seen.requests == []
    plots = re.findall(r'<div class="plot[^"]*" id="(template-[^"]*)"', seen.dom)
    assert len(plots) == 3
    assert seen.dom.count('class="plot-container plotly"') == 3


def test_it_is_readable_in_the_dark_and_on_a_phone(built, tmp_path):
    """Nothing is wider than a narrow window but what scrolls in its own box."""
    act = """
    const wide = [...document.querySelectorAll('main *')].filter((element) =>
      element.getBoundingClientRect().right > innerWidth + 1 && !element.closest('.scroll') && !element.closest('svg'));
    document.body.dataset.outcome = JSON.stringify({
      wide: wide.map((element) => element.outerHTML.slice(0, 80)),
      paper: getComputedStyle(document.body).backgroundColor,
    });
    """
    page_with_act = tmp_path / "act.html"
    page_with_act.write_text(
        built.read_text().replace("</body>", f"<script>setTimeout(() => {{{act}}}, 3000)</script></body>")
    )
    dom = Visit(
        page_with_act, tmp_path, "--window-size=500,900", "--force-dark-mode", "--blink-settings=preferredColorScheme=0"
    ).dom
    outcome = json.loads(re.search(r"data-outcome=\"([^\"]*)\"", dom).group(1).replace("&quot;", '"'))
    assert outcome["wide"] == []
    assert outcome["paper"] == "rgb(21, 23, 26)"
