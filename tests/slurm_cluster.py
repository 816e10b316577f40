"""A private one-node SLURM for tests: started, stopped, and how to run a profile on it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "cluster"
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
# A private queue may be asked often.
SNAKEMAKE = Path(__file__).parent / "slurm_snakemake.py"

needs_slurm = pytest.mark.skipif(
    any(shutil.which(name, path=PATH) is None for name in NEEDED),
    reason="SLURM is not installed: apt-get install slurm-wlm munge",
)


LOCAL_RULES = {"fetch_model", "fetch_adapter", "fetch_corpus", "fetch_dictionary"}


def submissions(tree: Path, *arguments: str) -> list[list[str]]:
    """The rules of every job that the SLURM profile would submit for an unfinished study: one, or those of a group."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--workflow-profile", "profiles/slurm", *arguments]
    run = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True)
    blocks = re.split(r"\n(?=(?:local)?rule |\[[^]\n]*\] Group job )", run.stdout)[1:]
    rules = [re.findall(r"^ *(?:local)?rule (\w+):", block, re.MULTILINE) for block in blocks]
    return [found for found in rules if not (LOCAL_RULES | {"all"}) & set(found)]


@dataclass(frozen=True)
class Cluster:
    """A running cluster with eight CPUs and two GPUs (numbers only).

    Attributes:
        place: its directory.
        environment: variables with which its commands find it.
    """

    place: Path
    environment: dict[str, str]

    def run(self, *words: str, check: bool = True) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=check)
        return done.stdout

    def start(self, tree: Path, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Submit a tree's jobs with its SLURM profile; Snakemake's output goes to `log`."""
        command = [sys.executable, SNAKEMAKE, "--workflow-profile", "profiles/slurm", *arguments]
        with log.open("wb") as out:
            return subprocess.Popen(command, cwd=tree, env=self.environment, stdout=out, stderr=out)

    def submit(self, tree: Path, *arguments: str) -> str:
        """Output of a run that has to end well."""
        log = tree / "snakemake.log"
        code = self.start(tree, log, *arguments).wait()
        text = log.read_text(errors="replace")
        assert code == 0, text[-9000:]
        return text

    def kill(self, daemon: str, number: signal.Signals) -> None:
        """Send a daemon a signal and wait for its end."""
        pid = dict(line.split() for line in (self.place / "pids").read_text().splitlines())[daemon]
        os.kill(int(pid), number)
        while Path("/proc", pid).exists() and "State:\tZ" not in Path("/proc", pid, "status").read_text():
            time.sleep(0.05)

    def start_again(self, daemon: str) -> None:
        """Start slurmctld or slurmd, as slurm-up.sh does, after it was killed."""
        options = ["-D", "-i"] if daemon == "slurmctld" else ["-D"]
        with (self.place / "log" / f"{daemon}.out").open("ab") as out:
            command = [daemon, *options, "-f", self.environment["SLURM_CONF"]]
            new = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out, start_new_session=True)
        pids = self.place / "pids"
        pids.write_text(re.sub(rf"^{daemon} \d+$", f"{daemon} {new.pid}", pids.read_text(), flags=re.MULTILINE))

    def completed(self) -> list[dict[str, str]]:
        """SLURM's records of ended jobs."""
        lines = (self.place / "jobcomp.txt").read_text().splitlines()
        return [dict(item.split("=", 1) for item in line.split() if "=" in item) for line in lines]


@contextmanager
def running(place: Path) -> Iterator[Cluster]:
    """A cluster in the directory `place`, stopped at the end."""
    environment = {**os.environ, "PATH": PATH, "SLURM_DEV_CPUS": "8", "SLURM_DEV_GPUS": "2", "SLURM_DEV_MEM": "200000"}
    subprocess.run([HERE / "slurm-up.sh", place], check=True, env=environment)
    found = {"SLURM_CONF": str(place / "etc" / "slurm.conf"), "PATH": f"{place / 'bin'}:{PATH}"}
    try:
        yield Cluster(place, environment | found)
    finally:
        subprocess.run([HERE / "slurm-down.sh", place], check=True, env=environment)
