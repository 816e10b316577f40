"""One file with all pages of a report, to send: `python -m diptych.report.single_file results/report report.html`.

The pages' parts stand in one document with one style, one script and plotly.js inside; links between pages become links
within it, and the script shows the page to which an address belongs. It needs no other file.
"""

import re
import sys
from pathlib import Path

from diptych.page import document
from diptych.report.addresses import INDEX, PLOTLY
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

PART = re.compile(r"<nav .*?</nav>\n<main .*?</main>\n<script [^>]*>.*?</script>", re.DOTALL)
"""Contents, main part and figures of a page: the template closes each of these elements once, and texts are escaped."""
MAIN = re.compile(r'<main id="([^"]*)"')
POLICY = re.compile(r'(?<=Content-Security-Policy" content=")[^"]*')


def write(report: str | Path, out: str | Path) -> None:
    """Write all pages of a report (the directory of its index) as one file.

    Raises:
        DiptychError: the directory holds no report.
    """
    directory = Path(report)
    index = directory / INDEX
    if not index.is_file():
        raise DiptychError(f"{directory}: no {INDEX}; give the directory of a report (results/report)")
    paths = [index, *sorted(path for path in directory.rglob("*.html") if path != index)]
    texts = {path.relative_to(directory).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    ids = {address: _match(MAIN, text)[1] for address, text in texts.items()}
    parts = [_linked(_match(PART, text)[0], ids) for text in texts.values()]
    frame = texts[INDEX]
    plotly = (directory / PLOTLY).read_text(encoding="utf-8")
    start, end = _match(PART, frame).span()
    tail = frame[end:].replace(f'<script src="{PLOTLY}"></script>', f"<script>{plotly}</script>")
    script = tail[tail.rindex("<script>") + len("<script>") : tail.rindex("</script>")]
    head = POLICY.sub(lambda _: _attribute(document.policy([plotly, script], is_beside=False)), frame[:start])
    artifacts.write_text(out, "".join([head, "\n".join(parts), tail]))


def _match(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.search(text)
    if match is None:
        raise DiptychError("a page of this report has another form; build it again (snakemake --force build_report)")
    return match


def _linked(part: str, ids: dict[str, str]) -> str:
    """A part whose links to other pages lead to their elements."""
    for address, page in ids.items():
        for href in (address, f"../{address}"):
            part = part.replace(f'href="{href}#', 'href="#').replace(f'href="{href}"', f'href="#{page}"')
    return part


def _attribute(text: str) -> str:
    return text.replace("'", "&#39;")


def main() -> None:
    """Write the report named on the command line to the file named after it."""
    if len(sys.argv) != 3:
        sys.exit("single_file: give the directory of a report, and the file to write")
    try:
        write(sys.argv[1], sys.argv[2])
    except DiptychError as error:
        sys.exit(f"single_file: {error}")


if __name__ == "__main__":
    main()
