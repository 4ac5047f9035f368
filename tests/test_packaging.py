"""The wheel holds the whole package and nothing else, and works where there is no checkout."""

import configparser
import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from setuptools import find_packages

import helpers

SOURCES = ('codinet_jax', 'configs', 'setup.cfg', 'pyproject.toml', 'requirements.txt', 'README.md')
GENERIC = 'raise SystemExit("somebody else\'s file is imported")\n'
DRAWING = {'bokeh', 'jinja2', 'markupsafe', 'matplotlib', 'opentsne', 'scipy'}


def pip(*arguments: str | Path) -> None:
    """pip of this environment, kept from the network."""
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, text=True, env=without_checkout())


def without_checkout() -> dict[str, str]:
    """The variables but PYTHONPATH: a checkout there, with what an install left beside it, counts as installed."""
    environment = helpers.environment()
    environment.pop('PYTHONPATH', None)
    return environment


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, for what an earlier build left in build/ would be packed too."""
    directory = tmp_path_factory.mktemp('wheel')
    for name in SOURCES:
        source, copy = helpers.REPOSITORY / name, directory / 'source' / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(source, copy)
    pip('wheel', '--no-index', '--no-deps', '--no-build-isolation', '--wheel-dir', directory, directory / 'source')
    return next(directory.glob('codinet_jax-*.whl'))


@pytest.fixture(scope='module')
def installed(wheel: Path) -> Path:
    """Where the commands are of an environment that has the wheel, and all of this one's packages but the checkout."""
    directory = wheel.parent / 'environment'
    venv.create(directory, symlinks=True)
    packages = Path(sysconfig.get_path('purelib', vars={'base': str(directory)}))
    # A directory that is named so is looked in, but its .pth files, one of which may name the checkout, are not read.
    (packages / 'others.pth').write_text(sysconfig.get_path('purelib') + '\n')
    pip('--python', directory / 'bin' / 'python', 'install', '--no-index', '--no-deps', wheel)
    return directory / 'bin'


@pytest.fixture(scope='module')
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose files have the names that a checkout's have."""
    directory = tmp_path_factory.mktemp('elsewhere')
    for name in (
        'configs/__init__.py',
        'configs/default.py',
        'configs/digits_r14.py',
        'experiments.py',
        'digits_r14.py',
    ):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(GENERIC)
    return directory


def run(elsewhere: Path, *command: str | Path) -> str:
    result = subprocess.run(
        list(map(str, command)), cwd=elsewhere, env=without_checkout(), text=True, capture_output=True, timeout=600
    )
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    return result.stdout


def test_every_package_is_listed() -> None:
    setup = configparser.ConfigParser()
    setup.read(helpers.REPOSITORY / 'setup.cfg')
    found = find_packages(str(helpers.REPOSITORY), include=['codinet_jax', 'codinet_jax.*'])
    assert setup['options']['packages'].split() == sorted([*found, 'codinet_jax.configs'])


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    files = {
        f'codinet_jax/{path.relative_to(root)}' if root.name == 'codinet_jax' else f'codinet_jax/configs/{path.name}'
        for root in (helpers.REPOSITORY / 'codinet_jax', helpers.REPOSITORY / 'configs')
        for path in root.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    assert {'codinet_jax/py.typed', 'codinet_jax/analysis/page.css', 'codinet_jax/kernels/primitives.h'} < files
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.split('/')[0].endswith('.dist-info')}
    assert packed == files


def test_what_draws_is_an_extra(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith('METADATA'))
        lines = archive.read(metadata).decode().split('\n\n')[0].splitlines()
    needed = [line.removeprefix('Requires-Dist: ').lower() for line in lines if line.startswith('Requires-Dist: ')]
    always = {name for name in needed if 'extra ==' not in name}
    plots = {name for name in needed if 'extra == "plots"' in name}
    assert not {name for name in always if name.startswith(tuple(DRAWING))}
    assert {name.split('>')[0] for name in plots} == DRAWING
    assert 'codinet_jax[plots]; extra == "test"' in needed


def test_the_package_is_imported_from_the_wheel_and_nothing_generic_is(installed: Path, elsewhere: Path) -> None:
    program = (
        'import codinet_jax, importlib.metadata, importlib.util, sys; sys.path.remove(""); '
        'print(codinet_jax.__file__, codinet_jax.__version__, importlib.metadata.version("codinet_jax"), '
        'importlib.util.find_spec("configs"), importlib.util.find_spec("experiments"))'
    )
    file, *rest = run(elsewhere, installed / 'python', '-c', program).split()
    assert Path(file).is_relative_to(installed.parent)
    assert rest[0] == rest[1] and rest[2:] == ['None', 'None']


@pytest.mark.smoke
def test_a_run_by_name_beside_files_of_the_same_names(installed: Path, elsewhere: Path) -> None:
    flags = [f'--config.{name}={value}' for name, value in helpers.TINY.items()]
    run(
        elsewhere,
        installed / 'codinet',
        'main',
        '--config=digits_r14:vanilla',
        *flags,
        f'--config.data_dir={elsewhere}',
    )
    workdir = elsewhere / 'runs' / 'digits_r14_vanilla'
    results = json.loads((workdir / 'results.json').read_text())
    assert results['num_test_images'] == 355
    run(elsewhere, installed / 'python', '-m', 'codinet_jax', 'evaluate', f'--workdir={workdir}')
    again = json.loads((workdir / 'evaluation_test.json').read_text())
    assert again['top1'] == results['top1'] and again['macs_share'] == results['macs_share']
