"""The error type for problems that a user can fix, and one-line messages of other errors."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class DiptychError(Exception):
    """A problem that a user can fix; its message is one line that names the config key or file and the remedy."""


class ArtifactError(DiptychError):
    """A file is missing, cut short, damaged, of another kind, or holds values that it must not."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for use inside a one-line message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextmanager
def ending(say: Callable[[str], object]) -> Iterator[None]:
    """Say the line of a `DiptychError` in a block and end this process with status 1."""
    try:
        yield
    except DiptychError as error:
        say(str(error))
        sys.exit(1)
