"""What every command does before and around its own work: devices, and errors that are the user's to fix."""

import atexit
import errno
import functools
import gc
import importlib.util
import io
import itertools
import os
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn

import jax
from absl import app, flags, logging

from codinet_jax.runtime import files, memory
from codinet_jax.runtime.errors import InputError

flags.disclaim_key_flags()  # flags defined here are those of the command that asks for them


def start_devices(batch_size: int = 0, *, trains: bool = False) -> None:
    """Readies the devices of a process alone; to be called before anything touches one.

    A machine without an accelerator gets one host device per core, as many as divide the batch if there is one size of
    it, because XLA:CPU runs elementwise work inside loops on a single thread. JAX_NUM_CPU_DEVICES asks for another
    number. Where it `trains`, the process keeps its memory (`memory.keep`).
    """
    if 'JAX_NUM_CPU_DEVICES' not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        try:
            jax.config.update('jax_num_cpu_devices', max(d for d in range(1, cores + 1) if batch_size % d == 0))
        except RuntimeError as error:
            raise InputError(
                'A module of --import, or the file of --config, made a JAX array while it was imported: let it make '
                'arrays inside functions.'
            ) from error
    # Left in the key, the address of a callback has what trains on a CPU compiled anew in spite of a compilation cache.
    jax.config.update('jax_remove_custom_partitioning_ptr_from_cache_key', True)
    if trains and not _may_have_accelerator():
        memory.keep()


def _may_have_accelerator() -> bool:
    """What can be known before anything touches a device, by what is installed."""
    if platforms := jax.config.values['jax_platforms']:
        return str(platforms) != 'cpu'
    return any(importlib.util.find_spec(name) for name in ('jax_plugins', 'libtpu'))


class NamedNetwork(NamedTuple):
    """Which network a command is about: one of a workdir, an exported directory, and a name in the package."""

    workdir: str | None = None
    exported: str | None = None
    pretrained: str | None = None

    @property
    def name(self) -> str:
        """What it is called: its directory's name, or its own."""
        return self.pretrained or files.expanded(self.exported or self.workdir or '').absolute().name


class NetworkFlags(NamedTuple):
    """The flags of which one says which network a command is about."""

    workdir: flags.FlagHolder[str | None]
    exported: flags.FlagHolder[str | None]
    pretrained: flags.FlagHolder[str | None]

    def given(self, wanted: str) -> NamedNetwork:
        """Their values.

        Raises:
          InputError: not one of them is given, but none or several; `wanted` is what the sentence asks for.
        """
        values = [flag.value for flag in self]
        if sum(map(bool, values)) != 1:
            raise InputError(f'Say {wanted}: --workdir=RUN, --exported=DIRECTORY or --pretrained=cifar10.')
        return NamedNetwork(*values)


def define_network() -> NetworkFlags:
    """The flags --workdir, --exported and --pretrained, of which one is to be given."""
    return NetworkFlags(
        flags.DEFINE_string('workdir', None, 'The directory of a finished run, as runs/digits_r14.'),
        flags.DEFINE_string('exported', None, 'In place of a run: what codinet_jax.export or cascade wrote.'),
        flags.DEFINE_string('pretrained', None, 'In place of a run: the network that comes with the package, cifar10.'),
    )


class ListeningFlags(NamedTuple):
    """The flags that say where a server listens, and how much it lets in."""

    host: flags.FlagHolder[str]
    port: flags.FlagHolder[int]
    allowed_hosts: flags.FlagHolder[list[str]]
    max_upload_mb: flags.FlagHolder[float]


def define_listening() -> ListeningFlags:
    """The flags --host, --port, --allowed_hosts and --max_upload_mb."""
    return ListeningFlags(
        flags.DEFINE_string('host', '127.0.0.1', 'The address to listen at; 0.0.0.0 is every one of this machine.'),
        flags.DEFINE_integer(
            'port', 8000, 'The port to listen at; 0 takes a free one.', lower_bound=0, upper_bound=65535
        ),
        flags.DEFINE_list(
            'allowed_hosts',
            [],
            'Other names that it goes by than localhost and its address, as demo.example.org; * is any.',
        ),
        flags.DEFINE_float('max_upload_mb', 20.0, 'Megabytes of a request; more get 413.', lower_bound=0.001),
    )


