"""Copies of the working tree in which tests run Snakemake on the test study."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from snakemake_server import Server

ROOT = Path(__file__).parents[1]
STUDY = "config/studies/test.yaml"
# Tiny jobs spend their time in starting: run two at once.
SNAKEMAKE_OPTIONS = ("--cores", "2", "--max-threads", "1", "--resources", "gpu=2")


@dataclass(frozen=True)
class Job:
    """One job of a dry run."""

    rule: str
    wildcards: tuple[tuple[str, str], ...]
    reason: str


class Tree:
    """A copy of the working tree, with its study's config and Snakemake runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def snakemake(self, *arguments: str, study: str = STUDY, check: bool = True, **environment: str):
        """Run Snakemake on a study, in a fork of a process that has imported what it and its scripts import."""
        command = [*arguments, "--configfile", study, *SNAKEMAKE_OPTIONS]
        run = _server(environment).run(command, self.path, environment)
        if check and run.returncode:
            raise AssertionError(f"{' '.join(command)} failed:\n{run.stdout[-4000:]}\n{run.stderr[-8000:]}")
        return run

    def plan(self, study: str = STUDY) -> list[Job]:
        """The jobs that a run would execute now."""
        return parse_jobs(self.snakemake("--dry-run", study=study).stdout)

    def rules(self, study: str = STUDY) -> set[str]:
        """The rules that a run would execute now, `all` left out."""
        return {job.rule for job in self.plan(study)} - {"all"}

    def config(self) -> dict:
        return yaml.safe_load((self.path / STUDY).read_text())

    def write_config(self, config: dict) -> None:
        (self.path / STUDY).write_text(yaml.safe_dump(config, sort_keys=False))

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.path / file
        text = path.read_text()
        assert old in text, f"{file} holds no {old!r}"
        path.write_text(text.replace(old, new, 1))


_servers: list[Server] = []


def _server(environment: Mapping[str, str]) -> Server:
    """The running server; another one after a kill, and for other variables that libraries read on import."""
    wanted = {name: value for name, value in environment.items() if name.startswith("HF_")}
    if _servers and (_servers[-1].stopped or _servers[-1].environment != wanted):
        _servers.pop().stop()
    if not _servers:
        _servers.append(Server(wanted))
    return _servers[-1]


def parse_jobs(text: str) -> list[Job]:
    """Parse the jobs from a dry run's output."""
    jobs = []
    for block in re.split(r"\n(?=(?:local)?rule )", text)[1:]:
        rule = re.match(r"(?:local)?rule (\w+):", block)[1]
        wildcards = re.search(r"\n    wildcards: (.*)", block)
        reason = re.search(r"\n    reason: (.*)", block)
        values = tuple(tuple(item.split("=", 1)) for item in (wildcards[1].split(", ") if wildcards else []))
        jobs.append(Job(rule, values, reason[1] if reason else ""))
    return jobs


def copy_tree(target: Path) -> Path:
    """Copy the files of the working tree that git tracks or would track to `target`."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target
