"""What stage 2 trains under: routers as they are evaluated, a cost matched on training images, at its own interval."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from codinet_jax.models.routers import is_router
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from codinet_jax.training import cost_matching, loop
from codinet_jax.workdir import Workdir

EVERY_4_STEPS = 4 * 16 / 1442
TARGET: dict[str, Any] = {'loss.target_cost': 0.6}


@pytest.fixture(autouse=True)
def few_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    helpers.hide_tensorflow(monkeypatch)
    monkeypatch.setattr(cost_matching, 'NUM_IMAGES', 128)


def weights(path: Path, **changes: Any) -> dict[str, np.ndarray]:
    helpers.train(helpers.tiny_config(**TARGET | changes), Workdir(path))
    return helpers.by_path(Workdir(path).read_weights())


@pytest.mark.long
def test_how_often_one_evaluates_changes_nothing_that_is_trained(tmp_path: Path) -> None:
    matched = {'match_every_epochs': EVERY_4_STEPS}
    never = weights(tmp_path / 'never', eval_every_epochs=0.0, **matched)
    often = weights(tmp_path / 'often', eval_every_epochs=EVERY_4_STEPS / 2, **matched)
    for path, leaf in never.items():
        np.testing.assert_array_equal(often[path], leaf, err_msg=path)
    unmatched = weights(tmp_path / 'unmatched', eval_every_epochs=EVERY_4_STEPS, match_every_epochs=0.0)
    assert any(np.any(unmatched[path] != leaf) for path, leaf in never.items()), 'the interval is to matter'


@pytest.mark.long
def test_the_cost_is_matched_on_training_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, whole, opened = [], loop.evaluate, {}
    open_split = loop.Setup.__dataclass_fields__ and type(helpers.tiny_setup().data).open

    def opening(self: Any, split: str) -> Any:
        opened[split] = open_split(self, split)
        return opened[split]

    def evaluate(forward: Any, variables: Any, split: Any, *rest: Any) -> Any:
        measured.append(split)
        return whole(forward, variables, split, *rest)

    monkeypatch.setattr(type(helpers.tiny_setup().data), 'open', opening)
    monkeypatch.setattr(loop, 'evaluate', evaluate)
    weights(tmp_path / 'run')
    train = {image.tobytes() for image in opened['train'].images_NxHxWxC}
    others = [split for split in measured if split is not opened['test']]
    assert len(others) > 2 and all(image.tobytes() in train for split in others for image in split.images_NxHxWxC)


@pytest.mark.long
@pytest.mark.parametrize('target', [0.6, None])
def test_stage_2_trains_under_the_averaged_routers_that_are_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: float | None
) -> None:
    seen: list[Any] = []
    compiled = loop.compiled

    def watched(step: Any, mesh: Any) -> Any:
        step_fn = compiled(step, mesh)

        def call(state: Any, *batch: Any) -> Any:
            seen.append(jax.device_get(state))
            return step_fn(state, *batch)

        return call

    monkeypatch.setattr(loop, 'compiled', watched)
    changes = {'optimizer.ema_decay': 0.9, 'stage1.learning_rate': 0.5, 'loss.target_cost': target}
    weights(tmp_path / 'run', **changes)
    in_stage_1, *_, last = (state for state in seen)
    (begun,) = (state for state in seen if state.step == 9)
    for state in (begun, last):
        own, averages = helpers.by_path(state.params), helpers.by_path(state.averages['params'])
        routers = {path for path in own if is_router(path.split('/'))}
        assert all(np.array_equal(own[path], averages[path]) for path in routers)
        assert not all(np.array_equal(own[path], averages[path]) for path in own.keys() - routers)
    assert in_stage_1.step == 0


def test_without_averages_routers_stay_as_they_are() -> None:
    state = helpers.scattered_state(helpers.tiny_stages(helpers.tiny_config())[0], sharding.data_mesh(1))
    assert state.with_averaged_routers() is state
    averaged = dataclasses.replace(state, averages=jax.tree.map(jnp.ones_like, state.variables))
    found = helpers.by_path(averaged.with_averaged_routers().params)
    assert all((leaf == 1).all() == is_router(path.split('/')) for path, leaf in found.items())


@pytest.mark.parametrize('name', ['stage1.epochs', 'stage2.epochs', 'eval_every_epochs', 'match_every_epochs'])
def test_less_than_a_step_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        InputError,
        match=rf'^{name} is 0\.001, which is less than a step of 16 images, .* smaller batch_size, or here at',
    ):
        weights(tmp_path / 'run', **{name: 0.001})
    assert not (tmp_path / 'run').exists()
