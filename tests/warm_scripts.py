"""Snakemake's scripts in forks of a process that has imported torch and transformers once.

    warm_scripts.start()
    forked_snakemake.become(tree, ["--cores", "2"], log)        # in a fork of this process

A script still is a process of its own, with nothing of this library imported before it starts; what it does not do is
import for seconds what every script imports. Tests of whole studies spend most of their time so.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
from contextlib import nullcontext, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import forked_snakemake

CONTEXT = multiprocessing.get_context("forkserver")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that libraries read when they are imported; those that are preloaded are told besides."""


def run(
    ending: Connection, script: str, directory: str, written: list[str], environment: dict[str, str], threads: int
) -> None:
    """Run a script as the main module, as `python script` does, with as many threads as Snakemake's shell tells it.

    Args:
        ending: gets the exit code; what multiprocessing reads of it another thread that starts a process may take.
        script: path of the script.
        directory: where it runs.
        written: files that get its output and its errors.
        environment: its variables.
        threads: of one job.
    """
    import torch
    from threadpoolctl import threadpool_limits

    os.chdir(directory)
    forked_snakemake.write_to(*written)
    os.environ.clear()
    os.environ.update(environment | dict.fromkeys(THREADS, str(threads)))
    threadpool_limits(threads)
    torch.set_num_threads(threads)
    sys.argv = [script]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    else:
        code = 0
    atexit._run_exitfuncs()
    ending.send(code)


def execute_script(self, script, edit=False):
    """Stands in for Snakemake's own: a fork in place of a new interpreter, that writes where Snakemake does."""
    from snakemake.benchmark import benchmarked

    ending, of_child = CONTEXT.Pipe(duplex=False)
    written = [str(Path(f"/proc/self/fd/{number}").readlink()) for number in (1, 2)]
    arguments = (of_child, script, str(Path.cwd()), written, dict(os.environ), self.threads)
    process = CONTEXT.Process(target=run, args=arguments)
    process.start()
    of_child.close()
    with nullcontext() if self.bench_record is None else benchmarked(process.pid, self.bench_record):
        process.join()
    code = 1  # of a process that was killed
    with suppress(EOFError):
        if ending.poll():
            code = ending.recv()
    if code:
        raise subprocess.CalledProcessError(code, script)


def start() -> None:
    """Have Snakemake, in forks of this process, run scripts in forks of one warm process."""
    from multiprocessing import forkserver

    from snakemake.script import PythonScript

    # The server finds what it preloads by this alone; the Snakefile sets what scripts find.
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    CONTEXT.set_forkserver_preload(["preloaded"])
    forkserver.ensure_running()
    # The warm process is a child of this one: a fork of this one cannot ask whether it lives.
    forkserver._forkserver.ensure_running = lambda: None
    PythonScript.execute_script = execute_script
