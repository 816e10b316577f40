"""The text that is read: a budget spread over sources and documents, and the ends of assistants' headers."""

import numpy as np
import pytest

from diptych.models.batches import Sequences
from diptych.outputs import reading
from diptych.runtime.errors import DiptychError

SHORT, LONG = 40, 100


def sequences(lengths=(SHORT, LONG) * 20, counts=True):
    start = np.append(0, np.cumsum(lengths))
    documents = np.arange(len(lengths)) // 2
    return Sequences(
        path="tokens.h5",
        token=np.arange(start[-1]) % 97,
        start=start,
        counts=np.full(start[-1], counts),
        document=documents,
        source=(np.arange(documents[-1] + 1) >= 5).astype(np.int64),
        fold=np.arange(documents[-1] + 1) % 5,
        text_hash=np.zeros(documents[-1] + 1, dtype=np.uint64),
        sources=("old", "new"),
    )


def test_a_budget_is_spread_over_sources_and_documents():
    text = reading.spread(sequences(), 640)
    by_source = [text.length[text.sequences.source[text.sequences.document[text.which]] == s].sum() for s in (0, 1)]
    assert by_source == [320, 320 // 10 * 10]
    per_document = np.bincount(text.document)
    assert set(per_document[:5]) == {64}  # 320 tokens over five documents: the first sequence and some of the second
    assert set(per_document[per_document > 0][5:]) == {32}  # never fewer than 32: ten of fifteen documents
    assert len(np.unique(text.document)) == 15
    assert (np.diff(text.document) >= 0).all()


def test_no_budget_reads_everything():
    text = reading.spread(sequences(), None)
    assert len(text) == text.length.sum() == 20 * (SHORT + LONG)
    last = text.sequences.start[1:] - 1
    assert (text.next_token[np.isin(text.row, last)] == -1).all()
    inner = ~np.isin(text.row, last)
    assert np.array_equal(text.next_token[inner], text.sequences.token[text.row[inner] + 1])


def test_only_rows_that_count_are_compared():
    whole = sequences()
    whole.counts[whole.start[:-1]] = False
    text = reading.spread(whole, 640)
    assert not np.isin(whole.start, text.row).any()
    with pytest.raises(DiptychError, match=r"no token that counts is read; raise `outputs\.tokens`"):
        reading.spread(sequences(counts=False), 64)


def test_replies_are_read_up_to_the_last_named_position():
    whole = sequences()
    named = np.zeros(len(whole.token), dtype=np.bool_)
    named[whole.start[:-1] + 10] = True
    named[whole.start[:-1] + 30] = True
    text = reading.first_replies(whole, named, 8)
    assert len(text) == 8
    assert np.array_equal(text.row, whole.start[text.which] + 30)
    assert set(text.length) == {31}
    assert reading.first_replies(whole, np.zeros_like(named), 8) is None
