"""Several processes that train one run: how they join, what they agree on, and how none waits for one that is gone."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from codinet_jax.runtime.errors import InputError, first_line

T = TypeVar('T')

# Hosts may get their command, or their container, at different times.
JOINING_SECONDS = 300
# A host is missed within this time. Where devices wait for a dead one's part in silence, as GPUs do, nothing else ends
# the others; JAX's own 100 s are long for a person who waits.
HEARTBEAT_SECONDS = 30
# The first host's end takes the others with it; so it leaves last, and they can say what they have to say.
FIRST_LEAVES_AFTER_SECONDS = 3

# Speaks when who started it is gone, unless it has been sent something.
EPITAPH = 'import sys; sys.stdin.read(1) or print(sys.argv[1], file=sys.stderr)'
NOT_JOINED = (
    'error: the processes did not find each other; start all of them within five minutes, each with the same '
    'coordinator and number of processes, and see that they can reach the port of process 0.'
)
ENDED_EARLY = (
    'error: the run ended early on this host; if nothing above says why, another host died or cannot be reached. '
    'The same command on all hosts goes on from the last checkpoint.'
)


@dataclasses.dataclass(frozen=True)
class Host:
    """One of `count` processes that share every global batch: its rows are the `index`-th of so many equal parts."""

    index: int = 0
    count: int = 1

    def rows(self, batch_size: int) -> slice:
        """This host's rows of a global batch, whose size `count` divides."""
        share = batch_size // self.count
        return slice(self.index * share, (self.index + 1) * share)


@contextlib.contextmanager
def joined(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Iterator[None]:
    """Joins the other processes, and on leaving the context waits for them: what ends it must happen to all of them.

    An InputError from `together` does, and passes. Anything else ends this process at once, and so all of them.

    Args:
      coordinator: HOST:PORT of the process 0; None with the other two where Cloud TPU or Slurm know them.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      InputError: some are given and some not, or one cannot be, or the others cannot be joined.
    """
    _check_cluster(coordinator, num_processes, process_id)
    with _epitaph(NOT_JOINED):
        try:
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                initialization_timeout=JOINING_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
        except (ValueError, RuntimeError) as error:
            reason = first_line(error)
            if coordinator:
                raise InputError(
                    f'Process {process_id} cannot join at {coordinator} ({reason}): give --coordinator another free '
                    'port of the machine of process 0.'
                ) from error
            raise InputError(
                f'--distributed finds no cluster ({reason}): leave it out on one machine, and on several give '
                '--coordinator, --num_processes and --process_id.'
            ) from error
    with _epitaph(ENDED_EARLY):
        try:
            yield
        except InputError:
            jax.distributed.shutdown()
            raise
        except BaseException as error:
            _leave(error)
        jax.distributed.shutdown()


@contextlib.contextmanager
def none_alone(*passing: type[Exception]) -> Iterator[None]:
    """Ends this process at once, no clean-up waited for, if it fails where the others go on; `passing` happens to all.

    A process alone is left as it is.
    """
    try:
        yield
    except passing:
        raise
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        _leave(error)


def this() -> Host:
    """Which rows of a global batch this process is to supply."""
    return Host(jax.process_index(), jax.process_count())


def together(work: Callable[[], T]) -> T:
    """Does something on every host and waits for all; what is the user's to fix on one of them is raised on all."""
    if jax.process_count() == 1:
        return work()
    result, sentence = None, ''
    try:
        result = work()
    except InputError as error:
        sentence = str(error)
    if sentences := [text for text in _from_all_hosts(sentence) if text]:
        raise InputError(sentences[0])
    return result  # type: ignore[return-value]  # None only where work returned it


def of_first(answer: bool) -> bool:
    """What the first host answers, on every host."""
    return bool(_from_all_hosts('yes' if answer else '')[0])


def sent_by_first(value: Any) -> Any:
    """What the first host has, on every host, as it is after JSON; None stands for it on the others."""
    return json.loads(_from_all_hosts(json.dumps(value))[0])


def arrays_of_first(tree: Any) -> Any:
    """The arrays that the first host has, as NumPy's, on every host: what is drawn or fitted on processors of several
    kinds may differ in its last bits.
    """
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def _from_all_hosts(text: str) -> list[str]:
    encoded = text.encode(errors='backslashreplace')
    longest = max(1, int(np.max(multihost_utils.process_allgather(np.int32(len(encoded))))))
    rows = multihost_utils.process_allgather(np.frombuffer(encoded.ljust(longest, b'\0'), np.uint8))
    return [np.asarray(row).tobytes().rstrip(b'\0').decode(errors='ignore') for row in rows]


def _check_cluster(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise InputError('Give --coordinator, --num_processes and --process_id together, or none of them.')
    if coordinator is None or num_processes is None or process_id is None:
        return
    if not re.fullmatch(r'.+:\d+', coordinator):
        raise InputError(
            f'--coordinator is {coordinator!r}: write HOST:PORT, any free port of the machine of process 0.'
        )
    if not 0 <= process_id < num_processes:
        raise InputError(f'--process_id is {process_id}: number the {num_processes} processes from 0.')


@contextlib.contextmanager
def _epitaph(sentence: str) -> Iterator[None]:
    """Sees to it that a sentence is said even if JAX's own threads abort this process: that cannot be caught in it."""
    # Its own session, because Ctrl-C is for this process alone.
    with subprocess.Popen(
        [sys.executable, '-I', '-S', '-c', EPITAPH, sentence],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as speaker:
        try:
            yield
        finally:
            speaker.communicate(b'.')


def _leave(error: BaseException) -> NoReturn:
    if isinstance(error, InputError):
        print(f'error: {error}', file=sys.stderr)
    elif isinstance(error, jax.errors.JaxRuntimeError) or 'Gloo' in str(error):  # a ValueError, where arrays are read
        print(f'error: {first_line(error)}', file=sys.stderr)
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(FIRST_LEAVES_AFTER_SECONDS)
    # No sys.exit: on the way out JAX and Orbax wait for the others, who wait for this one.
    os._exit({InputError: 2, KeyboardInterrupt: 128 + signal.SIGINT}.get(type(error), 1))
