"""Faults on a real SLURM: each is noticed, named with its log, tried again with more, and resumed where it was."""

import os
import shutil
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest

from slurm_cluster import needs_slurm, running
from trees import copy_tree

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(1800), needs_slurm]

AGAIN = {"fail": "FAILED", "cancel": "CANCELLED", "time": "TIMEOUT", "memory": ""}
"""Faults that end a job, and the state that SLURM gives it (which one for memory depends on its configuration)."""
WAITS_S = 900.0


def wait_for(path: Path) -> None:
    end = time.monotonic() + WAITS_S
    while not path.exists():
        assert time.monotonic() < end, f"waited in vain for {path.name}"
        time.sleep(0.2)


def job_of(cluster, fault: str) -> str:
    """SLURM's number of the running job that meets a fault."""
    lines = cluster.run("squeue", "-h", "-o", "%A %k").splitlines()
    return next(line.split()[0] for line in lines if line.endswith(f"_{fault}"))


def restart_controller(cluster) -> None:
    """Kill slurmctld and start it again, as an update of the cluster does."""
    pids = cluster.place / "pids"
    lines = pids.read_text().splitlines()
    old = next(line for line in lines if line.startswith("slurmctld"))
    os.kill(int(old.split()[1]), signal.SIGTERM)
    time.sleep(3)
    command = ["slurmctld", "-D", "-i", "-f", cluster.environment["SLURM_CONF"]]
    with (cluster.place / "log" / "slurmctld.out").open("ab") as out:
        new = subprocess.Popen(command, env=cluster.environment, stdout=out, stderr=out, start_new_session=True)
    pids.write_text("\n".join(f"slurmctld {new.pid}" if line == old else line for line in lines) + "\n")


def test_every_fault_is_noticed_named_tried_again_and_resumed(tmp_path):
    here = Path(__file__).parent / "faults"
    tree = copy_tree(tmp_path / "tree")
    shutil.copy(here / "Snakefile", tree / "Snakefile")
    shutil.copy(here / "meet_fault.py", tree / "workflow" / "scripts")
    results, log = tree / "results", tmp_path / "snakemake.log"
    with running(tmp_path / "slurm") as cluster:
        node = cluster.run("sinfo", "-h", "-o", "%n").split()[0]
        run = cluster.start(tree, log)
        wait_for(results / "cancel.waits")
        cluster.run("scancel", job_of(cluster, "cancel"))
        wait_for(results / "node.waits")
        job = job_of(cluster, "node")
        cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        time.sleep(2)
        # It may have come back by itself: its daemon answers.
        cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
        # SLURM would let it wait for two minutes.
        cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        wait_for(results / "controller.waits")
        restart_controller(cluster)
        assert run.wait(WAITS_S) == 0, log.read_text()[-9000:]
        submitted = len(cluster.completed())
        assert "Nothing to be done" in cluster.submit(tree)
        assert len(cluster.completed()) == submitted

    said = log.read_text()
    outcomes = {path.stem: path.read_text().split() for path in results.glob("*.txt")}
    for fault, state in AGAIN.items():
        attempt, first, memory, *_ = outcomes[fault]
        assert (attempt, first, memory) == ("2", "3", "3000"), fault
        assert f"results/logs/meet_fault/{fault}.log" in said.partition("Error in rule meet")[2]
        assert f"SLURM status is: '{state}" in said
    assert outcomes["gpus"][:2] == ["1", "0"]
    assert outcomes["gpus"][3] == "0,1"
    turns = sorted((outcomes[f"turn{n}"] for n in range(3)), key=lambda outcome: float(outcome[4]))
    assert {turn[3] for turn in turns} in ({"0"}, {"1"})
    assert all(float(earlier[5]) < float(later[4]) for earlier, later in pairwise(turns))
    assert outcomes["node"][1] == "3"
    assert outcomes["controller"][:2] == ["1", "0"]
    assert not list(results.glob(".*checkpoint*"))
