"""The table of detection limits: what holds for a number of tokens, and the file."""

import json

import pytest

from diptych import methods
from diptych.candidates import detection
from diptych.candidates.detection import Detection, Limit, Measured, Null
from diptych.runtime.errors import DiptychError

SHARES = {2000: None, 8000: 0.01, 32_000: 0.004}
CURVE = tuple(Limit(tokens, tokens // 40, share, 20, 24, 0.0001, 0.02) for tokens, share in SHARES.items())


def measured(curve=CURVE, significant=2):
    return Measured("it", 0, curve, (Null("swap", 40, significant, 0, significant > 6),))


@pytest.mark.parametrize(
    ("tokens", "at"), [(1999, None), (2000, 2000), (7999, 2000), (8000, 8000), (31_999, 8000), (10**9, 32_000)]
)
def test_what_holds_is_the_limit_at_the_most_tokens_that_are_no_more(tokens, at):
    limit = measured().seen_with(tokens)
    assert (limit and limit.tokens) == at
    assert measured(CURVE[::-1]).seen_with(tokens) == limit


def test_the_fewest_tokens_are_known_and_nothing_of_what_was_not_measured():
    assert measured().fewest == CURVE[0]
    assert measured(()).fewest is None
    assert measured(()).seen_with(10**6) is None


def test_a_table_is_read_as_it_was_written(tmp_path):
    table = Detection(48, {"budget": {"steps": 800}}, {"it": measured(), "other": measured((), 9)})
    (tmp_path / "d.json").write_text(detection.as_text(table), encoding="utf-8")
    read = detection.read(tmp_path / "d.json")
    assert read == table
    assert (read.methods["it"].is_above_nominal, read.methods["other"].is_above_nominal) == (False, True)
    assert detection.as_text(read) == detection.as_text(table)


def test_another_version_is_one_line(tmp_path):
    text = json.loads(detection.as_text(detection.NOTHING)) | {"schema": 2}
    (tmp_path / "d.json").write_text(json.dumps(text))
    with pytest.raises(DiptychError, match=r"d\.json: detection limits of schema 2, this version reads 1; run"):
        detection.read(tmp_path / "d.json")


def test_the_table_that_ships_is_of_known_methods_and_says_how_many_were_found():
    table = detection.read()
    entries = {entry for method in methods.METHODS for entry in method.entries}
    assert set(table.methods) <= entries
    assert set(table.methods) == {"linear_map", "means", "crosscoder_batchtopk", "pairing"}
    for name, each in table.methods.items():
        assert each.limits, name
        assert each.nulls, name
        for limit in each.limits:
            assert 0 <= limit.found <= limit.planted
            assert limit.planted > 0
            assert limit.least < limit.most
            if limit.share is not None:
                assert limit.found >= 0.8 * limit.planted
                assert limit.least <= limit.share <= limit.most
        assert all(0 <= null.significant <= null.pairs for null in each.nulls)
    assert detection.PATH.read_text(encoding="utf-8") == detection.as_text(table), "it is as `make limits` writes it"
