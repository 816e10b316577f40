"""Calls behind the caller: in order, a bounded number, none after an error, and the error reaches the caller."""

import threading

import pytest

from diptych.runtime.behind import Behind


def test_all_calls_are_carried_out_in_order_in_one_other_thread() -> None:
    written: list[int] = []
    threads: set[int] = set()

    def write(item: int) -> None:
        written.append(item)
        threads.add(threading.get_ident())

    with Behind(write) as behind:
        for item in range(20):
            behind(item)
    assert written == list(range(20))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("depth", [1, 2])
def test_the_caller_goes_on_until_depth_calls_wait(depth: int) -> None:
    going = threading.Semaphore(0)
    written: list[int] = []
    called: list[int] = []

    def write(item: int) -> None:
        going.acquire()
        written.append(item)

    def call() -> None:
        with Behind(write, depth) as behind:
            for item in range(6):
                behind(item)
                called.append(item)

    caller = threading.Thread(target=call)
    caller.start()
    for n in range(6):
        while len(called) < min(6, n + depth + 1):  # one runs, `depth` wait
            caller.join(0.001)
        assert len(called) <= n + depth + 1
        going.release()
        while len(written) <= n:
            caller.join(0.001)
    caller.join()
    assert written == called == list(range(6))


def test_after_an_error_nothing_is_carried_out_and_the_caller_sees_it() -> None:
    written: list[int] = []

    def write(item: int) -> None:
        if item == 2:
            raise OSError("No space left on device")
        written.append(item)

    def call_all(behind: Behind[int]) -> None:
        for item in range(8):
            behind(item)

    with pytest.raises(OSError, match="No space left"), Behind(write) as behind:
        call_all(behind)
    assert written == [0, 1]
    with pytest.raises(OSError, match="No space left"), Behind(write) as behind:
        behind(2)  # the last call
    with Behind(write) as behind:
        behind(2)
        with pytest.raises(OSError, match="No space left"):
            behind.wait()


def test_an_error_of_the_caller_is_its_own_and_waiting_calls_are_carried_out() -> None:
    written: list[int] = []
    with pytest.raises(KeyError, match="mine"), Behind(written.append) as behind:
        behind(1)
        behind(2)
        raise KeyError("mine")
    assert written == [1, 2]
