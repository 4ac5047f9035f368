"""Runs that are stopped in this process and gone on with: in the middle of an evaluation, on other devices."""

import contextlib
import itertools
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import helpers
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.signals import Stopped
from codinet_jax.training import cost_matching, loop
from codinet_jax.training.checkpoint import Checkpoints
from codinet_jax.workdir import Workdir
from experiments.measure.sameness import differences, rows

EVERY_4_STEPS = 4 * 16 / 1442
OFTEN = {
    'eval_every_epochs': EVERY_4_STEPS,
    'match_every_epochs': EVERY_4_STEPS,
    'log_every_steps': 3,
    'loss.target_cost': None,
}
MATCHED = {'eval_batch_size': 64, 'loss.target_cost': 0.6}  # in stage 2 the cost is made good before each evaluation
NUM_TEST_IMAGES = 355


@pytest.fixture(autouse=True, scope='module')
def few_are_measured() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost_matching, 'NUM_IMAGES', 128)
        yield


def trained(workdir: Path, num_devices: int = 1, **changes: Any) -> dict[str, Any] | None:
    config = helpers.tiny_config(**OFTEN | changes)
    return helpers.train(config, Workdir(workdir), num_devices)


def stop_in_evaluation(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Sends this process a SIGTERM within an evaluation on test images, counted from 1; each is of several batches."""
    evaluations, whole = itertools.count(1), loop.evaluate

    def evaluate(*arguments: Any) -> Any:
        *others, before_batch, what = arguments
        is_it = others[2].num_images == NUM_TEST_IMAGES and next(evaluations) == number
        batches = itertools.count(1)

        def before() -> None:
            if is_it and next(batches) == 2:
                signal.raise_signal(signal.SIGTERM)
            before_batch()

        return whole(*others, before, what)

    monkeypatch.setattr(loop, 'evaluate', evaluate)


@pytest.fixture(scope='module')
def programs() -> list[Any]:
    """What evaluates, and each stage's step, of the run that is not disturbed."""
    return []


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory: pytest.TempPathFactory, programs: list[Any]) -> Path:
    def kept(make: Any) -> Any:
        def made(*given: Any, **named: Any) -> Any:
            programs.append(make(*given, **named))
            return programs[-1]

        return made

    workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
    with pytest.MonkeyPatch.context() as patch:
        for name in ('make_forward', 'compiled'):
            patch.setattr(loop, name, kept(getattr(loop, name)))
        trained(workdir, **MATCHED)
    return workdir


@pytest.mark.long
def test_what_evaluates_and_each_stages_step_are_compiled_once(undisturbed: Path, programs: list[Any]) -> None:
    assert [program._cache_size() for program in programs] == [1, 1, 1]


