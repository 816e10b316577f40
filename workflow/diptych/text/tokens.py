"""Tokens: which pieces of which documents are read, and for every token where it stands and whether it counts.

A budget of tokens is spread over many documents, because documents, not tokens, are the independent draws. Each
document is cut at random into windows of characters that begin at a word, the windows are dealt out round-robin over
the documents in random order, and each window is tokenised and cut to `sequence_length` tokens:

    tokens.prepare("results/corpora/addresses", "results/models/base", "results/tokens/addresses/base.h5",
                   spec=spec, tokens=40_960, sequence_length=128)

Windows, order and folds follow from the documents and the seed alone, never from the tokenizer, so that the token
files of two tokenizers read the same text and `alignment` can pair their rows. A sequence never crosses a document;
with `pack`, short documents of one source and fold are first joined into one longer document, which from then on is
the unit of independence, with an end-of-text token between its parts. A conversation is one sequence: it is rendered
by a chat template and its tokens get roles (see `templates`). One that the template refuses, or that does not fit a
sequence, is left out and counted; a drawn prompt is an error instead, for the prompts are what is asked about.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text import templates
from diptych.text.corpora.corpus import Corpus
from diptych.text.passages import Passage, Unit, cut, deals_of, draw_units, snap, split_budget
from diptych.text.tokenizer import Chat, Encoded, Tokenizer, UnreadableError, concatenate, inserted

Int32Array = npt.NDArray[np.int32]
ENCODE_AT_ONCE = 256
"""Windows tokenised in one call: enough for the tokenizer's threads, few enough for flat memory."""
MOST_LEFT_OUT = 0.5
"""Share of a source's conversations that may be left out: beyond it, what is read is no longer that source."""
LEFT_OUT = {"too_long": "longer than `sequence_length`", "refused": "refused by the template"}


def prepare(
    corpus_dir: str | Path,
    tokenizer_dir: str | Path,
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    tokens: int | None,
    sequence_length: int = 128,
    skip_first: int = 1,
    folds: int = 5,
    seed: int = 0,
    shares: Mapping[str, float] | None = None,
    pack: bool = False,
    characters_per_token: float = 6.0,
    template: str = "model",
    positions: Mapping[str, int] | None = None,
    generation_prompt: bool = True,
) -> None:
    """Write the token file of a corpus and a tokenizer (stage `prepare_tokens`).

    Args:
        corpus_dir: as `corpora.fetch` writes it.
        tokenizer_dir: directory with a fast tokenizer (tokenizer.json).
        out: the artifact, kind "tokens".
        spec: what the result depends on.
        tokens: budget, inserted tokens included, met exactly by text sources (conversations are never cut to fit
            it); None: everything.
        sequence_length: tokens a sequence has at most.
        skip_first: first positions of each sequence that do not count (METHODS 0.1).
        folds: document folds, 0 is the test fold.
        seed: of order, windows and folds.
        shares: token share by source name, normalised to sum 1; None: equal shares.
        pack: join short documents up to a window's length.
        characters_per_token: length of a window in characters, over `sequence_length`. Above the tokenizer's own
            ratio all sequences are full and the rest of their windows is left unread.
        template: "model" (the tokenizer's own), a name of `templates.NAMED`, or Jinja text.
        positions: names for offsets from the last token of the last assistant header; None: the template family's.
        generation_prompt: end prompts with an opened assistant turn.

    Raises:
        DiptychError: too little text for the budget, fewer documents than folds, an unreadable prompt, more than
            `MOST_LEFT_OUT` unreadable conversations, or an absent named position.
    """
    corpus = Corpus(corpus_dir)
    tokenizer = Tokenizer(tokenizer_dir)
    chat = Chat(tokenizer, template, positions, generation_prompt) if 0 in corpus.lengths else None
    window = max(1, int(sequence_length * characters_per_token))
    by_source = draw_units(corpus, folds=folds, seed=seed, pack_to=window if pack else 0)
    reader = Reader(corpus, tokenizer, chat, sequence_length)
    budgets = split_budget(tokens, corpus.sources, shares)
    units: list[Unit] = []
    sequences: list[Passage] = []
    for name, mine, budget in zip(corpus.sources, by_source, budgets, strict=True):
        passages, missing = _draw(reader, mine, window=window, seed=seed, budget=budget, source=name)
        _check_left_out(reader, mine, passages, source=name, folds=folds)
        if budget is not None and missing:
            raise DiptychError(
                f"corpus source {name!r} has text for {budget - missing:,} of {budget:,} tokens; lower `tokens` "
                "or `characters_per_token`, change `shares`, or add documents"
            )
        passages.sort(key=lambda sequence: (sequence.unit, sequence.start))
        used = sorted({sequence.unit for sequence in passages})
        number = {unit: len(units) + i for i, unit in enumerate(used)}
        units += [mine[unit] for unit in used]
        sequences += [sequence._replace(unit=number[sequence.unit]) for sequence in passages]
    _write(out, spec, reader, units, sequences, skip_first=skip_first, folds=folds)


