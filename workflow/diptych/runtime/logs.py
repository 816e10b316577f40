"""Log file, error line, progress bar and account of a job."""

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

from diptych.runtime import accounting
from diptych.runtime.errors import DiptychError

OUT_OF_SPACE_MESSAGES = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""The system's messages: libraries (HDF5, safetensors, torch) pass these on, but not all of them the error number."""
Item = TypeVar("Item")
logger = logging.getLogger("diptych")


def start(log_file: str, script: str) -> logging.Logger:
    """Send log records and uncaught exceptions to `log_file` and stderr; return the job's logger.

    A `DiptychError` is logged as one line; any other exception is a defect and logged with its traceback. A job that
    ends well logs what it used of the machine, and writes it beside Snakemake's benchmark (`accounting`).

    Args:
        log_file: the job's log.
        script: path of the running script; the library must be imported from its tree, not from an installed package.
    """
    sys.excepthook = _log_uncaught
    _configure()
    try:
        Path(log_file).parent.mkdir(parents=True, exist_ok=True)
        _configure(logging.FileHandler(log_file, mode="w"))
    except OSError as error:
        raise DiptychError(f"{log_file}: cannot be written ({error.strerror}); free or unlock its directory") from error
    library, tree = Path(__file__).resolve().parents[2], Path(script).resolve().parents[1]
    if library != tree:
        raise DiptychError(f"diptych is imported from {library}, not from {tree}: uninstall the other diptych")
    # Imported modules are never freed: collecting them costs a job 0.5 s, or 2 s with TransformerLens.
    gc.freeze()
    atexit.register(gc.freeze)
    accounting.write_at_exit(log_file, Path(script).stem, logger)
    return logger


def follow(log_file: str) -> None:
    """Send log records of a job's subprocess to the job's log and stderr."""
    _configure(logging.FileHandler(log_file, mode="a"))


def _configure(*file_handlers: logging.Handler) -> None:
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[*file_handlers, logging.StreamHandler(sys.stderr)],
        force=True,
    )
    for verbose_logger in ("httpx", "httpx2", "urllib3", "matplotlib", "filelock"):
        logging.getLogger(verbose_logger).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _log_uncaught(cls: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    accounting.discard()
    if issubclass(cls, DiptychError):
        logger.error("%s", error)
    elif issubclass(cls, KeyboardInterrupt):
        logger.error("interrupted; a training goes on from its last checkpoint when the study runs again")
    elif (reason := out_of_space(error)) is not None:
        logging.raiseExceptions = False  # the log may be on that disk too
        logger.error("%s: free space where `results` is, or move it, and run again; finished files are kept", reason)
    else:
        logger.critical("unexpected %s", cls.__name__, exc_info=(cls, error, traceback))


def out_of_space(error: BaseException) -> str | None:
    """The system's message if an error or one of its causes is a full disk, quota or file size limit; else None."""
    cause: BaseException | None = error
    while cause is not None:
        for reason in OUT_OF_SPACE_MESSAGES:
            if reason in str(cause):
                return reason
        cause = cause.__cause__ or cause.__context__
    return None


def progress(
    items: Iterable[Item], label: str, *, total: int | None = None, done: int = 0, unit: str = "it"
) -> Iterator[Item]:
    """Iterate over `items` with a progress bar of rate and time left (a line every 10 s without a terminal).

    Args:
        items: the remaining items.
        label: name of the bar.
        total: number of items, including those of an earlier run; len(items) if None.
        done: number of items that an earlier run finished.
        unit: name of one item.
    """
    yield from tqdm(items, desc=label, total=total, initial=done, unit=unit, mininterval=interval(), file=sys.stderr)


def interval() -> float:
    """Minimum seconds between two updates of a progress bar: short on a terminal, long in a log."""
    return 0.2 if sys.stderr.isatty() else 10.0
