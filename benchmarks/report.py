"""Seconds in which a finished report can be used in a browser, page by page, beside a bare page of the same figures.

    python benchmarks/report.py results [--repeats 5]

Each page is opened from disk by headless Chromium, in a process and a profile of its own, with plotly.js beside it.
`interactive` is from the start of the navigation until the document is parsed, its scripts have run and it is laid out,
by the page's own clock; `filter` is from a word typed over the findings until the cards that are left are laid out.
plotly.js is run when a figure comes near, which none is on a first screen. The peer is plotly.js and one figure, as
plotly's own `write_html` makes it. Medians of rounds in which all take turns.
"""

import argparse
import base64
import hashlib
import html
import json
import re
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import plotly.graph_objects
import plotly.io

MEASURE = """
addEventListener('load', () => {
  document.body.getBoundingClientRect();
  const outcome = {interactive: performance.now()};
  const words = document.querySelector('.cards [name="words"]');
  if (words) {
    words.value = 'the';
    const start = performance.now();
    words.dispatchEvent(new Event('input', {bubbles: true}));
    document.body.getBoundingClientRect();
    outcome.filter = performance.now() - start;
  }
  document.body.dataset.outcome = JSON.stringify(outcome);
});
"""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def measured(page: Path) -> Path:
    """A copy of a page, beside it, that measures itself; its policy permits the script by its hash."""
    digest = base64.b64encode(hashlib.sha256(MEASURE.encode()).digest()).decode()
    text = page.read_text(encoding="utf-8").replace("script-src ", f"script-src &#39;sha256-{digest}&#39; ", 1)
    copy = page.with_name(f"measured-{page.name}")
    copy.write_text(text.replace("</body>", f"<script>{MEASURE}</script></body>"), encoding="utf-8")
    return copy


def visit(page: Path) -> dict[str, float]:
    """Milliseconds that a page reports of itself, in a browser started for it."""
    assert CHROMIUM, "no Chromium on this machine"
    with tempfile.TemporaryDirectory() as profile:
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1440,900"]
        command += [f"--user-data-dir={profile}", "--dump-dom", page.absolute().as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout
    outcome = re.search(r'data-outcome="([^"]*)"', dom)
    assert outcome, f"{page}: it did not measure itself"
    found: dict[str, float] = json.loads(html.unescape(outcome[1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "report"
        shutil.copytree(options.results / "report", folder)
        pages = [folder / "index.html", *sorted(folder.glob("pairs/*.html"))]
        if (whole := options.results / "report.html").is_file():
            pages.append(Path(shutil.copy(whole, folder.parent)))
        peer = folder / "peer.html"
        figure = plotly.graph_objects.Figure(plotly.graph_objects.Scatter(x=[0, 1], y=[0, 1]))
        plotly.io.write_html(figure, peer, include_plotlyjs="directory")
        copies = [measured(page) for page in [*pages, peer]]
        rounds = [[visit(copy) for copy in copies] for _ in range(options.repeats)]
        print(f"{'page':28}{'MB':>6}{'interactive s':>15}{'filter s':>10}")
        for number, page in enumerate([*pages, peer]):
            seen = [found[number] for found in rounds]
            columns = [
                f"{statistics.median(each[what] for each in seen) / 1000:.3f}" if what in seen[0] else "-"
                for what in ("interactive", "filter")
            ]
            address = page.relative_to(folder.parent)
            print(f"{address!s:28}{page.stat().st_size / 1e6:6.1f}{columns[0]:>15}{columns[1]:>10}")


if __name__ == "__main__":
    main()
