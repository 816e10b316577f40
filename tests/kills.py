"""Kill a study at random moments, go on as the README says, and compare its artifacts bit for bit.

    python tests/kills.py --kills 50 --seed 0

runs the test study undisturbed, then again while SIGKILL, SIGTERM and SIGINT go to its jobs, to Snakemake or to both; a
study that is finished before all signals are sent is deleted and begun again. SIGINT to both is what Ctrl-C does.
"""

import argparse
import collections
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import forked_snakemake
import warm_scripts
from trees import SNAKEMAKE_OPTIONS, STUDY, Tree, copy_tree

Target = Literal["jobs", "snakemake", "both"]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS: tuple[Target, ...] = ("jobs", "snakemake", "both")
NO_ARTIFACTS = ("logs", "benchmarks")
"""Directories of a study that tell of its runs."""
BEGUN = "Select jobs to execute"
HOW_TO_GO_ON = "run the same command again"
ENDS_WITHIN_S = 3600.0
"""Seconds after which a run that a signal should end counts as hung."""


@dataclass
class Outcome:
    """What a series of kills did.

    Attributes:
        sent: signals by name and target.
        ctrl_c_s: seconds from each Ctrl-C until every process of the run had ended.
        silent: Ctrl-Cs after which no line said how to go on, although the study had begun.
        runs: how often Snakemake was started.
        finished: whether the study was finished after the last signal.
        studies: studies that were finished before it.
        problems: differences between the artifacts and the undisturbed ones, and runs that ended otherwise.
    """

    sent: collections.Counter[str] = field(default_factory=collections.Counter)
    ctrl_c_s: list[float] = field(default_factory=list)
    silent: int = 0
    runs: int = 0
    finished: bool = False
    studies: int = 0
    problems: list[str] = field(default_factory=list)


def digests(results: Path) -> dict[str, str]:
    """SHA-256 of every artifact of a study, and of what else lies there and should not."""
    files = (path for path in sorted(results.rglob("*")) if path.is_file())
    names = {path.relative_to(results): path for path in files}
    return {
        name.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
        if name.parts[0] not in NO_ARTIFACTS
    }


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Lines that say which artifacts are missing, left over or of other bytes."""
    return [
        f"{name}: {'missing' if name not in found else 'left over' if name not in expected else 'other bytes'}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


class Run:
    """One run of Snakemake in a session of its own: a fork of this process, as its scripts are forks of a warm one."""

    def __init__(self, tree: Tree, *arguments: str) -> None:
        self.log, self.code = tree.path / "run.log", -1
        self.log.write_text("")
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                forked_snakemake.become(tree.path, [*arguments, "--configfile", STUDY, *SNAKEMAKE_OPTIONS], self.log)
            finally:
                os._exit(1)  # of a signal before Snakemake is there: the rest of this program is the parent's

    def poll(self) -> bool:
        """Whether it has ended; `code` is its exit status then, or minus the signal that ended it."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.code = os.waitstatus_to_exitcode(status)
        return bool(pid)

    def wait(self, seconds: float, *, for_a_job: bool = False) -> bool:
        """Whether it ends within some seconds, counted from its first job if `for_a_job`."""
        end = time.monotonic() + seconds
        while not (ended := self.poll()) and time.monotonic() < end:
            time.sleep(0.05)
            if for_a_job:
                for_a_job = not jobs()
                end = time.monotonic() + seconds
        return ended

    def send(self, number: signal.Signals, target: Target) -> list[int]:
        """Send a signal to what runs; the processes that got it."""
        pids = {"jobs": jobs(), "snakemake": [self.pid], "both": [self.pid, *jobs()]}[target]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids

    def goes_on(self, met: Sequence[int]) -> bool:
        """Whether it runs on although the jobs that a signal met are gone: they had done their work before it."""
        return not set(met) & set(jobs()) and "Error in rule" not in self.log.read_text(errors="replace")


