"""The test study on a real one-node SLURM: GPU rules get the GPU, a second submission submits nothing."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trees import copy_tree, parse_jobs

HERE = Path(__file__).parent
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
GPU_RULES = {
    "compare_outputs", "derive_model", "dump_activations", "fit_linear_map", "train_dictionary", "encode_features",
    "train_crosscoder", "evaluate_crosscoder", "describe_latents", "steer_features",
}  # fmt: skip
LOCAL_RULES = {"fetch_model", "fetch_adapter", "fetch_corpus", "fetch_dictionary"}

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        any(shutil.which(name, path=PATH) is None for name in NEEDED),
        reason="SLURM is not installed: apt-get install slurm-wlm munge",
    ),
]


@pytest.fixture
def cluster(tmp_path):
    """Environment of a running private cluster with eight CPUs and two GPUs (numbers only); stopped at the end."""
    place = tmp_path / "slurm"
    environment = {**os.environ, "PATH": PATH, "SLURM_DEV_CPUS": "8", "SLURM_DEV_GPUS": "2", "SLURM_DEV_MEM": "200000"}
    subprocess.run([HERE / "slurm-up.sh", place], check=True, env=environment)
    try:
        yield (
            {
                **environment,
                "SLURM_CONF": str(place / "etc" / "slurm.conf"),
                "PATH": f"{place / 'bin'}:{PATH}",
            },
            place / "jobcomp.txt",
        )
    finally:
        subprocess.run([HERE / "slurm-down.sh", place], check=True, env=environment)


def submit(tree, environment):
    command = [
        sys.executable, "-m", "snakemake", "--workflow-profile", "profiles/slurm", "--max-threads", "1",
        "--configfile", "config/studies/test.yaml",
        # A private queue may be asked often; on a shared one these stay at their defaults.
        "--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1",
    ]  # fmt: skip
    run = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-6000:]
    return run.stdout + run.stderr


def rules_planned(tree, environment):
    """The rule of every job that a run would execute."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--configfile", "config/studies/test.yaml"]
    run = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=True)
    return [job.rule for job in parse_jobs(run.stdout) if job.rule != "all"]


def completed(record):
    """SLURM's job completion records as dictionaries."""
    lines = record.read_text().splitlines()
    return [dict(item.split("=", 1) for item in line.split() if "=" in item) for line in lines]


def test_the_study_on_a_cluster(cluster, tmp_path):
    environment, record = cluster
    tree = copy_tree(tmp_path / "tree")
    planned = rules_planned(tree, environment)
    submit(tree, environment)
    assert (tree / "results/test/report/index.html").is_file()
    jobs = completed(record)
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    partitions = [job["Partition"] for job in jobs]
    assert partitions.count("gpu") == sum(rule in GPU_RULES for rule in planned)
    assert partitions.count("cpu") == sum(rule not in GPU_RULES | LOCAL_RULES for rule in planned)
    for log in (tree / "results/test/logs/dump_activations").rglob("*.log"):
        assert re.search(r"granted by the scheduler: CUDA_VISIBLE_DEVICES=[01]\n", log.read_text())

    again = submit(tree, environment)
    assert "Nothing to be done" in again
    assert len(completed(record)) == len(jobs)
