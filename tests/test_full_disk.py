"""A disk that fills up under a run, and one that may only be read: real file systems, mounted for the test."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import helpers
from codinet_jax.data import datasets
from codinet_jax.runtime.errors import Diverged, InputError
from codinet_jax.training import loop
from codinet_jax.training.checkpoint import Checkpoints
from codinet_jax.training.metric_files import MetricWriter
from codinet_jax.workdir import Workdir

MEGABYTE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB in memory."""
    directory = tmp_path / 'disk'
    directory.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', str(directory)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('this user may not mount file systems')
    yield directory
    subprocess.run(['umount', '--lazy', str(directory)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Leaves so many bytes free, once nothing that is being deleted frees more."""
    ballast = disk / 'ballast'
    with open(ballast, 'ab') as file:
        while (room := os.statvfs(disk)).f_bavail * room.f_frsize > leave:
            file.write(bytes(room.f_bavail * room.f_frsize - leave))
            file.flush()
            time.sleep(0.5)
    return ballast


def train(workdir: Path, **changes: Any) -> dict[str, Any] | None:
    return helpers.train(
        helpers.tiny_config(**{'checkpoint_every_steps': 2, 'loss.target_cost': None} | changes), Workdir(workdir)
    )


def whole_files(workdir: Path) -> set[str]:
    """What lies there, without what is only being written."""
    return {path.name for path in workdir.iterdir() if not path.name.startswith('.')}


def test_a_disk_that_fills_up_while_saving_costs_no_checkpoint_and_with_room_the_run_goes_on(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, ballast = Checkpoints.save, disk / 'ballast'

    def save_and_fill(self: Checkpoints, step: int, *args: Any) -> None:
        if step == 8:
            self._manager.wait_until_finished()
            fill(disk, leave=MEGABYTE // 4)
            # The loop looks for errors before Orbax decides whether older checkpoints may go.
            wait = self._manager._wait_for_checkpointers
            monkeypatch.setattr(self._manager, '_wait_for_checkpointers', lambda: (time.sleep(1.0), wait()))
        save(self, step, *args)

    monkeypatch.setattr(Checkpoints, 'save', save_and_fill)
    with pytest.raises(InputError, match=r'^(No checkpoint|.*metrics\.jsonl) can.* be written .*No space left on dev'):
        train(disk / 'run')
    assert {'4', '6'} <= {path.name for path in (disk / 'run' / 'checkpoints').iterdir()}
    ballast.unlink()
    monkeypatch.setattr(Checkpoints, 'save', save)
    results = train(disk / 'run')
    assert results is not None and results['num_steps'] == 18
    steps = [json.loads(line)['step'] for line in (disk / 'run' / 'metrics.jsonl').read_text().splitlines()]
    assert steps == sorted(steps), 'no row is lost, torn or doubled'


def test_a_run_that_diverges_names_no_checkpoint_that_the_disk_refused(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoints.save

    def save_and_fill(self: Checkpoints, step: int, *args: Any) -> None:
        if step == 4:
            self._manager.wait_until_finished()
            fill(disk, leave=MEGABYTE // 4)
        save(self, step, *args)

    monkeypatch.setattr(Checkpoints, 'save', save_and_fill)
    helpers.poison(monkeypatch, {5})
    with pytest.raises(Diverged, match=r'^Step 5 has a cross entropy of nan \(the checkpoint of step 2 is kept\): '):
        train(disk / 'run', log_every_steps=100)
    assert '4' not in whole_files(disk / 'run' / 'checkpoints')


@pytest.mark.tensorflow
@pytest.mark.parametrize('is_begun', [False, True], ids=['as it begins', 'on the way'])
def test_what_tensorboard_cannot_be_told_for_want_of_room_is_said_in_a_sentence(disk: Path, is_begun: bool) -> None:
    workdir = Workdir(disk / 'run')
    workdir.path.mkdir()
    workdir.metrics.symlink_to(disk.parent / 'metrics.jsonl')  # where there is room
    row = {'run_rates_n': [0.5] * 50}

    def write_until_full() -> None:
        if not is_begun:
            fill(disk, leave=0)
        with MetricWriter(workdir) as writer:
            writer.write(1, 'train', row)
            fill(disk, leave=0)
            for step in range(2, 10):  # what is left of a page has room for some
                writer.write(step, 'train', row)

    sentence = rf'^{workdir.tensorboard} cannot be written \(No space left on device\): make room, and the same command'
    with pytest.raises(InputError, match=sentence):
        write_until_full()


def test_a_person_is_told_so_once(disk: Path) -> None:
    fill(disk, leave=3 * MEGABYTE // 2)
    flags = helpers.tiny_flags(checkpoint_every_steps=2)
    run = helpers.run_command('main', *flags, f'--workdir={disk / "run"}', TFDS_DATA_DIR=str(disk.parent))
    assert run.returncode == 2
    assert re.fullmatch(r'error: No checkpoint can be written in \S+ \(No space left on device\): .*\n', run.stderr)
    assert any((disk / 'run' / 'checkpoints').iterdir())


def test_a_disk_that_fills_up_at_the_end_leaves_no_half_results_and_with_room_the_run_ends(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, ballast = loop.write_routes, disk / 'ballast'

    def fill_and_write(*args: Any) -> None:
        fill(disk, leave=4096)
        write(*args)

    monkeypatch.setattr(loop, 'write_routes', fill_and_write)
    with pytest.raises(InputError, match=r'test\.npz cannot be written \(No space left on device\): make room'):
        train(disk / 'run')
    assert not (disk / 'run' / 'results.json').exists() and not list((disk / 'run' / 'routes').iterdir())
    ballast.unlink()
    monkeypatch.setattr(loop, 'write_routes', write)
    assert train(disk / 'run') is not None
    assert {'results.json', 'weights.npz', 'routes'} <= whole_files(disk / 'run')


def test_digits_that_find_no_room_leave_nothing_and_with_room_are_written(disk: Path) -> None:
    ballast = fill(disk, leave=100_000)
    with pytest.raises(InputError, match=r'digits cannot be written into .*No space left on device.*: make room'):
        datasets.source('digits', disk / 'data').open('train')
    assert not list((disk / 'data').iterdir())
    ballast.unlink()
    assert datasets.source('digits', disk / 'data').open('test').num_images == 355


def test_a_workdir_that_may_only_be_read_is_refused_before_any_work(disk: Path) -> None:
    subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
    with pytest.raises(InputError, match=r'run cannot be written \(Read-only file system\): give another --workdir'):
        train(disk / 'run')
    subprocess.run(['mount', '-o', 'remount,rw', str(disk)], check=True)
    train(disk / 'run', **{'stage2.epochs': 0.0})
    (disk / 'run' / 'results.json').unlink()
    before = helpers.all_bytes(disk)
    subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
    with pytest.raises(InputError, match=r'cannot be written \(.*[Rr]ead-only file system'):
        train(disk / 'run', **{'stage2.epochs': 0.0})
    assert helpers.all_bytes(disk) == before