def check_serving() -> None:
    """To be called before a command makes ready to serve.

    Raises:
      InputError: a package for it is not installed.
    """
    packages = ('starlette', 'uvicorn', 'python_multipart')
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"Serving needs {', '.join(missing)}: pip install 'codinet_jax[serve]'.")


def define_operating_point() -> tuple[flags.FlagHolder[str | None], flags.FlagHolder[float | None]]:
    """The flags --operating_point and --cost, of which one may be given."""
    point = flags.DEFINE_string(
        'operating_point',
        None,
        'A threshold that codinet_jax.calibrate found, by its name; 0.5, as trained, if not given.',
    )
    flags.DEFINE_alias('budget', 'operating_point')  # its name in older versions
    cost = flags.DEFINE_float(
        'cost', None, "Wanted share of the static network's MACs, as 0.5, on the curve of codinet_jax.calibrate."
    )
    flags.mark_flags_as_mutual_exclusive(['operating_point', 'cost'])
    return point, cost


def output_file(flag: flags.FlagHolder[str | None]) -> pathlib.Path | None:
    """The file that a flag names, which can be written as far as one sees now; None if it names none.

    Raises:
      InputError: it is a directory or a device, or in a directory that is not there or may not be written.
    """
    if flag.value is None:
        return None
    path = files.expanded(flag.value)
    with files.reading(path):
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise InputError(f'{path} cannot be written: give --{flag.name} a file in a directory that is there.')
    files.check_writable(files.target(path).parent)
    return path


def run(main: Callable[[Sequence[str]], int | None], *, takes_arguments: bool = False) -> None:
    """Runs a command's `main` under absl; an InputError becomes one sentence and exit status 2."""

    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1 and not takes_arguments:
            raise InputError(f'{argv[1]!r} is not a flag: write --name=value, and see --help.')
        if not flags.FLAGS['verbosity'].present:
            # Orbax logs a dozen lines of every checkpoint, and hundreds of one that could not be written, which is
            # then reported in a sentence.
            logging.set_verbosity(logging.FATAL)
        status = main(argv)
        sys.stdout.flush()  # what cannot be written is met here, and not when nothing can be reported any more
        return status

    # A stream that was closed is None, and what is printed to that goes to the other one.
    sys.stdout, sys.stderr = (
        stream or os.fdopen(os.open(os.devnull, os.O_WRONLY), 'w') for stream in (sys.stdout, sys.stderr)
    )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='replace')  # no run is lost for a terminal that has no gamma
    atexit.register(gc.freeze)  # else Python looks for garbage in all that was imported, as it ends: half a second
    sys.argv[:] = _config_first(sys.argv)
    try:
        app.run(guarded, flags_parser=parse)
    except InputError as error:
        _fail(str(error))
    except KeyboardInterrupt:  # a traceback would say no more, and a shell is to see that it was one
        print('interrupted', file=sys.stderr, flush=True)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    except BrokenPipeError:  # who was reading has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.filename is not None and (refusal := files.refused(os.fspath(error.filename), error)):
            _fail(str(refusal))
        if error.errno != errno.ENOSPC:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail(f'What this command prints cannot be written ({error.strerror}): make room where it goes.')
    except (RuntimeError, AssertionError) as error:
        if not _is_of_a_backend(error):
            raise
        reason = (str(error).splitlines() or ['none'])[0].rstrip('.')
        _fail(
            f'JAX finds no device of JAX_PLATFORMS={os.environ.get("JAX_PLATFORMS", "")} ({reason}): unset it, or '
            'install the JAX that has them, as `pip install "jax[cuda13]"`.'
        )


def _fail(sentence: str) -> NoReturn:
    print(f'error: {files.printable(sentence)}', file=sys.stderr)
    sys.exit(2)


