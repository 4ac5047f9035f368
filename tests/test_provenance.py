"""Numbers name the commit they are of, and no other repository's."""

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from codinet_jax.runtime import provenance

AUTHOR = ('-c', 'user.name=A', '-c', 'user.email=a@example.org')


def git(directory: Path, *arguments: str) -> str:
    command = ['git', '-C', str(directory), *AUTHOR, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / 'package').mkdir()
    shutil.copy(provenance.__file__, tmp_path / 'package' / 'provenance.py')
    (tmp_path / 'notes').write_text('before\n')
    git(tmp_path, 'init', '--quiet')
    return tmp_path


def there(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location('provenance_there', repository / 'package' / 'provenance.py')
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_code_of_a_clone_names_its_commit_and_whether_it_was_changed_since(repository: Path) -> None:
    git(repository, 'add', '.')
    git(repository, 'commit', '--quiet', '--message=All')
    short = git(repository, 'rev-parse', '--short=7', 'HEAD')
    assert there(repository).commit() == there(repository).machine()['commit'] == short
    (repository / 'notes').write_text('after\n')
    assert there(repository).commit() == f'{short}+'


def test_code_installed_in_somebody_elses_clone_does_not_name_their_commit(repository: Path) -> None:
    git(repository, 'add', 'notes')
    git(repository, 'commit', '--quiet', '--message=Theirs')
    assert there(repository).commit() is None


def test_without_git_there_is_none_to_name(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(repository, 'add', '.')
    git(repository, 'commit', '--quiet', '--message=All')
    monkeypatch.setenv('PATH', '')
    assert there(repository).commit() is None
    monkeypatch.setenv('CODINET_JAX_COMMIT', 'abc1234')
    assert there(repository).commit() == 'abc1234', 'who copied the code there said which it is'
