"""The report in a real browser, from file://: it draws, answers, logs no error, and asks the network for nothing."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess

import pytest

import small_study
from diptych.report import single_file, stage
from diptych.template_diff.pictures import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000",
]  # fmt: skip
PAIR = "pairs/tuned.html"

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
            capture_output=True, text=True, timeout=240, check=True,
        )  # fmt: skip
        self.dom = run.stdout
        self.console = re.findall(r"CONSOLE.*", run.stderr)
        events = json.loads(log.read_text())["events"]
        asked = [event["params"] for event in events if "url" in event.get("params", {})]
        # Chromium asks for things of its own (time, updates); what a page asks for is keyed by the page's origin.
        mine = [one["url"] for one in asked if "file://" in str(one.get("network_isolation_key"))]
        self.requests = sorted({url for url in mine if not url.startswith(("file:", "data:", "blob:"))})

    @property
    def outcome(self):
        """What a test's script reported."""
        return json.loads(html.unescape(re.search(r"data-outcome=\"([^\"]*)\"", self.dom).group(1)))


def acting(report, name, act, place):
    """The page of a copy of a report that runs a script of the test as well, which its policy permits by the hash."""
    shutil.copytree(report, place / "copy")
    path = place / "copy" / name
    digest = base64.b64encode(hashlib.sha256(act.encode()).digest()).decode()
    text = path.read_text().replace("script-src ", f"script-src &#39;sha256-{digest}&#39; ", 1)
    path.write_text(text.replace("</body>", f"<script>{act}</script></body>"))
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    directory = tmp_path_factory.mktemp("page")
    stage.build(small_study.shared(), directory / "index.html", spec=small_study.SPEC, contexts=3)
    return directory


@pytest.mark.parametrize("name", ["index.html", PAIR])
def test_a_page_runs_its_own_scripts_alone_and_asks_for_nothing(report, name, tmp_path):
    """Hostile tokens stand in most contexts: a violation of the policy would be a message of the console."""
    seen = Visit(report / name, tmp_path, "--window-size=1280,900")
    assert seen.console == []
    assert seen.requests == []
    assert "<title>broken" not in seen.dom
    assert "var(--" not in re.sub(r"<(style|script).*?</\1>", "", seen.dom, flags=re.S)


def test_a_request_and_a_script_that_is_not_the_pages_would_be_seen(report, tmp_path):
    (tmp_path / "asks.html").write_text('<img src="http://example.invalid/picture.png">')
    assert Visit(tmp_path / "asks.html", tmp_path).requests == ["http://example.invalid/picture.png"]
    shutil.copytree(report, tmp_path / "copy")
    path = tmp_path / "copy" / "index.html"
    path.write_text(path.read_text().replace("</body>", "<script>document.title='broken'</script></body>"))
    seen = Visit(path, tmp_path)
    assert "Content Security Policy" in seen.console[0]
    assert "<title>broken" not in seen.dom


ACT = """
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const cards = document.querySelector('.cards');
const shown = () => all('.card', cards).filter((card) => !card.hidden && !card.closest('[hidden]'));
const set = (name, value) => {
  const control = cards.querySelector(`[name="${name}"]`);
  control.value = value;
  control.dispatchEvent(new Event('input', {bubbles: true}));
  control.dispatchEvent(new Event('change', {bubbles: true}));
};
const outcome = {first: shown().length, cards: all('.card', cards).length};
set('side', 'A'); outcome.sides = [...new Set(shown().map((card) => card.dataset.side))]; set('side', '');
set('words', 'FEATURE tuned'); outcome.words = shown().map((card) => card.textContent.toLowerCase()); set('words', '');
const longest = all('.group', cards).sort((x, y) => all('.card', y).length - all('.card', x).length)[0];
set('method', longest.dataset.method);
outcome.method = shown().every((card) => longest.contains(card));
set('order', 'effect'); outcome.effects = all('.card', longest).map((card) => Number(card.dataset.effect));
const before = shown().length; longest.querySelector(':scope > button').click(); outcome.more = shown().length - before;
set('method', '');

const colour = () => getComputedStyle(document.body).backgroundColor;
outcome.papers = [colour()]; document.querySelector('.theme').click(); outcome.papers.push(colour());
document.querySelector('.theme').click();

document.querySelector('abbr[data-tip]').focus();
outcome.tip = [document.getElementById('tip').hidden, document.getElementById('tip').textContent];

const blobs = [], saved = [];
URL.createObjectURL = (blob) => { blobs.push(blob); return 'blob:test'; };
HTMLAnchorElement.prototype.click = function () { saved.push(this.download); };
cards.querySelector('form button').click();
const table = all('.table.interactive').find((each) => each.querySelector('th.number'));
table.querySelector('.tools button').click();
const column = all('th', table).findIndex((head) => head.classList.contains('number'));
all('th button', table)[column].click();
outcome.sorted = all('tbody tr', table).map((row) => Number(row.cells[column].dataset.order));

const hidden = all('.card', cards).find((card) => card.hidden) ?? all('.card', cards).at(-1);
location.hash = hidden.id;
dispatchEvent(new Event('beforeprint'));
const map = document.getElementById('pair-tuned-middle-feature-map');
setTimeout(async () => {
  outcome.revealed = hidden.open && !hidden.hidden;
  outcome.plots = all('.plot').filter((box) => !box.querySelector('.main-svg')).map((box) => box.id);
  outcome.texts = await Promise.all(blobs.map((blob) => blob.text()));
  outcome.saved = saved.slice();
  map.emit('plotly_hover', {points: [{curveNumber: 1, pointNumber: 3}]});
  Plotly.Fx.hover(map, [{curveNumber: 1, pointNumber: 3}], ['x2y2']);
  const figure = all('figure').find((each) => each.querySelector('.plot'));
  figure.querySelector('.tools button').click();
  setTimeout(() => {
    const [left, right, ...rings] = map.data;
    outcome.here = [left.x[3], left.y[3], right.x[3], right.y[3]];
    outcome.rings = rings.flatMap(({x, y}) => [x[0], y[0]]);
    outcome.label = map.querySelector('.hoverlayer .hovertext').textContent;
    outcome.images = saved.slice(outcome.saved.length);
    document.body.dataset.outcome = JSON.stringify(outcome);
  }, 3000);
}, 3000);
"""


