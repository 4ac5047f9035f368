"""digits on disk is scikit-learn's digits, split by class, however many processes write it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from codinet_jax.data import datasets, digits
from codinet_jax.runtime.errors import InputError

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp('tfds')
    digits.prepare(data_dir)
    return data_dir


def test_the_splits_together_are_sklearns_digits(data_dir: Path) -> None:
    train, test = datasets.source('digits', data_dir).open('train'), datasets.source('digits', data_dir).open('test')
    original = load_digits()
    is_test_N = digits.is_test_image(original.target)
    for image_set, is_in_split_N in [(train, ~is_test_N), (test, is_test_N)]:
        assert image_set.images_NxHxWxC.dtype == np.uint8 and image_set.labels_N.dtype == np.int32
        np.testing.assert_array_equal(image_set.labels_N, original.target[is_in_split_N])
        sixteenths = image_set.images_NxHxWxC[..., 0] * (16 / 255)
        assert np.abs(sixteenths - original.images[is_in_split_N]).max() <= 0.5 * 16 / 255
    assert train.images_NxHxWxC.shape == (1442, 8, 8, 1) and test.images_NxHxWxC.shape == (355, 8, 8, 1)
    assert train.images_NxHxWxC.max() == 255


def test_a_fifth_of_every_class_is_test() -> None:
    labels_N = load_digits().target
    is_test_N = digits.is_test_image(labels_N)
    np.testing.assert_array_equal(np.bincount(labels_N[is_test_N]), np.bincount(labels_N) // 5)


def test_the_normalisation_in_the_table_is_that_of_train(data_dir: Path) -> None:
    pixels = datasets.source('digits', data_dir).open('train').images_NxHxWxC / 255
    spec = datasets.find('digits').spec
    assert (round(pixels.mean(), 4), round(pixels.std(), 4)) == (spec.mean[0], spec.std[0])


def test_it_is_a_tfds_set_like_any_other(data_dir: Path) -> None:
    assert [path.name for path in data_dir.iterdir()] == ['digits'], 'something else was left in the data_dir'
    builder = tfds.builder_from_directory(data_dir / 'digits' / '1.0.0')
    assert builder.info.file_format.value == 'array_record'
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {'train': 1442, 'test': 355}


def test_it_is_written_once(data_dir: Path) -> None:
    files = sorted((data_dir / 'digits' / '1.0.0').iterdir())
    before = [path.stat().st_mtime_ns for path in files]
    digits.prepare(data_dir)
    assert [path.stat().st_mtime_ns for path in files] == before


def test_losing_the_race_to_write_it_is_no_error(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    winner = (data_dir / 'digits').rename(tmp_path / 'won')
    publish = digits._publish

    def lose(finished: Path, version_dir: Path) -> None:
        version_dir.parent.rmdir()
        winner.rename(version_dir.parent)
        publish(finished, version_dir)

    monkeypatch.setattr(digits, '_publish', lose)
    digits.prepare(data_dir)
    assert len(datasets.source('digits', data_dir).open('test').labels_N) == 355
    assert [path.name for path in data_dir.iterdir()] == ['digits']


@pytest.mark.long
def test_two_processes_may_write_it_at_once_and_need_no_tensorflow(tmp_path: Path) -> None:
    program = (
        'import random, sys; random.seed(0); from codinet_jax.data.datasets import source;'
        'images, labels = source("digits", sys.argv[1]).open("test");'
        'assert len(labels) == 355 and "tensorflow" not in sys.modules'
    )
    command = [sys.executable, '-c', program, str(tmp_path / 'new')]
    processes = [subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['digits']


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='file'):
        datasets.source('digits', tmp_path / 'file' / 'below').open('train')
