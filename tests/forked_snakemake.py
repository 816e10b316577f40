"""Snakemake in a fork of a process that has imported it: it starts at once."""

import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


def become(directory: Path, log: Path, arguments: Sequence[str]) -> NoReturn:
    """Run Snakemake in this process, in a directory and with its output in `log`, and end."""
    from snakemake import cli

    code = 1
    try:
        os.chdir(directory)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        cli.main([*arguments])
        code = 0
    except SystemExit as ending:
        code = int(ending.code or 0)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)
