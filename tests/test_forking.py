"""A fork is a process like that of `python -m`: in what it is told, what it says, how it ends and how it is killed."""

import collections
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import forking
import helpers

PROGRAM = """
import os, signal, sys, time

print(__name__, sys.argv[1:], os.getcwd(), sys.path[0], os.environ.get('TFDS_DATA_DIR'), os.getppid())
print('γ', len(sys.stdin.read()), os.environ.get('JAX_NUM_CPU_DEVICES'), file=sys.stderr)
how, *_ = sys.argv[1:]
if how == 'devices':
    import jax
    print(len(jax.devices()))
elif how == 'sleeps':
    sys.stdout.flush()
    time.sleep(600)
elif how == 'raises':
    raise KeyError('missing')
sys.exit(how if how == 'words' else int(how) if how.isdigit() else None)
"""
KINDS: list[Any] = [forking.Fork, subprocess.Popen]


@pytest.fixture
def start(tmp_path: Path) -> Any:
    (tmp_path / 'program.py').write_text(PROGRAM)

    def start(kind: Any, *flags: str, **variables: str) -> Any:
        return kind(
            [sys.executable, '-m', 'program', *flags],
            cwd=tmp_path,
            env=helpers.environment(**variables),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start


@pytest.mark.parametrize('how', ['0', '3', 'words', 'raises', 'devices'])
def test_it_says_and_returns_what_python_would(start: Any, tmp_path: Path, how: str) -> None:
    variables = {'TFDS_DATA_DIR': 'there', 'JAX_NUM_CPU_DEVICES': '3'}
    told = []
    for kind in KINDS:
        process = start(kind, how, '--flag', **variables)
        stdout, stderr = process.communicate('some input', timeout=120)
        told.append((process.returncode, stdout, stderr.splitlines()[0], stderr.splitlines()[-1]))
    assert told[0] == told[1]
    assert told[0][1].startswith(f"__main__ ['{how}', '--flag'] {tmp_path} {tmp_path} there {os.getpid()}\n")
    assert told[0][2] == 'γ 10 3' and told[0][1].endswith('\n3\n') == (how == 'devices')


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_it_dies_of_a_signal(start: Any, number: signal.Signals) -> None:
    for kind in KINDS:
        process = start(kind, 'sleeps')
        process.stdin.close()
        assert process.stdout.readline() and process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=60) == -number
        process.stdin = None
        process.communicate()


def test_a_command_is_one_of_this_code(tmp_path: Path) -> None:
    """Twice, for what the first does is to be unknown to the second; and once in another directory."""
    for directory in (helpers.REPOSITORY, helpers.REPOSITORY, tmp_path):
        process = helpers.start_command('main', '--config=digits_r14', '--config.seed=-1', cwd=directory)
        assert isinstance(process, forking.Fork)
        assert process.communicate(timeout=120) == ('', 'error: seed is -1; give a number from 0 to 4294967295.\n')
        assert process.returncode == 2


def test_what_python_reads_as_it_starts_is_given_to_a_process_of_its_own() -> None:
    with helpers.start_command('main', PYTHONWARNINGS='error') as process:
        assert not isinstance(process, forking.Fork)
        process.kill()


class Fleeting(collections.UserDict[str, str]):
    """Variables of which one is gone when its value is asked for, as where another thread has taken it away."""

    def __iter__(self) -> Iterator[str]:
        yield from (*self.data, 'PYTEST_CURRENT_TEST')


def test_a_variable_that_pytest_takes_away_meanwhile_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, 'environ', Fleeting({'HOME': '/home'}))
        assert helpers.environment() == {'HOME': '/home', 'JAX_PLATFORMS': 'cpu'}
