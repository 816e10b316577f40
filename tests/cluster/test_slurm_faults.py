"""Faults on a real SLURM: each is noticed, named with its log, tried again with more, and resumed where it was."""

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from slurm_cluster import Cluster, needs_slurm, running
from trees import copy_tree

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(1800), needs_slurm]

AGAIN = {"fail": "FAILED", "cancel": "CANCELLED", "time": "TIMEOUT", "memory": ""}
"""Faults that end a job, and the state that SLURM gives it (which one for memory depends on its configuration)."""
WAITS_S = 900.0


def wait_until(what: str, condition) -> None:
    end = time.monotonic() + WAITS_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.2)


def waiting_job(cluster: Cluster, results: Path, fault: str) -> str:
    """SLURM's number of the job of a fault, once it has got as far as that."""
    wait_until(fault, (results / f"{fault}.waits").exists)
    lines = cluster.run("squeue", "-h", "-t", "running", "-o", "%A %k").splitlines()
    return next(line.split()[0] for line in lines if line.endswith(f"_{fault}"))


def restart_controller(cluster: Cluster) -> None:
    """Stop slurmctld and start it again some seconds later, as an update of the cluster does."""
    cluster.kill("slurmctld", signal.SIGTERM)
    time.sleep(3)
    cluster.start_again("slurmctld")
    wait_until("slurmctld", lambda: cluster.run("sinfo", "-h", check=False))


def descendants(pid: int) -> list[int]:
    """A process and all that it started, however far."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [pid, *(other for child in found.stdout.split() for other in descendants(int(child)))]


def lose_power(cluster: Cluster, job: str) -> None:
    """End a node's daemon and all processes of its one job at once; SLURM is told, and the node boots again.

    SLURM would notice by itself when the daemon has been silent for SlurmdTimeout, and would let the job wait for two
    minutes before it starts it again.
    """
    node = cluster.run("sinfo", "-h", "-o", "%n").split()[0]
    found = subprocess.run(["pgrep", "-f", rf"^slurmstepd: \[{job}\."], capture_output=True, text=True, check=True)
    pids = [pid for step in found.stdout.split() for pid in descendants(int(step))]
    cluster.kill("slurmd", signal.SIGKILL)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=power")
    cluster.start_again("slurmd")
    wait_until("the node", lambda: "idle" in cluster.run("sinfo", "-h", "-o", "%T"))
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")


def meet_faults(cluster: Cluster, tree: Path, log: Path) -> None:
    """Bring about what jobs do not meet by themselves, and wait for the end of the run, which has to be a good one."""
    results = tree / "results"
    run = cluster.start(tree, log)
    cluster.run("scancel", waiting_job(cluster, results, "cancel"))
    cluster.run("scontrol", "update", f"JobId={waiting_job(cluster, results, 'time')}", "TimeLimit=1")
    waiting_job(cluster, results, "controller")
    restart_controller(cluster)
    (results / "controller.over").touch()
    lose_power(cluster, waiting_job(cluster, results, "node"))
    assert run.wait(WAITS_S) == 0, log.read_text()[-9000:]


def test_every_fault_is_noticed_named_tried_again_and_resumed(tmp_path):
    here = Path(__file__).parent / "faults"
    tree = copy_tree(tmp_path / "tree")
    shutil.copy(here / "Snakefile", tree / "Snakefile")
    shutil.copy(here / "meet_fault.py", tree / "workflow" / "scripts")
    results, log = tree / "results", tmp_path / "snakemake.log"
    with running(tmp_path / "slurm") as cluster:
        meet_faults(cluster, tree, log)
        submitted = len(cluster.completed())
        assert "Nothing to be done" in cluster.submit(tree)
        assert len(cluster.completed()) == submitted

    said = log.read_text()
    outcomes = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    for fault, state in AGAIN.items():
        assert {"attempt": 2, "first": 3, "mem_mb": 3000, "runtime": 40}.items() <= outcomes[fault].items(), fault
        assert f"results/logs/meet_fault/{fault}.log" in said.partition("Error in rule meet")[2]
        assert f"SLURM status is: '{state}" in said
    assert (outcomes["gpus"]["attempt"], outcomes["gpus"]["gpus"]) == (1, "0,1")
    turns = sorted((outcomes[f"turn{n}"] for n in range(3)), key=lambda outcome: outcome["begun"])
    assert {turn["gpus"] for turn in turns} in ({"0"}, {"1"})
    assert all(earlier["ended"] < later["begun"] for earlier, later in pairwise(turns))
    assert outcomes["node"]["first"] == 3
    assert (outcomes["controller"]["attempt"], outcomes["controller"]["first"]) == (1, 0)
    assert not list(results.glob(".*checkpoint*"))
