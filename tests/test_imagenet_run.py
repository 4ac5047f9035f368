"""Real runs on photographs streamed from tfrecord files: both stages, stopped and gone on with, all evaluated."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import helpers
from real_runs import Process, assert_same_run, ended, newest_step, wait_for

REAL_DATA = helpers.REPOSITORY.parent / 'shared' / 'tfds'

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(not (REAL_DATA / 'imagenet2012').is_dir(), reason='the real photographs are not there'),
]

STEPS_A_STAGE = 22  # an epoch and a half of 1,500 images in batches of 100, rounded
# A network that compiles in seconds; what is streamed to it is what a ResNet-50 gets.
CHANGES: dict[str, Any] = {
    'data_dir': REAL_DATA,
    'image_size': 32,
    'batch_size': 100,
    'model.backbone': 'cifar_resnet',
    'model.depth': 8,
    'model.dtype': 'float32',
    'stage1.epochs': 1.5,
    'stage1.decay_epochs': (1.0,),
    'stage2.epochs': 1.5,
    'stage2.decay_epochs': (1.0,),
    'optimizer.ema_decay': 0.9,
    'loss.label_smoothing': 0.1,
    'accumulate_steps': 2,
    'eval_batch_size': 96,
    'checkpoint_every_steps': 5,
    'log_every_steps': 1,
}


def start(workdir: Path) -> Process:
    flags = [f'--config.{name}={value}' for name, value in CHANGES.items()]
    named = '--config=configs/imagenet_r50.py', *flags, f'--workdir={workdir}'
    return helpers.start_command('main', *named, JAX_NUM_CPU_DEVICES='2')


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp('photographs') / 'undisturbed'
    ended(start(workdir), 0)
    return workdir


@pytest.fixture(scope='module')
def disturbed(undisturbed: Path) -> Path:
    """The same run, stopped in stage 1 past its first epoch, killed in stage 2, and gone on with to its end."""
    workdir = undisturbed.parent / 'disturbed'
    for number, at_step in ((signal.SIGTERM, 17), (signal.SIGKILL, STEPS_A_STAGE + 11)):
        process = start(workdir)
        wait_for((process,), lambda at_step=at_step: newest_step(workdir) >= at_step)
        process.send_signal(number)
        ended(process, 128 + number if number == signal.SIGTERM else -number)
    text, _ = ended(start(workdir), 0)
    assert STEPS_A_STAGE < int(text.split('going on from step ')[1].split('\n')[0]) < 2 * STEPS_A_STAGE
    return workdir


def test_every_image_is_evaluated(undisturbed: Path) -> None:
    results = json.loads((undisturbed / 'results.json').read_text())
    assert results['num_test_images'] == 500 and results['num_steps'] == 2 * STEPS_A_STAGE
    with np.load(undisturbed / 'routes' / 'test.npz') as routes:
        assert len(routes['labels_N']) == 500
        # The validation split holds fifty images of each of ten classes.
        assert sorted(np.unique(routes['labels_N'], return_counts=True)[1]) == [50] * 10


def test_a_stopped_run_ends_bit_for_bit_where_another_ends(undisturbed: Path, disturbed: Path) -> None:
    assert_same_run(disturbed, undisturbed)
