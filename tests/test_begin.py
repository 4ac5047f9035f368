"""What a run begins with is recorded, and what cannot be is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

import helpers
from codinet_jax.config import setup
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir, begin

OF_DEVICES: dict[str, Any] = {'model.batch_norm': 'device', 'batch_size': 32}


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


def test_importing_the_library_leaves_the_interpreter_as_it_is() -> None:
    program = (
        'import sys; before = sys.unraisablehook; import codinet_jax.training.loop; assert sys.unraisablehook is before'
    )
    subprocess.run([sys.executable, '-c', program], check=True, cwd=helpers.REPOSITORY, env=helpers.environment())
