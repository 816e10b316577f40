"""The error that a user can mend, and the messages of those that others raise."""


class DiptychError(Exception):
    """Something a user can mend: the message is one line, names the key or file, and says what to do."""


class ArtifactError(DiptychError):
    """A file is missing, cut short, damaged, of another kind, or holds values that it must not."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for use inside a one-line message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
