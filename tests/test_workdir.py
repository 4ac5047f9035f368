"""A workdir that an older version wrote is read with today's defaults for what it did not know."""

import json
from pathlib import Path

import pytest

import helpers
from codinet_jax.errors import InputError
from codinet_jax.workdir import Workdir

NEWER = (('image_size',), ('model', 'remat'), ('loss', 'label_smoothing'), ('optimizer', 'ema_decay'))


@pytest.fixture
def older(tmp_path: Path) -> Workdir:
    written = json.loads(helpers.tiny_config(**{'loss.gamma': 0.7}).to_json())
    for *path, name in NEWER:
        within = written
        for part in path:
            within = within[part]
        del within[name]
    (tmp_path / 'config.json').write_text(json.dumps(written))
    return Workdir(tmp_path)


def test_what_an_older_version_did_not_know_is_as_the_default_says(older: Workdir) -> None:
    config = older.read_config()
    assert (config.image_size, config.model.remat, config.loss.label_smoothing) == (None, False, 0.0)
    assert config.loss.gamma == 0.7 and config.model.depth == 8, 'what it knew stays'


def test_its_run_may_go_on_unless_something_new_is_wanted(older: Workdir) -> None:
    older.check(helpers.tiny_config(**{'loss.gamma': 0.7}))
    with pytest.raises(InputError, match=r'loss\.label_smoothing \(0\.0 there, 0\.1 here\)'):
        older.check(helpers.tiny_config(**{'loss.gamma': 0.7, 'loss.label_smoothing': 0.1}))