@pytest.fixture
def compiled_before(undisturbed: Path, programs: list[Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs of the same config take what the one that is not disturbed has compiled, which serves them as it is."""
    del undisturbed  # only for the programs
    forward, *steps = programs
    monkeypatch.setattr(loop, 'make_forward', lambda *_, **__: forward)
    monkeypatch.setattr(loop, 'compiled', lambda step, _: steps[1 if step.model.routers_frozen else 0])
    yield
    assert [program._cache_size() for program in programs] == [1, 1, 1]


def evaluated(workdir: Path) -> list[int]:
    return [row['step'] for row in rows(workdir) if row['kind'] == 'evaluation']


@pytest.mark.long
@pytest.mark.usefixtures('compiled_before')
@pytest.mark.parametrize(
    ('number', 'step'), [(1, 4), (3, 9), (4, 12), (6, 18)], ids=['on the way', 'of a stage', 'in stage 2', 'the last']
)
def test_an_evaluation_does_not_keep_a_run_from_stopping_and_is_made_good_later(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, number: int, step: int
) -> None:
    with monkeypatch.context() as asked:
        stop_in_evaluation(asked, number)
        with pytest.raises(Stopped, match=f'^stopped and saved at step {step}; the same command goes on'):
            trained(tmp_path / 'run', **MATCHED)
    assert evaluated(tmp_path / 'run') == [other for other in evaluated(undisturbed) if other < step]
    assert (tmp_path / 'run' / 'checkpoints' / str(step)).is_dir()
    trained(tmp_path / 'run', **MATCHED)
    assert differences(tmp_path / 'run', undisturbed) == []


def stop_on_the_way(monkeypatch: pytest.MonkeyPatch, where: str) -> list[int]:
    """Sends a SIGTERM as step 5 is handed to the devices, or before the batch of step 6 is there; the steps handed."""
    handed: list[int] = []
    compiled, batches_of = loop.compiled, loop.Run._batches

    def counted(*arguments: Any) -> Any:
        step_fn = compiled(*arguments)

        def step(*given: Any) -> Any:
            handed.append(len(handed) + 1)
            if where == 'step' and handed[-1] == 5:
                signal.raise_signal(signal.SIGTERM)
            return step_fn(*given)

        return step

    def batches(run: loop.Run) -> Iterator[Any]:
        with contextlib.closing(batches_of(run)) as made:
            for number, batch in enumerate(made, start=1):
                if where == 'batch' and number == 6:
                    signal.raise_signal(signal.SIGTERM)
                yield batch

    monkeypatch.setattr(loop, 'compiled', counted)
    monkeypatch.setattr(loop.Run, '_batches', batches)
    return handed


@pytest.mark.long
@pytest.mark.usefixtures('compiled_before')
@pytest.mark.parametrize('where', ['step', 'batch'])
def test_no_step_begins_once_a_run_has_said_that_it_stops(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    with monkeypatch.context() as asked:
        handed = stop_on_the_way(asked, where)
        with pytest.raises(Stopped, match=r'^stopped and saved at step 5;'):
            trained(tmp_path / 'run', **MATCHED)
    assert handed == [1, 2, 3, 4, 5]
    assert 'stopping: what is on its way is finished and saved; once more stops at once.\n' in capsys.readouterr().out
    trained(tmp_path / 'run', **MATCHED)
    assert differences(tmp_path / 'run', undisturbed) == []


def stop_at(monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    monkeypatch.setattr(Checkpoints, 'is_preempted', lambda _, step: step == stop)


@pytest.mark.long
def test_a_run_goes_on_with_more_devices_and_with_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of eight parts round otherwise than sums of one, so these runs share their numbers, not their bits."""
    for workdir, parts in (('one', [(1, None)]), ('changing', [(1, 5), (8, 13), (1, None)])):
        for num_devices, stop in parts:
            with monkeypatch.context() as stopping:
                stop_at(stopping, stop or 0)
                if stop:
                    with pytest.raises(Stopped):
                        trained(tmp_path / workdir, num_devices)
                else:
                    trained(tmp_path / workdir, num_devices)
    one, changing = ([row for row in rows(tmp_path / name) if row['kind'] == 'train'] for name in ('one', 'changing'))
    assert [row['step'] for row in changing] == [row['step'] for row in one] == [3, 6, 9, 12, 15, 18]
    for name in ('loss', 'cross_entropy', 'gradient_norm'):
        np.testing.assert_allclose([r[name] for r in changing], [r[name] for r in one], rtol=1e-3, err_msg=name)


@pytest.mark.long
def test_a_checkpoint_of_before_there_were_digests_is_refused_in_a_sentence(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / 'run')
    (tmp_path / 'run' / 'results.json').unlink()
    for step in (tmp_path / 'run' / 'checkpoints').iterdir():
        (path,) = (path for path in (step / 'progress').iterdir() if b'digest' in path.read_bytes())
        path.write_text(json.dumps(json.loads(path.read_text())['progress']))
    before = helpers.all_bytes(tmp_path)
    with pytest.raises(InputError, match=r'^No checkpoint in .* or another version wrote them'):
        trained(tmp_path / 'run', **MATCHED)
    assert helpers.all_bytes(tmp_path) == before
