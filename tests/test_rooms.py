"""The rooms of the house: what may import what, and how far down a config goes."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import codinet_jax

PACKAGE = Path(codinet_jax.__file__).parent

# Ground floor first. A room imports only itself and those before it.
ROOMS = (
    'runtime',
    'routing',
    'kernels',
    'models',
    'methods',
    'data',
    'config',
    'workdir',
    'evaluation',
    'training',
    'inference',
    'compiling',
    'analysis',
    'demonstration',
    'codinet_jax',  # the package's own __init__
    'commands',
)
FILES = sorted(PACKAGE.rglob('*.py'))
TAKES_CONFIG = ('config', 'workdir', 'commands')


def named(path: Path) -> str:
    """A file's dotted name."""
    return '.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts).removesuffix('.__init__')


MODULES = {named(path): path for path in FILES if path.parent.name != 'configs'}


def room(module: str) -> str:
    parts = module.split('.')
    if len(parts) == 1:
        return 'codinet_jax'
    return parts[1] if parts[1] in ROOMS else 'commands'


def statements(tree: ast.AST, *, in_functions: bool) -> Iterator[ast.stmt]:
    """All statements; or only those that are run on import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt):
            yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING' and not in_functions:
            continue
        if in_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from statements(node, in_functions=in_functions)


def imports(module: str, *, in_functions: bool) -> set[str]:
    """Whatever a module imports: modules of ours by their names, of others' by what is written."""
    found = set()
    for node in statements(ast.parse(MODULES[module].read_text()), in_functions=in_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f'{module} imports relatively'
            inner = {f'{node.module}.{alias.name}' for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inner}
    return found


def test_a_room_imports_only_those_before_it() -> None:
    later = [
        f'{module} imports {name}'
        for module in MODULES
        for name in imports(module, in_functions=module != 'codinet_jax') & MODULES.keys()
        if ROOMS.index(room(name)) > ROOMS.index(room(module))
    ]
    assert later == []


def test_nothing_imports_itself_by_a_detour() -> None:
    graph = {module: imports(module, in_functions=True) & MODULES.keys() for module in MODULES}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_no_module_imports_configs_or_experiments() -> None:
    for module in MODULES:
        for name in imports(module, in_functions=True):
            assert name.split('.')[0] not in ('configs', 'experiments', 'tests', 'helpers'), module
            assert not name.startswith('codinet_jax.configs'), module


def test_a_config_is_read_once_and_goes_no_further_down() -> None:
    taking = [
        f'{module}.{node.name}'
        for module, path in MODULES.items()
        if room(module) not in TAKES_CONFIG
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and 'ConfigDict' in signature(node)
    ]
    assert taking == []


def signature(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return ' '.join(map(ast.unparse, filter(None, (function.args, function.returns))))


def test_every_room_is_there_and_nothing_lies_beside_the_commands() -> None:
    assert {room(module) for module in MODULES} == set(ROOMS)
    beside = {path.stem for path in PACKAGE.glob('*.py') if 'command.run(main' not in path.read_text()}
    assert beside == {'__init__', '__main__', 'workdir'}


def test_the_configs_import_nothing_of_the_package_but_its_settings() -> None:
    for path in (PACKAGE.parent / 'configs').glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ''] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
                assert set(names) <= {
                    'functools',
                    'ml_collections',
                    'codinet_jax.config',
                    'codinet_jax.config.default',
                }, path.name
