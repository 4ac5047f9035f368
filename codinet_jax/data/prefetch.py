"""Batches made ready while the ones before are used."""

import collections
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar('T')


def prefetch(items: Iterable[T], count: int = 2) -> Generator[T, None, None]:
    """The items in their order, each made by a thread of its own up to `count` before it is asked for.

    What making one raises is raised where it is asked for. Close the iterator, or use it up, to end the thread.
    """
    iterator, end = iter(items), object()
    waiting: collections.deque[Future] = collections.deque()
    with ThreadPoolExecutor(1, 'prefetch') as thread:
        while True:
            while len(waiting) < count:
                waiting.append(thread.submit(next, iterator, end))
            item = waiting.popleft().result()
            if item is end:
                return
            yield item
