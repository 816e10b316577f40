"""What studies and workflows share: activations by a cache, the workflow as a module, results that move."""

import os
import shutil
import subprocess
import sys

import h5py
import pytest

from trees import SNAKEMAKE_OPTIONS, STUDY, Tree

pytestmark = pytest.mark.workflow

DUMP = "activations/both/base/main/0.h5"


def test_two_studies_share_activations_by_the_cache_between_workflows(blank, fresh, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    other = Tree(tmp_path / "other")
    shutil.copytree(fresh, other.path)
    # Another page, other findings, another directory, and the same rows.
    other.edit(STUDY, "title: The test study", "title: Another study")
    other.edit(STUDY, "results: results/test", "results: results/another")
    options = ("--cache", "dump_activations")
    environment = {"SNAKEMAKE_OUTPUT_CACHE": str(cache)}
    blank.snakemake(f"results/test/{DUMP}", *options, **environment)
    run = other.snakemake(f"results/another/{DUMP}", *options, **environment)
    assert len(list(cache.iterdir())) == 1
    assert f"Symlinking output file results/another/{DUMP} from cache." in run.stderr
    assert (other.path / "results/another/logs/dump_activations/both/base/main/0.log").read_text() == ""
    first, second = blank.path / "results/test" / DUMP, other.path / "results/another" / DUMP
    assert first.samefile(second)
    # A study that differs in what the rows depend on has rows of its own.
    other.edit(STUDY, "tokens: 6144", "tokens: 5120")
    other.snakemake(f"results/another/{DUMP}", *options, **environment)
    assert len(list(cache.iterdir())) == 2
    assert first.is_file()


SNAKEFILE = """
import yaml

with open({study!r}) as file:
    STUDY = yaml.safe_load(file)


module diptych:
    snakefile:
        {snakefile!r}
    config:
        STUDY


use rule * from diptych as diptych_*


rule count:
    input:
        "results/test/tokens/both/base.h5",
    output:
        "count.txt",
    shell:
        "wc -c < {{input}} > {{output}}"
"""


def test_another_workflow_imports_this_one_as_a_module(blank, tmp_path):
    mine = tmp_path / "mine"
    (mine / "tests").mkdir(parents=True)
    (mine / "tests" / "data").symlink_to(blank.path / "tests" / "data")  # the study's paths are relative
    text = SNAKEFILE.format(study=str(blank.path / STUDY), snakefile=str(blank.path / "Snakefile"))
    (mine / "Snakefile").write_text(text)
    command = [sys.executable, "-m", "snakemake", "count.txt", *SNAKEMAKE_OPTIONS]
    run = subprocess.run(
        command, cwd=mine, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-4000:]
    assert int((mine / "count.txt").read_text()) > 6000
    assert (mine / "results/test/logs/prepare_tokens/both/base.log").is_file()
    assert not (blank.path / "results" / "test").exists()


def test_results_are_read_elsewhere_without_the_study_or_this_library(done, tmp_path):
    place = tmp_path / "another machine"
    (done.path / "results" / "test").rename(place)
    shutil.rmtree(done.path)
    files = sorted(place.rglob("*.h5"))
    assert len(files) > 50
    for path in files:
        with h5py.File(path) as file:
            assert file.attrs["complete"]
            file.visititems(lambda name, item: item[()] if isinstance(item, h5py.Dataset) else None)
    page = (place / "report" / "index.html").read_text("utf-8")
    assert str(done.path) not in page
