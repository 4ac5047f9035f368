"""What may go wrong in a long run: damaged checkpoints, numbers that are none, two runs in one place, no room."""

import dataclasses
import errno
import functools
import gc
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import helpers
import quick_runs
from codinet_jax.config import setup
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import Diverged, InputError
from codinet_jax.runtime.signals import Stopped
from codinet_jax.training import progress
from codinet_jax.training.checkpoint import Checkpoints
from codinet_jax.training.state import TrainState
from codinet_jax.workdir import Workdir

PROGRESS = {'stage': 1, 'step': 7, 'window': {}}

pytestmark = [
    pytest.mark.usefixtures('swept'),
    # Orbax leaves what it was reading when it stumbles over damage; what was read then finds its event loop closed.
    pytest.mark.filterwarnings('ignore:.*_read_array_index_and_device_put:pytest.PytestUnraisableExceptionWarning'),
    pytest.mark.filterwarnings('ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning'),
]


@pytest.fixture
def swept() -> Iterator[None]:
    """Collects garbage where it is known what it is."""
    yield
    gc.collect()


@functools.cache
def scattered() -> TrainState:
    return helpers.scattered_state(helpers.tiny_stages(helpers.tiny_config())[0], sharding.data_mesh(1))


def state(seed: int) -> TrainState:
    """A train state of random numbers."""
    numbers = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jax.device_put(numbers.normal(size=leaf.shape).astype(leaf.dtype), leaf.sharding), scattered()
    )


