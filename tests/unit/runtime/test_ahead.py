"""Items computed in another thread: the same ones in order, and never more of them than asked for."""

import threading

import pytest

from diptych.runtime.ahead import ahead
from diptych.runtime.errors import DiptychError


def numbers(started, count=6):
    """0, 1, ..., each announced in `started` before it is computed."""
    for number in range(count):
        started[number].set()
        yield number, threading.get_ident()


def events(count=6):
    return [threading.Event() for _ in range(count)]


@pytest.mark.parametrize("depth", [1, 2, 10])
def test_items_come_in_order_from_one_other_thread(depth):
    items = list(ahead(numbers(events()), depth))
    assert [number for number, _ in items] == [*range(6)]
    assert len({thread for _, thread in items} - {threading.get_ident()}) == 1


@pytest.mark.parametrize("depth", [1, 2])
def test_an_item_is_computed_while_the_one_before_is_used_and_none_beyond_the_depth(depth):
    started = events()
    items = ahead(numbers(started), depth)
    next(items)
    assert all(event.wait(10) for event in started[1 : depth + 1])
    assert not started[depth + 1].is_set()
    next(items)
    assert started[depth + 1].wait(10)
    items.close()
    assert not started[depth + 2].is_set()


def test_closing_ends_the_thread_and_the_generator():
    closed = []

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    before = set(threading.enumerate())
    items = ahead(endless())
    next(items)
    assert set(threading.enumerate()) > before
    items.close()
    assert closed
    assert set(threading.enumerate()) == before


def test_an_error_is_raised_where_its_item_is_asked_for():
    def fails():
        yield 1
        raise DiptychError("damaged")

    items = ahead(fails())
    assert next(items) == 1
    with pytest.raises(DiptychError, match="damaged"):
        next(items)
