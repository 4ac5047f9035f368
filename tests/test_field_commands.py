"""What users of commands have met elsewhere: one sentence, status 2, nothing written."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from absl import flags as absl_flags

import helpers
from codinet_jax.config import default
from codinet_jax.config import flags as config_flag
from codinet_jax.data import found
from codinet_jax.models import weights_file
from codinet_jax.runtime import command, files
from codinet_jax.runtime.errors import InputError

CONFIGS = {
    'dict': ("def get_config(): return {'seed': 1}", 'returns a dict: return a changed codinet_jax.config.default'),
    'partial': (
        "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'seed': 1})",
        'returns a config without accumulate_steps: begin with',
    ),
    'raises': ('def get_config(): return 1 / 0', 'fails with ZeroDivisionError: division by zero'),
    'nothing': ('x = 1', 'has no get_config'),
    'ends': ('import sys\nsys.exit(0)', 'fails with SystemExit: 0'),
    'zero': ('\0', r'mine.py: source code string cannot contain null bytes'),
    'syntax': ('def get_config(:', r'mine.py, line 1: invalid syntax'),
    'frozen': (
        'from ml_collections import FrozenConfigDict\nfrom codinet_jax.config import default\n'
        'def get_config(): return FrozenConfigDict(default.get_config())',
        'returns a FrozenConfigDict: return a changed',
    ),
}


def refused(result: subprocess.CompletedProcess[str]) -> str:
    (line,) = result.stderr.strip().splitlines()
    assert result.returncode == 2 and line.startswith('error: '), result.stderr
    return line


@pytest.mark.parametrize(
    ('name', 'flags'),
    [
        ('main', ['--config=digits_r14', '--workdir=~nobody1/x']),
        ('main', ['--config=digits_r14', '--config.data_dir=~nobody1/x', '--workdir=WORKDIR']),
        ('evaluate', ['--workdir=~nobody1/x']),
        ('import_weights', ['--source=~nobody1/x.pth', '--output=x.npz']),
        ('benchmark', ['--config=digits_r14', '--output=~nobody1/x.json']),
    ],
)
def test_a_home_of_nobody_is_refused_and_never_made(tmp_path: Path, name: str, flags: list[str]) -> None:
    given = [flag.replace('WORKDIR', str(tmp_path / 'run')) for flag in flags]
    assert 'names the home of a user who is not here' in refused(helpers.run_command(name, *given))
    assert not list(helpers.REPOSITORY.glob('~*')) and not list(tmp_path.iterdir())


def test_a_home_is_written_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    assert files.expanded('~/x') == tmp_path / 'x' and files.expanded('x~y') == Path('x~y')


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_file_that_gives_no_config_is_named(tmp_path: Path, name: str) -> None:
    content, sentence = CONFIGS[name]
    (tmp_path / 'mine.py').write_text(content)
    with pytest.raises(InputError, match=r'mine\.py') as found:
        config_flag._ConfigParser().parse(str(tmp_path / 'mine.py'))
    assert sentence in str(found.value)
    assert not default.missing(default.get_config())


@pytest.mark.long
def test_a_field_is_unset_and_a_fixed_one_is_not(tmp_path: Path) -> None:
    flags = ['--config.loss.target_cost=None', '--config.init_from=None', '--config=digits_r14']
    run = helpers.run_command(
        'main', *flags, '--config.stage1.epochs=0', '--config.stage2.epochs=0', f'--workdir={tmp_path}'
    )
    assert run.returncode == 0, run.stderr
    config = (tmp_path / 'config.json').read_text()
    assert '"target_cost": null' in config and '"init_from": null' in config
    assert 'seed is None' in refused(helpers.run_command('main', '--config=digits_r14', '--config.seed=None'))
    assert "no such field: 'x'" in refused(helpers.run_command('main', '--config=digits_r14', '--config.x=None'))


def test_a_path_that_no_file_can_have_is_named_by_whoever_meets_it(tmp_path: Path) -> None:
    """Whatever the flag: what no reader says of a path, the command does."""
    (tmp_path / 'weights.th').touch()
    flags = [f'--source={tmp_path / "weights.th"}', f'--output={tmp_path / ("x" * 300)}']
    assert 'cannot be read (File name too long): give a shorter path' in refused(
        helpers.run_command('import_weights', *flags)
    )


def test_devices_that_are_not_here_are_named(tmp_path: Path) -> None:
    run = helpers.run_command('main', '--config=digits_r14', f'--workdir={tmp_path / "run"}', JAX_PLATFORMS='cuda')
    assert 'JAX finds no device of JAX_PLATFORMS=cuda' in refused(run) and not (tmp_path / 'run').exists()


def test_a_full_disk_under_what_is_printed_is_named() -> None:
    with open('/dev/full', 'w') as full:
        run = subprocess.run(
            helpers.command('evaluate', '--help'),
            cwd=helpers.REPOSITORY,
            env=helpers.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert 'cannot be written (No space left on device)' in refused(run)


@pytest.mark.parametrize(
    ('name', 'flags'),
    [
        ('compare', ['--output=', 'a=x', 'b=y']),
        ('main', ['--config=digits_r14', '--workdir=']),
        ('profile', ['--config=digits_r14', '--trace=']),
    ],
)
def test_a_variable_that_is_not_set_is_no_path(name: str, flags: list[str]) -> None:
    assert refused(helpers.run_command(name, *flags)).startswith('error: A path is empty')


@pytest.mark.parametrize(
    ('name', 'flags'),
    [
        ('compare', ['--output=gs://b/x', 'a=x', 'b=y']),
        ('export', ['--workdir=x', '--output=gs://b/x']),
        ('profile', ['--config=digits_r14', '--trace=gs://b/x']),
        ('predict', ['--exported=gs://b/x', 'cat.jpg']),
        ('evaluate', ['--workdir=gs://b/x']),
    ],
)
def test_a_bucket_is_no_directory_of_that_name_here(name: str, flags: list[str]) -> None:
    assert 'gs://b/x is not on this machine: mount the bucket' in refused(helpers.run_command(name, *flags))
    assert not (helpers.REPOSITORY / 'gs:').exists()


def test_data_in_a_bucket_that_cannot_be_reached_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: object) -> bool:
        raise ImportError('Please install gcsfs to access Google Storage')

    monkeypatch.setattr(found.epath.Path('gs://b').__class__, 'exists', fail)
    with pytest.raises(InputError, match=r'gs://b/x cannot be reached \(Please install gcsfs to access'):
        found.root('digits', 'gs://b/x')


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """A rename would do so, and root may rename over /dev/null; a named pipe stands for that."""
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    with pytest.raises(InputError, match='pipe cannot be written, for it is no file'):
        files.write(pipe, lambda file: file.write(b'{}'))
    for flags in (['benchmark', '--run_rate=0.5'], ['profile', '--random_pixels']):
        run = helpers.run_command(flags[0], '--config=digits_r14', *flags[1:], f'--output={pipe}')
        assert 'cannot be written, for it is no file' in refused(run)
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_a_link_goes_on_leading_to_the_file(tmp_path: Path) -> None:
    link, target = tmp_path / 'link', tmp_path / 'target'
    link.symlink_to(target)
    files.write(link, lambda file: file.write(b'{}'))
    assert link.is_symlink() and target.read_bytes() == b'{}'


@pytest.mark.parametrize(
    ('name', 'flags'),
    [
        ('profile', ['--config=digits_r14', '--trace=/proc/x']),
        ('export', ['--workdir=x', '--output=/proc/x']),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(name: str, flags: list[str]) -> None:
    assert ' /proc' in refused(helpers.run_command(name, *flags))


def test_a_file_is_refused_before_any_work_in_a_directory_that_takes_none() -> None:
    values = absl_flags.FlagValues()
    output = absl_flags.DEFINE_string('output', '/proc/x.json', '', flag_values=values)
    values.mark_as_parsed()
    with pytest.raises(InputError, match=r'No file can be made in /proc \('):
        command.output_file(output)


def test_a_directory_that_may_not_be_written_is_refused_before_any_work() -> None:
    with pytest.raises(InputError, match=r'No file can be made in /proc/self \('):
        files.OutputDirectory(Path('/proc/self'))


def test_what_are_no_weights_are_not_advised_to_be_unpickled(tmp_path: Path) -> None:
    (tmp_path / 'x.npz').write_text('x')
    with pytest.raises(InputError, match=r'x\.npz cannot be read as weights \(it is no whole \.npz file\)'):
        weights_file.read(tmp_path / 'x.npz')


def test_a_file_of_flags_that_is_not_there_is_named() -> None:
    run = helpers.run_command('main', '--config=digits_r14', '--flagfile=nothing')
    assert '--flagfile cannot be read' in refused(run)


def test_a_field_of_ones_own_that_no_run_could_keep_is_named() -> None:
    config = default.get_config()
    with config.unlocked():
        config.loss.own = 0.5
        default.check_types(config)
        config.loss.other = np.zeros(3)
    with pytest.raises(InputError, match=r'loss\.other is a ndarray; write numbers'):
        default.check_types(config)


@pytest.mark.parametrize(
    ('flags', 'closed', 'status', 'printed'),
    [(['--workdir=nothing'], '2>&-', 2, ''), (['--help'], '>&-', 1, '')],
)
def test_a_stream_that_is_closed_is_told_nothing(flags: list[str], closed: str, status: int, printed: str) -> None:
    """Neither a traceback, nor on the other stream what was meant for this one."""
    run = subprocess.run(
        ['sh', '-c', f'exec "$@" {closed}', 'sh', *helpers.command('evaluate', *flags)],
        cwd=helpers.REPOSITORY,
        env=helpers.environment(),
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout + run.stderr) == (status, printed)
