"""All commands under one name: `codinet main --config=digits_r14`, or `python -m codinet_jax main`."""

import ast
import pathlib
import runpy
import signal
import sys

from codinet_jax import __version__
from codinet_jax.runtime.errors import meant

COMMANDS = (
    'main',
    'evaluate',
    'calibrate',
    'predict',
    'serve',
    'demo',
    'export',
    'cascade',
    'benchmark',
    'analyze',
    'compare',
    'import_weights',
    'profile',
    'compile',
)
ALIASES = {'train': 'main'}


def main() -> None:
    """Runs the command that the first argument names, as `python -m codinet_jax.NAME` does."""
    if sys.argv[1:2] == ['help'] and len(sys.argv) > 2:
        sys.argv[1:] = [sys.argv[2], '--help']
    name = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if name in ('--help', '-h', 'help'):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # of `| head`, as other programs do
        print(_overview())
    elif name == '--version':
        print(f'codinet_jax {__version__}')
    elif name in COMMANDS or name in ALIASES:
        del sys.argv[1]
        runpy.run_module(f'codinet_jax.{ALIASES.get(name, name)}', run_name='__main__', alter_sys=True)
    else:
        hint = meant(name, (*COMMANDS, *ALIASES))
        print(f'error: There is no command {name!r}; the commands are {", ".join(COMMANDS)}.{hint}', file=sys.stderr)
        sys.exit(2)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f'  {name:{width}}  {_first_line(name)}' for name in COMMANDS]
    aliases = [f'{alias} is {name}' for alias, name in ALIASES.items()]
    return '\n'.join(['codinet COMMAND --name=value ...', '', *lines, '', f'{", ".join(aliases)}. See COMMAND --help.'])


def _first_line(name: str) -> str:
    """What a command does, without importing it, which takes seconds."""
    docstring = ast.get_docstring(ast.parse(pathlib.Path(__file__).with_name(f'{name}.py').read_text())) or ''
    return docstring.splitlines()[0].split(': `')[0].rstrip(':.')


if __name__ == '__main__':
    main()
