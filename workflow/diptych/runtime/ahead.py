"""Items of a generator computed in a thread of their own, before they are asked for.

    for part in ahead(read_parts()):        # the next part is read while this one is used
        use(part)

The generator runs in one thread and goes on past an item only when the next one but `depth` is asked for: with
`depth` 1 and two places to write to in turn, it never writes where the caller still reads.
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Generator[Item], depth: int = 1) -> Generator[Item]:
    """The items of a generator in order, each computed up to `depth` items before it is asked for.

    An exception of the generator is raised where its item is asked for. Closing waits for the item being computed,
    then closes the generator.

    Args:
        items: runs in another thread from the first item on.
        depth: items computed beyond the last one asked for.
    """
    end = object()
    thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        waiting = deque(thread.submit(next, items, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield item  # type: ignore[misc]
    finally:
        thread.shutdown(cancel_futures=True)
        items.close()
