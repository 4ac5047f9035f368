"""Lines of progress, and the seconds since a command began."""

import time

_STARTED = time.perf_counter()


def seconds() -> float:
    """Since this was first imported."""
    return time.perf_counter() - _STARTED


def log(*words: object) -> None:
    print(f'[{seconds():6.1f} s]', *words, flush=True)
