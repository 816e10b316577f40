"""The plan of the test study beside what it really took, and beside the jobs that Snakemake finds."""

from pathlib import Path

import h5py
import pytest
import yaml

from diptych.config import loading
from diptych.planning import graph, machines
from diptych.planning import plan as plans
from diptych.planning.sizes import Sizes
from diptych.planning.stages.table import COSTS
from trees import STUDY

pytestmark = pytest.mark.workflow

FILES = {
    "prepare_tokens": ["tokens/*/*"],
    "dump_activations": ["activations/*/*/*/[0-9]*.h5"],
    "encode_features": ["features/*/*/*/*"],
    "compare_outputs": ["pairs/*/outputs.*"],
    "compare_means": ["pairs/*/*/means.h5"],
    "fit_linear_map": ["pairs/*/*/linear_map.h5", "pairs/*/*/ladder.tsv"],
    "train_crosscoder": ["crosscoders/*/*/*/weights.h5"],
    "describe_latents": ["crosscoders/*/*/*/latents.h5"],
    "diff_template_tokens": ["template_diffs/*/*.h5", "template_diffs/*/*.csv"],
    "draw_template_diff": ["template_diffs/*/*.html", "template_diffs/*/*.png", "template_diffs/*/*.svg"],
    "build_report": ["report/*", "report/*/*", "report.html"],
}
"""Files of the rules that make more than a hundredth of it; of models and dictionaries the total is tested."""


@pytest.fixture
def study(fresh, monkeypatch):
    """The test study where nothing has run."""
    monkeypatch.chdir(fresh)
    return loading.load(yaml.safe_load(Path(STUDY).read_text()))


@pytest.fixture
def plan(study):
    return plans.make(study, machines.named("cpu"))


def size(paths) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def test_the_jobs_are_those_that_snakemake_finds(blank, study):
    planned = sorted((job.rule, tuple(sorted(job.wildcards.items()))) for job in graph.jobs(study))
    found = sorted((job.rule, tuple(sorted(job.wildcards))) for job in blank.plan() if job.rule != "all")
    assert planned == found


def test_disk_is_what_the_study_takes(finished, study, plan):
    results = finished / study.results
    stages = {stage.rule: stage.disk.size for stage in plan.stages}
    taken = size(
        path for path in results.rglob("*") if path.relative_to(results).parts[0] not in ("logs", "benchmarks")
    )
    assert plan.disk == pytest.approx(taken, rel=0.1)
    for rule, patterns in FILES.items():
        assert stages[rule] == pytest.approx(size(path for p in patterns for path in results.glob(p)), rel=0.1), rule


def test_values_of_a_dump_are_counted_to_the_byte(finished, study):
    where = {"corpus": "both", "model": "base", "group": "main", "shard": "0"}
    cost = COSTS["dump_activations"](Sizes(study), **where)
    values = 0

    def add(name, entry):
        nonlocal values
        if isinstance(entry, h5py.Dataset) and name != "checksums":
            values += entry.nbytes

    with h5py.File(finished / study.results / "activations" / "both" / "base" / "main" / "0.h5") as file:
        file.visititems(add)
    assert cost.scratch == values


def test_snakemake_plan_prints_it_and_runs_nothing(blank):
    run = blank.snakemake("plan", DEVICE="a100")
    assert "dump_activations" in run.stdout + run.stderr
    assert "A100" in run.stdout + run.stderr
    assert not (blank.path / "results" / "test" / "models").exists()
