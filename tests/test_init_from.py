"""A run starts from the weights it is told to start from, and says before it writes anything if they do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import helpers
from codinet_jax.data import digits
from codinet_jax.errors import InputError
from codinet_jax.training import loop
from codinet_jax.workdir import Workdir, write_weights_file

NO_STEPS = {'stage1.epochs': 0.0, 'stage2.epochs': 0.0}


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('init_from')
    digits.prepare(root / 'tfds')
    return root


@pytest.fixture(scope='module')
def weights(root: Path) -> dict[str, Any]:
    return helpers.write_workdir(root / 'before', config(root)).read_weights()


def config(root: Path, **changes: Any) -> Any:
    return helpers.tiny_config(data_dir=str(root / 'tfds'), **NO_STEPS, **{'loss.target_cost': None}, **changes)


def started(
    root: Path, name: str, file: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> dict[str, np.ndarray]:
    """What a run of no steps leaves: the weights it began with."""
    helpers.hide_tensorflow(monkeypatch)
    workdir = Workdir(root / name)
    loop.train(config(root, init_from=str(file), **changes), workdir)
    return helpers.by_path(workdir.read_weights())


def test_a_run_starts_from_another_runs_weights(
    root: Path, weights: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = helpers.by_path(weights)
    found = started(root, 'whole', root / 'before' / 'weights.npz', monkeypatch)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def test_where_the_file_has_no_routers_they_start_fresh(
    root: Path, weights: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {name: {k: v for k, v in of.items() if k != 'router'} for name, of in weights['params'].items()}
    write_weights_file(root / 'backbone.npz', weights | {'params': params})
    found, expected = started(root, 'backbone', root / 'backbone.npz', monkeypatch), helpers.by_path(weights)
    for path, leaf in expected.items():
        is_router = '/router/' in path
        assert np.array_equal(found[path], leaf) is not is_router, path
    kernels = [leaf for path, leaf in found.items() if '/router/' in path and path.endswith('kernel')]
    assert kernels and all(kernel.std() > 0 for kernel in kernels)


def test_what_does_not_fit_is_said_before_anything_is_written(root: Path, weights: dict[str, Any]) -> None:
    wider = weights | {'params': weights['params'] | {'head': {'kernel': np.zeros((64, 7)), 'bias': np.zeros(7)}}}
    write_weights_file(root / 'other.npz', wider)
    for file, message in ((root / 'other.npz', 'params/head/'), (root / 'none.npz', 'cannot be read as weights')):
        with pytest.raises(InputError, match=message):
            loop.train(config(root, init_from=str(file)), Workdir(root / 'refused'))
        assert not (root / 'refused').exists()
