"""Choice of the pieces of documents that are read: units, budgets, windows that start at words."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.runtime.errors import DiptychError
from diptych.text.corpora.corpus import Corpus

Int32Array = npt.NDArray[np.int32]


SNAP = 64
"""Characters within which a window's edge moves to a word's edge; text without spaces is cut where it falls."""


class Passage(NamedTuple):
    """One sequence: its unit, where its text begins there, its tokens, their character spans and roles."""

    unit: int
    start: int
    token: Int32Array
    span: Int32Array
    role: npt.NDArray[np.int8]


@dataclass(frozen=True)
class Unit:
    """A document as the token file knows it: one of the corpus, or several packed into one."""

    id: str
    source: int
    fold: int
    members: tuple[int, ...]
    """Numbers of its documents in the corpus."""
    length: int
    """Characters; 0 for a conversation, which is not cut into windows."""


def draw_units(corpus: Corpus, *, folds: int, seed: int, pack_to: int = 0) -> list[list[Unit]]:
    """The units of each source in random order, their folds balanced within the source.

    The fold is the place in that order modulo `folds`: any budget that reaches part of the documents still has
    balanced folds.

    Raises:
        DiptychError: a source has fewer documents than folds.
    """
    by_source = []
    for source, name in enumerate(corpus.sources):
        members = [number for number, of in enumerate(corpus.source) if of == source]
        if len(members) < folds:
            raise DiptychError(
                f"corpus source {name!r} has {len(members)} documents, fewer than the {folds} folds; "
                "split it into more documents or lower `folds`"
            )
        order = [members[position] for position in _generator(seed, name).permutation(len(members))]
        units = [
            Unit(corpus.ids[number], source, position % folds, (number,), corpus.lengths[number])
            for position, number in enumerate(order)
        ]
        by_source.append(_packed(units, pack_to) if pack_to else units)
    return by_source


def _packed(units: Sequence[Unit], pack_to: int) -> list[Unit]:
    """Join units of one fold until they hold `pack_to` characters; conversations stay alone."""
    packed: list[Unit] = []
    open_packs: dict[int, list[Unit]] = {}
    for unit in units:
        if not unit.length:
            packed.append(unit)
            continue
        group = open_packs.setdefault(unit.fold, [])
        group.append(unit)
        if sum(member.length for member in group) >= pack_to:
            packed.append(_join(open_packs.pop(unit.fold)))
    return packed + [_join(group) for group in open_packs.values()]


def _join(group: Sequence[Unit]) -> Unit:
    members = tuple(number for unit in group for number in unit.members)
    name = " + ".join(unit.id for unit in group)
    return Unit(name, group[0].source, group[0].fold, members, sum(unit.length for unit in group))


def split_budget(
    tokens: int | None, sources: Sequence[str], shares: Mapping[str, float] | None
) -> list[int] | list[None]:
    """Tokens for each source; they sum to `tokens` exactly.

    Raises:
        DiptychError: `shares` names an unknown source or leaves one out.
    """
    if tokens is None:
        return [None] * len(sources)
    weights = dict.fromkeys(sources, 1.0) if shares is None else dict(shares)
    if set(weights) != set(sources):
        wrong = ", ".join(sorted(set(weights) ^ set(sources)))
        raise DiptychError(f"shares: name each source of the corpus ({', '.join(sources)}) once; see {wrong}")
    edges = np.cumsum([weights[name] for name in sources])
    ends = np.rint(tokens * edges / edges[-1]).astype(int)
    return [int(size) for size in np.diff(ends, prepend=0)]


def windows(length: int, window: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Disjoint stretches [start, end) of `window` characters in random order, at a random offset into the text.

    A text shorter than two windows gives one, and one that is not longer than a window is taken whole.
    """
    if length <= window:
        return [(0, length)]
    count = length // window
    offset = int(rng.integers(length - count * window + 1))
    return [(offset + i * window, offset + (i + 1) * window) for i in rng.permutation(count)]


def snap(text: str, start: int, end: int) -> tuple[int, int]:
    """Move both edges of a stretch forward to the next word's beginning, where one is near."""
    return _word_start(text, start), _word_start(text, end)


def _word_start(text: str, at: int) -> int:
    if at == 0 or at >= len(text):
        return min(at, len(text))
    for position in range(at, min(at + SNAP, len(text))):
        if text[position - 1].isspace() and not text[position].isspace():
            return position
    return at


def _generator(seed: int, name: str) -> np.random.Generator:
    """A generator for one named thing: adding a document or a source leaves the others' draws alone."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")])


def deals_of(units: Sequence[Unit], window: int, seed: int) -> list[tuple[int, int, int]]:
    """(unit, start, end) in the order of drawing: every unit's first window, then every unit's second, ..."""
    deals = []
    for number, unit in enumerate(units):
        stretches = windows(unit.length, window, _generator(seed, unit.id)) if unit.length else [(0, 0)]
        deals += [(turn, number, start, end) for turn, (start, end) in enumerate(stretches)]
    return [(number, start, end) for _, number, start, end in sorted(deals, key=lambda deal: deal[:2])]


def cut(sequence: Passage, length: int) -> Passage:
    """The first `length` tokens of a passage."""
    return sequence._replace(token=sequence.token[:length], span=sequence.span[:length], role=sequence.role[:length])