@pytest.fixture(scope="module")
def outcome(report, tmp_path_factory):
    place = tmp_path_factory.mktemp("act")
    seen = Visit(acting(report, PAIR, ACT, place), place, "--window-size=1280,900")
    assert seen.console == []
    assert seen.requests == []
    return seen.outcome


def test_cards_are_filtered_and_ordered(outcome):
    assert 0 < outcome["first"] <= outcome["cards"]
    assert outcome["sides"] == ["A"]
    assert outcome["words"]
    assert all("feature" in text and "tuned" in text for text in outcome["words"])
    assert outcome["method"]
    assert outcome["effects"] == sorted(outcome["effects"], reverse=True)


def test_the_first_findings_of_a_method_are_seen_and_the_rest_on_demand(outcome):
    assert (outcome["more"] > 0) == (len(outcome["effects"]) > 5)


def test_the_theme_is_the_readers_choice(outcome):
    assert outcome["papers"] == ["rgb(251, 250, 247)", "rgb(21, 23, 26)"]


def test_terms_are_explained_by_the_keyboard(outcome):
    hidden, text = outcome["tip"]
    assert not hidden
    assert text.endswith(".")


def test_findings_and_tables_are_saved_as_csv(outcome):
    assert [name.rpartition(".")[2] for name in outcome["saved"]] == ["csv", "csv"]
    findings, table = outcome["texts"]
    assert findings.startswith('"id","method","side","status","finding","numbers"\r\n')
    assert len(findings.splitlines()) == outcome["cards"] + 1
    assert table.count("\r\n") > 1


def test_tables_are_sorted(outcome):
    numbers = [value for value in outcome["sorted"] if value is not None]
    assert len(numbers) > 1
    assert numbers == sorted(numbers)


def test_an_address_opens_what_is_folded(outcome):
    assert outcome["revealed"]


def test_every_figure_is_drawn_and_can_be_saved(outcome):
    assert outcome["plots"] == []
    assert [name.rpartition(".")[2] for name in outcome["images"]] == ["svg"]


def test_pointing_at_a_feature_on_one_map_shows_it_on_both(outcome):
    assert outcome["rings"] == outcome["here"]
    assert outcome["label"].startswith("base ")
    assert "tuned " in outcome["label"]


def test_the_page_of_a_template_diff_draws_itself(tmp_path):
    run = small_study.shared()["pairs"][0]["files"]["template_diffs"][0]
    page.build(run["diff"], tmp_path / "figures.html", name="tuned")
    seen = Visit(tmp_path / "figures.html", tmp_path, "--window-size=1280,3000")
    assert seen.console == []
    assert seen.requests == []
    plots = re.findall(r'<div class="plot[^"]*" id="(template-[^"]*)"', seen.dom)
    assert len(plots) == 3
    assert seen.dom.count('class="plot-container plotly"') == 3


WIDE = """
dispatchEvent(new Event('beforeprint'));
document.querySelectorAll('.card').forEach((card, place) => { card.hidden = false; card.open = place < 40; });
setTimeout(() => {
  const wide = [...document.querySelectorAll('main *')].filter((element) =>
    element.getBoundingClientRect().right > innerWidth + 1 && !element.closest('.scroll') && !element.closest('svg'));
  parent.postMessage(JSON.stringify({
    wide: wide.map((element) => element.outerHTML.slice(0, 120)),
    page: document.documentElement.scrollWidth,
    paper: getComputedStyle(document.body).backgroundColor,
  }), '*');
}, 4000);
"""


@pytest.mark.parametrize("name", ["index.html", PAIR])
def test_it_is_readable_in_the_dark_and_on_a_phone(report, name, tmp_path):
    """Nothing is wider than a phone of 390 pixels but what scrolls in its own box."""
    path = acting(report, name, WIDE, tmp_path)
    listen = "onmessage = (event) => { document.body.dataset.outcome = event.data; };"
    frame = f'<script>{listen}</script><body><iframe src="{path}" width="390" height="800"></iframe>'
    (tmp_path / "phone.html").write_text(frame)
    dark = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")
    outcome = Visit(tmp_path / "phone.html", tmp_path, *dark).outcome
    assert outcome["wide"] == []
    assert outcome["page"] <= 390
    assert outcome["paper"] == "rgb(21, 23, 26)"


def test_one_file_holds_all_pages(report, tmp_path):
    act = """
    const shown = () => [...document.querySelectorAll('main')].filter((main) => !main.hidden).map((main) => main.id);
    const outcome = [shown()];
    document.querySelector('.pair-card h2 a').click();
    setTimeout(() => { outcome.push(shown()); document.body.dataset.outcome = JSON.stringify(outcome); }, 1000);
    """
    (tmp_path / "sent").mkdir()
    pages = [report / "index.html", *sorted(report.glob("pairs/*.html"))]
    single_file.write(pages, tmp_path / "sent" / "report.html")
    seen = Visit(acting(tmp_path / "sent", "report.html", act, tmp_path), tmp_path)
    assert seen.console == []
    assert seen.outcome == [["page-index"], ["page-tuned"]]
    assert not re.findall(r'href="(?:\.\./index|pairs/)', seen.dom)