def abstract(progress: dict[str, Any]) -> TrainState:
    del progress
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), scattered())


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, of steps 5 and 7."""
    directory = tmp_path_factory.mktemp('saved') / 'checkpoints'
    with Checkpoints(directory) as checkpoints:
        for step in (5, 7):
            checkpoints.save(step, state(step), PROGRESS | {'step': step})
    return directory


@pytest.fixture
def directory(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / 'checkpoints'))


def largest(step: Path) -> Path:
    """The file of a checkpoint that holds its arrays."""
    return max((path for path in (step / 'state').rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


def edit_progress(step: Path) -> None:
    (path,) = (path for path in (step / 'progress').iterdir() if b'digest' in path.read_bytes())
    told = json.loads(path.read_text())
    told['progress']['step'] += 1
    path.write_text(json.dumps(told))


DAMAGE: dict[str, Callable[[Path], object]] = {
    'truncated': lambda step: os.truncate(largest(step), largest(step).stat().st_size // 2),
    'emptied': lambda step: os.truncate(largest(step), 0),
    'a bit of the arrays flipped': lambda step: flip(largest(step), 0.5),
    'another bit flipped': lambda step: flip(largest(step), 0.8),
    'arrays missing': lambda step: largest(step).unlink(),
    'state missing': lambda step: shutil.rmtree(step / 'state'),
    'progress missing': lambda step: shutil.rmtree(step / 'progress'),
    'progress edited': edit_progress,
    'all files missing': lambda step: (shutil.rmtree(step), step.mkdir()),
}


def assert_is(found: tuple[dict[str, Any], TrainState] | None, step: int) -> None:
    assert found is not None and found[0] == PROGRESS | {'step': step}
    restored = helpers.by_path(found[1])
    for path, leaf in helpers.by_path(state(step)).items():
        np.testing.assert_array_equal(restored[path], leaf, err_msg=path)


def test_the_newest_checkpoint_is_restored_to_the_bit(directory: Path) -> None:
    with Checkpoints(directory) as checkpoints:
        assert_is(checkpoints.newest(abstract), 7)
    assert not (directory.parent / 'damaged_checkpoints').exists()


def test_averages_are_restored_with_the_rest(tmp_path: Path) -> None:
    averaged = dataclasses.replace(state(3), averages=state(4).variables)
    with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
        checkpoints.save(3, averaged, PROGRESS)

    def shapes(progress: dict[str, Any]) -> TrainState:
        return dataclasses.replace(abstract(progress), averages=abstract(progress).variables)

    with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
        found = checkpoints.newest(shapes)
    assert found is not None
    restored, saved = helpers.by_path(found[1]), helpers.by_path(averaged)
    assert restored.keys() == saved.keys() and any(path.startswith('averages/') for path in saved)
    assert [path for path, leaf in saved.items() if not np.array_equal(restored[path], leaf)] == []


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_checkpoint_is_noticed_told_of_put_aside_and_the_one_before_taken(
    directory: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGE[damage](directory / '7')
    with Checkpoints(directory) as checkpoints:
        assert_is(checkpoints.newest(abstract), 5)
        assert 'warning: the checkpoint of step 7 is damaged (' in capsys.readouterr().out
        checkpoints.save(7, state(7), PROGRESS)  # the run comes by there again
    with Checkpoints(directory) as checkpoints:
        assert_is(checkpoints.newest(abstract), 7)
    assert [path.name for path in (directory.parent / 'damaged_checkpoints').iterdir()] == ['7']


def test_where_no_checkpoint_is_whole_nothing_is_touched(directory: Path) -> None:
    for step in ('5', '7'):
        flip(largest(directory / step), 0.5)
    before = helpers.all_bytes(directory)
    with (
        Checkpoints(directory) as checkpoints,
        pytest.raises(InputError, match=r'^No checkpoint in .* can be read \(s'),
    ):
        checkpoints.newest(abstract)
    assert helpers.all_bytes(directory) == before


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), 'Too many open files'),
        (ValueError('NOT_FOUND: Error reading "state": Permission denied'), 'Permission denied'),
        (RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.'), 'Cannot allocate memory'),
        (MemoryError(), 'Cannot allocate memory'),
    ],
    ids=['files', 'permission', 'device memory', 'memory'],
)
def test_a_checkpoint_that_the_machine_does_not_let_be_read_is_not_put_aside(
    directory: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    before = helpers.all_bytes(directory)
    with Checkpoints(directory) as checkpoints:
        with monkeypatch.context() as machine:
            machine.setattr(type(checkpoints._manager), 'restore', refuse)
            with pytest.raises(InputError, match=rf'checkpoints/7 cannot be read \({reason}\): '):
                checkpoints.newest(abstract)
        assert helpers.all_bytes(directory) == before
        assert_is(checkpoints.newest(abstract), 7)
    assert not (directory.parent / 'damaged_checkpoints').exists()


def test_a_checkpoint_left_half_written_is_no_checkpoint(directory: Path) -> None:
    half = directory / '9.orbax-checkpoint-tmp'
    shutil.copytree(directory / '7', half)
    with Checkpoints(directory) as checkpoints:
        assert_is(checkpoints.newest(abstract), 7)


def test_a_run_that_stops_and_cannot_save_does_not_say_that_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        pytest.raises(InputError, match=r'^No checkpoint can be written in .*No space left on device\): make room'),
        Checkpoints(tmp_path / 'checkpoints') as checkpoints,
    ):
        checkpoints.save(3, state(3), PROGRESS)
        monkeypatch.setattr(type(checkpoints._manager), 'close', refuse)
        raise Stopped(3, signal.SIGTERM)


def test_a_state_of_another_shape_is_refused_in_a_sentence(directory: Path) -> None:
    def wider(progress: dict[str, Any]) -> TrainState:
        shapes = abstract(progress)
        return dataclasses.replace(shapes, step=jax.ShapeDtypeStruct((3,), np.int32, sharding=shapes.step.sharding))

    with Checkpoints(directory) as checkpoints, pytest.raises(InputError, match='or another version wrote them'):
        checkpoints.newest(wider)


def trained(workdir: Path, **changes: Any) -> dict[str, Any] | None:
    often = {'checkpoint_every_steps': 2, 'log_every_steps': 1, 'loss.target_cost': None}
    config = helpers.tiny_config(**often | changes)
    return helpers.train(config, Workdir(workdir))


@pytest.mark.long
def test_a_step_of_no_number_stops_the_run_and_keeps_what_was_saved_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        helpers.poison(broken, {6})
        with pytest.raises(
            Diverged, match=r'^Step 6 has a cross entropy of nan \(the checkpoint of step 4 is kept\): '
        ):
            trained(tmp_path / 'run')
    steps = [json.loads(line)['step'] for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5]
    assert {path.name for path in (tmp_path / 'run' / 'checkpoints').iterdir()} == {'2', '4'}
    results = trained(tmp_path / 'run')  # what was saved is of use: with whole batches it goes on
    assert results is not None and results['num_steps'] == 18 and np.isfinite(results['top1'])


def test_a_learning_rate_far_too_high_is_told_of_within_a_few_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Diverged, match=r'^Step [23] has a \w.* of (nan|inf|-inf) .*lower stage1\.learning_rate'):
        trained(tmp_path / 'run', **{'stage1.learning_rate': 1e30, 'stage2.warmup_epochs': 1.0})
    assert '\nwarning: stage2.warmup_epochs is 1, and the stage ends after 0.1' in capsys.readouterr().out


@pytest.mark.long
def test_such_steps_can_be_skipped_and_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helpers.poison(monkeypatch, {4, 5, 11})
    results = trained(tmp_path / 'run', **{'optimizer.skip_nonfinite': True})
    assert results is not None and results['num_skipped'] == 3 and results['num_steps'] == 18
    rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    assert [row['step'] for row in rows if row['kind'] == 'train' and 'loss' not in row] == [4, 5, 11]
    assert [row['step'] for row in rows if row.get('skipped')] == [4, 5, 11]
    assert all(np.isfinite(row['loss']) for row in rows if 'loss' in row)


def test_a_run_that_skips_and_skips_stops_after_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, 'MOST_SKIPPED_IN_A_ROW', 4)
    helpers.poison(monkeypatch, {2, 3, 4, *range(6, 19)})
    with pytest.raises(Diverged, match=r'^Step 9 has a cross entropy of nan for 4 steps in a row'):
        trained(tmp_path / 'run', **{'optimizer.skip_nonfinite': True})


@pytest.mark.parametrize('number', [1, 2])
def test_a_skipped_step_changes_nothing_but_its_number(number: int) -> None:
    config = helpers.tiny_config(**{'optimizer.skip_nonfinite': True, 'optimizer.ema_decay': 0.9})
    stage, mesh = helpers.tiny_stages(config)[number - 1], sharding.data_mesh(2)
    images = helpers.noise_images(16)
    step_fn = quick_runs.compiled(stage.step, mesh)
    for labels, is_skipped in ((images.labels_N, False), (np.full_like(images.labels_N, 1_000_000), True)):
        before = helpers.scattered_state(stage, mesh)
        old = helpers.by_path(jax.device_get(before))
        after, metrics = step_fn(before, *sharding.put(mesh, images.images_NxHxWxC, labels))
        changed = {path for path, leaf in helpers.by_path(after).items() if not np.array_equal(leaf, old[path])}
        counts = {path for path in old if path.endswith('/count')}  # which the learning rate goes by
        assert len(counts) == 1 and (changed == {'step'} | counts) == is_skipped == bool(metrics['skipped'])


def test_a_second_run_in_one_workdir_is_refused(tmp_path: Path) -> None:
    config = helpers.tiny_config()
    record = setup.read(config).record
    with Workdir(tmp_path / 'run').claimed(record):
        before = helpers.all_bytes(tmp_path)
        with pytest.raises(InputError, match=r'^Another run is at work in .*run: wait for it or stop it'):
            helpers.train(config, Workdir(tmp_path / 'run'))
        assert helpers.all_bytes(tmp_path) == before
    with Workdir(tmp_path / 'run').claimed(record):
        pass


def test_how_often_a_run_tells_saves_and_evaluates_may_be_changed_on_the_way(tmp_path: Path) -> None:
    with Workdir(tmp_path).claimed(helpers.tiny_setup().record):
        pass
    changes = {'log_every_steps': 7, 'checkpoint_every_steps': 9, 'eval_every_epochs': 3.0}
    with Workdir(tmp_path).claimed(helpers.tiny_setup(**changes).record):
        pass
