"""What every command does before and around its own work: CPU devices, hosts, and errors that are the user's to mend."""

import os
import sys
from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging

from codinet_jax.errors import InputError


def start_devices(batch_size: int, *, distributed: bool = False) -> None:
    """Readies the devices; to be called before anything touches one.

    A machine without an accelerator gets one host device per core, as many as divide the batch, because XLA:CPU runs
    elementwise work inside loops on a single thread. JAX_NUM_CPU_DEVICES asks for another number.
    """
    if distributed:
        jax.distributed.initialize()
    if 'JAX_NUM_CPU_DEVICES' not in os.environ and not distributed:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        jax.config.update('jax_num_cpu_devices', max(d for d in range(1, cores + 1) if batch_size % d == 0))


def open_door(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs a command's `main` under absl; an InputError becomes one sentence and exit status 2."""

    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1:
            raise InputError(f'{argv[1]!r} is not a flag: write --name=value, and see --help.')
        if not flags.FLAGS['verbosity'].present:
            logging.set_verbosity(logging.WARNING)  # Orbax tells a dozen lines of every checkpoint
        return main(argv)

    try:
        app.run(guarded, flags_parser=_parse)
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise InputError(f'{error}; see --help.') from error
