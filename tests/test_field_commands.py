"""What users of commands have met elsewhere: one sentence, status 2, nothing written."""

import subprocess
from pathlib import Path

import pytest

import helpers
from codinet_jax.config import default
from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError

CONFIGS = {
    'dict': ("def get_config(): return {'seed': 1}", 'returns a dict: return a changed codinet_jax.config.default'),
    'partial': (
        "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'seed': 1})",
        'returns a config without accumulate_steps: begin with',
    ),
    'raises': ('def get_config(): return 1 / 0', 'fails with ZeroDivisionError: division by zero'),
    'nothing': ('x = 1', 'has no get_config'),
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
