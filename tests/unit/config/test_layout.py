"""Paths of files: one path per file, shared by rules and jobs, with aliases looked up in the study."""

import inspect
from pathlib import Path

import pytest
import yaml

from diptych.config import loading
from diptych.config.layout import Layout
from trees import ROOT

STUDY = loading.load(yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8")))
LAYOUT = Layout(STUDY)
CELL = ("tuned", "middle", "middle")
PATHS_OF_ALIASES = {
    name: function
    for name, function in inspect.getmembers(Layout, inspect.isfunction)
    if not name.startswith("_") and not name.endswith("_of") and name not in ("relative", "figures")
}


def arguments(function, argument_of):
    """A different argument for each parameter of a function."""
    return [argument_of(name) for name in list(inspect.signature(function).parameters)[1:]]


def as_list(paths):
    return paths if isinstance(paths, list) else [paths]


def test_paths_of_the_default_study():
    assert LAYOUT.model("base") == Path("results/models/base/manifest.json")
    assert LAYOUT.linear_map(*CELL) == Path("results/pairs/tuned/middle--middle/linear_map.h5")
    assert LAYOUT.weights("tuned", "middle", 0) == Path("results/crosscoders/tuned/middle/seed-0/weights.h5")
    assert LAYOUT.template_diff("tuned") == Path("results/template_diffs/tuned/template_diff.h5")
    assert LAYOUT.report() == Path("results/report/index.html")
    assert {path.name for path in LAYOUT.report_pages()} > {"plotly.js"}


def test_no_two_files_have_one_path():
    paths = [
        str(path)
        for function in PATHS_OF_ALIASES.values()
        for path in as_list(function(LAYOUT, *arguments(function, lambda name: f"<{name}>")))
    ]
    assert len(paths) > 30
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("name", sorted(PATHS_OF_ALIASES))
def test_a_path_contains_every_alias_that_it_depends_on(name):
    """Otherwise two jobs of a rule would write the same file."""
    function = PATHS_OF_ALIASES[name]
    for path in as_list(function(LAYOUT, *arguments(function, lambda name: f"{{{name}}}"))):
        assert path.is_relative_to(STUDY.results)
        for parameter in list(inspect.signature(function).parameters)[1:]:
            text = path.as_posix() if parameter not in ("name", "stem") else f"{path.as_posix()} {{{parameter}}}"
            assert f"{{{parameter}}}" in text


def test_the_pictures_are_those_of_every_template_diff():
    names = ["figures.html", "scatter.png", "scatter.svg", "volcano.png", "volcano.svg"]
    assert [(path.parent.name, path.name) for path in LAYOUT.pictures()] == [
        (alias, name) for alias in STUDY.reported_diffs for name in names
    ]


def test_a_fine_tune_reads_the_tokens_of_its_parent():
    assert LAYOUT.tokens_of("text", "tuned") == LAYOUT.tokens("text", "base")
    assert LAYOUT.alignment_of("text", "base", "tuned") is None


def test_two_tokenizers_are_aligned():
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    config["models"]["other"] = {"kind": "hub", "id": "owner/other", "revision": "0" * 40}
    layout = Layout(loading.load(config))
    assert layout.tokens_of("text", "other") == Path("results/tokens/text/other.h5")
    assert layout.alignment_of("text", "base", "other") == Path("results/alignments/text/base--other.h5")


def test_shards_are_those_of_the_site_group():
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    config["activations"] = {**config.get("activations", {}), "shards": 3}
    layout = Layout(loading.load(config))
    group = layout.study.group("middle")
    assert [path.name for path in layout.shards_of("text", "base", "middle")] == ["0.h5", "1.h5", "2.h5"]
    assert {path.parent.name for path in layout.shards_of("text", "base", "middle")} == {group}
    assert layout.gates_of("text", "base", "middle").parent.name == group


def test_relative_paths_do_not_contain_the_results_directory():
    assert LAYOUT.relative(LAYOUT.findings()) == "findings.h5"
    with pytest.raises(ValueError, match="subpath"):
        LAYOUT.relative(Path("/elsewhere/findings.h5"))
