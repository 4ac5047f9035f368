"""Lines for a person who waits for what takes long: none of what is soon done, then a few a minute until it is."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO, TypeVar

from codinet_jax.runtime.console import duration, log, terminal_width

T = TypeVar('T')

SECONDS_QUIET = 2.0
SECONDS_BETWEEN_LINES = 15.0


@contextlib.contextmanager
def waiting(
    what: str, total: int = 0, unit: str = 'images', *, quiet: float | None = None, file: TextIO | None = None
) -> Iterator[Callable[[int], None]]:
    """Reports every so often that something goes on, and how far it is; to be told how many are done, if it is counted.

    Args:
      what: what goes on, as 'reading images'.
      total: how many there are; 0 if they cannot be counted.
      unit: of these.
      quiet: seconds until the first line; `SECONDS_QUIET` if not given.
      file: stdout unless another is given.
    """
    count, is_done = _Count(what, total, unit), threading.Event()

    def report() -> None:
        pause = SECONDS_QUIET if quiet is None else quiet
        with contextlib.suppress(OSError):  # the program's own next line meets it as well
            while not is_done.wait(pause):
                log(count.line(time.monotonic()), file)
                pause = SECONDS_BETWEEN_LINES

    thread = threading.Thread(target=report, name='waiting', daemon=True)
    thread.start()
    try:
        yield count.update
    finally:
        is_done.set()
        thread.join()


def first_reported(
    function: Callable[..., T], what: str, *, quiet: float | None = None, file: TextIO | None = None
) -> Callable[..., T]:
    """The function; its first call, which compiles it, is reported as in `waiting`."""
    calls = itertools.count()

    def call(*arguments: Any) -> T:
        with contextlib.nullcontext() if next(calls) else waiting(what, quiet=quiet, file=file):
            return function(*arguments)

    return call


class _Count:
    """How many are done. The first also paid for what is done once, as compiling, and are left out of the rate."""

    def __init__(self, what: str, total: int, unit: str):
        self._what, self._total, self._unit = what, total, unit
        self._started = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None

    def update(self, done: int) -> None:
        self._last = done, time.monotonic()
        self._first = self._first or self._last

    def line(self, now: float) -> str:
        if self._first is None or self._last is None:
            counted = f'  0/{self._total:,} {self._unit}' if self._total else ' ...'
            return f'{self._what}{counted}  {duration(now - self._started)}'
        done, seconds = self._last[0] - self._first[0], self._last[1] - self._first[1]
        parts = [self._what, f'{self._last[0]:,}/{self._total:,} {self._unit}', f'{self._last[0] / self._total:.0%}']
        if done and seconds:
            left = (self._total - self._last[0]) * seconds / done
            parts += [f'{duration(left)} left', f'{done / seconds:,.0f} {self._unit}/s']
        while len('  '.join(parts)) > terminal_width() and len(parts) > 3:
            parts.pop()
        return '  '.join(parts)
