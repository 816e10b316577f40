"""Snakemake in forks of a process that has imported it, one for all tests of a process of pytest.

    server = Server({})
    run = server.run(["--dry-run"], directory=tree, environment={})
    run.returncode, run.stdout, run.stderr

The program reads a request a line (JSON) from its input and writes the exit code of each.
"""

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import forked_snakemake
import warm_scripts

IMPORTED = ("h5py", "numpy", "pydantic", "snakemake.cli", "snakemake_executor_plugin_slurm", "yaml")
"""What every plan imports from outside."""


class Server:
    """A running server.

    Args:
        environment: variables that libraries read when they are imported, beside those of this process.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": "", **environment},
        )
        atexit.register(self.stop)

    def run(
        self, arguments: Sequence[str], directory: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake in a directory, with variables beside those of this process; whoever stops waiting stops it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            out, errors = Path(folder) / "out", Path(folder) / "errors"
            request = {"directory": str(directory), "arguments": [*arguments], "out": str(out), "errors": str(errors)}
            request["environment"] = {**os.environ, "PYTHONPATH": "", **environment}
            try:
                print(json.dumps(request), file=self._process.stdin, flush=True)
                answer = self._process.stdout.readline()
                assert answer, "the server ended"
            except BaseException:
                self.stop()
                raise
            written = [path.read_text(errors="replace") if path.exists() else "" for path in (out, errors)]
        return subprocess.CompletedProcess(["snakemake", *arguments], int(answer), *written)

    def stop(self) -> None:
        """Kill it and all that it runs."""
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def stopped(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what scripts and Snakemake write before they have files of their own is no answer
    warm_scripts.start()
    for module in IMPORTED:
        importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.environ.clear()
            os.environ.update(request["environment"])
            out, errors = Path(request["out"]), Path(request["errors"])
            forked_snakemake.become(Path(request["directory"]), request["arguments"], out, errors)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    main()