def _is_of_a_backend(error: BaseException) -> bool:
    """Whether JAX raised it while it looked for devices that JAX_PLATFORMS asks for."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(os.environ.get('JAX_PLATFORMS')) and any(frame.name == 'backends' for frame in frames)


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Sets flags from a command line, and returns what is left of it.

    Raises:
      InputError: a flag or a field is unknown, or cannot have that value.
    """
    given, unset = _without_unset([_plainly_negated(argument, values) for argument in argv])
    try:
        rest = values(given)
        for name in unset:
            _unset(values, name)
        return rest
    except InputError:
        raise
    except flags.UnrecognizedFlagError as error:
        advice = _meant(error.flagname, argv, values)
        raise InputError(f'There is no flag --{error.flagname}. {advice}' if advice else _sentence(error)) from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error.__context__, InputError):  # absl has put the flag and its value before the sentence
            raise error.__context__ from None
        raise InputError(_sentence(error)) from error


def _plainly_negated(argument: str, values: flags.FlagValues) -> str:
    """`--no-map` as absl would have it, --nomap, where --map is to be had or not."""
    match = re.fullmatch(r'--?no-(\w+)', argument)
    is_boolean = match and match.group(1) in values and values[match.group(1)].boolean
    return f'--no{match.group(1)}' if match and is_boolean else argument


def _without_unset(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line without its `--config.x=None`, and the names of these fields: None is no text and no number."""
    matches = [re.fullmatch(r'--?config\.([\w.]+)=None', argument) for argument in argv]
    given = [argument for argument, match in zip(argv, matches, strict=True) if not match]
    return given, [match.group(1) for match in matches if match]


def _unset(values: flags.FlagValues, name: str) -> None:
    section, _, field = name.rpartition('.')
    config = values['config'].value
    if config is None:
        raise InputError(f'--config.{name}=None has no config to change: give --config as well.')
    owner = functools.reduce(lambda found, part: found[part], section.split('.') if section else [], config)
    if field not in owner:
        raise KeyError(field)
    with owner.ignore_type():
        owner[field] = None


def _config_first(argv: Sequence[str]) -> list[str]:
    """A command line with its last --config before all fields: ml_collections, which reads sys.argv, wants it so."""
    config, others, rest = [], [], iter(argv[1:])
    for argument in rest:
        if argument == '--':
            others += [argument, *rest]
        elif argument in ('--config', '-config'):
            config = [argument, *itertools.islice(rest, 1)]
        elif argument.startswith(('--config=', '-config=')):
            config = [argument]
        else:
            others.append(argument)
    return [argv[0], *config, *others]


def _meant(name: str, argv: Sequence[str], values: flags.FlagValues) -> str:
    """What to write in place of a flag that there is none of, in a sentence, if one can know."""
    if f'-{name}' in argv and os.path.lexists(f'-{name}'):
        return f'A file of that name is given as ./-{name}.'
    takes_config = 'config' in values
    if name.startswith('config.'):
        return 'Give --config as well.' if takes_config else 'This command takes no config: a run keeps its own.'
    config = values['config'].value if takes_config else None
    fields = [field for field in _fields(config.to_dict() if config else {}) if field.endswith(f'.{name}')]
    return f'Did you mean {" or ".join(f"--{field}" for field in fields)}?' if fields else ''


def _fields(config: Mapping[str, object], above: str = 'config') -> Iterator[str]:
    for name, value in config.items():
        yield from _fields(value, f'{above}.{name}') if isinstance(value, Mapping) else [f'{above}.{name}']


def _sentence(error: Exception) -> str:
    """What a flag's error says to a person."""
    text: object = error
    while isinstance(text, Exception) and text.args:  # ml_collections wraps a KeyError in an AttributeError
        text = text.args[0]
    cause = error.__context__
    if cause is not None and len(cause.args) > 1:  # absl writes out all of them, as a tuple
        text = str(text).replace(str(cause), str(cause.args[0]))
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    if isinstance(error, AttributeError | KeyError):
        return f'The config has no such field: {". ".join(lines)}'
    what = ' '.join(lines)
    return f'{what}{"" if what.endswith((".", "?")) else "."} See --help.'
