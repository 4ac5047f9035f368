"""The flag that names a config, and what is read of it.

`--config` is the name of a config that comes with the package, digits_r14, or the path of a file with a `get_config`;
a variant's name may follow after a colon. What it names is run while flags are parsed.
"""

import pathlib
import re
import runpy
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

from codinet_jax.config import default as settings
from codinet_jax.config.unread import unread
from codinet_jax.runtime import files, plugins
from codinet_jax.runtime.errors import InputError, meant

flags.disclaim_key_flags()  # flags defined here are those of the command that asks for them


class _ConfigParser(flags.ArgumentParser):
    def parse(self, argument: str) -> ConfigDict:
        name, colon, variant = argument.partition(':')
        path = _shipped(name) if re.fullmatch(r'\w+', name) else files.expanded(name)
        if not path.is_file():
            raise InputError(f'{path} is no file: give --config one that is there, or a name, as digits_r14.')
        config = _run(path, [variant] if colon else [])
        config.lock()  # so that no field can be set that is not there
        return config


def _run(path: pathlib.Path, variants: list[str]) -> ConfigDict:
    """What a config file's get_config returns."""
    try:
        get_config = runpy.run_path(str(path), run_name='config').get('get_config')
        if get_config is None:
            raise InputError(f'{path} has no get_config: write a function of that name that returns a config.')
        config = get_config(*variants)
    except InputError:
        raise
    except SyntaxError as error:
        line = f', line {error.lineno}' if error.lineno else ''
        raise InputError(f'{error.filename or path}{line}: {error.msg}; --config takes a Python file.') from error
    except (Exception, SystemExit) as error:  # it is the user's program
        raise InputError(f'{path} fails with {type(error).__name__}: {error}; --config runs its get_config.') from error
    if not isinstance(config, ConfigDict) or isinstance(config, FrozenConfigDict):
        raise InputError(
            f'get_config of {path} returns a {type(config).__name__}: return a changed '
            'codinet_jax.config.default.get_config().'
        )
    missing = settings.missing(config)
    if missing:
        raise InputError(
            f'get_config of {path} returns a config without {missing[0]}: begin with '
            'codinet_jax.config.default.get_config() and change that.'
        )
    return config


def define_config(
    help_string: str, default: str | None = None, flag_values: flags.FlagValues = flags.FLAGS
) -> flags.FlagHolder[ConfigDict]:
    """The flag --config, and one for each of the config's fields, as --config.loss.alpha."""
    about = f'{help_string} Its fields, with defaults and meanings: {settings.__file__}'
    try:
        holder = config_flags.DEFINE_config_file('config', help_string=about, flag_values=flag_values)
    except flags.Error as error:  # ml_collections looks for overrides in a --flagfile now, before a command runs
        print(f'error: --flagfile cannot be read ({error}): give the path of a file of flags.', file=sys.stderr)
        sys.exit(2)
    flag_values['config'].parser = _ConfigParser()
    if default is not None:
        flags.set_default(holder, default)
    return holder


def shares(texts: Sequence[str]) -> list[float]:
    """What a --target_cost lists.

    Raises:
      InputError: it is no list of shares of the static network's MACs.
    """
    try:
        numbers = [float(text) for text in texts]
    except ValueError as error:
        raise InputError(
            f'--target_cost is {",".join(texts)}: give numbers split by commas, as 0.4 or 0.4,0.6.'
        ) from error
    if not all(0 < number < 2 for number in numbers):
        raise InputError(
            "Say what the mean image may cost, as a share of the static network's MACs: --target_cost=0.4."
        )
    return numbers


def read(flag: flags.FlagHolder[ConfigDict], wanted: str = 'what to train: ') -> ConfigDict:
    """The config that --config names, overrides applied, the modules that it lists imported.

    Of overrides that nothing reads, or that give way, stderr is told.

    Raises:
      InputError: none is named, where `wanted` begins the sentence; or a module cannot be imported.
    """
    if flag.value is None:
        raise InputError(f'Say {wanted}--config=digits_r14, or another name or file.')
    settings.check_types(flag.value)
    plugins.load(flag.value.imports)
    for sentence in unread(flag.value, config_flags.get_override_values(flags.FLAGS[flag.name])):
        print(f'warning: {sentence}', file=sys.stderr)
    return flag.value


def _shipped(name: str) -> pathlib.Path:
    """The file of a config that comes with the package; in a checkout it lies beside it.

    Raises:
      InputError: there is none of this name.
    """
    package = pathlib.Path(__file__).parents[1]
    directory = package / 'configs' if (package / 'configs').is_dir() else package.parent / 'configs'
    known = sorted(path.stem for path in directory.glob('[!_]*.py'))
    if name not in known:
        raise InputError(
            f'There is no config {name!r}: give one of {", ".join(known)}, or a path that ends in .py.'
            f'{meant(name, known)}'
        )
    return directory / f'{name}.py'
