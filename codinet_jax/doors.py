"""What every command does before and around its own work: devices, and errors that are the user's to mend."""

import io
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from codinet_jax.errors import InputError
from codinet_jax.workdir import Workdir


def start_devices(batch_size: int = 0) -> None:
    """Readies the devices of a process alone; to be called before anything touches one.

    A machine without an accelerator gets one host device per core, as many as divide the batch if there is one size of
    it, because XLA:CPU runs elementwise work inside loops on a single thread. JAX_NUM_CPU_DEVICES asks for another
    number.
    """
    if 'JAX_NUM_CPU_DEVICES' not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        jax.config.update('jax_num_cpu_devices', max(d for d in range(1, cores + 1) if batch_size % d == 0))


def read_config(flag: flags.FlagHolder[ConfigDict], wanted: str = 'what to train: ') -> ConfigDict:
    """The config that a flag of ml_collections names, overrides applied; `wanted` begins the sentence if it is missing.

    Raises:
      InputError: none is named, or its file is not there.
    """
    try:
        if flag.value is not None and flag.value.keys():
            return flag.value
    except OSError as error:
        raise InputError(f'{config_flags.get_config_filename(flags.FLAGS[flag.name])} cannot be read.') from error
    raise InputError(f'Say {wanted}--config=configs/digits_r14.py, or another file of that kind.')


def named_workdir(flag: flags.FlagHolder[str | None]) -> Workdir:
    """The workdir that a flag names.

    Raises:
      InputError: it names none.
    """
    if flag.value is None:
        raise InputError('Say which run: --workdir=DIRECTORY.')
    return Workdir(flag.value)


def output_file(flag: flags.FlagHolder[str | None]) -> pathlib.Path | None:
    """The file that a flag names, which can be written as far as one sees now; None if it names none.

    Raises:
      InputError: it is a directory, or in one that is not there.
    """
    if flag.value is None:
        return None
    path = pathlib.Path(flag.value).expanduser()
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f'{path} cannot be written: give --{flag.name} a file in a directory that is there.')
    return path


def open_door(main: Callable[[Sequence[str]], int | None], *, takes_arguments: bool = False) -> None:
    """Runs a command's `main` under absl; an InputError becomes one sentence and exit status 2."""

    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1 and not takes_arguments:
            raise InputError(f'{argv[1]!r} is not a flag: write --name=value, and see --help.')
        if not flags.FLAGS['verbosity'].present:
            # Orbax tells a dozen lines of every checkpoint, and hundreds of one that could not be written, which is
            # then told of in a sentence.
            logging.set_verbosity(logging.FATAL)
        return main(argv)

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='replace')  # no run is lost for a terminal that has no gamma
    try:
        app.run(guarded, flags_parser=parse)
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # who was reading has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Sets flags from a command line, and returns what is left of it.

    Raises:
      InputError: a flag or a field is unknown, or cannot have that value.
    """
    try:
        return values(argv)
    except InputError:
        raise
    except SyntaxError as error:
        raise InputError(
            f'{error.filename}, line {error.lineno}: {error.msg}; --config takes a Python file.'
        ) from error
    except OSError as error:  # a field is set, of a config file that is not there
        raise InputError(f'{str(error).splitlines()[-1].strip()}: give --config a file that is there.') from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    """What a flag's error says to a person; a config file's own error sits in a traceback inside the flag's."""
    text: object = error
    while isinstance(text, Exception) and text.args:  # ml_collections wraps a KeyError in an AttributeError
        text = text.args[0]
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    if own := [line for line in lines if line.startswith(f'{InputError.__module__}.{InputError.__name__}: ')]:
        return own[-1].split(': ', 1)[1]
    if isinstance(error, AttributeError | KeyError):
        return f'The config has no such field: {" ".join(lines)}'
    return ' '.join([*lines, 'See --help.'])
