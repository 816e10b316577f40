"""Snakemake in a fork of a process that has imported it: it starts at once."""

import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


def become(directory: Path, arguments: Sequence[str], out: Path, errors: Path | None = None) -> NoReturn:
    """Run Snakemake in this process, in a directory, and end.

    Args:
        directory: of the workflow.
        arguments: of the command line.
        out: file of standard output, and of errors too where these have no file of their own.
        errors: file of standard error.
    """
    from snakemake import cli

    code = 1
    try:
        os.chdir(directory)
        write_to(out, errors or out)
        cli.main([*arguments])
        code = 0
    except SystemExit as ending:
        code = int(ending.code or 0)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def write_to(out: str | Path, errors: str | Path) -> None:
    """Have this process write its standard output and error to the ends of two files."""
    for number, path in ((1, out), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
