"""What every command shares: one name for all of them, the config that it is given, and what a terminal can show."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

import codinet_jax
import helpers
from codinet_jax import __main__ as all_commands
from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command
from codinet_jax.runtime.errors import InputError

PACKAGE = Path(codinet_jax.__file__).parent
COMMANDS = sorted(path.stem for path in PACKAGE.glob('*.py') if 'command.run(main' in path.read_text())

SHOWS_CONFIG = """
from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command
CONFIG = config_flag.define_config('What to show.')
command.run(lambda argv: print(config_flag.read(CONFIG).model.depth, CONFIG.value.seed, CONFIG.value.loss.alpha))
"""


def run(*arguments: str, cwd: Path = helpers.REPOSITORY, **variables: str) -> subprocess.CompletedProcess[str]:
    variables = {'PYTHONPATH': str(helpers.REPOSITORY)} | variables
    environment = helpers.environment(**variables)
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, text=True, capture_output=True)


def test_a_terminal_without_greek_is_no_reason_to_stop() -> None:
    program = 'from codinet_jax.runtime import command; command.run(lambda argv: print("γ 0.5 ■□"))'
    result = run('-c', program, PYTHONIOENCODING='ascii', PYTHONUTF8='0')
    assert (result.returncode, result.stdout, result.stderr) == (0, '? 0.5 ??\n', '')


def test_all_commands_are_listed_with_what_they_do() -> None:
    assert sorted(all_commands.COMMANDS) == COMMANDS
    for given in (['--help'], ['-h'], []):
        result = run('-m', 'codinet_jax', *given)
        assert (result.returncode, result.stderr) == (0, '')
        listed = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if line.startswith('  '))
        assert sorted(listed) == COMMANDS
        for name, does in listed.items():
            docstring = ast.get_docstring(ast.parse((PACKAGE / f'{name}.py').read_text()))
            assert docstring and docstring.startswith((f'{does}:', f'{does}.')), name


def test_help_with_a_command_is_that_commands() -> None:
    asked, whole = (run('-m', 'codinet_jax', *given) for given in (('help', 'serve'), ('serve', '--help')))
    assert asked.stdout == whole.stdout and '--port' in asked.stdout


def test_who_has_read_enough_of_the_list_ends_it() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([sys.executable, '-m', 'codinet_jax'], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (result.returncode, result.stderr) == (-signal.SIGPIPE, '')


def test_it_names_its_version() -> None:
    assert run('-m', 'codinet_jax', '--version').stdout == f'codinet_jax {codinet_jax.__version__}\n'


def test_an_unknown_command_is_refused_with_the_known_ones() -> None:
    result = run('-m', 'codinet_jax', 'evalaute', '--workdir=runs')
    assert (result.returncode, result.stdout) == (2, '')
    assert result.stderr.startswith("error: There is no command 'evalaute'") and result.stderr.count('\n') == 1
    assert all(name in result.stderr for name in COMMANDS) and result.stderr.endswith('Did you mean evaluate?\n')


@pytest.mark.long
@pytest.mark.parametrize('name', ['main', 'train', 'evaluate'])
def test_a_command_by_its_short_name_is_the_command(name: str) -> None:
    result = run('-m', 'codinet_jax', name)
    wanted = 'which run: --workdir=' if name == 'evaluate' else 'what to train: --config='
    assert (result.returncode, result.stdout) == (2, '') and wanted in result.stderr
    shown = run('-m', 'codinet_jax', name, '--help')
    assert '--import' in shown.stdout and '--workdir' in shown.stdout and shown.stderr == ''
    shared = (
        {'--operating_point:', '--cost:', '0.5, as trained, if not given'} if name == 'evaluate' else {'default.py'}
    )
    assert all(text in ' '.join(shown.stdout.split()) for text in shared)


@pytest.mark.parametrize(
    ('given', 'value'), [([], True), (['--no-map'], False), (['--nomap'], False), (['-no-map'], False)]
)
def test_a_dash_after_no_is_understood(given: list[str], value: bool) -> None:
    values = flags.FlagValues()
    flags.DEFINE_bool('map', True, '', flag_values=values)
    flags.DEFINE_string('name', '', '', flag_values=values)
    command.parse(['command', *given, '--name=a'], values)
    assert (values.map, values.name) == (value, 'a')


@pytest.mark.parametrize('given', ['--no-name', '--no-other'])
def test_what_is_no_switch_is_not_switched_off(given: str) -> None:
    values = flags.FlagValues()
    flags.DEFINE_string('name', '', '', flag_values=values)
    with pytest.raises(InputError, match='Unknown command line flag'):
        command.parse(['command', given], values)


UNKNOWN = {
    'a field without its section': (
        ['--config=digits_r14', '--data_dir=a'],
        'flag --data_dir. Did you mean --config.data_dir?',
    ),
    'a field of two sections': (
        ['--config=digits_r14', '--epochs=1'],
        'Did you mean --config.stage1.epochs or --config.stage2.epochs?',
    ),
    'a field and no config': (['--config.seed=1'], 'flag --config.seed. Give --config as well.'),
    'none that is like it': (['--config=digits_r14', '--nonesuch=1'], "flag 'nonesuch'. See --help."),
    'a file': (['-an image.jpg'], 'A file of that name is given as ./-an image.jpg.'),
}


@pytest.mark.parametrize('case', UNKNOWN)
def test_a_flag_that_there_is_none_of_is_answered_by_what_there_is(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, sentence = UNKNOWN[case]
    monkeypatch.chdir(tmp_path)
    Path('-an image.jpg').touch()
    values = flags.FlagValues()
    config_flag.define_config('', flag_values=values)
    with pytest.raises(InputError) as raised:
        command.parse(['command', *given], values)
    assert str(raised.value).endswith(sentence)


def test_a_command_of_a_run_takes_no_field() -> None:
    with pytest.raises(InputError, match=r'flag --config\.seed\. This command takes no config: a run keeps its own\.'):
        command.parse(['command', '--config.seed=1'], flags.FlagValues())


# All are digits_r14, of depth 14 and alpha 0.2, unless a field says otherwise.
GIVEN = {
    'name': (['--config=digits_r14'], '14 0 0.2'),
    'two arguments': (['--config', 'digits_r14:vanilla', '--config.seed', '3'], '14 3 0.0'),
    'fields first': (['--config.seed=3', '--config.loss.alpha=0.5', '--config=digits_r14'], '14 3 0.5'),
    'a field in two arguments first': (['--config.seed', '3', '-config', 'digits_r14'], '14 3 0.2'),
    'the last one wins': (['--config=digits_r14', '--config.seed=3', '--config=cifar10_r20'], '20 3 0.2'),
    'another directory': ([f'--config={helpers.REPOSITORY}/configs/digits_r14.py'], '14 0 0.2'),
    'a file of one': (['--config=mine.py:deep', '--config.seed=3'], '110 3 0.2'),
    'a file of one, without a variant': (['--config=./mine.py'], '8 0 0.2'),
}


@pytest.fixture(scope='module')
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that has its own idea of what names mean."""
    directory = tmp_path_factory.mktemp('elsewhere')
    for name in ('digits_r14.py', 'digits_r14', 'configs.py', 'experiments.py'):
        (directory / name).write_text('raise SystemExit("the wrong file is read")\n')
    (directory / 'shows_config.py').write_text(SHOWS_CONFIG)
    (directory / 'mine.py').write_text(
        'from codinet_jax.config import default\n'
        'def get_config(variant="small"):\n'
        '    config = default.get_config()\n'
        '    config.model.depth = {"small": 8, "deep": 110}[variant]\n'
        '    return config\n'
    )
    return directory


@pytest.mark.parametrize('case', GIVEN)
def test_a_config_is_found_by_name_or_path_and_fields_come_in_any_order(elsewhere: Path, case: str) -> None:
    given, shown = GIVEN[case]
    result = run('shows_config.py', *given, cwd=elsewhere)
    assert (result.returncode, result.stdout, result.stderr) == (0, f'{shown}\n', '')


def test_a_field_that_is_wrong_is_refused_wherever_it_stands(elsewhere: Path) -> None:
    for given in (['--config.sed=3', '--config=digits_r14'], ['--config=digits_r14', '--config.sed=3']):
        result = run('shows_config.py', *given, cwd=elsewhere)
        assert (result.returncode, result.stdout) == (2, '') and "'sed'" in result.stderr


def test_an_interrupt_before_training_is_one_word_and_dies_of_its_signal(tmp_path: Path) -> None:
    module = tmp_path / 'interrupts.py'
    module.write_text('raise KeyboardInterrupt\n')
    finished = helpers.run_command('main', *helpers.tiny_flags(), f'--import={module}', f'--workdir={tmp_path / "run"}')
    assert (finished.returncode, finished.stderr) == (-signal.SIGINT, 'interrupted\n')
    assert not (tmp_path / 'run').exists()
