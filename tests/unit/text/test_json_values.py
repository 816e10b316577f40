"""JSON values out of a stream: the same as `json.loads` of the whole, however the stream is cut."""

import json
import random

import pytest

from diptych.text.corpora.json_values import values

RECORDS = [
    {"text": 'quotes " and \\ and ] } , :', "n": 1},
    {"text": "\u00e9\u4e2d\U0001f600 \u2028", "list": [[], {}, [1.5e-7, -3, True, False, None]]},
    {"text": "", "deep": {"a": {"b": [{"c": "\u2028"}]}}},
    "a text of its own",
    {},
]


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[place : place + size] for place in range(0, len(data), size)]


def read(data: bytes, size: int, **more: list[str]) -> list[object]:
    return [value for value, _ in values(cut(data, size), **more)]


SPELLINGS = {
    "a list": json.dumps(RECORDS),
    "a list over lines": json.dumps(RECORDS, indent=2, ensure_ascii=False),
    "JSON lines": "\n".join(json.dumps(record) for record in RECORDS),
    "JSON lines of other systems, empty ones between": "\r\n\r\n".join(json.dumps(record) for record in RECORDS)
    + "\r\n",
    "objects over lines": "\n".join(json.dumps(record, indent=1) for record in RECORDS),
    "two lists": json.dumps(RECORDS[:2]) + "\n" + json.dumps(RECORDS[2:]),
    "a byte order mark": "\ufeff " + json.dumps(RECORDS),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10**6])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_values_do_not_depend_on_spelling_or_cuts(spelling: str, size: int) -> None:
    expected = json.loads(json.dumps(RECORDS))
    assert read(SPELLINGS[spelling].encode(), size) == expected


@pytest.mark.parametrize("size", [1, 3, 10**6])
def test_numbers_and_literals_are_not_cut_short(size: int) -> None:
    numbers = [12, -3.25, 1e-300, 10**30, True, None, float("-inf")]
    assert read(json.dumps(numbers).encode(), size) == numbers
    assert read(" ".join(json.dumps(number) for number in numbers).encode(), size) == numbers


@pytest.mark.parametrize("size", [1, 5, 10**6])
def test_a_named_list_inside_an_object(size: int) -> None:
    whole = {"version": "1.0", "data": RECORDS[:2], "rows": [{"text": "x"}], "end": {"data": [3]}}
    for spelled in (json.dumps(whole), json.dumps(whole, indent=3)):
        assert read(spelled.encode(), size) == [whole]
        assert read(spelled.encode(), size, lists=["data"]) == [{"data": record} for record in RECORDS[:2]]
        assert read(spelled.encode(), size, lists=["none"]) == [whole]
    assert read(b'{"data": []} {}', size, lists=["data"]) == [{}]
    lines = b'{"meta": {"text": "a"}}\n{"meta": [{"text": "b"}, {"text": "c"}]}'
    assert read(lines, size, lists=["meta"]) == [{"meta": {"text": text}} for text in "abc"]


@pytest.mark.parametrize("size", [1, 2, 10**6])
def test_broken_bytes_are_replaced_and_counted_in_their_record(size: int) -> None:
    data = b'[{"text": "whole"}, {"text": "\xff\xe2\x82 two", "own": "\xef\xbf\xbd"}, {"text": "\xc3\xa9"}]'
    assert list(values(cut(data, size))) == [
        ({"text": "whole"}, 0),
        ({"text": "\ufffd\ufffd two", "own": "\ufffd"}, 2),
        ({"text": "\u00e9"}, 0),
    ]


@pytest.mark.parametrize("size", [1, 4, 10**6])
@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b'[{"a": 1} {"a": 2}]', 1),
        (b'[{"a": 1}, {"a": 2}', 2),
        (b'[{"a": 1}, {"a": "2', 1),
        (b'[{"a": 1},]', 1),
        (b'{"a": 1}\n{"a": tru}', 1),
        (b'{"a": 1}\n{"a" 2}', 1),
        (b"[", 0),
        (b"nonsense", 0),
    ],
)
def test_what_is_not_json_is_an_error_after_the_records_before_it(data: bytes, whole: int, size: int) -> None:
    found = []
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|Invalid"):
        for value, _ in values(cut(data, size)):
            found.append(value)
    assert len(found) == whole


@pytest.mark.parametrize(
    "data", [b'{"data": [1, 2}', b'{"data" [1]}', b"{1: 2}", b'{"data": [1] "b": 2}', b'{"data": [1]']
)
def test_errors_in_an_object_with_a_named_list(data: bytes) -> None:
    with pytest.raises(ValueError, match="Expecting"):
        list(values([data], lists=["data"]))


def test_a_record_is_read_before_the_stream_ends() -> None:
    """A list of any length is read with a few pieces in memory; an error is told where it is."""
    record = json.dumps({"text": "x" * 1000}).encode()
    taken = 0

    def pieces():  # type: ignore[no-untyped-def]
        nonlocal taken
        yield b"["
        for _ in range(1000):
            taken += 1
            yield record + b","

    reader = values(pieces())
    for number in range(1, 500):
        next(reader)
        assert taken <= number + 4
    wrong = values([b'[{"a": 1}, oops, ', *[record] * 1000, b"]"])
    next(wrong)
    with pytest.raises(ValueError, match="Expecting value"):
        next(wrong)


def test_random_documents() -> None:
    rng = random.Random(0)

    def value(depth: int) -> object:
        kind = rng.randrange(6 if depth else 4)
        if kind == 4:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        if kind == 5:
            return {"".join(rng.choices('ab"\\:', k=3)): value(depth - 1) for _ in range(rng.randrange(4))}
        return (
            rng.random() * 10 ** rng.randrange(-9, 9),
            rng.randrange(10**9),
            None,
            "".join(rng.choices('x"\\\n\u00e9]', k=9)),
        )[kind]

    for _ in range(200):
        records = [{"r": value(4)} for _ in range(rng.randrange(6))]
        data = json.dumps(records, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5).encode()
        assert read(data, rng.randrange(1, 40)) == records
