"""Every command on the site is run: planned by Snakemake, known to make, or executed by Python.

A shell line that is none of these fails. Snakemake's runs are planned in forks of one process, one fork a study: the
commands on one study are parsed one by one and their targets planned together.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

import forked_snakemake
import small_study
from diptych.activations import rows
from diptych.config.study import Study
from diptych.findings import schema
from diptych.linear_map import stage as linear_map
from diptych.oracle import planted
from diptych.storage import artifacts, tables
from trees import ROOT, copy_tree

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def blocks(*languages):
    """(page, text) of the fenced blocks in these languages."""
    return [
        (page, found[2])
        for page in PAGES
        for found in FENCE.finditer(page.read_text(encoding="utf-8"))
        if found[1] in languages
    ]


def commands():
    """(page, words) of every command in a shell block."""
    lines = [
        (page, shlex.split(line.removeprefix("$ "), comments=True))
        for page, text in blocks("bash")
        for line in text.replace("\\\n", " ").splitlines()
    ]
    return [(page.name, words) for page, words in lines if words]


def of_program(name):
    return [pytest.param(words, id=f"{page}: {shlex.join(words)}") for page, words in commands() if words[0] == name]


def test_there_are_commands_and_each_is_of_a_kind_that_is_run():
    programs = {words[0] for _, words in commands()}
    assert programs == {"snakemake", "make"}, f"no rule says how to try {programs - {'snakemake', 'make'}}"
    assert len(of_program("snakemake")) > 10
    # A block in another language, or an indented one, would hide a command.
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"^ {4,}(snakemake|make|python|pip|cd) ", text, re.MULTILINE), page
        opened = [line for line in text.splitlines() if line.startswith("```")][::2]
        assert all(re.fullmatch(r"```(bash|python|yaml|text|\{\.python\})", line) for line in opened), page


@pytest.mark.parametrize("words", of_program("make"))
def test_make_knows_the_target(words):
    run = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert all(f".PHONY: {word}\n" in (ROOT / "Makefile").read_text(encoding="utf-8") for word in words[1:])


def merged_plans():
    """(options, targets) of the runs of Snakemake that all its commands need: one for each set of options."""
    from snakemake import cli

    targets = {}
    for _, words in commands():
        if words[0] == "snakemake":
            _, parsed = cli.parse_args([*words[1:], "--dry-run"])
            wanted = sorted(str(target) for target in parsed.targets)
            options = [word for word in words[1:] if word not in wanted and word not in ("--dry-run", "-n")]
            targets.setdefault(tuple(options), set()).update(wanted or ["all"])
    return targets


def test_snakemake_plans_every_command(tmp_path):
    copy_tree(tmp_path / "tree")
    for options, targets in merged_plans().items():
        arguments = [*sorted(targets), *options, "--dry-run", "--quiet", "all"]
        code, said = planned(arguments, tmp_path)
        assert code == 0, f"snakemake {shlex.join(arguments)}:\n{said[-4000:]}"


def planned(arguments, folder):
    """Exit status and output of `snakemake` in a fork that is in the folder's tree."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        forked_snakemake.become(folder / "tree", arguments, log)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), log.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder with the files that snippets read: rows, a map and findings of planted activations."""
    folder = tmp_path_factory.mktemp("site")
    shape = {"n_documents": 30, "tokens_per_document": 20, "d_A": 8, "d_B": 8, "n_features": 10}
    pair = planted.make_pair(seed=0, **shape)
    both = rows.in_memory([pair.x_A, pair.x_B], pair.document, fold=pair.document % 5)
    out = folder / "results/pairs/tuned/middle--middle/linear_map.h5"
    out.parent.mkdir(parents=True)
    linear_map.fit(both, out, spec=small_study.SPEC, directions=2, contexts=2, bootstrap=20)
    with artifacts.create(folder / "results/activations/addresses/base/main/0.h5", "activations", {}) as file:
        bits = (pair.x_A.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        file.array("sites/middle/values", bits, dtype="bfloat16")
    finding = {"pair": "tuned", "method": "outputs", "status": "finding", "id": '"#"', "effect": 1.0}
    columns = {name: [finding.get(name, "")] for name in schema.NAMES}
    (folder / "results/findings.tsv").write_text(tables.tsv(columns, schema.TITLE), encoding="utf-8")
    return folder


def snippets():
    """Blocks of Python, each with the output that the page prints below it; files that a page shows are `{.python}`."""
    for page in PAGES:
        for block, below in pairwise([*FENCE.finditer(page.read_text(encoding="utf-8")), None]):
            if block[1] == "python":
                is_output = below and below[1] == "text" and not below.string[block.end() : below.start()].strip()
                yield pytest.param(block[2], below[2] if is_output else None, id=f"{page.stem} {block.start()}")


@pytest.mark.parametrize(("code", "printed"), list(snippets()))
def test_python_runs_and_prints_what_the_page_says(code, printed, results, monkeypatch):
    monkeypatch.chdir(results)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})
    assert out.getvalue()
    assert printed is None or out.getvalue() == printed


def test_configs_that_pages_show_have_keys_of_a_study():
    for page, text in blocks("yaml"):
        assert set(yaml.safe_load(text.replace("{..., ", "{"))) <= set(Study.model_fields), page


def test_files_and_configs_that_pages_name_exist():
    names = re.compile(r"`((?:config|docs|tests|benchmarks|profiles|workflow)/[\w./-]+)`")
    for page in PAGES:
        for name in names.findall(page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists() or (ROOT / "workflow" / "diptych" / name).exists(), (page, name)


def test_every_path_of_the_layout_is_among_the_outputs():
    listed = (ROOT / "results/README.md").read_text() + (ROOT / "docs/outputs.md").read_text()
    layout = (ROOT / "workflow/diptych/config/layout.py").read_text(encoding="utf-8")
    names = set(re.findall(r'"([\w-]+\.(?:h5|tsv|csv|html|safetensors))"', layout))
    assert len(names) > 20
    assert sorted(name for name in names if name not in listed and name.split(".")[0] not in listed) == []


def test_every_page_is_in_the_navigation_and_every_module_of_the_api_exists():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        assert page.relative_to(ROOT / "docs").as_posix() in navigation
        for module in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert Path(ROOT / "workflow" / module.replace(".", "/")).with_suffix(".py").is_file(), module
