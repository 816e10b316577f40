"""Every shipped study loads, and Snakemake can plan it; nothing is fetched."""

from collections import Counter

import pytest
import yaml

from diptych.config import loading
from diptych.findings import stage
from trees import ROOT, Tree, parse_jobs

LITERATURE = (
    "crosscoder-gemma-2-2b", "feature_spaces", "hidden-signatures", "linear-gemma-2b", "poisoned-rlhf", "relations",
    "template-gemma-2-9b", "template-llama-3.1-8b", "universality",
)  # fmt: skip
STUDIES = sorted((ROOT / "config" / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_shipped_study_loads(path):
    study = loading.load(yaml.safe_load(path.read_text()))
    assert study.results != "results"
    assert path.stem not in LITERATURE or any(
        study.role(pair, *cell) == "control" for pair in study.pairs for cell in study.cells(pair)
    )


@pytest.mark.workflow
def test_the_control_of_the_test_study_holds(finished):
    found = stage.read(finished / "results" / "test" / "findings.h5")
    assert found.control_holds is True
    tested = [clause["name"] for control in found.controls for clause in control["clauses"] if clause["holds"]]
    assert len(tested) >= 6
    same = {a["method"]: a["status"] for a in found.answers if a["role"] in ("control", "floor")}
    assert set(same) == {"outputs", "weights", "means", "linear_map", "pairing", "crosscoder"}
    assert set(same.values()) == {"as_it_must"}
    planted = {a["method"]: a["status"] for a in found.answers if a["role"] == "planted"}
    assert (planted["linear_map"], planted["pairing"]) == ("recovered", "recovered")
    page = (finished / "results" / "test" / "report" / "index.html").read_text()
    assert "holds. A model compared with itself (control) shows no difference" in page


@pytest.mark.workflow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_shipped_study_can_be_planned(fresh, path):
    name = f"config/studies/{path.name}"
    jobs = parse_jobs(Tree(fresh).snakemake("--dry-run", study=name).stdout)
    study = loading.load(yaml.safe_load(path.read_text()))
    count = Counter(job.rule for job in jobs)
    cells = [(pair, *cell) for pair in study.compared_pairs for cell in study.cells(pair)]
    assert count["fit_linear_map"] == sum(study.has_all_rows(*cell[1:]) for cell in cells)
    assert count["compare_means"] == sum(site_a == site_b for _, site_a, site_b in cells)
    with_features = sum(study.has_features(*cell) for cell in cells)
    assert count["compare_spaces"] == with_features
    repeats = set(study.pairs) - set(study.compared_pairs)
    assert count["pair_features"] == with_features + sum(len(study.cells(repeat)) for repeat in repeats)
    used = {name for pair in study.pairs for side in "ab" for name in study.dictionaries_of(pair, side)}
    used |= {diff.dictionary for diff in study.template_diffs.values()}
    assert count["fetch_dictionary"] == sum(study.dictionaries[name].kind != "trained" for name in used)


def test_the_published_procedure_runs_on_the_family_that_it_was_published_for():
    study = loading.load(yaml.safe_load((ROOT / "config" / "studies" / "universality.yaml").read_text()))
    cells = study.cells("residual")
    assert ("blocks.2.hook_resid_post", "blocks.5.hook_resid_post") in cells
    assert all(study.reproduces("lan2024", "residual", *cell) for cell in cells)
    # It reads the outputs of blocks alone.
    assert not any(study.reproduces("lan2024", "mlp", *cell) for cell in study.cells("mlp"))


def test_the_random_control_and_the_poisoned_pair_ship():
    study = loading.load(yaml.safe_load((ROOT / "config" / "studies" / "feature_spaces.yaml").read_text()))
    assert {model.kind for model in study.models.values()} == {"wheel", "rerandomize", "trigger"}
    assert {study.pairs[pair].b for pair in study.pairs} == {"redrawn", "poisoned", "base"}
    assert study.similarity.neurons
