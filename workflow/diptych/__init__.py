"""Diptych: two language models side by side, and everything that differs between them."""


class DiptychError(Exception):
    """Something a user can mend: the message is one line, names the key or file, and says what to do."""
