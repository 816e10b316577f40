"""Semantic subspaces: which features are about time, nature, people, ... by the tokens they fire on most.

A word list is a text file with one word a line (`#` starts a comment). A feature belongs to the list's subspace if
one of its top activating tokens, stripped and lower-cased, is in it:

    >>> words = load("numbers")
    >>> contains(words, [[" seven", " Seven"], [" river", " lake"]]).tolist()
    [True, False]

The lists that ship are in `wordlists/`; METHODS 3.3.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diptych.runtime.errors import DiptychError

DIRECTORY = Path(__file__).parent / "wordlists"


def shipped() -> tuple[str, ...]:
    """Names of the word lists that come with Diptych, sorted."""
    return tuple(sorted(path.stem for path in DIRECTORY.glob("*.txt")))


def path_of(name: str) -> Path:
    """The file of a shipped list, or `name` itself if it is a path ending in .txt.

    Raises:
        DiptychError: there is no such list or file.
    """
    path = Path(name) if name.endswith(".txt") else DIRECTORY / f"{name}.txt"
    if not path.is_file():
        raise DiptychError(
            f"word list {name!r}: not found; use one of {', '.join(shipped())} or the path of a .txt file"
        )
    return path


def load(name: str) -> frozenset[str]:
    """The words of a shipped list or a file, stripped and lower-cased.

    Raises:
        DiptychError: there is no such list, or it holds no word.
    """
    path = path_of(name)
    lines = path.read_text(encoding="utf-8").splitlines()
    words = frozenset(word for line in lines if (word := normalise(line.partition("#")[0])))
    if not words:
        raise DiptychError(f"word list {path}: holds no word; write one a line")
    return words


def normalise(token: str) -> str:
    """A token as words are compared: without surrounding white space (or the markers of it), lower case."""
    return token.strip().strip("\u2581\u0120").strip().lower()


def contains(words: Iterable[str], tokens: Sequence[Sequence[str]]) -> npt.NDArray[np.bool_]:
    """Whether any of each feature's top tokens is in the list: bool [len(tokens)]."""
    listed = frozenset(words)
    return np.array([any(normalise(token) in listed for token in top) for top in tokens], dtype=bool)


def is_stop_token(text: str) -> bool:
    """Whether a token is no word: white space, punctuation and symbols only, or special (<...> or [...]).

    >>> [is_stop_token(text) for text in (" ", "--", "<|im_end|>", " the", "x1")]
    [True, True, True, False, False]
    """
    bare = text.strip()
    special = len(bare) > 2 and (bare[0], bare[-1]) in (("<", ">"), ("[", "]"))
    return special or all(unicodedata.category(character)[0] in "PSZC" for character in bare)
