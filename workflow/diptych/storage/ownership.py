"""Which working directory's record of runs a results directory belongs to.

Snakemake remembers in `.snakemake` of its working directory what each file was made from; the files alone do not tell
it. So a results directory that two working directories share would be taken for up to date by both. An id in the record
and in the results says that they belong together, also after both have moved.

    ownership.check(Path("results"), Path(".snakemake/diptych/id"))      # when a run is planned
    ownership.claim(Path("results"), Path(".snakemake/diptych/id"))      # when it starts
"""

import os
import uuid
from pathlib import Path

from diptych.runtime.errors import DiptychError

NAME = ".snakemake-id"
"""File in the results directory."""
NOT_FINISHED = (
    "Not finished: run the same command again. Finished files are kept, trainings go on from their checkpoints; "
    "a job's log is in {logs}."
)
"""Last word of a run that failed or was stopped."""


def check(results: Path, record: Path) -> None:
    """Raise `DiptychError` if the results belong to another record than the one whose id is the file `record`."""
    owner = _read(results / NAME)
    if owner is not None and owner != _read(record):
        raise DiptychError(
            f"{results}: was made from another working directory, whose .snakemake says what its files were made from; "
            f"run there, set `results` to another directory, or delete {results / NAME} to take the files as they are"
        )


def claim(results: Path, record: Path) -> None:
    """Note that the results belong to a record, and see that they can be written.

    Raises:
        DiptychError: `check` fails, or the directory cannot be made or written.
    """
    check(results, record)
    try:
        results.mkdir(parents=True, exist_ok=True)
        if not os.access(results, os.W_OK):
            raise PermissionError("it is read-only")
        if _read(record) is None:
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(f"{uuid.uuid4()}\n", encoding="ascii")
        if _read(results / NAME) is None:
            (results / NAME).write_text(record.read_text(encoding="ascii"), encoding="ascii")
    except OSError as error:
        reason = error.strerror or str(error)
        raise DiptychError(
            f"{results}: cannot be written ({reason}); make it writable, or set `results` to another directory"
        ) from error


def _read(path: Path) -> str | None:
    return path.read_text(encoding="ascii").strip() or None if path.is_file() else None
