"""Write a study's rule graph into a page: `snakemake --rulegraph mermaid-js | python docs/picture.py ARCHITECTURE.md`.

Arrows that a longer path implies are left out. With `--check` nothing is written, and the exit status is 1 if the graph
in the page is out of date.
"""

import re
import sys
from pathlib import Path

FENCE = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)


def reduced(graph: str) -> str:
    """Transitive reduction of a Mermaid rule graph, with rules by name and sorted arrows."""
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]", graph, re.MULTILINE))
    readers_of: dict[str, set[str]] = {name: set() for name in names.values()}
    for start, end in re.findall(r"^\s*(id\d+) --> (id\d+)", graph, re.MULTILINE):
        readers_of[names[start]].add(names[end])
    readers_of = {rule: readers - {"all"} for rule, readers in readers_of.items() if rule != "all"}
    lines = [
        f"    {rule} --> {reader}"
        for rule, readers in sorted(readers_of.items())
        for reader in sorted(readers)
        if not any(reader in _all_readers(other, readers_of) for other in readers - {reader})
    ]
    return "\n".join(["flowchart LR", *lines, ""])


def _all_readers(rule: str, readers_of: dict[str, set[str]]) -> set[str]:
    """All rules downstream of a rule."""
    return readers_of[rule].union(*(_all_readers(reader, readers_of) for reader in readers_of[rule]))


def main() -> None:
    """Write the graph on standard input into the page given on the command line, or check the page."""
    page = Path(sys.argv[1])
    text = page.read_text(encoding="utf-8")
    graph = reduced(sys.stdin.read())
    if graph.count("-->") == 0:
        sys.exit("picture: no rule graph on standard input")
    updated = FENCE.sub(lambda _: graph, text)
    if sys.argv[2:] == ["--check"]:
        sys.exit(f"{page}: the picture is out of date; run `make picture`" if updated != text else None)
    page.write_text(updated, encoding="utf-8")


if __name__ == "__main__":
    main()