# --- which text ---------------------------------------------------------------------------------------------------


# --- reading it ---------------------------------------------------------------------------------------------------


class Reader:
    """Reads windows of units and conversations as sequences."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, chat: Chat | None, sequence_length: int) -> None:
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.chat = chat
        self.sequence_length = sequence_length
        self.text_hash: dict[str, int] = {}
        """64 bits of the sha256 of each read unit's text, by id: equal for two tokenizers that read the same text."""
        self.left_out: dict[str, Counter[str]] = {name: Counter() for name in corpus.sources}
        """By source, how many conversations could not be read, by cause (`LEFT_OUT`)."""
        self.first_left_out: dict[str, str] = {}
        """By source, what is wrong with the first of them."""

    @property
    def roles(self) -> list[str]:
        """Names of the role codes."""
        return [*templates.ROLES, *(self.chat.positions if self.chat else {})]

    def read(self, units: Sequence[Unit], deals: Sequence[tuple[int, int, int]], label: str) -> list[Passage]:
        """The sequences of (unit, start, end) deals, in their order; each unit's text is read once.

        Conversations that cannot be read are counted in `left_out` and have no sequence.
        """
        indices: dict[int, list[int]] = {}
        for i, (unit, _, _) in enumerate(deals):
            indices.setdefault(unit, []).append(i)
        passages: dict[int, Passage] = {}
        waiting: list[tuple[int, int, str]] = []
        for unit in logs.progress(indices, label, unit=" documents"):
            if not units[unit].length:
                conversation = self._conversation(unit, units[unit])
                passages.update({indices[unit][0]: conversation} if conversation else {})
                continue
            parts = [document.text or "" for document in self.corpus.documents(units[unit].members)]
            text = "".join(parts)
            self.text_hash[units[unit].id] = _hash64(text)
            ends = np.cumsum([len(part) for part in parts])
            for i in indices[unit]:
                start, end = snap(text, *deals[i][1:])
                waiting += [(i, left, text[left:right]) for left, right in _pieces(start, end, ends)]
            if len(waiting) >= ENCODE_AT_ONCE:
                passages.update(self._windows(waiting, deals))
                waiting = []
        passages.update(self._windows(waiting, deals))
        return [passages[i] for i in sorted(passages)]

    def _windows(
        self, waiting: Sequence[tuple[int, int, str]], deals: Sequence[tuple[int, int, int]]
    ) -> Iterator[tuple[int, Passage]]:
        """Tokenise pieces (place, start in the unit, text); pieces of one place are joined by end-of-text."""
        pieces: dict[int, list[Encoded]] = {}
        encoded = self.tokenizer.encode([text for _, _, text in waiting]) if waiting else []
        for (i, start, _), piece in zip(waiting, encoded, strict=True):
            if i in pieces:
                pieces[i].append(inserted([self.tokenizer.end_of_text]))
            pieces.setdefault(i, []).append(piece._replace(span=piece.span + start))
        for i, parts in pieces.items():
            joined = concatenate([inserted(self.tokenizer.prefix), *parts])
            role = np.zeros(len(joined.token), dtype=np.int8)
            sequence = Passage(deals[i][0], deals[i][1], joined.token, joined.span, role)
            yield i, cut(sequence, self.sequence_length)

    def _conversation(self, number: int, unit: Unit) -> Passage | None:
        assert self.chat is not None
        document = next(self.corpus.documents(unit.members))
        prefix = inserted(self.tokenizer.prefix)
        try:
            text, encoded, role = self.chat.encode(document, self.sequence_length - len(prefix.token))
        except UnreadableError as error:
            if document.drawn:
                raise
            self.left_out[document.source][error.cause] += 1
            self.first_left_out.setdefault(document.source, str(error))
            return None
        self.text_hash[unit.id] = _hash64(text)
        joined = concatenate([prefix, encoded])
        before = np.full(len(prefix.token), templates.ROLES.index("template"), dtype=np.int8)
        return Passage(number, 0, joined.token, joined.span, np.concatenate([before, role]))