def jobs() -> list[int]:
    """Processes of jobs, also of a Snakemake that was killed: the forks of the warm process."""
    from multiprocessing import forkserver

    warm = forkserver._forkserver._forkserver_pid
    found = subprocess.run(["pgrep", "-P", str(warm)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def save_often(tree: Tree) -> None:
    """Have trainings save a checkpoint every ten steps, which runs nothing again."""
    config = tree.config()
    for kind in ("crosscoders", "dictionaries", "models"):
        for section in config[kind].values():
            if "steps" in section:
                section["checkpoint_every"] = 3 if kind == "models" else 10
    tree.write_config(config)


def disturb(tree: Tree, expected: dict[str, str], kills: int, seed: int, longest_s: float) -> Outcome:
    """Send signals at random moments until `kills` have met a run, then let the study finish; it resumes each time.

    Args:
        tree: whose study runs.
        expected: digests of the undisturbed artifacts.
        kills: signals.
        seed: of their moments, kinds and targets.
        longest_s: most seconds from the first job of a run, or one time in five from its start, to its signal.
    """
    rng, outcome, results = random.Random(seed), Outcome(), tree.path / "results" / "test"
    while (left := kills - outcome.sent.total()) or not outcome.finished:
        number, target, moment = rng.choice(SIGNALS), rng.choice(TARGETS), rng.uniform(0, longest_s)
        for_a_job = rng.random() < 0.8
        run = Run(tree)
        outcome.runs += 1
        ended = run.wait(moment if left else ENDS_WITHIN_S, for_a_job=for_a_job)
        while not ended and not _kill(run, number, target, outcome):
            ended = run.wait(1.0, for_a_job=True)
        if not ended:
            outcome.sent[f"{number.name} to {target}"] += 1
            print(f"{number.name} to {target} after {moment:.1f} s: exit {run.code}", file=sys.stderr, flush=True)
            if run.code == -signal.SIGKILL:
                Run(tree, "--unlock").wait(ENDS_WITHIN_S)
        elif run.code == 0:
            found = differences(expected, digests(results))
            print(f"finished: {len(found)} of {len(expected)} artifacts differ", file=sys.stderr, flush=True)
            outcome.problems += found
            if left:
                shutil.rmtree(results)
                outcome.studies += 1
            outcome.finished = not left
        else:
            outcome.problems.append(f"a run that no signal met ended with {run.code}: {run.log.read_text()[-2000:]}")
            break
    return outcome


def _kill(run: Run, number: signal.Signals, target: Target, outcome: Outcome) -> bool:
    """Send a signal and wait for the run's end; whether it met something that was at work."""
    met = run.send(number, target)
    start = time.monotonic()  # not before: on a busy machine it takes a while to find the jobs
    while not run.wait(2.0):
        if target == "jobs" and run.goes_on(met):
            return False
        if time.monotonic() > start + ENDS_WITHIN_S:
            outcome.problems.append(f"{number.name} to {target}: still running after {ENDS_WITHIN_S:.0f} s")
            run.send(signal.SIGKILL, "both")
    if number == signal.SIGINT and target == "both":
        outcome.ctrl_c_s.append(time.monotonic() - start)
        print(f"Ctrl-C: ended within {outcome.ctrl_c_s[-1]:.1f} s", file=sys.stderr, flush=True)
        said = run.log.read_text(errors="replace")
        outcome.silent += BEGUN in said and HOW_TO_GO_ON not in said
    return True


def main() -> None:
    """Print what a series of kills did; exit with 1 if an artifact differs or a Ctrl-C was slow or silent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=15.0, help="seconds from a run's first job to its signal")
    parser.add_argument("--ctrl-c", type=float, default=10.0, help="seconds in which Ctrl-C has to end a run")
    parser.add_argument("--tree", type=Path, help="a tree with a finished study; else one is made")
    parser.add_argument("--without", nargs="*", default=["."], help="parts of its results that are made again")
    arguments = parser.parse_args()
    # A shell has its background processes ignore Ctrl-C, and their children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warm_scripts.start()
    with tempfile.TemporaryDirectory(prefix="diptych-kills-") as folder:
        tree = Tree(arguments.tree or copy_tree(Path(folder) / "tree"))
        if not arguments.tree:
            assert Run(tree).wait(ENDS_WITHIN_S), "the undisturbed study did not end"
        results = tree.path / "results" / "test"
        expected = digests(results)
        for part in arguments.without:
            shutil.rmtree(results / part)
        save_often(tree)
        outcome = disturb(tree, expected, arguments.kills, arguments.seed, arguments.longest)
    slowest = max(outcome.ctrl_c_s, default=0.0)
    print(f"seed {arguments.seed}: {outcome.runs} runs, {outcome.studies} studies of {len(expected)} files finished")
    print("\n".join(f"{count:3} {what}" for what, count in sorted(outcome.sent.items())))
    print(f"Ctrl-C: {len(outcome.ctrl_c_s)}, at most {slowest:.1f} s, {outcome.silent} without a word on how to go on")
    print("\n".join(outcome.problems) or "every artifact is bit for bit that of the undisturbed study")
    sys.exit(bool(outcome.problems or outcome.silent or slowest > arguments.ctrl_c or not outcome.finished))


if __name__ == "__main__":
    main()
