"""Sets are read whole, in both file formats, split the same way for ever; what is missing or broken is named."""

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from codinet_jax.data import datasets, order
from codinet_jax.data.datasets import Dataset
from codinet_jax.data.spec import DataSpec
from codinet_jax.runtime.errors import InputError

REAL_DATA = Path(__file__).parent.parent.parent / 'shared' / 'tfds'
NUM_TRAIN = 50


class SvhnCropped(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Noise in the form of svhn_cropped."""

    VERSION = tfds.core.Version('3.1.0')

    def _info(self) -> tfds.core.DatasetInfo:
        features = {'image': tfds.features.Image(shape=(32, 32, 3)), 'label': tfds.features.ClassLabel(num_classes=10)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {'train': self._generate_examples(NUM_TRAIN), 'test': self._generate_examples(7)}

    def _generate_examples(self, num_images: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, image_HxWxC in enumerate(noise(num_images)):
            yield index, {'image': Image.fromarray(image_HxWxC), 'label': index % 10}


def noise(num_images: int) -> np.ndarray:
    return np.random.default_rng(num_images).integers(0, 256, (num_images, 32, 32, 3), np.uint8)


def write_svhn(data_dir: Path, file_format: str) -> Path:
    three_shards = tfds.download.DownloadConfig(num_shards=3)
    SvhnCropped(data_dir=data_dir, file_format=file_format).download_and_prepare(download_config=three_shards)
    return data_dir


@pytest.fixture(scope='module')
def array_record_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_svhn(tmp_path_factory.mktemp('array_record'), 'array_record')


@pytest.fixture
def version_dir(array_record_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(array_record_dir / 'svhn_cropped' / '3.1.0', tmp_path / 'svhn_cropped' / '3.1.0')


@pytest.mark.parametrize('name', datasets.DATASETS)
def test_every_set_has_one_statistic_a_channel(name: str) -> None:
    dataset = datasets.find(name)
    spec = dataset.spec
    assert len(spec.mean) == len(spec.std) == dataset.num_channels == dataset.image_shape[2]
    assert all(0 < number < 1 for number in spec.mean + spec.std)


def test_an_unknown_set_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r'digits, cifar10, cifar100, svhn, imagenet2012.* Did you mean cifar10\?$'):
        datasets.find('cifar-10')
    with pytest.raises(InputError, match=r'Did you mean svhn\?$'):
        datasets.find('svhn_cropped')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'mean': 1.2}, r'mean is \(1\.2,\); give a number from 0 to 1 for each channel'),
        ({'std': (0.2, 0.0, 0.2)}, r'std is \(0\.2, 0\.0, 0\.2\); give a number above 0'),
        ({'std': float('nan')}, 'std is'),
        ({'classes': ()}, 'at least one class'),
        ({'classes': 'cat'}, r"classes is 'cat'; give their names"),
        ({'classes': 2.0}, r'classes is 2\.0; give their names'),
        ({'classes': (0, 1)}, r'classes is \(0, 1\); give their names'),
        ({'crop_padding': 1.5}, 'crop_padding'),
        ({'crop_padding': -1}, 'crop_padding'),
        ({'center_crop': 0.0}, 'center_crop'),
    ],
)
def test_images_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DataSpec(**{'classes': 10, 'mean': 0.5, 'std': 0.25} | changes)


def test_classes_are_counted_or_named_and_one_number_does_for_all_channels() -> None:
    counted, named = DataSpec(3, 0.5, 0.25), DataSpec(('cat', 'dog'), [0.5, 0.4, 0.3], (0.25, 0.2, 0.1))
    assert (counted.num_classes, counted.class_names) == (3, ('0', '1', '2'))
    assert (named.num_classes, named.class_names) == (2, ('cat', 'dog'))
    assert counted.normalisation == ((0.5,), (0.25,))
    assert named.normalisation == ((0.5, 0.4, 0.3), (0.25, 0.2, 0.1))


def test_numbers_and_names_may_be_numpys_own() -> None:
    images_NxHxWxC, labels_N = np.full((4, 8, 8, 3), 51, np.uint8), np.array([0, 2, 1, 1])
    counted = DataSpec(labels_N.max() + 1, images_NxHxWxC.mean((0, 1, 2)) / 255, np.float32(0.25))
    assert counted == DataSpec(3, (0.2, 0.2, 0.2), 0.25) and type(counted.classes) is int
    assert DataSpec(np.array(['cat', 'dog']), 0.5, 0.25) == DataSpec(['cat', 'dog'], 0.5, 0.25)
    assert DataSpec(['cat', 'dog'], 0.5, 0.25).class_names == ('cat', 'dog')


def test_another_normalisation_is_of_as_many_channels() -> None:
    imported = datasets.source('cifar10', normalisation=((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    own = datasets.find('cifar10').spec
    assert imported.spec == dataclasses.replace(own, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    with pytest.raises(InputError, match=r'mean is \(0\.5,\); give a number for each channel of cifar10.* 3'):
        datasets.source('cifar10', normalisation=((0.5,), (0.2,)))


# --- A set of one's own. ---

OWN = Dataset(
    DataSpec(('even', 'odd'), 0.5, 0.25), image_size=4, num_channels=1, read=lambda split, data_dir: OWN_ARRAYS
)
OWN_ARRAYS = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), np.uint8), np.arange(20) % 2


def test_a_set_of_ones_own_is_registered_once_and_read_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, 'DATASETS', dict(datasets.DATASETS))
    datasets.register('parity', OWN)
    datasets.register('parity', OWN)
    with pytest.raises(InputError, match="There is a data set 'parity' already"):
        datasets.register('parity', OWN._replace(image_size=5))
    with pytest.raises(InputError, match="There is a data set 'digits' already"):
        datasets.register('digits', OWN)
    source = datasets.source('parity', val_split=0.25)
    assert source.image_shape == (4, 4, 1)
    train, validation, test = (source.open(split) for split in ('train', 'validation', 'test'))
    assert [images.num_images for images in (train, validation, test)] == [15, 5, 20]
    np.testing.assert_array_equal(test.images_NxHxWxC, OWN_ARRAYS[0])
    assert test.labels_N.dtype == np.int32


def test_what_a_set_of_ones_own_is_read_from_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def read(split: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
        asked.append((split, data_dir))
        return OWN_ARRAYS

    monkeypatch.setitem(datasets.DATASETS, 'parity', OWN._replace(read=read))
    datasets.source('parity', Path('somewhere'), val_split=0.5).open('validation')
    datasets.source('parity').open('test')
    assert asked == [('train', 'somewhere'), ('test', None)]


def test_the_first_images_alone_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets.DATASETS, 'parity', OWN)
    whole, few = datasets.source('parity', val_split=0.5), datasets.source('parity', val_split=0.5, train_images=3)
    np.testing.assert_array_equal(few.open('train').images_NxHxWxC, whole.open('train').images_NxHxWxC[:3])
    for split in ('validation', 'test'):
        np.testing.assert_array_equal(few.open(split).labels_N, whole.open(split).labels_N)


# --- On disk. ---


def test_reading_brings_back_what_was_written(array_record_dir: Path) -> None:
    image_set = datasets.source('svhn', array_record_dir).open('train')
    assert image_set.images_NxHxWxC.dtype == np.uint8 and image_set.labels_N.dtype == np.int32
    written = {image.tobytes(): index % 10 for index, image in enumerate(noise(NUM_TRAIN))}
    read = {image.tobytes(): label for image, label in zip(*image_set, strict=True)}
    assert read == written
    assert len(datasets.source('svhn', array_record_dir).open('test').labels_N) == 7


@pytest.mark.parametrize('val_split', [0.1, 0.5, 0.73])
def test_validation_is_cut_from_train(array_record_dir: Path, val_split: float) -> None:
    everything, train, validation = (
        {
            image.tobytes()
            for image in datasets.source('svhn', array_record_dir, val_split=fraction).open(split).images_NxHxWxC
        }
        for split, fraction in [('train', 0.0), ('train', val_split), ('validation', val_split)]
    )
    assert len(validation) == round(NUM_TRAIN * val_split)
    assert train | validation == everything and not train & validation


def test_the_images_held_out_are_pinned() -> None:
    assert np.flatnonzero(order.held_out(100, 0.1)).tolist() == [2, 3, 11, 13, 20, 48, 53, 59, 62, 92]


def test_the_default_directory_is_that_of_tfds(array_record_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TFDS_DATA_DIR', str(array_record_dir))
    assert len(datasets.source('svhn').open('test').labels_N) == 7


@pytest.mark.parametrize(
    ('split', 'val_split', 'message'),
    [
        ('val', 0.1, "'validation'"),
        ('validation', 0.0, 'val_split'),
        ('validation', 0.001, 'leaves none'),
        ('train', 0.999, 'leaves none'),
        ('train', 1.0, 'below 1'),
        ('train', -0.1, 'at least 0'),
        ('train', float('nan'), 'at least 0'),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(
    array_record_dir: Path, split: str, val_split: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        datasets.source('svhn', array_record_dir, val_split=val_split).open(split)


def one_shard(version_dir: Path) -> Path:
    return sorted(version_dir.glob('*-train.*'))[1]


def edit_info(version_dir: Path, old: str, new: str) -> None:
    path = version_dir / 'dataset_info.json'
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


BREAKAGES: dict[str, Callable[[Path], object]] = {
    'no dataset_info': lambda directory: (directory / 'dataset_info.json').unlink(),
    'dataset_info cut short': lambda directory: os.truncate(directory / 'dataset_info.json', 200),
    'no features': lambda directory: (directory / 'features.json').unlink(),
    'features cut short': lambda directory: os.truncate(directory / 'features.json', 100),
    'no train': lambda directory: edit_info(directory, '"name": "train"', '"name": "other"'),
    'shard missing': lambda directory: one_shard(directory).unlink(),
    'shard empty': lambda directory: os.truncate(one_shard(directory), 0),
    'shard halved': lambda directory: os.truncate(one_shard(directory), one_shard(directory).stat().st_size // 2),
    'fewer images than promised': lambda directory: edit_info(directory, '"16"', '"20"'),
    'more images than promised': lambda directory: edit_info(directory, '"16"', '"15"'),
}


@pytest.mark.parametrize('breakage', BREAKAGES)
def test_a_broken_set_is_named_and_how_to_fix_it(version_dir: Path, breakage: str) -> None:
    assert len(datasets.source('svhn', version_dir.parent.parent).open('train').labels_N) == NUM_TRAIN
    BREAKAGES[breakage](version_dir)
    before = sorted(version_dir.iterdir())
    with pytest.raises(InputError, match=r'3\.1\.0 .*delete it and run .*svhn_cropped.*download_and_prepare') as raised:
        datasets.source('svhn', version_dir.parent.parent).open('train')
    assert '\n' not in str(raised.value)
    assert sorted(version_dir.iterdir()) == before


def test_broken_digits_are_not_written_over(tmp_path: Path) -> None:
    datasets.source('digits', tmp_path).open('test')
    (shard,) = tmp_path.glob('digits/1.0.0/digits-test.*')
    os.truncate(shard, 70_000)
    with pytest.raises(InputError, match=r'digits/1\.0\.0 is damaged .*delete it and run the same command again'):
        datasets.source('digits', tmp_path).open('test')
    assert shard.stat().st_size == 70_000


def test_a_missing_set_is_told_from_a_missing_directory_and_an_unfinished_set(tmp_path: Path) -> None:
    prepare = r".*tfds\.builder\('cifar10', data_dir='.*', file_format='array_record'\)\.download_and_prepare"
    with pytest.raises(InputError, match='nowhere does not exist' + prepare):
        datasets.source('cifar10', tmp_path / 'nowhere').open('train')
    with pytest.raises(InputError, match='holds no cifar10' + prepare):
        datasets.source('cifar10', tmp_path).open('train')
    (tmp_path / 'cifar10' / 'incomplete.ABCDEF_3.0.2').mkdir(parents=True)
    with pytest.raises(InputError, match='only an unfinished cifar10' + prepare):
        datasets.source('cifar10', tmp_path).open('train')
    assert not (tmp_path / 'nowhere').exists() and len(list(tmp_path.rglob('*'))) == 2
    (tmp_path / 'cifar10' / '3.0.2').mkdir()
    with pytest.raises(InputError, match=f'cifar10 is cifar10 itself: give the directory above it, {tmp_path}'):
        datasets.source('cifar10', tmp_path / 'cifar10').open('train')


def test_the_newest_version_is_read(version_dir: Path) -> None:
    version_dir.rename(version_dir.parent / '10.0.0')
    (version_dir.parent / '9.9.9').mkdir()
    assert len(datasets.source('svhn', version_dir.parent.parent).open('test').labels_N) == 7


def test_images_of_another_shape_are_refused(version_dir: Path) -> None:
    features = json.loads((version_dir / 'features.json').read_text())
    features['featuresDict']['features']['image']['image']['shape']['dimensions'] = ['-1', '-1', '3']
    (version_dir / 'features.json').write_text(json.dumps(features))
    with pytest.raises(InputError, match=r'\(None, None, 3\).*\(32, 32, 3\)'):
        datasets.source('svhn', version_dir.parent.parent).open('train')


def test_tfrecord_without_tensorflow_says_what_to_do(version_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_info(version_dir, '"array_record"', '"tfrecord"')
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
    with pytest.raises(InputError, match=r'pip install tensorflow-cpu, or .*another data_dir .*array_record'):
        datasets.source('svhn', version_dir.parent.parent).open('train')


@pytest.mark.tensorflow
def test_both_file_formats_hold_the_same_images_in_the_same_order(array_record_dir: Path, tmp_path: Path) -> None:
    write_svhn(tmp_path, 'tfrecord')
    for split in ('train', 'validation', 'test'):
        one, other = (
            datasets.source('svhn', data_dir, val_split=0.3).open(split) for data_dir in (array_record_dir, tmp_path)
        )
        np.testing.assert_array_equal(one.images_NxHxWxC, other.images_NxHxWxC)
        np.testing.assert_array_equal(one.labels_N, other.labels_N)
        assert other.images_NxHxWxC.dtype == np.uint8 and other.labels_N.dtype == np.int32
    shard = one_shard(tmp_path / 'svhn_cropped' / '3.1.0')
    os.truncate(shard, shard.stat().st_size - 10)
    with pytest.raises(InputError, match=r'is damaged \([^{[]*\): delete it'):
        datasets.source('svhn', tmp_path).open('train')


@pytest.mark.skipif(not (REAL_DATA / 'cifar10').is_dir(), reason='the real sets are not beside the repository')
def test_the_real_cifar10_is_whole() -> None:
    image_set = datasets.source('cifar10', REAL_DATA).open('test')
    assert image_set.images_NxHxWxC.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(image_set.labels_N), np.full(10, 1000))
    mean = (image_set.images_NxHxWxC / 255).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(mean, datasets.find('cifar10').spec.mean, atol=0.01)
