"""Draw the rules of a study into a page: `snakemake --rulegraph mermaid-js | python docs/picture.py ARCHITECTURE.md`.

Of the arrows only those are drawn that no longer path implies. With `--check` nothing is written, and a picture that is
out of date fails.
"""

import re
import sys
from pathlib import Path

FENCE = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)


def reduced(graph: str) -> str:
    """A rule graph in Mermaid's text, with rules by name and without the arrows that a longer path implies."""
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]", graph, re.MULTILINE))
    reads: dict[str, set[str]] = {name: set() for name in names.values()}
    for start, end in re.findall(r"^\s*(id\d+) --> (id\d+)", graph, re.MULTILINE):
        reads[names[start]].add(names[end])
    reads = {rule: readers - {"all"} for rule, readers in reads.items() if rule != "all"}
    lines = [
        f"    {rule} --> {reader}"
        for rule, readers in sorted(reads.items())
        for reader in sorted(readers)
        if not any(reader in _all_readers(other, reads) for other in readers - {reader})
    ]
    return "\n".join(["flowchart LR", *lines, ""])


def _all_readers(rule: str, reads: dict[str, set[str]]) -> set[str]:
    """The rules that read what a rule writes, and their readers."""
    return reads[rule].union(*(_all_readers(reader, reads) for reader in reads[rule]))


def main() -> None:
    """Write the graph on standard input into the page of the command line, or check it."""
    page = Path(sys.argv[1])
    text = page.read_text(encoding="utf-8")
    picture = reduced(sys.stdin.read())
    if picture.count("-->") == 0:
        sys.exit("picture: no rule graph on standard input")
    drawn = FENCE.sub(lambda _: picture, text)
    if sys.argv[2:] == ["--check"]:
        sys.exit(f"{page}: the picture is out of date; run `make picture`" if drawn != text else None)
    page.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
