"""`snakemake --report`: every table and figure with a caption and a category, without a network."""

import json
import re
from pathlib import Path
from zipfile import ZipFile

import pytest

from trees import ROOT

TABLES = {
    "findings.tsv": "Findings", "known_edits.tsv": "Findings",
    "similarity.tsv": "Similarity", "relations.csv": "Relations",
    "outputs.tsv": "Pairs", "weights.tsv": "Pairs",
    "ladder.tsv": "Pairs", "matches.tsv": "Pairs", "unmatched.tsv": "Pairs", "steering.tsv": "Pairs",
    "gains.csv": "Template tokens", "targets.csv": "Template tokens",
}  # fmt: skip
FIGURES = dict.fromkeys(("figures.html", "scatter.svg", "scatter.png", "volcano.svg", "volcano.png"), "Template tokens")


def data(page, name):
    """The value of a variable of the report's page."""
    start = re.search(rf'<script id="{name}">\s*var {name} = ', page).end()
    return json.JSONDecoder().raw_decode(page, start)[0]


@pytest.mark.workflow
def test_tables_and_figures_are_in_snakemakes_report_with_captions(done, tmp_path):
    file = tmp_path / "study.zip"
    done.snakemake("--report", str(file), HTTPS_PROXY="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9")
    with ZipFile(file) as archive:
        page = archive.read("study/report.html").decode()
        held = {Path(name).name for name in archive.namelist()}
    results, categories = (data(page, name) for name in ("results", "categories"))
    category_of = {
        path: name for name, subcategories in categories.items() for paths in subcategories.values() for path in paths
    }
    seen = {(entry["name"], category_of[path]) for path, entry in results.items()}
    assert seen == {("report.html", "Report"), *TABLES.items(), *FIGURES.items()}
    assert {name for name, _ in seen} <= held
    for path, entry in results.items():
        assert entry["labels"], path
        assert re.search(r"<p>.{40}", entry["caption"]), path
        assert "{{" not in entry["caption"]
    assert "Diptych compares language models" in page


def test_every_caption_is_of_an_output():
    folder = ROOT / "workflow"
    rules = "".join(path.read_text() for path in [ROOT / "Snakefile", *(folder / "rules").glob("*.smk")])
    named = set(re.findall(r"report/(\w+)\.rst", rules))
    assert {path.stem for path in (folder / "report").glob("*.rst")} == named
