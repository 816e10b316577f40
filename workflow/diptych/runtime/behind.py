"""Calls of a function carried out in a thread of their own, while the caller goes on.

    with Behind(write) as write_behind:
        for block in blocks:
            write_behind(block)      # the next block is computed while this one is written
    # everything is written here

The counterpart of `ahead`. Calls are carried out one after another in the order in which they were made.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class Behind(Generic[Item]):
    """A function of one argument in another thread, with at most `depth` calls waiting behind the running one.

    After a call that raised no further one is carried out; its exception is raised by the next call, by `wait`, or at
    the end of the block. A block that ends by an exception of its own still has its waiting calls carried out.

    Args:
        function: runs in the other thread.
        depth: calls that wait at most; a further one waits in the caller.
    """

    def __init__(self, function: Callable[[Item], None], depth: int = 1) -> None:
        self._function, self._depth = function, depth
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._calls: deque[Future[None]] = deque()
        self._failed = False

    def __call__(self, item: Item) -> None:
        """Have the function called with `item`."""
        while self._calls and (len(self._calls) > self._depth or self._calls[0].done()):
            self._calls.popleft().result()
        self._calls.append(self._thread.submit(self._carry_out, item))

    def wait(self) -> None:
        """Wait until all calls are carried out."""
        while self._calls:
            self._calls.popleft().result()

    def _carry_out(self, item: Item) -> None:
        if self._failed:
            return
        try:
            self._function(item)
        except BaseException:
            self._failed = True
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()
