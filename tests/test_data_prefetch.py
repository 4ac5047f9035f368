"""Batches are made ahead of their use, in order, and what goes wrong in making one is not lost."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from codinet_jax.data.prefetch import prefetch


def test_items_come_in_their_order_and_end() -> None:
    assert list(prefetch(iter(range(20)))) == list(range(20))
    assert list(prefetch([])) == []


def test_so_many_are_made_before_they_are_asked_for() -> None:
    made: list[int] = []
    third = threading.Event()

    def making() -> Iterator[int]:
        for i in itertools.count():
            made.append(i)
            if i == 3:
                third.set()
            yield i

    items = prefetch(making(), count=3)
    assert next(items) == 0 and made[0] == 0
    assert next(items) == 1
    assert third.wait(10), 'item 3 is made though 2 was not asked for'
    items.close()
    assert len(made) == 4 and not [thread for thread in threading.enumerate() if thread.name.startswith('prefetch')]


def test_an_error_is_raised_where_its_item_is_asked_for() -> None:
    items = prefetch(1 // (2 - i) for i in range(4))
    assert next(items) == 0 and next(items) == 1
    with pytest.raises(ZeroDivisionError):
        next(items)
