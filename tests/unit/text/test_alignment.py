"""Alignment: rows that end at the same character, and how much of the text they cover."""

from pathlib import Path

import numpy as np
import pytest

from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text import alignment, tokens
from diptych.text.corpora import stage
from tiny_models import make_texts, make_tokenizer


def texts(ends: list[int], document: list[int] | None = None, counts: list[bool] | None = None) -> alignment.TokenEnds:
    return alignment.TokenEnds(
        np.array(document if document is not None else [0] * len(ends), dtype=np.int64),
        np.array(ends, dtype=np.int64),
        np.array(counts if counts is not None else [True] * len(ends)),
    )


def test_rows_pair_where_both_end() -> None:
    row_a, row_b = alignment.pair_rows(texts([6, 11, 15, 18]), texts([6, 15, 18]))
    assert row_a.tolist() == [0, 2, 3]
    assert row_b.tolist() == [0, 1, 2]


def test_the_last_of_several_tokens_at_one_character_is_taken() -> None:
    row_a, row_b = alignment.pair_rows(texts([1, 2, 2, 2, 3]), texts([1, 2, 3]))
    assert row_a.tolist() == [0, 3, 4]
    assert row_b.tolist() == [0, 1, 2]


def test_documents_are_kept_apart_and_inserted_tokens_are_not_paired() -> None:
    a = texts([-1, 3, 5, -1, 3, 4], [0, 0, 0, 1, 1, 1])
    b = texts([-1, 3, 4, 3, 5, 9], [1, 1, 1, 0, 0, -1])
    row_a, row_b = alignment.pair_rows(a, b)
    assert list(zip(row_a.tolist(), row_b.tolist(), strict=True)) == [(1, 3), (2, 4), (4, 1), (5, 2)]


def test_coverage_is_over_the_fewer_counted_tokens_of_each_source() -> None:
    a = texts([1, 2, 3, 4, 1, 2], [0, 0, 0, 0, 1, 1], [False, True, True, True, True, True])
    b = texts([2, 4, 1, 3], [0, 0, 1, 1])
    source_a = np.array(["x"] * 4 + ["y"] * 2, dtype=object)
    source_b = np.array(["x"] * 2 + ["y"] * 2, dtype=object)
    shares = alignment.coverage(a, b, *alignment.pair_rows(a, b), source_a, source_b)
    assert shares["x"] == {"pairs": 2, "tokens_a": 3, "tokens_b": 2, "coverage": 1.0}
    assert shares["y"] == {"pairs": 1, "tokens_a": 2, "tokens_b": 2, "coverage": 0.5}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("alignment")
    folder = make_texts(place / "texts", "old", 8)
    stage.fetch(place / "corpus", spec={}, sources={"old": {"kind": "local", "paths": [str(folder / "*.txt")]}})
    for name, vocabulary, bos in (("a", 400, False), ("b", 340, True), ("c", 400, True)):
        make_tokenizer(place / name, vocabulary=vocabulary, bos=bos)
        tokens.prepare(place / "corpus", place / name, place / f"{name}.h5", spec={}, tokens=500, sequence_length=24)
    return place


def test_two_trained_tokenizers(place: Path, tmp_path: Path) -> None:
    alignment.align(place / "a.h5", place / "b.h5", tmp_path / "out.h5", spec={}, min_coverage=0.4)
    with (
        artifacts.read(tmp_path / "out.h5", "alignment") as out,
        artifacts.read(place / "a.h5", "tokens") as a,
        artifacts.read(place / "b.h5", "tokens") as b,
    ):
        assert artifacts.read_json(out, "identity") is False
        row_a, row_b = out["row_a"][:], out["row_b"][:]
        assert len(row_a) > 150
        assert (np.diff(row_a) > 0).all()
        assert len(set(row_b.tolist())) == len(row_b)
        ends = [file["char_span"][:, 1][row] for file, row in ((a, row_a), (b, row_b))]
        assert (ends[0] == ends[1]).all()
        names = [
            np.array(artifacts.read_strings(file, "documents/id"))[
                file["sequences/document"][:][file["sequence"][:][row]]
            ]
            for file, row in ((a, row_a), (b, row_b))
        ]
        assert (names[0] == names[1]).all()
        shares = artifacts.read_json(out, "coverage")["old"]
        assert 0.4 < shares["coverage"] <= 1


def test_both_ways_pair_the_same_rows(place: Path, tmp_path: Path) -> None:
    pairs = []
    for first, second in (("a", "b"), ("b", "a")):
        alignment.align(place / f"{first}.h5", place / f"{second}.h5", tmp_path / "out.h5", spec={}, min_coverage=0.4)
        with artifacts.read(tmp_path / "out.h5", "alignment") as out:
            rows = {"ab": (out["row_a"][:], out["row_b"][:]), "ba": (out["row_b"][:], out["row_a"][:])}[first + second]
            pairs.append(set(zip(rows[0].tolist(), rows[1].tolist(), strict=True)))
    assert pairs[0] == pairs[1]


def test_equal_tokenizers_store_the_identity_only(place: Path, tmp_path: Path) -> None:
    alignment.align(place / "a.h5", place / "a.h5", tmp_path / "out.h5", spec={})
    with artifacts.read(tmp_path / "out.h5", "alignment") as out:
        assert artifacts.read_json(out, "identity") is True
        assert list(out) == ["checksums"]


def test_equal_tokenizers_with_other_tokens_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match="same tokenizer but different tokens"):
        alignment.align(place / "a.h5", place / "c.h5", tmp_path / "out.h5", spec={})


def test_low_coverage_is_an_error(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match="of source 'old'"):
        alignment.align(place / "a.h5", place / "b.h5", tmp_path / "out.h5", spec={}, min_coverage=1.0)
    assert not (tmp_path / "out.h5").exists()
