"""Pictures of pages at three widths, desktop to phone: `python docs/screenshots.py results/report out index.html`.

Needs Chromium. Each page (all of the report where none is named) is drawn at every width, from its top.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTHS = (1440, 1024, 390)
HEIGHT = 2400
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--hide-scrollbars", "--virtual-time-budget=10000",
)  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def draw(page: Path, out: Path, width: int, height: int = HEIGHT) -> None:
    """A picture of a page; a browser's window has a least width, so that the page is shown in a frame."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("screenshots: no Chromium on this machine")
    with tempfile.TemporaryDirectory() as place:
        frame = Path(place) / "frame.html"
        style = f"border:0;width:{width}px;height:{height}px"
        frame.write_text(f'<body style="margin:0"><iframe src="{page.resolve()}" style="{style}"></iframe>')
        window = f"--window-size={max(width, 500)},{height}"
        places = (f"--user-data-dir={place}/profile", f"--screenshot={out.resolve()}", f"file://{frame}")
        subprocess.run([browser, *FLAGS, window, *places], check=True, capture_output=True, timeout=300)


def main() -> None:
    """Draw pages of the report named on the command line into the directory named after it."""
    if len(sys.argv) < 3:
        sys.exit("screenshots: give the directory of a report, a directory for the pictures, and maybe pages")
    report, out = map(Path, sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    for page in [report / name for name in sys.argv[3:]] or sorted(report.rglob("*.html")):
        for width in WIDTHS:
            draw(page, out / f"{page.stem}-{width}.png", width)


if __name__ == "__main__":
    main()
