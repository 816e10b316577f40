"""Nothing is lost: a killed job, a killed Snakemake, a damaged artifact."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from trees import SNAKEMAKE_OPTIONS, STUDY

pytestmark = pytest.mark.workflow

WEIGHTS = "results/test/crosscoders/tuned/last/seed-0/weights.h5"
MAPS = "results/test/pairs/planted/last--last/linear_map.h5"


def start(tree, *targets):
    command = [sys.executable, "-m", "snakemake", *targets, "--configfile", STUDY, *SNAKEMAKE_OPTIONS]
    return subprocess.Popen(
        command, cwd=tree.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def children(tree, script):
    """Processes that run a rule's script of this tree."""
    pattern = rf"{tree.path}/.snakemake/scripts/.*{script}"
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def longer(tree):
    """Make the crosscoders' training long enough to be killed in the middle, with frequent checkpoints."""
    config = tree.config()
    config["crosscoders"]["tuned"].update(steps=3000, checkpoint_every=100)
    tree.write_config(config)


def kill_group(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_training_continues_to_the_same_weights(done, tmp_path):
    longer(done)
    weights = done.path / WEIGHTS
    done.snakemake(WEIGHTS)
    whole = weights.read_bytes()
    weights.unlink()

    run = start(done, WEIGHTS)
    checkpoint = wait_for(lambda: [p for p in weights.parent.glob("*checkpoint*") if not p.name.endswith(".part")])
    for pid in children(done, "train_crosscoder.py"):
        os.kill(pid, signal.SIGKILL)
    run.wait()
    assert not weights.exists()
    assert checkpoint[0].exists()
    done.snakemake(WEIGHTS)
    log = (done.path / "results/test/logs/train_crosscoder/tuned/last/seed-0.log").read_text()
    assert "going on from step" in log
    assert weights.read_bytes() == whole
    assert not list(weights.parent.glob("*checkpoint*"))


def test_a_killed_snakemake_continues_after_unlock(done):
    results, maps = done.path / "results" / "test", done.path / MAPS
    before = maps.read_bytes()
    shutil.rmtree(results / "pairs")
    for name in ("tokens/both/base.h5", "activations/both/base/main/0.h5"):
        (results / name).unlink()
    run = start(done, MAPS)
    wait_for(lambda: children(done, "dump_activations.py"))
    kill_group(run)
    done.snakemake("--unlock")
    done.snakemake(MAPS)
    assert "Nothing to be done" in done.snakemake(MAPS).stderr
    assert maps.read_bytes() == before
    assert not list(results.rglob("*.part"))


def test_a_truncated_artifact_is_refused_by_name(done):
    path = done.path / "results/test/tokens/both/base.h5"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    (done.path / "results/test/activations/both/base/main/gates.h5").unlink()
    run = done.snakemake("--rerun-triggers", "mtime", "--touch", check=False)
    run = done.snakemake("results/test/activations/both/base/main/gates.h5", "--rerun-triggers", "params", check=False)
    assert run.returncode != 0
    assert "tokens/both/base.h5: cut short" in run.stderr
