"""One file with all pages of a report, to send.

    write([Path("report/index.html"), Path("report/pairs/tuned.html")], "report.html")

The pages' parts stand in one document with one style, one script and plotly.js inside; links between pages become links
within it, and the script shows the page to which an address belongs. It needs no other file.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from diptych.page import document
from diptych.report.addresses import INDEX, PLOTLY
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

PART = re.compile(r"<nav .*?</nav>\n<main .*?</main>\n<script [^>]*>.*?</script>", re.DOTALL)
"""Contents, main part and figures of a page: the template closes each of these elements once, and texts are escaped."""
MAIN = re.compile(r'<main id="([^"]*)"')
POLICY = re.compile(r'(?<=Content-Security-Policy" content=")[^"]*')


def write(pages: Sequence[Path], out: str | Path) -> None:
    """Write the pages of a report as one file.

    Args:
        pages: the index, with plotly.js beside it, and the other pages below its directory.
        out: path of the file.

    Raises:
        DiptychError: a page has another form than the template's.
    """
    directory = pages[0].parent
    texts = {path.relative_to(directory).as_posix(): path.read_text(encoding="utf-8") for path in pages}
    ids = {address: _match(MAIN, text)[1] for address, text in texts.items()}
    parts = [_linked(_match(PART, text)[0], ids) for text in texts.values()]
    frame = texts[INDEX]
    plotly = (directory / PLOTLY).read_text(encoding="utf-8")
    start, end = _match(PART, frame).span()
    tail = frame[end:].replace(f' src="{PLOTLY}"></script>', f">{plotly}</script>", 1)
    script = tail[tail.rindex("<script>") + len("<script>") : tail.rindex("</script>")]
    head = POLICY.sub(lambda _: _attribute(document.policy([plotly, script], is_beside=False)), frame[:start])
    artifacts.write_text(out, "".join([head, "\n".join(parts), tail]))


def _match(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.search(text)
    if match is None:
        raise DiptychError("a page of this report has another form; build it again (snakemake --force build_report)")
    return match


def _linked(part: str, ids: dict[str, str]) -> str:
    """A part whose links lead to other pages' elements, or to what lies beside the file."""
    for address, page in ids.items():
        for href in (address, f"../{address}"):
            part = part.replace(f'href="{href}#', 'href="#').replace(f'href="{href}"', f'href="#{page}"')
    return part.replace('href="../../', 'href="').replace('href="../', 'href="')


def _attribute(text: str) -> str:
    return text.replace("'", "&#39;")
