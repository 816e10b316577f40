"""Jobs that the SLURM profile submits for the default study, counted from its DAG."""

import re
from collections import Counter

import pytest

from slurm_cluster import submissions
from trees import ROOT

pytestmark = pytest.mark.workflow

AT_MOST = 35
ALONE = {
    "derive_model", "dump_activations", "train_dictionary", "train_crosscoder", "compare_outputs", "steer_features",
    "reproduce_lan2024",
}  # fmt: skip
"""Rules whose results cost too much to be lost with another job's failure."""
ON_A_GPU = {"encode_features", "fit_linear_map", "evaluate_crosscoder", "describe_latents"}


def test_the_default_study_is_as_many_jobs_as_its_table_says(fresh):
    jobs = submissions(fresh)
    text = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", text, re.M)]
    table = {row[0]: row for row in rows if len(row) == 7}
    assert len(jobs) == int(table["all"][2]) <= AT_MOST
    assert f"the default study is {len(jobs)} jobs" in (fresh / "profiles/slurm/profile.yaml").read_text()
    submitted, stages = Counter(), Counter()
    for rules in jobs:
        assert len(rules) == 1 or not ALONE & set(rules)
        assert not ON_A_GPU & set(rules) or set(rules) <= ON_A_GPU
        name = next(row[0] for row in table.values() if row[0] == rules[0] or f"`{rules[0]}`" in f"`{row[1]}`")
        submitted[name] += 1
        stages[name] += len(rules)
    assert submitted == {name: int(row[2]) for name, row in table.items() if row[2].isdigit() and name in submitted}
    assert stages == {name: int(row[3]) for name, row in table.items() if name in stages}
    assert sum(submitted.values()) == len(jobs)
