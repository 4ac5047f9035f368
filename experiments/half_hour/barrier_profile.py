"""`codinet_jax.profile`, many at once: all compile together, and then each takes its steps alone.

    WORK=DIR NAME=loop EXPECT=7 UNTIL=1780000000 python -m experiments.half_hour.barrier_profile --config=...

Between compiling and timing it leaves WORK/ready/NAME and waits until EXPECT files lie there, or until UNTIL, in
seconds of the epoch. Whoever starts it leaves the file of one that fails.
"""

import fcntl
import os
import pathlib
import time
from collections.abc import Iterator
from typing import IO, Any

from codinet_jax import profile
from codinet_jax.runtime import command


def install() -> None:
    """Makes steps wait; before any of the product has asked for a device."""
    from codinet_jax.training import profiling

    work, name = pathlib.Path(os.environ['WORK']), os.environ['NAME']
    expect, until = int(os.environ['EXPECT']), float(os.environ['UNTIL'])
    take_steps = profiling._in_training
    held: list[IO[str]] = []  # the lock, until the process ends

    def waiting(executable: Any, state: Any, ready: Iterator[Any], num_steps: int) -> Any:
        if not held:
            compiled = work / 'ready'
            compiled.mkdir(parents=True, exist_ok=True)
            (compiled / name).touch()
            while len(list(compiled.iterdir())) < expect and time.time() < until:
                time.sleep(0.2)
            held.append((work / 'lock').open('w'))
            fcntl.flock(held[0], fcntl.LOCK_EX)
            print(f'{name} takes its steps now', flush=True)
        return take_steps(executable, state, ready, num_steps)

    profiling._in_training = waiting


if __name__ == '__main__':
    install()
    command.run(profile.main)
