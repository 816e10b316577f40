"""One job's log file, its error line and its progress bar."""

import atexit
import errno
import gc
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

from diptych.runtime.errors import DiptychError

OUT_OF_SPACE = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""How the system says it; libraries (HDF5, safetensors, torch) pass the words on, and not all of them the number."""
Item = TypeVar("Item")
logger = logging.getLogger("diptych")


def start(log_file: str, script: str) -> logging.Logger:
    """Send log records and uncaught exceptions to `log_file` and stderr; return the job's logger.

    A `DiptychError` shows as its one line; anything else is a defect and shows its traceback.

    Args:
        log_file: the job's log.
        script: the script that runs; the library must be the one beside it, not another installed `diptych`.
    """
    Path(log_file).parent.mkdir(parents=True, exist_ok=True)
    _configure(logging.FileHandler(log_file, mode="w"))
    sys.excepthook = _report
    library, tree = Path(__file__).resolve().parents[2], Path(script).resolve().parents[1]
    if library != tree:
        raise DiptychError(f"diptych is imported from {library}, not from {tree}: uninstall the other diptych")
    # What is imported stays to the end: looking for garbage in it costs a job 0.5 s, or 2 s with TransformerLens.
    gc.freeze()
    atexit.register(gc.freeze)
    return logger


def follow(log_file: str) -> None:
    """Send log records of a process that a job started to that job's log and stderr."""
    _configure(logging.FileHandler(log_file, mode="a"))


def _configure(file: logging.Handler) -> None:
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[file, logging.StreamHandler(sys.stderr)],
        force=True,
    )
    for chatty in ("httpx", "urllib3", "matplotlib", "filelock"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, DiptychError):
        logger.error("%s", error)
    elif (reason := out_of_space(error)) is not None:
        logging.raiseExceptions = False  # the log may lie on that disk too
        logger.error("%s: make room where `results` lies, or move it, and run again; what is finished is kept", reason)
    else:
        logger.critical("unexpected %s", kind.__name__, exc_info=(kind, error, trace))


def out_of_space(error: BaseException) -> str | None:
    """What the system said if an error, or one that led to it, is that a disk is full, a quota or a limit reached."""
    cause: BaseException | None = error
    while cause is not None:
        for reason in OUT_OF_SPACE:
            if reason in str(cause):
                return reason
        cause = cause.__cause__ or cause.__context__
    return None


def progress(
    items: Iterable[Item], what: str, *, total: int | None = None, done: int = 0, unit: str = "it"
) -> Iterator[Item]:
    """Pass `items` through, showing a bar with rate and time left (a line every 10 s where there is no terminal).

    Args:
        items: what is left to do.
        what: the bar's name.
        total: how many there are with those of an earlier run; len(items) if not given.
        done: how many an earlier run did.
        unit: of an item.
    """
    yield from tqdm(items, desc=what, total=total, initial=done, unit=unit, mininterval=interval(), file=sys.stderr)


def interval() -> float:
    """Least seconds between two states of a bar: many on a terminal, few lines in a log."""
    return 0.2 if sys.stderr.isatty() else 10.0
