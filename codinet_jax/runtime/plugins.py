"""Modules of one's own, which register what configs name: routers, methods, loss terms, data sets.

They are imported because the user names them, with --import or in a config file, and never because a workdir does.
"""

import importlib
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Iterable

from absl import flags

from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError

flags.disclaim_key_flags()  # the flag defined here is that of the command that asks for it


class _ModuleParser(flags.ArgumentParser):
    def parse(self, argument: str) -> str:
        load([argument])
        return argument


def define_import() -> flags.FlagHolder[list[str]]:
    """The flag --import, for every command; what it names is imported while flags are parsed."""
    return flags.DEFINE_multi(
        _ModuleParser(),
        flags.ArgumentSerializer(),
        'import',
        [],
        'A module, or a .py file, that registers routers, methods, loss terms or data sets of your own',
    )


def load(names: Iterable[str]) -> None:
    """Imports modules by dotted name, or files by a path that ends in .py.

    A file becomes the module of its stem, and may import what lies beside it; what is installed comes first.

    Raises:
      InputError: one cannot be imported.
    """
    for name in names:
        module = _module(name)
        path = files.expanded(name).absolute() if _is_file(name) else None
        directory = str(path.parent if path else pathlib.Path.cwd())
        if directory not in sys.path:
            sys.path.append(directory)
        importlib.invalidate_caches()
        if path:
            _check_file(name, module, path)
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:
            raise InputError(f'{name} cannot be imported: {_sentence(error)}') from error


def check(names: Iterable[str]) -> None:
    """Refuses a run whose modules have not been imported.

    Raises:
      InputError: the first of them, and how to.
    """
    for name in names:
        if _module(name) not in sys.modules:
            raise InputError(
                f'This run uses {name}: add --import={name}, or in Python import {_module(name)} first, for nothing is '
                'imported from a workdir unasked.'
            )


def _is_file(name: str) -> bool:
    return str(name).endswith('.py')


def _module(name: str) -> str:
    """The name of the module that a plugin becomes."""
    is_file = _is_file(name)
    module = pathlib.Path(name).stem if is_file else str(name)
    if not all(part.isidentifier() for part in ([module] if is_file else module.split('.'))):
        raise InputError(
            f'{name!r} cannot be imported: give a module, as my_package.my_router, or a file, my_router.py.'
        )
    return module


def _check_file(name: str, module: str, path: pathlib.Path) -> None:
    if not path.is_file():
        raise InputError(f'{name} cannot be imported: {path} is no file.')
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or pathlib.Path(spec.origin).resolve() != path.resolve():
        raise InputError(f'{name} cannot be imported: there is another module {module!r}; rename the file.')


def _sentence(error: BaseException) -> str:
    """What went wrong, and at which line of the user's."""
    message = ' '.join(str(error).split())
    if isinstance(error, InputError):
        return message
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename not in (__file__, importlib.__file__) and frame.line]
    where = f' ({theirs[0].filename}, line {theirs[0].lineno})' if theirs else ''
    return f'{type(error).__name__}: {message}{where}.'
