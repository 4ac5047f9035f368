"""What a run begins with is recorded, and what cannot be is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

import helpers
from codinet_jax.config import setup
from codinet_jax.runtime import hosts
from codinet_jax.runtime.errors import InputError
from codinet_jax.training import start
from codinet_jax.workdir import Workdir, begin

OF_DEVICES: dict[str, Any] = {'model.batch_norm': 'device', 'batch_size': 32}
SHARED: dict[str, Any] = {'checkpoint_every_steps': 1000, 'eval_every_epochs': 5.0}


def test_the_groups_of_batch_norm_are_recorded_and_kept_on_other_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir, config = Workdir(tmp_path / 'run'), helpers.tiny_config(**OF_DEVICES)
    begun = begin(config, workdir)
    assert begun.model.norm_groups == jax.device_count() == 8
    with workdir.claimed(begun.record):
        assert workdir.read_config().model.norm_groups == 8
    monkeypatch.setattr(jax, 'device_count', lambda: 4)
    assert setup.read(config).model.norm_groups == 4
    resumed = begin(config, workdir)
    assert resumed.model.norm_groups == 8
    workdir.check(resumed.record)


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'model.batch_norm': 'device', 'model.norm_groups': 3}, 'batch_size 16 in 1 part.* 3 groups'),
        ({'model.norm_groups': 2}, 'model.norm_groups is of model.batch_norm=device'),
        ({'accumulate_steps': 16}, r'leaves 1 image\(s\) to each, and CoDiNet compares 2'),
        ({'batch_size': 1}, r'leaves 1 image\(s\) to each'),
        ({'optimizer.momentum': 1.0}, 'optimizer.momentum is 1.0'),
    ],
)
def test_what_would_mean_nothing_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        helpers.tiny_setup(**changes)


def test_parts_of_one_image_are_enough_without_diversity() -> None:
    assert helpers.tiny_setup(**{'accumulate_steps': 16, 'loss.beta': 0.0}).recipe.accumulate_steps == 16


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """This process is the second of two hosts, and this is what it tells the first, which has begun with groups of 2,
    saves every 1000 steps, evaluates every 5 epochs and refuses nothing.
    """
    texts: list[str] = []

    def from_all_hosts(text: str) -> list[str]:
        texts.append(text)
        of_first = json.dumps([[1442, 355], SHARED])
        return [{'{}': '{"model.norm_groups": 2}'}.get(text, of_first if text.startswith('[[1442, ') else ''), text]

    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    monkeypatch.setattr(hosts, '_from_all_hosts', from_all_hosts)
    return texts


def test_a_host_that_cannot_use_what_the_first_found_says_so_before_it_leaves(tmp_path: Path, said: list[str]) -> None:
    with pytest.raises(InputError, match=r'^model\.norm_groups is of model\.batch_norm=device'):
        begin(helpers.tiny_config(), Workdir(tmp_path / 'run'))
    assert said[-1].startswith('model.norm_groups is of model.batch_norm=device')


def test_others_look_for_a_run_only_when_the_first_has_begun_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """A network drive would go on hiding it."""
    looked_for: list[Path] = []
    exists = Path.exists

    def seen(path: Path) -> bool:
        looked_for.append(path)
        return exists(path)

    monkeypatch.setattr(Path, 'exists', seen)
    assert begin(helpers.tiny_config(**OF_DEVICES), Workdir(tmp_path / 'run')).model.norm_groups == 2
    assert said[0] == '' and not [path for path in looked_for if path.is_relative_to(tmp_path)]


@pytest.mark.parametrize(
    ('name', 'here', 'there'), [('checkpoint_every_steps', 7, '1000'), ('eval_every_epochs', 2.5, '5.0')]
)
def test_hosts_that_would_not_save_or_evaluate_together_are_refused(
    said: list[str], name: str, here: float, there: str
) -> None:
    recipe = helpers.tiny_setup(**SHARED | {name: here}).recipe
    with pytest.raises(InputError, match=rf'^{name} is {there} on the first host and {here} on another one'):
        start.check_shared((1442, 355), recipe)
    assert said[-1].startswith(name)


def test_importing_the_library_leaves_the_interpreter_as_it_is() -> None:
    program = (
        'import sys; before = sys.unraisablehook; import codinet_jax.training.loop; assert sys.unraisablehook is before'
    )
    subprocess.run([sys.executable, '-c', program], check=True, cwd=helpers.REPOSITORY, env=helpers.environment())