def _pieces(start: int, end: int, part_ends: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cut [start, end) at the ends of the packed parts that lie inside it."""
    inside = part_ends[(part_ends > start) & (part_ends < end)]
    edges = [start, *(int(edge) for edge in inside), end]
    return list(itertools.pairwise(edges))


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


# --- what counts --------------------------------------------------------------------------------------------------


def common_prefix(sequences: Sequence[Int32Array]) -> int:
    """Length of the longest token prefix that all sequences share (a system prompt); 0 for a single sequence."""
    if len(sequences) < 2:
        return 0
    shortest = min(len(sequence) for sequence in sequences)
    first = sequences[0][:shortest]
    differs = np.zeros(shortest, dtype=bool)
    for sequence in sequences[1:]:
        differs |= sequence[:shortest] != first
    return int(np.argmax(differs)) if differs.any() else shortest


def _write(
    out: str | Path,
    spec: Mapping[str, Any],
    reader: Reader,
    units: Sequence[Unit],
    sequences: Sequence[Passage],
    *,
    skip_first: int,
    folds: int,
) -> None:
    lengths = np.array([len(sequence.token) for sequence in sequences], dtype=np.int64)
    start = np.concatenate([[0], np.cumsum(lengths)])
    token = np.concatenate([sequence.token for sequence in sequences])
    span = np.concatenate([sequence.span for sequence in sequences])
    number = np.repeat(np.arange(len(sequences), dtype=np.int32), lengths)
    position = (np.arange(len(token)) - start[number]).astype(np.int32)
    prefix = common_prefix([sequence.token for sequence in sequences])
    counts = (position >= max(skip_first, prefix)) & (span[:, 0] >= 0)
    vocabulary = np.unique(token)
    document = np.array([sequence.unit for sequence in sequences], dtype=np.int32)
    source = np.array([unit.source for unit in units], dtype=np.int32)
    with artifacts.create(out, "tokens", spec) as file:
        for name, values in (("token", token), ("sequence", number), ("position", position), ("char_span", span)):
            file.array(name, values)
        file.array("counts", counts)
        file.array("role", np.concatenate([sequence.role for sequence in sequences]))
        file.array("sequences/start", start)
        file.array("sequences/document", document)
        file.strings("documents/id", [unit.id for unit in units])
        file.array("documents/source", source)
        file.array("documents/fold", np.array([unit.fold for unit in units], dtype=np.int32))
        file.array("documents/text_hash", np.array([reader.text_hash[unit.id] for unit in units], dtype=np.uint64))
        file.array("vocabulary/id", vocabulary)
        file.strings("vocabulary/text", reader.tokenizer.texts(vocabulary))
        file.json("roles", reader.roles)
        file.json("named_positions", list(reader.chat.positions) if reader.chat else [])
        file.json("sources", reader.corpus.sources)
        file.json("tokenizer", reader.tokenizer.hash)
        file.json("folds", folds)
        file.json("common_prefix", prefix)
        file.json("summary", _summary(reader, source[document][number], counts, units, document))


def _summary(
    reader: Reader,
    token_source: npt.NDArray[np.int32],
    counts: npt.NDArray[np.bool_],
    units: Sequence[Unit],
    document: Int32Array,
) -> dict[str, dict[str, int]]:
    """By source: tokens, counted tokens, sequences, documents, and conversations left out by cause."""
    documents = Counter(unit.source for unit in units)
    sequences = Counter(units[unit].source for unit in document)
    summary = {}
    for number, name in enumerate(reader.corpus.sources):
        mine = token_source == number
        summary[name] = {
            "tokens": int(mine.sum()),
            "counted": int((mine & counts).sum()),
            "sequences": sequences[number],
            "documents": documents[number],
            **{cause: reader.left_out[name][cause] for cause in LEFT_OUT},
        }
        logs.logger.info("source %s: %s", name, ", ".join(f"{value:,} {key}" for key, value in summary[name].items()))
    return summary


def _draw(
    reader: "Reader", units: Sequence[Unit], *, window: int, seed: int, budget: int | None, source: str
) -> tuple[list[Passage], int]:
    """Sequences dealt round-robin over the units until they hold `budget` tokens; the last one is cut to fit.

    Returns:
        The sequences, and how many tokens of the budget the source does not have.
    """
    deals = deals_of(units, window, seed)
    passages: list[Passage] = []
    have = 0
    while deals and (budget is None or have < budget):
        n_deals = len(deals) if budget is None else -(-(budget - have) // reader.sequence_length)
        batch, deals = deals[:n_deals], deals[n_deals:]
        for sequence in reader.read(units, batch, f"tokenise {source}"):
            room = len(sequence.token) if budget is None else budget - have
            if len(sequence.token) > room and not units[sequence.unit].length:
                return passages, 0
            fitting = cut(sequence, room)
            if len(fitting.token):
                passages.append(fitting)
                have += len(fitting.token)
    return passages, 0 if budget is None else budget - have


def _check_left_out(
    reader: "Reader", units: Sequence[Unit], passages: Sequence[Passage], *, source: str, folds: int
) -> None:
    """Log how many conversations of a source are left out; raise `DiptychError` if too few remain."""
    causes = reader.left_out[source]
    if not causes:
        return
    read = {sequence.unit for sequence in passages}
    tried = sum(not units[unit].length for unit in read) + causes.total()
    reasons = ", ".join(f"{number} {LEFT_OUT[cause]}" for cause, number in sorted(causes.items()))
    message = f"corpus source {source!r}: {causes.total()} of {tried} conversations left out ({reasons})"
    remedy = f"the first: {reader.first_left_out[source]}; raise `sequence_length`, or choose another `template`"
    if causes.total() > MOST_LEFT_OUT * tried:
        raise DiptychError(f"{message}; {remedy}")
    if len({units[unit].fold for unit in read}) < folds:
        raise DiptychError(f"{message}, too few are left for {folds} folds; {remedy}")
    logs.logger.warning("%s; the first: %s", message, reader.first_left_out[source])
