"""Real runs on a folder of photographs: what a run knows of it is in its workdir, in one process and in two."""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import helpers
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir
from real_runs import Process, assert_same_run, ended, without_tensorflow

# So long that the names of all take more than a sentence may between hosts.
CLASSES = tuple(f'class {number} {"of many letters " * 10}'.strip() for number in range(40))
NUM_TRAIN, NUM_VAL = 80, 40
CHANGES: dict[str, Any] = {
    'dataset': 'folder',
    'image_size': 16,
    'views': 'photographs',
    'flip': False,
    'stage1.epochs': 2.0,
    'stage1.decay_epochs': (1.0,),
    'stage2.epochs': 0.0,
    'stage2.decay_epochs': (),
    'loss.target_cost': 0.7,
    'eval_batch_size': 40,
}


@pytest.fixture(scope='module')
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('run')
    generator = np.random.default_rng(0)
    for split, count in (('train', NUM_TRAIN), ('val', NUM_VAL)):
        for index in range(count):
            file = root / 'images' / split / CLASSES[index % len(CLASSES)] / f'{index}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            height, width = generator.integers(18, 40, 2)
            Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).save(file)
    return root


def flags(directory: Path, **changes: Any) -> list[str]:
    return helpers.tiny_flags(**CHANGES | {'data_dir': directory / 'images'} | changes)


def main(directory: Path, workdir: str, *more: str, **variables: str) -> Process:
    variables |= without_tensorflow(directory)  # whose import takes longer than the training
    return helpers.start_command('main', *flags(directory), f'--workdir={directory / workdir}', *more, **variables)


@pytest.fixture(scope='module')
def alone(directory: Path) -> Path:
    before = helpers.all_bytes(directory / 'images')
    stdout, _ = ended(main(directory, 'alone', JAX_NUM_CPU_DEVICES='2'), 0)
    assert 'folder: 80 images to train on, 40 to evaluate on' in stdout
    assert helpers.all_bytes(directory / 'images') == before
    return directory / 'alone'


@pytest.fixture
def moved(directory: Path, alone: Path) -> Iterator[Path]:
    """The folder, which is not any more where the run had it."""
    yield (directory / 'images').rename(directory / 'moved')
    (directory / 'moved').rename(directory / 'images')


@pytest.mark.long
def test_the_workdir_says_what_the_folder_was(alone: Path) -> None:
    recorded = json.loads((alone / 'config.json').read_text())
    assert recorded['classes'] == sorted(CLASSES)
    assert [recorded[name] for name in ('image_size', 'image_channels', 'views')] == [16, 3, 'photographs']
    assert json.loads((alone / 'results.json').read_text())['num_test_images'] == NUM_VAL


@pytest.mark.long
def test_two_processes_leave_what_one_does(directory: Path, alone: Path) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        cluster = [f'--coordinator=127.0.0.1:{free.getsockname()[1]}', '--num_processes=2']
    for process in [main(directory, 'pair', *cluster, f'--process_id={index}') for index in range(2)]:
        ended(process, 0)
    assert_same_run(directory / 'pair', alone)


@pytest.mark.long
def test_predict_needs_no_folder_and_evaluate_says_that_it_does(alone: Path, moved: Path) -> None:
    file = next(moved.glob('val/*/*.png'))
    predicted = helpers.run_command('predict', f'--workdir={alone}', str(file))
    assert predicted.returncode == 0, predicted.stderr
    assert any(f'{file}  {label} {name}  ' in predicted.stdout for label, name in enumerate(sorted(CLASSES)))
    evaluated = helpers.run_command('evaluate', f'--workdir={alone}')
    assert (evaluated.returncode, evaluated.stdout) == (2, '')
    assert (
        evaluated.stderr
        == f'error: data_dir {moved.parent / "images"} does not exist: give the folder of your images.\n'
    )


@pytest.mark.long
def test_another_folder_is_no_more_of_the_same_run(
    directory: Path, alone: Path, moved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers.hide_tensorflow(monkeypatch)
    before = helpers.all_bytes(alone)
    for name in ('oak', 'elm'):
        for split in ('train', 'val'):
            file = directory / 'trees' / split / name / 'a.png'
            file.parent.mkdir(parents=True)
            Image.new('RGB', (20, 20)).save(file)
    changed = helpers.tiny_config(**CHANGES | {'data_dir': str(directory / 'trees')})
    with pytest.raises(InputError, match=r'another config: classes \('):
        helpers.train(changed, Workdir(alone))
    again = helpers.tiny_config(**CHANGES | {'data_dir': str(moved)})
    assert helpers.train(again, Workdir(alone)) == Workdir(alone).read_results(), 'a folder may move'
    assert helpers.all_bytes(alone) == before


@pytest.mark.long
def test_a_run_does_not_go_on_with_more_images(
    directory: Path, alone: Path, moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers.hide_tensorflow(monkeypatch)
    shutil.copytree(alone, tmp_path / 'unfinished')
    (tmp_path / 'unfinished' / 'results.json').unlink()
    one_more = moved / 'train' / CLASSES[0] / 'one_more.png'
    Image.new('RGB', (20, 20)).save(one_more)
    try:
        config = helpers.tiny_config(**CHANGES | {'data_dir': str(moved)})
        with pytest.raises(InputError, match=rf'begun on {NUM_TRAIN} training images, and there are {NUM_TRAIN + 1}'):
            helpers.train(config, Workdir(tmp_path / 'unfinished'))
    finally:
        one_more.unlink()


def test_what_is_refused_leaves_no_workdir(directory: Path) -> None:
    (directory / 'images' / 'train' / 'new').mkdir()
    try:
        config = helpers.tiny_config(**CHANGES | {'data_dir': str(directory / 'images')})
        with pytest.raises(InputError, match='new holds no images'):
            helpers.train(config, Workdir(directory / 'fresh'))
        assert not (directory / 'fresh').exists()
    finally:
        (directory / 'images' / 'train' / 'new').rmdir()
