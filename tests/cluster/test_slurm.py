"""The test study's planted pair on a real one-node SLURM: GPU rules get the GPU, nothing is submitted twice."""

import re

import pytest

from slurm_cluster import needs_slurm, running, submissions
from trees import STUDY, Tree, copy_tree

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800), needs_slurm]

GPU_RULES = {
    "compare_outputs", "derive_model", "dump_activations", "fit_linear_map", "train_dictionary", "encode_features",
    "train_crosscoder", "evaluate_crosscoder", "describe_latents", "steer_features",
}  # fmt: skip


def test_the_study_on_a_cluster(tmp_path):
    tree = copy_tree(tmp_path / "tree")
    study = Tree(tree)
    config = study.config()
    config["pairs"] = {"planted": config["pairs"]["planted"]}
    config["crosscoders"] = {"planted": config["crosscoders"]["planted"] | {"seeds": [0], "processes": 2}}
    config["template_diffs"] = {}
    for trained in ("base_sae", "planted_sae"):
        config["dictionaries"][trained]["seeds"] = [0]
    study.write_config(config)
    planned = [set(rules) for rules in submissions(tree, "--configfile", STUDY)]
    with running(tmp_path / "slurm") as cluster:
        arguments = ("--max-threads", "1", "--configfile", STUDY)
        cluster.submit(tree, *arguments)
        jobs = cluster.completed()
        assert "Nothing to be done" in cluster.submit(tree, *arguments)
        assert len(cluster.completed()) == len(jobs)
    assert (tree / "results/test/report/index.html").is_file()
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    partitions = [job["Partition"] for job in jobs]
    assert partitions.count("gpu") == sum(bool(rules & GPU_RULES) for rules in planned)
    assert partitions.count("cpu") == sum(not rules & GPU_RULES for rules in planned)
    logs = tree / "results/test/logs"
    for rule, granted in {
        "dump_activations": "[01]",
        "encode_features": "[01]",
        "train_crosscoder/planted": "0,1",
    }.items():
        for log in (logs / rule).rglob("*.log"):
            assert re.search(rf"granted by the scheduler: CUDA_VISIBLE_DEVICES={granted}\n", log.read_text()), log
