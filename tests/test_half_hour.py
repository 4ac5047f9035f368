"""What is done in half an hour of an accelerator: its calls, rehearsed on a CPU, and what goes up and comes back."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import helpers
from codinet_jax.models import weights_file
from experiments.half_hour import pack, unpack

CALLS = helpers.REPOSITORY / 'experiments' / 'half_hour'
KINDS = 'shallow', 'deep'


def call(name: str, directory: Path, **variables: str) -> str:
    """A call run at tiny size; what it says."""
    folders = {'WORK': str(directory / 'work'), 'OUT': str(directory / 'out')}
    done = subprocess.run(
        ['bash', str(CALLS / name)],
        cwd=directory,
        env=helpers.environment(SMALL='1', PY=sys.executable, **folders, **variables),
        text=True,
        capture_output=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def told(directory: Path, name: str) -> Any:
    return json.loads((directory / 'out' / name).read_text())


def test_unpacking_gives_back_what_was_packed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    splits = {
        split: (rng.integers(0, 256, (n, 4, 8, 3), np.uint8), rng.integers(0, 10, n))
        for split, n in (('train', 2_017), ('test', 40))
    }
    said = pack.pack(tmp_path / 'packed', [('weights/a.npz', b'1' * 100)], splits, limit_mib=0.12)
    parts = sorted((tmp_path / 'packed').iterdir())
    assert len(said) == len(parts) == 2
    assert all(sum(file.stat().st_size for file in part.rglob('*.*')) <= 0.12 * 2**20 for part in parts)
    for part in reversed(parts):
        assert not (tmp_path / 'work' / 'images' / 'train_images.npy').exists()
        unpack.unpack(tmp_path / 'work', [part])
    assert (tmp_path / 'work' / 'weights' / 'a.npz').read_bytes() == b'1' * 100
    for split, (images, labels) in splits.items():
        np.testing.assert_array_equal(np.load(tmp_path / 'work' / 'images' / f'{split}_images.npy'), images)
        np.testing.assert_array_equal(np.load(tmp_path / 'work' / 'images' / f'{split}_labels.npy'), labels)


def test_what_does_not_fit_a_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match='alone is 1'):
        pack.pack(tmp_path, [('weights/a.npz', b'1' * 2**20)], {}, limit_mib=0.5)


@pytest.mark.smoke
def test_training_call(tmp_path: Path) -> None:
    call('1_training.sh', tmp_path)
    assert [row['channels'] for row in told(tmp_path, 'ceilings.json')['convolutions']] == [16, 32, 64]
    for name in ('step_loop', 'step_all_graphs', 'step_all_static'):
        found = told(tmp_path, f'{name}.json')
        assert found['batch_size'] == 8 and found['seconds']['step'] > 0
    assert 'takes its steps now' in (tmp_path / 'out' / 'step_loop.log').read_text()
    assert (tmp_path / 'work' / 'digits' / 'results.json').exists()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').glob('*.json')}
    assert call('1_training.sh', tmp_path).count('there already') == 5
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').glob('*.json')}


@pytest.mark.smoke
def test_call_that_trains(tmp_path: Path) -> None:
    assert 'train_cifar10_r110_codinet: status 0' in call('5_train.sh', tmp_path)
    assert told(tmp_path, 'cifar10_r110_codinet/results.json')['num_steps'] > 0
    assert weights_file.read(tmp_path / 'out' / 'cifar10_r110_codinet' / 'weights.npz')['params']
    assert call('5_train.sh', tmp_path).count('there already') == 1


@pytest.mark.smoke
def test_call_of_two_depths(tmp_path: Path) -> None:
    said = call('6_two_depths.sh', tmp_path)
    assert 'two_depths_0: status 0' in said
    found = told(tmp_path, 'resnet14_after_resnet8_1epochs_s0.json')
    assert found['num_steps'] == 4 and found['shallow']['macs'] < found['deep']['macs_of_going_on']
    with tarfile.open(tmp_path / 'out' / 'two_depths.tar.gz') as come_back:
        come_back.extract('two_depths/resnet14_after_resnet8_1epochs_s0_weights.npz', tmp_path, filter='data')
    params = weights_file.read(tmp_path / 'two_depths' / 'resnet14_after_resnet8_1epochs_s0_weights.npz')['params']
    assert {'stage1_blocks', 'stage4_blocks', 'stage6_blocks'} <= params.keys()  # three stages are gone on with
    assert call('6_two_depths.sh', tmp_path).count('there already') == 1


@pytest.mark.smoke
def test_call_of_two_depths_in_one_network(tmp_path: Path) -> None:
    assert 'two_depths_0: status 0' in call('6_two_depths.sh', tmp_path, SHALLOW='')
    found = told(tmp_path, 'resnet14_with_8_1epochs_s0.json')
    assert found['num_steps'] == 4 and found['shallow']['macs'] < found['deep']['macs_of_going_on']
    weights = [weights_file.read(tmp_path / f'work/two_depths/resnet14_with_8_1epochs_s0_{kind}.npz') for kind in KINDS]
    first, whole = (each['params']['stage1_blocks']['residual']['conv1']['kernel'] for each in weights)
    np.testing.assert_array_equal(first, whole[:1])


@pytest.mark.smoke
def test_kernel_calls(tmp_path: Path) -> None:
    call('2_fused.sh', tmp_path)
    assert {row['batch_size'] for row in told(tmp_path, 'fused.json')['times']} == {2}
    assert told(tmp_path, 'fused.json')['checks']
    call('4_convolutions.sh', tmp_path)
    found = told(tmp_path, 'convolutions.json')
    assert {row['channels'] for row in found['times']} == {16, 32, 64}
    assert all(row['repeats'] for row in found['checks'])


@pytest.mark.smoke
def test_made_up_images_become_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from codinet_jax.data import datasets

    pack.main([str(tmp_path / 'packed'), '--made_up=30'])
    assert 'part_1' in capsys.readouterr().out
    unpack.main([str(tmp_path / 'work'), str(tmp_path / 'packed' / 'part_1'), '--tfds'])
    for split in ('train', 'test'):
        whole = datasets.source('cifar10', tmp_path / 'work' / 'tfds').open(split)
        assert isinstance(whole, datasets.ImageSet)
        images = np.load(tmp_path / 'work' / 'images' / f'{split}_images.npy')
        np.testing.assert_array_equal(whole.images_NxHxWxC, images)
